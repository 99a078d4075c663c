"""The propositions of Cosentino et al. 2022 as numbers: where a statement is false as printed, and what is true.

Notation of the paper: h (N, d_enc) are encoder features, rows; W (d_enc, d_proj) is the projector, so the outputs are
the rows of h W; v_i = h_i^(2) − h_i^(1); Sim is the cosine. All is float64; what is random depends on `seed` alone.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook.config import require


class Decomposition(NamedTuple):
    """For each anchor, (N,): −β⟨f_i^(1), f_i^(2)⟩, β⟨f_i^(1), E f⟩ and the entropy H, of `decomposition`."""

    alignment: Tensor
    expectation: Tensor
    entropy: Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Sim of corresponding rows, (N,)."""
    return F.cosine_similarity(a, b, dim=-1)


def negatives(z1: Tensor, z2: Tensor) -> Tensor:
    """s_il = ⟨f_i^(1), f_l⟩ for the 2(N − 1) views l of the other images, (N, 2(N − 1))."""
    f1, f2, n = F.normalize(z1), F.normalize(z2), len(z1)
    # Without its last element and read n + 1 to the line, a square matrix has its diagonal in the first column.
    blocks = [(f1 @ f.T).flatten()[:-1].view(n - 1, n + 1)[:, 1:].reshape(n, n - 1) for f in (f1, f2)]
    return torch.cat(blocks, dim=1)


def random_features(n: int, dim: int, seed: int = 0) -> Tensor:
    """Standard normal rows, (n, dim)."""
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def simplex(n: int) -> Tensor:
    """n unit vectors in n − 1 dimensions with pairwise cosine −1/(n − 1), (n, n − 1).

    The minimisers of the paper's loss and of its repulsion term, whose minimum needs n ≤ d_proj + 1.
    """
    require(n >= 2, f"n is {n}; a simplex needs at least 2 points.")
    centred = torch.eye(n, dtype=torch.float64) - 1 / n
    return F.normalize(torch.linalg.svd(centred).U[:, :-1])


def bound_gap(z1: Tensor, z2: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """L_Upper − L for each anchor, and its limit β(max s − mean s) from Jensen's inequality, both (N,).

    For β ≥ 0: 0 ≤ gap ≤ min(log 2(N − 1), limit). Prop. 3.1 omits the condition; for β < 0 the gap is negative. The
    bound is one of Eq. 1, not of NT-Xent, which exceeds it when all outputs are equal: `nt_xent_bound` is its own.
    """
    s = negatives(z1, z2)
    gap = beta * s.amax(1) - (beta * s).logsumexp(1) + math.log(s.shape[1])
    return gap, beta * (s.amax(1) - s.mean(1))


def nt_xent_bound(z1: Tensor, z2: Tensor, beta: float) -> Tensor:
    """An upper bound of one-sided NT-Xent for β ≥ 0: the mean of softplus(L_Upper of the anchor).

    NT-Xent is the mean of softplus(l_i), and softplus rises with slope below 1: so it is a bound, at most
    log 2(N − 1) above, and exact wherever Prop. 3.1 is.
    """
    upper = beta * (negatives(z1, z2).amax(1) - cosine(z1, z2)) + math.log(2 * (len(z1) - 1))
    return F.softplus(upper, threshold=40).mean()


def nearest_counterexample() -> tuple[Tensor, int, int]:
    """Outputs z (3, 2), and the nearest of image 0 by Sim and by the un-normalised product of Table 1: they differ.

    Prop. 3.1 needs Sim, because only the normalised outputs enter the loss.
    """
    z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [10.0, 10.0]], dtype=torch.float64)
    return z, 1 + int(cosine(z[:1], z[1:]).argmax()), 1 + int((z[1:] @ z[0]).argmax())


def decomposition(z1: Tensor, z2: Tensor, beta: float) -> Decomposition:
    """The parts of l_i, with E and H those of the distribution p_i(l) ∝ exp(β s_il) on the negatives.

    True: l_i = alignment + expectation + entropy. Printed in Prop. C.1 and Eq. 13: alignment − expectation +
    entropy, off by twice the expectation; the paper's proof gives the right sign.
    """
    s = negatives(z1, z2)
    p = (beta * s).softmax(1)
    return Decomposition(-beta * cosine(z1, z2), beta * (p * s).sum(1), torch.special.entr(p).sum(1))


