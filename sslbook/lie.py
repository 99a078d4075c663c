"""Lie groups acting on vectors and images: generators, exponential map, orbits, and projectors trained on orbits.

A generator G is a matrix (n, n); it moves x along the orbit exp(εG) x, which is x + εGx for small ε.
Every function raises `ValueError` for a name, shape, type or value that its docstring does not allow, and for tensors
that hold what is not finite.
Source: Cosentino et al. 2022, Sec. 4 and Apps. B and E.
"""

import functools
import math

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from torch import Tensor

from sslbook import losses
from sslbook.config import require, require_choice, require_number
from sslbook.metrics import effective_rank, singular_values
from sslbook.tensors import finite, floating, promoted, unit

PLANE = {
    "rotation": ((0.0, -1.0), (1.0, 0.0)),
    "scaling": ((1.0, 0.0), (0.0, 1.0)),
    "squeeze": ((1.0, 0.0), (0.0, -1.0)),
    "shear": ((0.0, 1.0), (0.0, 0.0)),
}
"""Generators of groups that act on the plane; the exponentials are, in this order, the rotation by ε radians, e^ε I,
diag(e^ε, e^−ε) and the shear by ε."""


def plane_generator(name: str) -> Tensor:
    """The generator of this name in `PLANE`, (2, 2) in float64."""
    require_choice("The generator", name, PLANE)
    return torch.tensor(PLANE[name], dtype=torch.float64)


