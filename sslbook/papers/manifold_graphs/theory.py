"""Manifolds whose truth is known, and what neighbourhoods on them must fulfil."""

import math

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.spatial import ConvexHull
from torch import Tensor

from sslbook import metrics
from sslbook.config import require, require_choice
from sslbook.metrics import Neighborhood, Tangents
from sslbook.tensors import unit

HARMONICS = 10
"""Of the winding circle, which needs twice as many directions."""


def _sheet(u: Tensor, wave: float) -> Tensor:
    return torch.cat([u[:, :2], wave / 3 * torch.sin(3 * u[:, :1])], 1)


def _roll(u: Tensor) -> Tensor:
    angle = 1.5 * math.pi * (2 + u[:, 0])
    return torch.stack([angle * angle.cos(), angle * angle.sin(), 7.5 * u[:, 1]], 1)


def _torus(u: Tensor) -> Tensor:
    a, b = math.pi * u[:, :2].T
    return torch.stack([(1 + 0.4 * b.cos()) * a.cos(), (1 + 0.4 * b.cos()) * a.sin(), 0.4 * b.sin()], 1)


def _winding(u: Tensor) -> Tensor:
    angles = math.pi * u[:, :1] * torch.arange(1, HARMONICS + 1)
    return torch.cat([angles.cos(), angles.sin()], 1)


# Name: dimension, and points of the cube [−1, 1]⁴, points of a normal distribution and the wave to points in space.
_CHARTS = {
    "circle": (1, lambda u, z, wave: unit(z[:, :2])),
    "winding circle": (1, lambda u, z, wave: _winding(u)),
    "plane": (2, lambda u, z, wave: u[:, :2]),
    "curved sheet": (2, lambda u, z, wave: _sheet(u, wave)),
    "Swiss roll": (2, lambda u, z, wave: _roll(u)),
    "torus": (2, lambda u, z, wave: _torus(u)),
    "sphere": (2, lambda u, z, wave: unit(z[:, :3])),
    "4-cube": (4, lambda u, z, wave: u),
    "4-sphere": (4, lambda u, z, wave: unit(z[:, :5])),
    "8-sphere": (8, lambda u, z, wave: unit(z)),
}
MANIFOLDS = {name: dimension for name, (dimension, _) in _CHARTS.items()}
"""The dimensions of the manifolds, by name."""


def manifold(
    name: str, n: int = 800, *, noise: float = 0.0, wave: float = 1.0, ambient: int = 128, seed: int = 1
) -> Tensor:
    """Unit features (n, `ambient` + 1) of points on or near a manifold, in float64.

    Points are centred and scaled to the root mean square 1. Noise of `ambient` dimensions is added, normal and of the
    root mean square `noise`. A last coordinate of 1 is appended, because the cosine kernel sees directions alone, and
    the whole is normalised. The curved sheet is z = `wave`/3 · sin 3x: its slope is at most `wave`.

    Raises `ValueError` for a name that is not in `MANIFOLDS`.
    """
    require_choice("The manifold", name, tuple(MANIFOLDS))
    generator = torch.Generator().manual_seed(seed)
    u = 2 * torch.rand(n, 4, generator=generator, dtype=torch.float64) - 1
    z, noises = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (9, ambient))
    x = _CHARTS[name][1](u, z, wave)
    if not name.endswith(("sphere", "circle")):  # these are centred and of radius 1, or √HARMONICS
        x = x - x.mean(0)
    x = x / x.square().sum(1).mean().sqrt()
    x = F.pad(x, (0, ambient - x.shape[1])) + noise / ambient**0.5 * noises
    return unit(F.pad(x, (0, 1), value=1))


def among(
    name: str, *, k: int = 50, n: int = 1000, noise: float = 0.0, seed: int = 1
) -> tuple[Neighborhood, Tensor, Tensor]:
    """The NNK neighbourhoods of 100 points of a `manifold` among n others of it; these queries, these candidates."""
    queries, candidates = manifold(name, n + 100, noise=noise, seed=seed).split([100, n])
    return metrics.nnk(queries, candidates, k=k), queries, candidates


def mean_count(name: str, **about) -> float:
    """Mean number of neighbours in the neighbourhoods of `among`, whose arguments these are."""
    return float(metrics.neighbor_count(among(name, **about)[0]).double().mean())


def mean_diameter(name: str, **about) -> float:
    """Mean diameter of the neighbourhoods of `among`, whose arguments these are."""
    found, _, candidates = among(name, **about)
    return float(metrics.diameter(found, candidates).mean())


def kernels(x: Tensor, y: Tensor, width: float | None = None) -> Tensor:
    """κ(x_i, y_j), (N, M), of x (N, D) and y (M, D): exp(−d²/2σ²) with σ = `width`, or without it ½(1 + cos)."""
    if width is None:
        return (1 + unit(x) @ unit(y).T) / 2
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distance.square() / (2 * width**2)).exp()


def certificate(queries: Tensor, candidates: Tensor, found: Neighborhood) -> tuple[float, float]:
    """Of neighbourhoods by the cosine kernel: the greatest |g_j| where θ_j > 0 and the least g_j elsewhere, g = Kθ − κ.

    The first must be 0 and the second not negative, up to rounding: the conditions of Karush, Kuhn and Tucker.
    """
    near = candidates[found.indices]
    gram = (1 + unit(near) @ unit(near).mT) / 2
    own = (1 + (unit(near) @ unit(queries)[:, :, None])[:, :, 0]) / 2
    gradient = (gram @ found.weights[:, :, None])[:, :, 0] - own
    chosen = found.weights > 0
    return float(gradient[chosen].abs().max()), float(gradient[~chosen].min())


