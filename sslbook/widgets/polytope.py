"""A query among points of the plane: which of its nearest points NNK keeps, and which of these rejects which."""

import functools
from typing import ClassVar

import torch
from torch import Tensor

from sslbook import metrics, plotting
from sslbook.metrics import Neighborhood
from sslbook.papers.manifold_graphs import theory
from sslbook.tensors import unit
from sslbook.widgets.base import Explorer, choice, slider

POINTS, REACH = 40, 6.0


@functools.cache
def drawn() -> Tensor:
    """The points, (2, POINTS, 2): a cloud, and a curve with a little noise."""
    generator = torch.Generator().manual_seed(301)
    cloud = 0.3 + 5.4 * torch.rand(POINTS, 2, generator=generator)
    x = 0.4 + 5.2 * torch.rand(POINTS, generator=generator).sort().values
    curve = torch.stack([x, 3 + 1.6 * torch.sin(1.5 * x)], 1) + 0.05 * torch.randn(POINTS, 2, generator=generator)
    return torch.stack([cloud, curve])


class Polytope(Explorer):
    """The NNK neighbours of a query in the plane among its K nearest of 40 points.

    The Gaussian kernel has σ = `bandwidth` times the distance of the K-th point; the cosine kernel sees directions from
    the corner (0, 0) alone, and its diameter is that of unit vectors. A neighbour j cuts off a candidate l if it alone
    would reject it, κ_il ≤ κ_ij κ_jl; for the Gaussian kernel l then lies beyond the line through j at right angles to
    the way from the query to j.
    """

    x = slider(3.0, 0.6, 5.4, 0.05, "Query, first coordinate (or drag it)")
    y = slider(2.0, 0.6, 5.4, 0.05, "Query, second coordinate")
    k = slider(20, 1, POINTS, 1, "Candidates, K")
    bandwidth = slider(0.4, 0.2, 0.8, 0.05, "Bandwidth of the Gaussian kernel")
    kernel = choice("gaussian", ("gaussian", "cosine"), "Kernel")
    points = choice("cloud", ("cloud", "curve"), "Points")
    numbers: ClassVar = {
        "count": "NNK neighbours",
        "diameter": "Diameter",
        "error": "Error",
        "cut": "Cut off by a single neighbour",
        "others": "Rejected by several together",
    }

    def __init__(self, **values):
        super().__init__(data=drawn().numpy().tobytes(), **values)

    def solution(self) -> tuple[Tensor, Tensor, Neighborhood, float | None]:
        """The query (1, 2), the points (POINTS, 2), the neighbourhood, the width of a Gaussian kernel."""
        query = torch.tensor([[self.x, self.y]], dtype=torch.float64)
        points = drawn()[list(type(self).points.values).index(self.points)].double()
        gaussian = self.kernel == "gaussian"
        options = {"k": self.k, "kernel": self.kernel, "bandwidth": self.bandwidth if gaussian else None}
        found = metrics.nnk(query, points, **options)
        width = self.bandwidth * float((points[found.indices[0, -1]] - query[0]).norm()) if gaussian else None
        return query, points, found, width

    def rejections(self) -> Tensor:
        """Whether rejected candidate l is cut off by neighbour j, (K − n, n), nearest first."""
        query, points, found, width = self.solution()
        near, chosen = points[found.indices[0]], found.weights[0] > 0
        own = theory.kernels(query, near, width)[0]
        return own[~chosen, None] <= own[chosen] * theory.kernels(near[~chosen], near[chosen], width)

    def compute(self) -> dict:
        _, points, found, width = self.solution()
        chosen, cut = found.weights[0] > 0, self.rejections().any(1)
        return {
            "count": int(chosen.sum()),
            "diameter": float(metrics.diameter(found, points if width else unit(points))),
            "error": float(found.error),
            "cut": int(cut.sum()),
            "others": int((~cut).sum()),
        }

    def still(self):
        query, points, found, width = self.solution()
        near, weights = points[found.indices[0]], found.weights[0]
        chosen = near[weights > 0]
        axis = torch.linspace(0.01, REACH, 241, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        rest = theory.kernels(grid, query, width)[:, 0] - theory.kernels(grid, near, width) @ weights
        ax = plotting.axes(figsize=(4.4, 4.4))
        ax.contourf(axis, axis, rest.view(241, 241).T, [0, 9], colors=[plotting.PALETTE[2]], alpha=0.25)
        if width:
            heights = ((grid[:, None] - chosen) * (chosen - query)).sum(2).amax(1).view(241, 241).T
            ax.contour(axis, axis, heights, [0], colors="black", linewidths=1, linestyles="--")
        for place, by in zip(near[weights == 0], self.rejections(), strict=True):
            for neighbour in chosen[by][:1]:
                ax.plot(*torch.stack([place, neighbour]).T, color="black", linewidth=0.6, alpha=0.3)
        for place in chosen:
            ax.plot(*torch.stack([query[0], place]).T, color=plotting.PALETTE[1], linewidth=1.5)
        ax.scatter(*points.T, s=5, color="black", alpha=0.4, linewidth=0)
        ax.scatter(*near.T, s=22, facecolor="none", edgecolor="black")
        ax.scatter(*chosen.T, s=30, color=plotting.PALETTE[1], zorder=3)
        ax.scatter(*query.T, s=50, color=plotting.PALETTE[0], zorder=3)
        ax.set(aspect="equal", xlim=(0, REACH), ylim=(0, REACH), xlabel="first feature", ylabel="second feature")
        return ax.figure