def shift_generator(size: int) -> Tensor:
    """The generator of periodic shifts of a signal (or image row) of `size` pixels, (size, size) in float64.

    It is minus the derivative of trigonometric interpolation, an antisymmetric matrix: exp(εG) x is x shifted by ε
    pixels towards higher indices, for any real ε. For odd sizes exp(G) is exactly `torch.roll(x, 1)`; for even sizes
    up to the fastest oscillation (1, −1, 1, …), which has no derivative on the grid and stays where it is.

    >>> x = torch.arange(5).double()
    >>> bool(torch.allclose(lie.exp(lie.shift_generator(5), 1.0) @ x, x.roll(1)))
    True
    """
    require_number("The size", size, least=1, whole=True)
    frequency = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    if size % 2 == 0:
        frequency[size // 2] = 0
    spectrum = torch.fft.fft(torch.eye(size, dtype=torch.float64), dim=0)
    return torch.fft.ifft(-2j * math.pi / size * frequency[:, None] * spectrum, dim=0).real


def exp(generator: Tensor, epsilon) -> Tensor:
    """exp(εG) for each ε: the generator is (n, n), `epsilon` a number or a tensor (...), the result (..., n, n).

    >>> lie.exp(lie.plane_generator("shear"), 0.5)
    tensor([[1.0000, 0.5000],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    floating("The generator", generator)
    shape = finite("The generator", generator, 2).shape
    require(shape[0] == shape[1], f"The generator has shape {tuple(shape)}; it must be a square matrix.")
    epsilon = finite("epsilon", epsilon, dtype=generator.dtype).to(generator.device)
    return _matrix_exp(epsilon[..., None, None] * generator)


def _matrix_exp(matrices: Tensor) -> Tensor:
    """exp of matrices (..., n, n), computed in float32 or float64: PyTorch's is wrong in half precision."""
    with torch.autocast(matrices.device.type, enabled=False):
        return torch.linalg.matrix_exp(promoted(matrices)).to(matrices.dtype)


def fit(x: Tensor, moved: Tensor, epsilon: float, *, penalty: float = 1e-3) -> Tensor:
    """The generator G of a group of which exp(εG) moves the rows of `x` to those of `moved`, by ridge regression.

    exp(εG) = I + B, where B minimises ‖x + xBᵀ − moved‖² + λ‖B‖² and λ is `penalty` times tr(xᵀx)/n. B is 0 on what is
    orthogonal to all rows. G is the principal logarithm of I + B divided by ε, of which the real part is taken.

    **Arguments** `x`, `moved`: (N, n). `epsilon`: ε > 0. `penalty`: above 0.

    **Returns** G, (n, n) in float64.

    **Raises** `ValueError` if shapes differ, all of `x` is 0, and for an ε or a penalty that is not above 0.

    >>> x, G = torch.eye(2).double(), lie.plane_generator("squeeze")
    >>> bool(torch.allclose(lie.fit(x, x @ lie.exp(G, 0.1).T, 0.1, penalty=1e-12), G))
    True
    """
    for name, number in (("epsilon", epsilon), ("The penalty", penalty)):
        require_number(name, number, above=0)
    x, moved = (finite(name, value, 2).double() for name, value in (("x (N, n)", x), ("moved (N, n)", moved)))
    require(x.shape == moved.shape, f"x has shape {tuple(x.shape)}, moved {tuple(moved.shape)}; they must be equal.")
    require(bool(x.any()), "All of x is 0; no generator can be fitted to it.")
    gram, eye = x.T @ x, torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    step = torch.linalg.solve(gram + penalty * gram.diagonal().mean() * eye, x.T @ (moved - x)).T
    logarithm = np.real(scipy.linalg.logm((eye + step).cpu().numpy()))
    return torch.from_numpy(logarithm.copy()).to(x.device) / epsilon


def rotate(images: Tensor, degrees, *, interpolation: str = "nearest") -> Tensor:
    """Images (N, C, H, W) turned counter-clockwise about their centre by `degrees`, a number or (N,).

    `interpolation` is "nearest", for any dtype, or "bilinear", for floating ones. What comes from outside the image
    is 0; at the border bilinear repeats the outermost pixels. This is the definition of Pillow (and of torchvision for
    Pillow images).

    >>> image = torch.arange(4).view(1, 1, 2, 2)
    >>> lie.rotate(image, 90)[0, 0]
    tensor([[1, 3],
            [0, 2]])
    """
    images = finite("The tensor of images (N, C, H, W)", images, 4)
    require(
        interpolation == "nearest" or (interpolation == "bilinear" and images.is_floating_point()),
        f"The interpolation is {interpolation!r} for {images.dtype}; allowed are 'nearest', and 'bilinear' for "
        "floating-point images.",
    )
    n, _, height, width = images.shape
    degrees = finite("degrees", degrees, 0, 1, dtype=torch.float64).to(images.device)
    require(degrees.numel() in (1, n), f"There are {degrees.numel()} angles for {n} images; give one, or one for each.")
    angle = degrees.deg2rad().expand(n)[:, None, None]
    # Rounded, so that a quarter turn moves pixels exactly onto pixels.
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    row = torch.arange(height, dtype=torch.float64, device=images.device)[:, None] + 0.5 - height / 2
    column = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5 - width / 2
    # Where the centre of each output pixel comes from, (N, H, W), measured from the image's corner.
    x = cos * column - sin * row + width / 2
    y = sin * column + cos * row + height / 2
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if interpolation == "nearest":
        rotated = _pick(images, y.floor(), x.floor())
    else:
        top, left = (y - 0.5).floor(), (x - 0.5).floor()
        down, right = (p[:, None].to(images.dtype) for p in (y - 0.5 - top, x - 0.5 - left))
        upper = torch.lerp(_pick(images, top, left), _pick(images, top, left + 1), right)
        lower = torch.lerp(_pick(images, top + 1, left), _pick(images, top + 1, left + 1), right)
        rotated = torch.lerp(upper, lower, down)
    return rotated.masked_fill(~inside[:, None], 0)


def _pick(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The pixels at these rows and columns (N, H, W), moved into the image where they lie outside."""
    n, channels, height, width = images.shape
    index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return images.flatten(2).gather(2, index.view(n, 1, -1).expand(-1, channels, -1)).view_as(images)


def orbit_rank(
    max_degrees: float,
    *,
    samples: int = 500,
    size: int = 32,
    seed: int = 0,
    interpolation: str = "nearest",
    threshold: float = 1e-10,
) -> int:
    """Rank of the covariance of `samples` rotated copies of one random one-hot image, `size` × `size`.

    The rank is the number of eigenvalues of the centred covariance (divisor samples − 1) above `threshold`.
    Source: Cosentino et al. 2022, Fig. 10. The paper leaves interpolation, centring and threshold open; these are ours.

    The angles are uniform between 0 and `max_degrees`. The generator of `seed` draws the pixel first, then the angles.

    **Raises** `ValueError` for fewer than 2 samples, a size below 1, and an angle, a seed or a threshold below 0.

    >>> lie.orbit_rank(0.0)
    0
    """
    require_number("max_degrees", max_degrees, least=0)
    require_number("The number of samples", samples, least=2, whole=True)
    require_number("The size", size, least=1, whole=True)
    require_number("The seed", seed, least=0, whole=True)
    require_number("The threshold", threshold, least=0)
    require_choice("The interpolation", interpolation, ("nearest", "bilinear"))
    return int((_orbit_variances(max_degrees, samples, size, seed, interpolation) > threshold).sum())


@functools.lru_cache(256)  # one orbit is counted at several thresholds
def _orbit_variances(max_degrees: float, samples: int, size: int, seed: int, interpolation: str) -> Tensor:
    """The eigenvalues of the covariance of `orbit_rank`."""
    generator = np.random.default_rng(seed)
    row, column = generator.integers(0, size), generator.integers(0, size)
    degrees = torch.from_numpy(generator.uniform(0, max_degrees, samples))
    image = torch.zeros(size, size, dtype=torch.float64)
    image[row, column] = 1
    copies = rotate(image.expand(samples, 1, size, size), degrees, interpolation=interpolation).flatten(1)
    copies = copies[:, copies.any(0)]  # pixels that stay black add nothing but time
    if copies.numel() == 0:
        return torch.zeros(0)
    return singular_values(copies, centered=True).square() / (samples - 1)


def arc_length(max_degrees: float, *, size: int = 32, seed: int = 0) -> float:
    """Length, in pixels, of the part inside the picture of the arc that the pixel of `orbit_rank` travels.

    For a full turn it is 2πr, r the distance from the centre, or less: a pixel near a corner is outside at times.

    **Raises** `ValueError` for a size below 1, and an angle or a seed below 0.
    """
    require_number("The largest angle", max_degrees, least=0)
    require_number("The size", size, least=1, whole=True)
    require_number("The seed", seed, least=0, whole=True)
    generator = np.random.default_rng(seed)
    row, column = (generator.integers(0, size) - (size - 1) / 2 for _ in range(2))
    path = (column - 1j * row) * np.exp(1j * np.radians(np.linspace(0, max_degrees, 2000)))
    inside = np.maximum(abs(path.real), abs(path.imag)) < size / 2
    return float(math.hypot(row, column) * math.radians(max_degrees) * inside.mean())


def plane_generators(planes, dim: int, name: str = "rotation") -> Tensor:
    """G_1 … G_m, (m, dim, dim) in float64: the generator `name` of `PLANE` in each of `planes`, pairs of axes."""
    require_number("The number of dimensions", dim, least=2, whole=True)
    require(
        isinstance(planes, (list, tuple))
        and len(planes) > 0
        and all(isinstance(p, (list, tuple)) and len(p) == 2 and len(set(p) & set(range(dim))) == 2 for p in planes),
        f"The planes are {planes!r}; allowed is a list of pairs of two different axes in 0 … {dim - 1}.",
    )
    generators = torch.zeros(len(planes), dim, dim, dtype=torch.float64)
    for generator, axes in zip(generators, map(torch.tensor, planes), strict=True):
        generator[axes[:, None], axes] = plane_generator(name)
    return generators


def move(h: Tensor, generators: Tensor, amounts: Tensor) -> Tensor:
    """exp(Σ_a ε_ia G_a) h_i, (N, D), for the rows of h (N, D), generators (m, D, D) and `amounts` ε (N, m)."""
    floating("The tensor of features", h)
    h, generators, amounts = (
        finite(f"The tensor of {name}", value, axes, dtype=h.dtype)
        for name, value, axes in (("features", h, 2), ("generators", generators, 3), ("amounts", amounts, 2))
    )
    require(
        generators.shape[1:] == 2 * h.shape[1:] and amounts.shape == (len(h), len(generators)),
        f"Features, generators and amounts have the shapes {tuple(h.shape)}, {tuple(generators.shape)} and "
        f"{tuple(amounts.shape)}; they must be (N, D), (m, D, D) and (N, m).",
    )
    with torch.autocast(h.device.type, enabled=False):
        return (_matrix_exp(torch.tensordot(amounts, generators, 1)) @ h[:, :, None])[:, :, 0]


def generator_norm(w: Tensor, generators: Tensor) -> float:
    """√D ‖WᵀG‖ / (‖W‖ ‖G‖) with G = [G_1 … G_m] and Frobenius norms, for W (D, K): between 0 and √D.

    0 if and only if every G_a maps into ker Wᵀ. The mean of its square over random W without preferred direction is 1.

    >>> rotation = lie.plane_generators([(0, 1)], 4)
    >>> lie.generator_norm(torch.eye(4)[:, 2:], rotation)  # W keeps what the rotation leaves alone
    0.0
    """
    floating("W", w)
    w = finite("W", w, 2).detach()
    side = torch.cat(list(finite("The tensor of generators", generators, 3).to(w)), 1)
    require(len(side) == len(w), f"W has {len(w)} rows and a generator {len(side)}; both must have the same number.")
    w, side = (unit(matrix.flatten()).view_as(matrix) for matrix in (w, side))
    return math.sqrt(len(w)) * min(1.0, float((w.T @ side).norm()))


def optimal_energies(costs, width: int, beta: float = 2.0) -> Tensor:
    """The p ≥ 0, Σ_j p_j = 1, at most `width` of them positive, that minimise β Σ_j c_j p_j + β²/2 Σ_j p_j², (D,).

    Up to a constant and to second order in the similarities this is the loss of Eq. 1 on many isotropic features: p_j
    is the share of direction j in ‖W‖², and c_j in `costs` (D,) the cosine that two views lose along j. The solution is
    p_j = max(0, t − c_j/β) on the cheapest directions: with n free ones, others fade out and are gone from β/n on.

    >>> lie.optimal_energies([0.0, 0.0, 5.0], width=3, beta=2.0).tolist()
    [0.5, 0.5, 0.0]
    """
    require_number("The width", width, least=1, whole=True)
    require_number("beta", beta, above=0)
    costs = finite("The list of costs", costs, 1, dtype=torch.float64) / beta
    costs = costs - costs.min()  # the same for all, and else the 1 is lost beside them
    cheapest = costs.argsort(stable=True)[:width]
    levels = (1 + costs[cheapest].cumsum(0)) / torch.arange(1, len(cheapest) + 1, device=costs.device)
    level = levels[int((costs[cheapest] < levels).sum()) - 1]
    return torch.zeros_like(costs).index_copy(0, cheapest, (level - costs[cheapest]).clamp(min=0))


def train_projector(
    generators: Tensor, reach: float, *, width: int = 8, n: int = 256, beta: float = 2.0, steps: int = 60, seed: int = 0
) -> pd.DataFrame:
    """What gradient descent on Eq. 1 makes of a linear projector W (D, width) when the second views lie on orbits.

    The n features h_i are standard normal, their second views exp(Σ_a ε_ia G_a) h_i with ε_ia uniform in ±`reach`,
    and fixed; `generators` is (m, D, D). All settings are ours: the paper has no such experiment.

    **Returns** a row for each step from 0 on: `size`, the `generator_norm` of W; `rank`, its effective rank;
    `similarity`, the mean cosine of the outputs for the two views.
    """
    require_number("The reach", reach, least=0)
    require_number("beta", beta)
    for name, value, least in (("width", width, 1), ("n", n, 2), ("steps", steps, 0), ("seed", seed, 0)):
        require_number(name, value, least=least, whole=True)
    generators = finite("The tensor of generators", generators, 3).float()
    rows = _trained(tuple(generators.shape), tuple(generators.flatten().tolist()), reach, width, n, beta, steps, seed)
    return pd.DataFrame(rows, columns=["size", "rank", "similarity"]).rename_axis("step").reset_index()


@functools.lru_cache(256)  # a page shows what a claim is judged by
def _trained(shape: tuple[int, ...], entries: tuple[float, ...], reach, width, n, beta, steps, seed) -> list[tuple]:
    """The rows of `train_projector`; the generators are given as shape and entries."""
    generators, random = torch.tensor(entries).view(shape), torch.Generator().manual_seed(seed)
    h1 = torch.randn(n, generators.shape[-1], generator=random)
    h2 = move(h1, generators, reach * (2 * torch.rand(n, len(generators), generator=random) - 1))
    w = (torch.randn(h1.shape[1], width, generator=random) / math.sqrt(h1.shape[1])).requires_grad_()
    optimiser = torch.optim.SGD([w], lr=5.0, momentum=0.9, nesterov=True)
    rows = []
    for _ in range(steps + 1):
        z1, z2 = h1 @ w, h2 @ w
        similarity = torch.cosine_similarity(z1.detach(), z2.detach()).mean()
        rows.append((generator_norm(w, generators), effective_rank(w), float(similarity)))
        optimiser.zero_grad()
        losses.info_nce(z1, z2, beta=beta).backward()
        optimiser.step()
    return rows