def two_candidates(n: int = 500, *, seed: int = 1) -> pd.DataFrame:
    """Whether both of two candidates are neighbours, for n random triples of points in space, by three tests.

    The columns, of truth values: "interval", κ_jl < κ_ij/κ_il < 1/κ_jl; "programme", the solution; "angles", whether
    those at both candidates are acute. The kernel is Gaussian, its width the distance of the farther candidate.
    """
    rows = []
    for i, j, other in torch.randn(n, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64):
        pair = torch.stack([j, other])
        width = float((pair - i).norm(dim=1).max())
        found = metrics.nnk(i[None], pair, k=2, kernel="gaussian", bandwidth=1.0)
        (first, second), across = kernels(i[None], pair, width)[0], kernels(j[None], other[None], width)[0, 0]
        rows.append(
            {
                "interval": bool(across < first / second < 1 / across),
                "programme": int(metrics.neighbor_count(found)) == 2,
                "angles": bool((i - j) @ (other - j) > 0 and (i - other) @ (j - other) > 0),
            }
        )
    return pd.DataFrame(rows)


def beyond(query: Tensor, neighbours: Tensor, points: Tensor) -> Tensor:
    """Whether each of the `points` (M, D) lies beyond a neighbour: (x − x_j)·(x_j − x_i) > 0 for one of the neighbours
    x_j (n, D) of the `query` x_i (D,); (M,)."""
    heights = ((points[:, None] - neighbours) * (neighbours - query)).sum(2)
    return (heights > 1e-12 * (neighbours - query).square().sum(1)).any(1)


def half_planes(bandwidth: float, *, n: int = 100, k: int = 20, seed: int = 1) -> tuple[float, float]:
    """Of n random queries in the plane: the share of rejected candidates, and that of neighbours, that lie `beyond` a
    neighbour. Gaussian kernel of this `bandwidth`."""
    generator = torch.Generator().manual_seed(seed)
    queries, candidates = torch.rand(2, n, 2, generator=generator, dtype=torch.float64)
    found = metrics.nnk(queries, candidates, k=k, kernel="gaussian", bandwidth=bandwidth)
    rejected, chosen = [], []
    for query, index, weights in zip(queries, found.indices, found.weights, strict=True):
        near = candidates[index]
        lies = beyond(query, near[weights > 0], near)
        rejected.append(lies[weights == 0])
        chosen.append(lies[weights > 0])
    return tuple(float(torch.cat(part).double().mean()) for part in (rejected, chosen))


def on_one_facet(candidates: Tensor, found: Neighborhood) -> Tensor:
    """Whether the neighbours of each query are vertices of one facet of the convex hull of the candidates (N, D).

    The hull is that of Qhull, which knows nothing of kernels.
    """
    facets = [set(facet) for facet in ConvexHull(candidates.numpy()).simplices.tolist()]
    at: dict[int, list[set]] = {}
    for facet in facets:
        for vertex in facet:
            at.setdefault(vertex, []).append(facet)
    chosen = [set(i[w > 0].tolist()) for i, w in zip(found.indices, found.weights, strict=True)]
    return torch.tensor([any(each <= facet for facet in at[min(each)]) for each in chosen])


def arc_affinity(angle: Tensor, dimension: int) -> Tensor:
    """Affinity of the true tangents of two points of a sphere of this `dimension` at an `angle` from its centre.

    One principal angle is `angle`, the others are 0: √(1 − sin²/m).
    """
    return (1 - angle.sin().square() / dimension).sqrt()


def true_affinity(name: str, x: Tensor, found: Neighborhood) -> float:
    """Mean `arc_affinity` of the points x of a sphere, as `manifold` gives them, with their neighbours."""
    # A point is [s; 1]/√2 with s on the sphere, so the cosine of two s is 2 xᵀy − 1.
    cosines = 2 * (x[:, None] * x[found.indices]).sum(2) - 1
    return float(arc_affinity(cosines.clamp(-1, 1).acos(), MANIFOLDS[name])[found.weights > 0].mean())


def subspaces(dimension: int, *, n: int = 2000, ambient: int = 30, seed: int = 1) -> Tangents:
    """n subspaces of this `dimension`, drawn uniformly from ℝ^`ambient`. Raises `ValueError` if it is larger."""
    require(dimension <= ambient, f"The dimension is {dimension}; it must be at most {ambient}.")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, ambient, dimension, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(drawn).Q.mT.flatten(0, 1)
    return Tangents(basis, dimension * torch.arange(n), torch.full((n,), dimension))


def flat(n: int = 300, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Affinity (N,) of neighbouring tangents on n points of a subspace of ℝ³⁰, and their dimensions (N,), at most 3.

    Gaussian kernel: the cosine kernel would bend the subspace onto a sphere.
    """
    generator = torch.Generator().manual_seed(seed)
    within, basis = (torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in (n, 30))
    x = within @ torch.linalg.qr(basis).Q.T
    found = metrics.nnk(x, k=40, kernel="gaussian", bandwidth=0.5)
    own = metrics.tangents(found, x)
    return metrics.affinity(found, own), own.dimension


def uneven(*, seed: int = 1) -> tuple[Tensor, Tensor]:
    """A query in the plane, and 80 points: half of them in a crowd on its right, half all around."""
    generator = torch.Generator().manual_seed(seed)
    crowd, around = torch.randn(40, 2, generator=generator), torch.rand(40, 2, generator=generator)
    points = torch.cat([torch.tensor([0.6, 0.1]) + 0.2 * crowd, 4 * around - 2]).double()
    return torch.zeros(2, dtype=torch.float64), points
