"""Pictures of the pages of the chapter, drawn with the axes and curves of a `Page`."""

import math

import pandas as pd
import torch
import torch.nn.functional as F

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
    """Figure 3: loss and upper bound through training, a panel for each strength, with dotted lines at `levels`, of
    which "equal" is that of a constant output."""
    figure, axes = page.axes(len(STRENGTHS), sharey=True, figsize=(8.6, 3.2))
    curves = page.frame.rename(columns={"upper": "upper bound"})
    curves = curves.melt(["strength", "seed", "epoch"], ["loss", "upper bound"], "curve", "nats")
    for ax, (strength, part) in zip(axes, curves.groupby("strength", sort=False), strict=True):
        title = f"{strength}, {part.seed.nunique()} seeds"
        page.draw("nats", "curve", frame=part, ax=ax, title=title, dotted=levels)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if ax is not axes[-1]:
            ax.get_legend().remove()
    axes[0].text(page.epochs[-1], levels["equal"], "constant output", ha="right", va="bottom")
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


def one_legend(*panels, columns: int, side: str = "center", title: str | None = None) -> None:
    """The legend of the first of the given panels below their figure, on one side, in the place of their own."""
    figure, entries = panels[0].figure, panels[0].get_legend_handles_labels()
    for ax in panels:
        ax.get_legend().remove()
    figure.legend(*entries, loc=f"outside lower {side}", ncols=columns, title=title)


def beside(page, names: dict[str, str], hue: str, *, columns: int, height: float, title: str | None = None, **labels):
    """As `Page.beside`, over one legend, whose `columns` and `title` are given."""
    figure, panels = page.beside(names, hue, figsize=(8, height), **labels)
    one_legend(*panels, columns=columns, title=title)
    return figure, panels


def before_and_after(page):
    """By hidden layers: effective rank of the encoder through training; spread of views before and after the head."""
    figure, (left, right) = page.axes(2, figsize=(8, 3.9))
    page.draw("encoder_effective_rank", "hidden", ax=left, ylabel="effective rank of h", ylim=(0, None))
    ends, names = page.at("end"), {"xlabel": "spread of views in the encoder", "ylabel": "after the projector"}
    names |= dict.fromkeys(("xlim", "ylim"), (0, 1.1 * ends[["spread_encoder", "spread_projector"]].max(axis=None)))
    page.points("spread_encoder", "spread_projector", "hidden", frame=ends, ax=right, **names)
    right.axline((0, 0), slope=1, **DOTTED)
    one_legend(left, right, columns=4, title="hidden layers")
    return figure


def kernel(page):
    """Left: the column "ratio" of the frame through training. Right: spectra of the displacements at the end."""
    figure, (left, right) = page.axes(2, figsize=(8, 3.4))
    page.draw("ratio", "strength", ax=left, ylabel="spread, projector over encoder", ylim=(0, None), dotted=[1])
    labels = {"ylabel": "σ / σ₁ of the displacements", "ylim": (1e-2, 1.5)}
    page.spectra("displacement", "strength", relative=True, ax=right, **labels)
    right.get_legend().remove()
    return figure


def generator_sizes(page, strength: pd.DataFrame, predicted: pd.DataFrame):
    """Size of WᵀG through training with 8 outputs, by the angle "A"; at the end, for all outputs and as `predicted`."""
    figure, (left, right) = page.axes(2, sharey=True, figsize=(8, 3.6))
    early = strength[strength.outputs == "K = 8"]
    early = early.assign(A=early.A.map("A = {}°".format))
    ends = pd.concat([strength[strength.step == strength.step.max()], predicted])
    page.draw("size", "A", x="step", frame=early, ax=left, title="K = 8, through training")
    page.draw("size", "outputs", x="A", frame=ends, ax=right)
    left.set_ylabel("size of WᵀG")
    left.legend(ncols=2, loc="upper right")
    right.set(title="at the end", xlabel="largest angle A (degrees)", ylim=(0, 1.4))
    return figure


def ranks_of_several(page, several: pd.DataFrame):
    """Effective rank of W against the number m of generators, by "case", with circles at the most that are "free"."""
    labels = {"xlabel": "number of generators m", "ylabel": "effective rank of W", "ylim": (-0.5, 17)}
    ax = page.draw("rank", "case", x="m", frame=several, **labels).axes[0]
    ax.plot(several.m, several.free, "ko", label="largest invariant rank", fillstyle="none", markersize=9)
    ax.legend()
    return ax.figure


def agreement(page, names: dict[str, str]):
    """Figure 6: the agreement of labels at each of the named levels, with dotted lines at chance."""
    figure, axes = page.panels(names, "strength", ylabel="label agreement", ylim=(0, None))
    for ax, level in zip(axes, names, strict=True):
        chance = page.frame[f"{level}_chance"].mean()
        ax.axhline(chance, **DOTTED)
        ax.text(page.epochs[-1], chance, "chance", ha="right", va="bottom")
    axes[0].get_legend().set_loc("upper left")
    return figure


