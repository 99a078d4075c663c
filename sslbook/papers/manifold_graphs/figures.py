"""Pictures that have no runs behind them: of neighbourhoods, and of published scores."""

import pandas as pd
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


def target(page, ranks: pd.DataFrame, agreement: pd.DataFrame):
    """Ranks of models (rows) on tasks (columns), and correlations of the tasks: shaded cells with their numbers.

    Shades are see-through, because black is the colour of the page's text and so may be white. The first rank and a
    correlation of 1 are the darkest.
    """
    figure, axes = page.axes(2, figsize=(9.4, 4.6))
    for ax, frame, form, ends in zip(axes, (ranks, agreement), ("g", ".2f"), ((len(ranks), 1), (0, 1)), strict=True):
        _cells(ax, frame, form, *ends)
    axes[0].set_title("rank of the model")
    axes[1].set_title("Spearman correlation of tasks")
    return figure


def _cells(ax, frame: pd.DataFrame, form: str, light: float, dark: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", [(0.0, 0.45, 0.7, alpha) for alpha in (0.0, 0.6)])
    strength = ((frame - light) / (dark - light)).clip(0, 1)
    ax.pcolormesh(strength.to_numpy(), cmap=shades, vmin=0, vmax=1)
    for row, values in enumerate(frame.to_numpy()):
        for column, value in enumerate(values):
            ax.text(
                column + 0.5, row + 0.5, format(value, form).replace("0.", "."), ha="center", va="center", fontsize=8
            )
    ax.set_xticks([i + 0.5 for i in range(frame.shape[1])], frame.columns, rotation=50, ha="right", fontsize=9)
    ax.set_yticks([i + 0.5 for i in range(len(frame))], frame.index, fontsize=9)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
