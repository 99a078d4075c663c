"""The propositions of Cosentino et al. 2022 as numbers: where a statement is false as printed, and what is true.

Notation of the paper: h (N, d_enc) are features, rows; W (d_enc, d_proj) is the projector, so the outputs are the rows
of h W; v_i = h_i^(2) − h_i^(1); Sim is the cosine. All is float64; what is random depends on `seed` alone. The pages of
the chapter hold the corrected statements.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import lie, losses
from sslbook.config import require


class Decomposition(NamedTuple):
    """For each anchor, (N,): −β⟨f_i^(1), f_i^(2)⟩, β⟨f_i^(1), E f⟩ and the entropy H, of `decomposition`."""

    alignment: Tensor
    expectation: Tensor
    entropy: Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Sim of corresponding rows, (N,)."""
    return F.cosine_similarity(a, b, dim=-1)


def negative_similarities(z1: Tensor, z2: Tensor) -> Tensor:
    """s_il = ⟨f_i^(1), f_l⟩ for the 2(N − 1) views l of the other images, (N, 2(N − 1))."""
    f1, f2, n = F.normalize(z1), F.normalize(z2), len(z1)
    # Drops the diagonal: without the last entry and reshaped to (n − 1, n + 1), it is column 0.
    blocks = [(f1 @ f.T).flatten()[:-1].view(n - 1, n + 1)[:, 1:].reshape(n, n - 1) for f in (f1, f2)]
    return torch.cat(blocks, dim=1)


def random_features(n: int, dim: int, seed: int = 0) -> Tensor:
    """Standard normal rows, (n, dim)."""
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def simplex(n: int) -> Tensor:
    """n unit vectors with pairwise cosine −1/(n − 1), (n, n − 1): the minimisers of loss and repulsion."""
    require(n >= 2, f"n is {n}; a simplex needs at least 2 points.")
    centred = torch.eye(n, dtype=torch.float64) - 1 / n
    return F.normalize(torch.linalg.svd(centred).U[:, :-1])


def bound_gap(z1: Tensor, z2: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """L_Upper − L for each anchor, and its limit β(max s − mean s) from Jensen's inequality, both (N,).

    For β ≥ 0: 0 ≤ gap ≤ min(log 2(N − 1), limit). Prop. 3.1 omits the condition; for β < 0 the gap is negative.
    """
    s = negative_similarities(z1, z2)
    gap = beta * s.amax(1) - (beta * s).logsumexp(1) + math.log(s.shape[1])
    return gap, beta * (s.amax(1) - s.mean(1))


def nt_xent_bound(z1: Tensor, z2: Tensor, beta: float) -> Tensor:
    """An upper bound of one-sided NT-Xent for β ≥ 0, as L_Upper is none: the mean of softplus(L_Upper of the anchor).

    NT-Xent is the mean of softplus(l_i), whose slope is below 1: the bound is at most log 2(N − 1) above.
    """
    upper = beta * (negative_similarities(z1, z2).amax(1) - cosine(z1, z2)) + math.log(2 * (len(z1) - 1))
    return F.softplus(upper, threshold=40).mean()


def nearest_counterexample() -> tuple[Tensor, int, int]:
    """Outputs z (3, 2), and the nearest of image 0 by Sim (Prop. 3.1) and by the product of Table 1: they differ."""
    z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [10.0, 10.0]], dtype=torch.float64)
    return z, 1 + int(cosine(z[:1], z[1:]).argmax()), 1 + int((z[1:] @ z[0]).argmax())


def decomposition(z1: Tensor, z2: Tensor, beta: float) -> Decomposition:
    """The parts of l_i, with E and H those of the distribution p_i(l) ∝ exp(β s_il) on the negatives.

    l_i = alignment + expectation + entropy. Prop. C.1 and Eq. 13 print − expectation; the paper's proof has the plus.
    """
    s = negative_similarities(z1, z2)
    p = (beta * s).softmax(1)
    return Decomposition(-beta * cosine(z1, z2), beta * (p * s).sum(1), torch.special.entr(p).sum(1))


def kernel_counterexample() -> tuple[Tensor, Tensor, Tensor]:
    """Against Prop. 4.1: W (4, 2), h1 and h2 (1, 4), not collinear, with Sim(Wᵀh1, Wᵀh2) = 1 and Wᵀ(h2 − h1) ≠ 0."""
    w = torch.eye(4, dtype=torch.float64)[:, [0, 2]]
    return w, torch.tensor([[1.0, 0, 1, 0]]).double(), torch.tensor([[2.0, 1, 2, 5]]).double()