def unexplained(page, kinds: dict[str, str], random: float):
    """Figure 7: the named columns under large augmentations, and the first for each strength; a line at `random`."""
    figure, (left, right) = page.axes(2, sharey=True, figsize=(8, 4.6))
    lines = page.frame[page.frame.strength == "large"]
    lines = lines.melt(["epoch", "seed"], list(kinds), "kind").replace(kinds)
    page.draw("value", "kind", frame=lines, ax=left, title="large augmentations", dotted=[random])
    page.draw(next(iter(kinds)), "strength", ax=right, title="δh, by strength", dotted=[random])
    left.set(ylabel="unexplained share", ylim=(0, 1.02))
    one_legend(left, columns=2, side="left")
    return figure


def runs_of(page) -> str:
    """How many runs of each kind a page has, in words."""
    n = page.frame.seed.nunique()
    return "one run" if n == 1 else f"{n} runs"


def large(page, name: str) -> pd.DataFrame:
    """Entries of an array of `measure` of the runs under large augmentations."""
    return page.paper.entries([run for run in page.found if run.labels["strength"] == "large"], name)


def spectra(page, name: str) -> pd.DataFrame:
    """Such an array as a table: a row for each moment of training and seed, a column for each entry."""
    table = large(page, name).pivot(index=["epoch", "seed"], columns="index", values="value")
    moments = {epoch: moment for moment, epoch in page.moments.items()}
    return table.loc[sorted(moments)].rename(index=moments, level="epoch").rename_axis(index=["moment", "seed"])


def features(page):
    """Figures 4 and 9: singular values of the centred features of images and of views, for each strength."""
    figure, panels = page.grid(2, len(STRENGTHS), figsize=(8.6, 5.6))
    names = {"encoder_centered": "images (Fig. 4)", "views_centered": "views (Fig. 9)"}
    moments = {"end": "end", "half": "half", "start": "start"}
    for row, (name, title) in zip(panels, names.items(), strict=True):
        entries = page.paper.entries(page.found, name)
        for ax, strength in zip(row, STRENGTHS, strict=True):
            one = entries[entries.strength == strength].copy()
            page.spectra(one, "strength", moments, ax=ax, title=f"{title}, {strength}")
            shown, named = ax.get_legend_handles_labels()
            ax.get_legend().remove()
            ax.set_ylabel("singular value" if ax is row[0] else "")
    panels[0, 0].legend(shown[-len(moments) :], named[-len(moments) :])  # the colours stand in the titles
    return figure


def pieces(page, networks: dict, arc, missed):
    """Figure 8: the regions of named networks, an arc of features, and the direction of W_ω at every sixteenth.

    `networks` holds `theory.local_maps` along the arc and `theory.cells`, `missed` what W_ω misses of the tangents.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    figure, axes = page.axes(len(networks), figsize=(8, 3.1))
    for ax, (name, (maps, cells)) in zip(axes, networks.items(), strict=True):
        ax.add_collection(PolyCollection(cells, facecolors="none", edgecolors="black", linewidths=0.5, alpha=0.5))
        ax.plot(*arc.T, color="black", linewidth=1.2)
        at, along = arc[8::16], F.normalize(maps[8::16, :, 0], dim=1) * 0.16
        ends = zip((at - along).tolist(), (at + along).tolist(), strict=True)
        ax.add_collection(LineCollection(list(ends), colors="C0", linewidths=2.2, zorder=3))
        ax.set(aspect="equal", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
        regions = f"{len(cells)} region{'s' * (len(cells) > 1)}"
        ax.set_title(f"{name}: {regions}, misses {missed[name]:.2f}", fontsize=10)
    return figure


def collapse(page):
    """Figure 1, left: the projector's rank by three definitions through training."""
    names = {"effective_rank": "effective rank of W", "relative_0.25": "σ ≥ σ₁/4", "rank_0.25": "σ ≥ 0.25"}
    figure, axes = page.beside(names, "strength", ylim=(0, None))
    for ax in axes[1:]:
        ax.get_legend().remove()
    return figure


def directions(page):
    """A column for each strength: variance of views and of images along the singular directions of W at the end;
    below, 20-NN accuracy of features and of outputs through training."""
    figure, panels = page.grid(2, len(STRENGTHS), share="row", figsize=(8.6, 5.2))
    kinds = {"image_variance": "of images", "view_variance": "of views"}
    found = [page.paper.entries(page.found, name).assign(variance=kind) for name, kind in kinds.items()]
    along = pd.concat(table[table.epoch == page.epochs[-1]] for table in found)
    accuracy = {"knn": "encoder", "knn_projector": "output"}
    courses = page.frame.rename(columns=accuracy).melt(["strength", "seed", "epoch"], accuracy.values(), "of", "20-NN")
    for (above, below), strength in zip(panels.T, STRENGTHS, strict=True):
        labels = {"x": "index", "xlabel": "singular direction of W", "yscale": "log", "title": strength}
        page.draw("value", "variance", frame=along[along.strength == strength], ax=above, ylabel="variance", **labels)
        page.draw("20-NN", "of", frame=courses[courses.strength == strength], ax=below)
        if strength != STRENGTHS[-1]:
            above.get_legend().remove()
            below.get_legend().remove()
        if strength != STRENGTHS[0]:
            above.set_ylabel("")
            below.set_ylabel("")
    panels[1, 0].set_ylim(0, None)  # only now: it would hold for the curves yet to come
    return figure
