"""Pictures of single pages of the chapter, drawn with the axes and curves of a `Page`."""

import math

import pandas as pd
import torch

from sslbook.papers.geometry import theory
from sslbook.papers.geometry.plan import STRENGTHS

DOTTED = {"color": "black", "linewidth": 1, "linestyle": ":"}


def _over_beta(page, frame: pd.DataFrame, y: str, hue: str):
    ax = page.draw(y, hue, frame=frame, x="β", xlabel="inverse temperature β", xscale="log").axes[0]
    ax.xaxis.set_major_formatter("{x:g}")
    return ax


def gap_over_beta(page, z1: torch.Tensor, z2: torch.Tensor):
    """`theory.bound_gap` of a batch and its two limits against β, mean and deviation over the anchors."""
    parts = []
    for beta in torch.logspace(-1, 2, 31, dtype=torch.float64).tolist():
        gap, limit = theory.bound_gap(z1, z2, beta)
        parts.append(pd.DataFrame({"β": beta, "gap to the loss": gap, "limit β(s* − s̄)": limit}))
    curves = pd.concat(parts).melt("β", None, "curve", "gap")
    ax = _over_beta(page, curves[curves.gap < 6.5], "gap", "curve")
    negatives = 2 * (len(z1) - 1)
    ax.axhline(math.log(negatives), **DOTTED)
    ax.text(0.1, math.log(negatives) + 0.08, "log 2(N − 1)")
    return ax.figure


def effective_negatives(page, count: pd.DataFrame):
    """Curves of `count`, a column for each batch, against its index, β, with a dotted line at the paper's β = 2."""
    frame = count[count.index > 0].rename_axis("β").reset_index().melt("β", None, "batch", "effective negatives")
    ax = _over_beta(page, frame, "effective negatives", "batch")
    ax.axvline(2, **DOTTED)
    ax.get_legend().set_loc("lower left")
    return ax.figure


def loss_and_bound(page, levels):
    """Figure 3: loss and upper bound through training, a panel for each strength, with dotted lines at `levels`."""
    figure, axes = page.axes(len(STRENGTHS), sharey=True, figsize=(8.6, 3.2))
    curves = page.frame.rename(columns={"upper": "upper bound"})
    curves = curves.melt(["strength", "seed", "epoch"], ["loss", "upper bound"], "curve", "nats")
    for ax, (strength, part) in zip(axes, curves.groupby("strength", sort=False), strict=True):
        page.draw("nats", "curve", frame=part, ax=ax, title=f"{strength}, {part.seed.nunique()} seeds")
        ax.xaxis.get_major_locator().set_params(integer=True)
        for level in levels:
            ax.axhline(level, **DOTTED)
        if ax is not axes[-1]:
            ax.get_legend().remove()
    return figure


def nearest_distances(page, kinds: dict[str, str]):
    """Figure 5: shares of anchors by their distance to the nearest negative at the end of training.

    A panel for each of `kinds`, "unit" or "relative", under its title. The bins are the 50 of `measure`.
    """
    figure, axes = page.axes(len(kinds), figsize=(8, 3.4))
    for ax, (kind, title) in zip(axes, kinds.items(), strict=True):
        counts = page.paper.entries(page.found, f"distance_{kind}")
        counts = counts[counts.epoch == page.epochs[-1]]
        share = counts.value / counts.groupby(["strength", "seed"]).value.transform("sum")
        bins = counts.assign(distance=0.04 * (counts["index"] - 0.5), share=share)
        limit = 1.3 * bins.distance[share > 0.005].max()
        page.draw("share", "strength", x="distance", frame=bins, ax=ax, title=title, ylabel="", xlim=(0, limit))
        if ax is not axes[-1]:
            ax.get_legend().remove()
    axes[0].set_ylabel("share of anchors")
    return figure