def kernel_counterexample() -> tuple[Tensor, Tensor, Tensor]:
    """W (4, 2), h1 and h2 (1, 4), not collinear, with Sim(Wᵀh1, Wᵀh2) = 1 and Wᵀ(h2 − h1) ≠ 0.

    Prop. 4.1 says that the invariance term is minimised if and only if v ∈ ker. That is sufficient, if also
    Wᵀh1 ≠ 0; necessary is only that Wᵀh2 = λ Wᵀh1 for some λ > 0 (`invariant_partners`).
    """
    w = torch.eye(4, dtype=torch.float64)[:, [0, 2]]
    return w, torch.tensor([[1.0, 0, 1, 0]]).double(), torch.tensor([[2.0, 1, 2, 5]]).double()


def rank_one_collapse(pairs: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """W = 1uᵀ (dim, 128) of rank one, and unrelated non-negative h1, h2 (pairs, dim): Sim(Wᵀh1, Wᵀh2) = 1 always.

    Features after a ReLU are non-negative, so the invariance term alone is minimised by collapse to one direction,
    with no v in the kernel: the sharpest form of the counter-example to Prop. 4.1.
    """
    h1, h2 = random_features(2 * pairs, dim, seed).abs().split(pairs)
    u = random_features(1, 128, seed + 1)
    return torch.ones(dim, 1, dtype=torch.float64) @ u, h1, h2


def invariant_partners(w: Tensor, h1: Tensor, ratio: Tensor, seed: int = 0) -> Tensor:
    """h2 = λ h1 + k with random k in ker Wᵀ, (N, d_enc), for the ratios λ (N,).

    The corrected Prop. 4.1: for λ > 0 and Wᵀh1 ≠ 0 these, and no others, have Sim(Wᵀh1, Wᵀh2) = 1; v lies in the
    kernel only where λ = 1. Hence rank W ≤ d_enc − dim span{h2 − λ h1}.
    """
    noise = random_features(*h1.shape, seed)
    return ratio[:, None] * h1 + noise - noise @ projection(w)


def invariant_projector(displacements: Tensor, width: int, seed: int = 0) -> Tensor:
    """W (d_enc, width) with Wᵀv_i = 0 for every row of `displacements` (N, d_enc), of the largest possible rank.

    The corrected Prop. 4.2: that rank is min(width, d_enc − rank(v)). With d_enc = 512 and 128 outputs, invariance to
    the v_i costs no rank before rank(v) exceeds 384.
    """
    _, values, right = torch.linalg.svd(displacements)
    r = int((values > values[0] * max(displacements.shape) * torch.finfo(values.dtype).eps).sum())
    free = right[r:].T
    return free @ random_features(free.shape[1], width, seed)


def generator_counterexample(dim: int, width: int) -> tuple[Tensor, Tensor]:
    """W = [e_1 … e_width] (dim, width) and G = diag(1, …, 1, 2, …, 2): Wᵀ e^{εG} h = e^ε Wᵀh, so Sim = 1 for every h.

    Yet WᵀG = Wᵀ ≠ 0, and e^{εG} h is not collinear with h, as Prop. 4.3 demands. Its "if and only if G ∈ Ker(W)" is
    false; true is that Wᵀ e^{εG} h must be a positive multiple of Wᵀh. (G = I, scaling, is simpler, but collinear.)
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

    The paper says that repulsion is least when each output is opposed to its nearest negative, Sim = −1. For N ≥ 3
    that is impossible: repulsion ≥ −1/(N − 1), with equality for `simplex`. Rankin's bound, that for d + 2 ≤ N the
    largest cosine is at least 0, is no bound of the repulsion, the mean of N maxima: here it is −0.0125.
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
    """W(WᵀW)⁺Wᵀ, the orthogonal projection onto the columns of W, (d_enc, d_enc).

    The paper gives this name to WWᵀ, which is one only if the columns are orthonormal.
    """
    return w @ torch.linalg.pinv(w)


def equation_8(w: Tensor, h1: Tensor, displacements: Tensor, beta: float) -> Tensor:
    """The first term of Eq. 8 as printed, −(β/N) Σ_i δh_iᵀ WWᵀ h_i^(1) with δh_i = h_i^(2) − h̃_i*.

    It leaves the normalisation of the outputs out, so tW multiplies it by t² and it has no minimum; the term it
    stands for, β·invariance + β·repulsion, does not depend on the scale of W.
    """
    return -beta * ((h1 @ w) * (displacements @ w)).sum(1).mean()


def equation_8_optimum(h1: Tensor, displacements: Tensor, width: int) -> Tensor:
    """The minimiser of `equation_8` among W (d_enc, width) with orthonormal columns, features fixed.

    It spans the leading eigenvectors of ½ Σ_i (h_i δh_iᵀ + δh_i h_iᵀ). The paper concludes that the columns need to
    include span{δh_i}; they need not even lie in it.
    """
    mixed = h1.T @ displacements
    return torch.linalg.eigh(mixed + mixed.T).eigenvectors[:, -width:]


def local_maps(projector: torch.nn.Module, h: Tensor) -> Tensor:
    """W_ω of Eq. 11 at every row of h (N, d_enc), (N, d_enc, d_proj): g(x) = W_ωᵀ x + b_ω in the region of h_i.

    The transposed Jacobian of a projector in evaluation mode. With W₁ the projector's first layer, every W_ω is W₁
    times a matrix: whatever the depth, col(W_ω) lies in col(W₁).
    """
    return torch.func.vmap(torch.func.jacrev(lambda x: projector(x[None])[0]))(h).mT.detach()


def local_unexplained(maps: Tensor, displacements: Tensor) -> float:
    """Eq. 10 region by region: Σ_i ‖(I − U_iU_iᵀ) δ_i‖² / Σ_i ‖δ_i‖², U_i an orthonormal basis of col(`maps`_i).

    `maps` is (N, D, K), `displacements` (N, D). With N equal maps it is `metrics.unexplained_variance`; maps and
    displacements drawn independently, either isotropic, give 1 − rank/D on average.
    """
    require(
        maps.ndim == 3 and maps.shape[:2] == displacements.shape,
        f"The maps have shape {tuple(maps.shape)} and the displacements {tuple(displacements.shape)}; they must be "
        "(N, D, K) and (N, D).",
    )
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


def cells(layers: list[tuple[Tensor, Tensor]], window: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The regions of Eq. 11 in a plane, exactly: convex polygons, lists of corners, that tile the convex `window`.

    `layers` holds weights (out, in) and biases (out,) of the hidden layers; the first has two inputs, the coordinates
    in the plane, and a ReLU follows each. A unit cuts every region of the layers before it along a line. One layer of
    m units in general position has 1 + m + m(m − 1)/2 regions in the whole plane.
    """
    found = [(window, torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))]
    for weight, bias in layers:
        finer = []
        for polygon, slope, offset in found:
            slope, offset = weight.double() @ slope, weight.double() @ offset + bias.double()
            for piece in _cut(polygon, torch.cat([slope, offset[:, None]], 1)):
                on = (slope @ torch.tensor(piece, dtype=torch.float64).mean(0) + offset > 0).double()
                finer.append((piece, on[:, None] * slope, on * offset))
        found = finer
    return [polygon for polygon, _, _ in found]


