"""Pictures of neighbourhoods that have no runs behind them."""

import torch
from torch import Tensor

from sslbook import metrics


def three_graphs(query: Tensor, points: Tensor, *, k: int, radius: float) -> dict[str, Tensor]:
    """Indices of the neighbours of a query (2,) among points (N, 2): the k nearest, those within `radius`, and NNK
    with 30 candidates and a Gaussian kernel of bandwidth 0.4."""
    distance = (points - query).norm(dim=1)
    found = metrics.nnk(query[None], points, k=30, kernel="gaussian", bandwidth=0.4)
    return {
        f"k-NN, k = {k}": distance.argsort()[:k],
        f"ε = {radius:g}": (distance <= radius).nonzero()[:, 0],
        "NNK, K = 30": found.indices[0][found.weights[0] > 0],
    }


def graphs(page, query: Tensor, points: Tensor, graphs: dict[str, Tensor]):
    """The neighbours of a query by each of several graphs, joined to it, and the area between the lines of NNK."""
    figure, axes = page.axes(len(graphs), sharey=True, figsize=(8.6, 3.3))
    for ax, (name, index) in zip(axes, graphs.items(), strict=True):
        for place in points[index]:
            ax.plot(*torch.stack([query, place]).T, color="C1", linewidth=1)
        ax.scatter(*points.T, s=8, color="black", alpha=0.5, linewidth=0)
        ax.scatter(*points[index].T, s=16, color="C1", zorder=3)
        ax.scatter(*query, s=36, color="C0", zorder=3)
        ax.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), title=f"{name}: {len(index)}")
    return figure
