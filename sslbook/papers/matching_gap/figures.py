"""Pictures of this chapter, and the numbers in them in words. The colours are those of the house style, "C0" first."""

import math

import torch
from torch import Tensor

from sslbook import losses
from sslbook.papers.matching_gap import theory
from sslbook.papers.matching_gap.plan import EPSILON, LOSSES, POLICIES


def matching(ax, x: Tensor, y: Tensor, lines: Tensor, title: str, *, off: str = "-", alpha: float = 1.0) -> None:
    """Points of the plane, `x` full and `y` open, both (N, 2), with lines from x_i to y_j as wide as `lines[i, j]`.

    Widths are in points. Lines on the pairs are blue, those off them orange and of the style `off`.
    """
    for i, j in (lines > 0.006).nonzero().tolist():  # what is thinner cannot be seen
        look = {"color": "C0"} if i == j else {"color": "C1", "linestyle": off}
        ax.plot(*torch.stack([x[i], y[j]], 1), lw=float(lines[i, j]), alpha=alpha, **look)
    ax.scatter(*x.T, s=22, color="black", zorder=3)
    ax.scatter(*y.T, s=22, facecolor="none", edgecolor="black", zorder=3)
    ax.set_title(title)
    ax.set_aspect("equal", adjustable="datalim")
    ax.axis("off")


def row(page, pictures: dict[str, tuple[Tensor, Tensor, Tensor]], **look):
    """A figure with a picture by `matching` of each `(x, y, lines)`, under its title."""
    figure, panels = page.axes(len(pictures), figsize=(8.6, 2.5))
    for ax, (title, drawn) in zip(panels, pictures.items(), strict=True):
        matching(ax, *drawn, title, **look)
    return figure


def plans(page, x: Tensor, y: Tensor, by_epsilon: dict[float, Tensor]):
    """The optimal plans (N, N) between points of the unit circle, by ε, with ε and the gap as titles.

    The second views are drawn on a smaller circle, and lines are as wide as the mass they carry.
    """
    pictures = {}
    for epsilon, plan in by_epsilon.items():
        gap = losses.matching_gap(x, y, epsilon=epsilon)
        pictures[f"ε = {epsilon:g}: {gap.item():.2f}"] = x, 0.72 * y, 3 * len(x) * plan
    return row(page, pictures, alpha=0.8)


def pushes(page, first: Tensor, second: Tensor, plans: dict[str, Tensor]):
    """The weights of named `plans` (N, N) between points of the sphere, (N, 3), seen from above, and their columns."""
    figure, (*maps, bars) = page.axes(len(plans) + 1, figsize=(8.6, 3.0))
    n, places = len(first), torch.arange(1, len(second) + 1)
    for k, (ax, (name, plan)) in enumerate(zip(maps, plans.items(), strict=True)):
        matching(ax, first[:, :2], second[:, :2], 40 * plan, name, alpha=0.75)
        bars.bar(places + 0.4 * k - 0.2, n * plan.sum(0), 0.36, label=name, color=f"C{k + 2}", lw=0)
    bars.set(xlabel="second view", ylabel="weight of the push", ylim=(0, 2.3), xticks=places)
    bars.legend(fontsize=9, loc="upper right")
    return figure


def by_policy(page, column: str, title: str, keep: int, loc):
    """A column through training, a panel for each policy and a curve for each loss; `keep` and `loc` as in `legend`."""
    figure, (panels,) = page.grid(1, len(POLICIES), figsize=(8.6, 3.4))
    for ax, policy in zip(panels, POLICIES, strict=True):
        part = page.frame[page.frame.policy == policy]
        page.draw(column, "loss", frame=part, ax=ax, title=policy, ylabel=title)
    panels[0].set_ylim(0, None)  # of both; set before the second is drawn, it would cut its curves
    legend(panels, keep, loc)
    return figure


def gaps(page):
    """The gap through training, by policy, with its values for 128 images at collapse and at a simplex."""
    figure = by_policy(page, "gap", "matching gap", 1, (0.05, 0.2))
    levels = {"collapse": EPSILON * math.log(128), "simplex": theory.least_entropic_gap(128, EPSILON)}
    for ax in figure.axes:
        for text, height in levels.items():
            ax.axhline(height, color="black", lw=1, ls=":")
            ax.text(0, height, text, fontsize=9, va="bottom")
        ax.set_ylim(0, 1.08)
    return figure


def legend(panels, keep: int, loc="best") -> None:
    """Keep one of the legends of panels that have the same, in small letters at `loc`."""
    for ax in panels:
        ax.get_legend().remove()
    panels[keep].legend(loc=loc, fontsize=9)


def beside_play(page, columns: dict[str, str], hue: str, centre, half, **labels):
    """As `Page.beside`, with a gray band of ± `half` around `centre`, the play of the seed, both by column."""
    figure, panels = page.beside(columns, hue, **labels)
    for ax, name in zip(panels, columns, strict=True):
        ax.axhline(centre[name], color="C5", linewidth=1)
        ax.axhspan(centre[name] - half[name], centre[name] + half[name], color="C5", alpha=0.25, lw=0)
    return figure


def descents(page, histories):
    """Distance of the two views and gap in the `histories` of `theory.descend`, by ε as a word, of eight images."""
    columns = {"distance": "mean distance", "gap": "gap"}
    figure, (left, right) = page.beside(columns, "ε", x="step", frame=histories, legend="ε")
    for epsilon in map(float, histories["ε"].unique()):
        if epsilon:
            right.axhline(theory.least_entropic_gap(8, epsilon), color="black", lw=1, ls=":")
    left.set_ylim(0, None)
    right.set(yscale="log", ylim=(1e-4, 3))
    right.get_legend().remove()
    return figure


def histograms(page, space: str):
    """Shares of the distances in `space`, "projector" or "encoder", at the end of training, summed over seeds.

    A row for each policy, a column for each loss; blue are the two views of an image, orange the nearest view of
    another one. The bins are those of `measure`.
    """
    figure, grid = page.grid(len(POLICIES), len(LOSSES), figsize=(8.6, 4.2))
    for colour, pair in (("C0", "positive"), ("C1", "negative")):
        entries = page.paper.entries(page.found, f"{space}_{pair}")
        last = entries[entries.epoch == page.epochs[-1]].groupby(["policy", "loss", "index"]).value.sum()
        for axes, policy in zip(grid, POLICIES, strict=True):
            for ax, loss in zip(axes, LOSSES, strict=True):
                counts = last[policy, loss]
                steps = counts / counts.sum(), torch.linspace(0, 2, len(counts) + 1)
                ax.stairs(*steps, color=colour)
                ax.stairs(*steps, color=colour, alpha=0.2, fill=True, lw=0)
    for ax, loss in zip(grid[0], LOSSES, strict=True):
        ax.set_title(loss, fontsize=10)
    for axes, policy in zip(grid, POLICIES, strict=True):
        axes[0].set_ylabel(f"{policy}\nshare")
    for ax in grid[-1]:
        ax.set_xlabel("distance")
    return figure