def _cut(polygon: list, lines: Tensor) -> list[list]:
    """The pieces of a convex polygon between the lines a x + b y + c = 0, the rows of `lines`."""
    corners = torch.tensor(polygon, dtype=torch.float64)
    sides = corners @ lines[:, :2].T + lines[:, 2]
    pieces = [polygon]
    for a, b, c in lines[(sides.amin(0) < 0) & (sides.amax(0) > 0)].tolist():
        pieces = [half for piece in pieces for half in _halves(piece, [a * x + b * y + c for x, y in piece])]
    return pieces


def _halves(polygon: list, side: list[float]) -> list[list]:
    """The parts of a convex polygon where `side`, given at its corners, is at most and at least 0."""
    negligible = 1e-12 * max(map(abs, side))
    if min(side) >= -negligible or max(side) <= negligible:
        return [polygon]
    below, above = [], []
    for i, ((x, y), s) in enumerate(zip(polygon, side, strict=True)):
        (u, v), t = polygon[i - 1], side[i - 1]
        if s * t < 0:
            crossing = (u + t / (t - s) * (x - u), v + t / (t - s) * (y - v))
            below.append(crossing)
            above.append(crossing)
        if s <= 0:
            below.append((x, y))
        if s >= 0:
            above.append((x, y))
    return [below, above]


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

    A stand-in for the projector in Fig. 8: 512 points lie off the unit circle by up to 0.3 either way, and the network
    has to ignore that displacement and to keep the one along the tangent, where its gradient W_ω should then point.
    The best single direction leaves 1/2 − |sin A|/(2A) of the tangents unexplained, A the angle of the arc.
    """
    torch.manual_seed(seed)
    angle, radius = ARC * torch.rand(512), 1 + 0.3 * (2 * torch.rand(512) - 1)
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    sizes = (2, *widths)
    layers = [m for a, b in zip(sizes, widths) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(network(points)[:, 0], angle).backward()
        optimiser.step()
        schedule.step()
    return network.eval()