def rank_one_collapse(pairs: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Against Prop. 4.1: W = 1uᵀ (dim, 128) of rank one makes Sim(Wᵀh1, Wᵀh2) = 1 for non-negative h1, h2 (pairs, dim).

    Features after a ReLU are non-negative: the invariance term alone is minimised by collapse to one direction.
    """
    h1, h2 = random_features(2 * pairs, dim, seed).abs().split(pairs)
    u = random_features(1, 128, seed + 1)
    return torch.ones(dim, 1, dtype=torch.float64) @ u, h1, h2


def invariant_partners(w: Tensor, h1: Tensor, ratio: Tensor, seed: int = 0) -> Tensor:
    """h2 = λ h1 + k with random k in ker Wᵀ, (N, d_enc), for the ratios λ (N,).

    Prop. 4.1, corrected: for λ > 0 and Wᵀh1 ≠ 0 these, and no others, have Sim(Wᵀh1, Wᵀh2) = 1; only for λ = 1 is v in
    the kernel. Hence rank W ≤ d_enc − dim span{h2 − λ h1}.
    """
    noise = random_features(*h1.shape, seed)
    return ratio[:, None] * h1 + noise - noise @ projection(w)


def invariant_projector(displacements: Tensor, width: int, seed: int = 0) -> Tensor:
    """W (d_enc, width) with Wᵀv_i = 0 for every row of `displacements` (N, d_enc), of the largest possible rank.

    Prop. 4.2, corrected: that rank is min(width, d_enc − rank(v)).
    """
    _, values, right = torch.linalg.svd(displacements)
    r = int((values > values[0] * max(displacements.shape) * torch.finfo(values.dtype).eps).sum())
    free = right[r:].T
    return free @ random_features(free.shape[1], width, seed)


def generator_counterexample(dim: int, width: int) -> tuple[Tensor, Tensor]:
    """Against Prop. 4.3: W = [e_1 … e_width] (dim, width) and G = diag(1, …, 1, 2, …, 2) have WᵀG = Wᵀ ≠ 0.

    Yet Wᵀ e^{εG} h = e^ε Wᵀh, so Sim = 1 for every h, and e^{εG} h is not collinear with h, as Prop. 4.3 demands.
    """
    require(0 < width < dim, f"The width is {width}; it must lie in 1 … {dim - 1}.")
    diagonal = torch.full((dim,), 2.0, dtype=torch.float64)
    diagonal[:width] = 1
    return torch.eye(dim, width, dtype=torch.float64), diagonal.diag()


def repulsion(points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over i of max_{j ≠ i} Sim(z_i, z_j) for the rows of `points` (..., N, D)."""
    f = F.normalize(points, dim=-1)
    diagonal = torch.eye(f.shape[-2], dtype=torch.bool)
    nearest = (f @ f.mT).masked_fill(diagonal, -math.inf).amax(-1)
    return nearest.mean(-1), nearest.amax(-1)


def repulsion_counterexample(tilt: float = 1 / 8) -> Tensor:
    """Five unit vectors in 3 dimensions, (5, 3): a pole, and a cross tilted away from it.

    Rankin's bound, that for d + 2 ≤ N the largest cosine is at least 0, is none of the repulsion: here it is −0.0125.
    """
    c = math.sqrt(1 - tilt**2)
    rows = [[0, 0, 1], [c, 0, -tilt], [-c, 0, -tilt], [0, c, -tilt], [0, -c, -tilt]]
    return torch.tensor(rows, dtype=torch.float64)


def minimise_repulsion(n: int, dim: int, seed: int = 0, starts: int = 16, steps: int = 1000) -> Tensor:
    """Points (n, dim) of least repulsion found by local search, with identical views; an upper bound of the minimum.

    Adam from `starts` random starts on the soft maximum (1/t) Σ_i log Σ_j exp(t s_ij), t rising from 10 to 3000.
    """
    points = random_features(starts * n, dim, seed).view(starts, n, dim).requires_grad_()
    diagonal = torch.eye(n, dtype=torch.bool)
    optimiser = torch.optim.Adam([points])
    for step in range(steps):
        sharpness = 10 * 300 ** (step / steps)
        optimiser.param_groups[0]["lr"] = 0.5 / sharpness
        f = F.normalize(points, dim=-1)
        similarity = (sharpness * (f @ f.mT)).masked_fill(diagonal, -math.inf)
        optimiser.zero_grad()
        (similarity.logsumexp(-1).mean(-1) / sharpness).sum().backward()
        optimiser.step()
    points = points.detach()
    return points[repulsion(points)[0].argmin()]


def projection(w: Tensor) -> Tensor:
    """W(WᵀW)⁺Wᵀ, the orthogonal projection onto the columns of W, (d_enc, d_enc); the paper calls WWᵀ so."""
    return w @ torch.linalg.pinv(w)


def equation_8(w: Tensor, h1: Tensor, displacements: Tensor, beta: float) -> Tensor:
    """The first term of Eq. 8 as printed, −(β/N) Σ_i δh_iᵀ WWᵀ h_i^(1) with δh_i = h_i^(2) − h̃_i*.

    It leaves the normalisation of the outputs out, so tW multiplies it by t² and it has no minimum.
    """
    return -beta * ((h1 @ w) * (displacements @ w)).sum(1).mean()


def local_maps(projector: torch.nn.Module, h: Tensor) -> Tensor:
    """W_ω of Eq. 11 at every row of h (N, d_enc), (N, d_enc, d_proj): g(x) = W_ωᵀ x + b_ω in the region of h_i.

    The transposed Jacobian of a projector in evaluation mode.
    """
    return torch.func.vmap(torch.func.jacrev(lambda x: projector(x[None])[0]))(h).mT.detach()


def local_unexplained(maps: Tensor, displacements: Tensor) -> float:
    """Eq. 10 region by region: Σ_i ‖(I − U_iU_iᵀ) δ_i‖² / Σ_i ‖δ_i‖², U_i an orthonormal basis of col(`maps`_i).

    `maps` is (N, D, K), `displacements` (N, D). With N equal maps it is `metrics.unexplained_variance`. Raises
    `ValueError` for other shapes, and if all displacements are 0.
    """
    require(
        maps.ndim == 3 and maps.shape[:2] == displacements.shape,
        f"The maps have shape {tuple(maps.shape)} and the displacements {tuple(displacements.shape)}; they must be "
        "(N, D, K) and (N, D).",
    )
    require(bool(displacements.any()), "All displacements are 0; no share of them can be explained.")
    left, values, _ = torch.linalg.svd(maps.double(), full_matrices=False)
    kept = values > values[:, :1] * max(maps.shape[1:]) * torch.finfo(maps.dtype).eps
    along = torch.einsum("ndk,nd->nk", left, displacements.double()) * kept
    return float(1 - along.square().sum() / displacements.double().square().sum())


def activation_patterns(projector: torch.nn.Sequential, h: Tensor) -> Tensor:
    """Which hidden units are on at each row of h (N, d_enc), (N, units) booleans; equal rows share their region ω."""
    patterns = [torch.zeros(len(h), 0, dtype=torch.bool)]
    for layer in projector:
        h = layer(h)
        if isinstance(layer, torch.nn.ReLU):
            patterns.append(h > 0)
    return torch.cat(patterns, 1)


def cells(layers: list[tuple[Tensor, Tensor]], window: list[tuple[float, float]]) -> list[np.ndarray]:
    """The regions of Eq. 11 in a plane, exactly: convex polygons (corners, 2) that tile the convex `window`.

    `layers` holds weights (out, in) and biases (out,) of the hidden layers; the first has two inputs, the coordinates
    in the plane, and a ReLU follows each. A unit cuts every region of the layers before it along a line.
    """
    found = [(np.array(window, float), np.eye(2), np.zeros(2))]
    for weight, bias in ((w.double().numpy(), b.double().numpy()) for w, b in layers):
        finer = []
        for polygon, slope, offset in found:
            slope, offset = weight @ slope, weight @ offset + bias
            pieces = [polygon]
            for line, shift in zip(slope, offset, strict=True):
                pieces = [half for piece in pieces for half in _halves(piece, piece @ line + shift)]
            for piece in pieces:
                on = slope @ piece.mean(0) + offset > 0
                finer.append((piece, on[:, None] * slope, on * offset))
        found = finer
    return [polygon for polygon, _, _ in found]


def _halves(polygon: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
    """The parts of a convex polygon where a linear function, `side` at its corners, is at most and at least 0."""
    negligible = 1e-12 * abs(side).max()
    if side.min() >= -negligible or side.max() <= negligible:
        return [polygon]
    following = np.roll(side, -1)
    crossed = side * following < 0
    share = np.divide(side, side - following, where=crossed, out=np.zeros_like(side))
    crossings = polygon + share[:, None] * (np.roll(polygon, -1, 0) - polygon)
    corners = np.stack([polygon, crossings], 1).reshape(-1, 2)
    signs = np.stack([side, np.where(crossed, 0, np.nan)], 1).ravel()
    return [corners[signs <= 0], corners[signs >= 0]]


def hidden_layers(projector: torch.nn.Sequential, corners: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The hidden layers of a projector in evaluation mode on the plane through three features, as `cells` takes them.

    `corners` is (3, d_enc); (a, b) stands for the feature h_0 + a (h_1 − h_0) + b (h_2 − h_0), and batch norm is
    folded into the weights.
    """
    slope, offset = (corners[1:] - corners[0]).T, corners[0]
    layers: list[tuple[Tensor, Tensor]] = []
    for layer in list(projector)[:-1]:
        if isinstance(layer, torch.nn.Linear):
            weight = layer.weight.detach()
            bias = layer.bias.detach() if layer.bias is not None else weight.new_zeros(len(weight))
            layers.append((weight, bias) if layers else (weight @ slope, weight @ offset + bias))
        elif isinstance(layer, torch.nn.BatchNorm1d):
            scale = layer.weight.detach() / (layer.running_var + layer.eps).sqrt()
            weight, bias = layers.pop()
            layers.append((scale[:, None] * weight, scale * (bias - layer.running_mean) + layer.bias.detach()))
    return layers


ARC = 1.75 * math.pi
"""The angle of the arc of `position_reader`."""


def position_reader(widths: tuple[int, ...], seed: int = 0, steps: int = 500) -> torch.nn.Sequential:
    """A ReLU network of hidden `widths` from the plane to the line that tells how far along an arc a point lies.

    A stand-in for the projector in Fig. 8: 512 points lie off the unit circle by up to 0.3 either way. The network has
    to ignore that displacement, so its gradient W_ω should point along the tangent.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        angle, radius = ARC * torch.rand(512), 1 + 0.3 * (2 * torch.rand(512) - 1)
        sizes = (2, *widths)
        layers = [m for a, b in zip(sizes, widths) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        network = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(network(points)[:, 0], angle).backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def sign_of_c1() -> float:
    """By how much the decomposition with the sign of E f as printed differs from the loss (Prop. C.1)."""
    z1, z2 = random_features(64, 16, 0), random_features(64, 16, 1)
    parts = decomposition(z1, z2, beta=2.0)
    printed = parts.alignment - parts.expectation + parts.entropy
    return float((printed.mean() - losses.info_nce(z1, z2, beta=2.0)).abs())


def invariant_outside_kernel() -> float:
    """‖Wᵀv‖ of a displacement that W does not see and does not annihilate (Prop. 4.1); 0 if it sees it."""
    w, h1, h2 = kernel_counterexample()
    return float(((h2 - h1) @ w).norm()) if cosine(h1 @ w, h2 @ w) > 1 - 1e-12 else 0.0


def generator_outside_kernel() -> float:
    """‖WᵀG‖ of a generator that W does not see and does not annihilate (Prop. 4.3); 0 if it sees it."""
    w, generator = generator_counterexample(dim=6, width=3)
    h = random_features(100, 6)
    moved = h @ lie.exp(generator, 0.3).T
    return float((w.T @ generator).norm()) if cosine(h @ w, moved @ w).min() > 1 - 1e-12 else 0.0


def printed_repulsion_minimum() -> float:
    """How far the least possible repulsion of N = 128 images, −1/(N − 1), lies above the −1 that is printed."""
    return float(repulsion(simplex(128))[0]) + 1


def not_a_projection() -> float:
    """min over c of ‖P² − cP‖/‖P²‖ of P = W Wᵀ for a random W (Eq. 9): no multiple of P is a projection."""
    p = torch.linalg.svdvals(random_features(64, 16)).square()
    return float((1 - (p**3).sum() ** 2 / ((p**4).sum() * p.square().sum())).sqrt())


def error_of_equation_8(seed: int = 0) -> float:
    """|Eq. 8 − L_Upper| at β = 2 for random features scaled to ‖Wᵀh‖ = 1, the assumption under which it is printed."""
    w, h = random_features(32, 8, seed), random_features(200, 32, seed + 100)
    h1, h2 = (h / (h @ w).norm(dim=1, keepdim=True)).split(100)
    bound = losses.info_nce_upper_bound(h1 @ w, h2 @ w, beta=2.0)
    printed = equation_8(w, h1, h2 - torch.cat([h1, h2])[bound.nearest], 2.0) + math.log(198)
    return float((printed - bound.total).abs())


def bound_at_negative_beta() -> float:
    """By how much L_Upper falls below the loss at β = −2 (Prop. 3.1)."""
    z1, z2 = random_features(64, 16, 0), random_features(64, 16, 1)
    return -float(bound_gap(z1, z2, beta=-2.0)[0].min())


def kept_rank(directions: int, seed: int = 0, dim: int = 64, width: int = 16) -> int:
    """The largest rank of a projector (dim, width) that maps so many random directions to zero (Prop. 4.2)."""
    w = invariant_projector(random_features(directions, dim, seed), width, seed)
    return int(torch.linalg.matrix_rank(w))
