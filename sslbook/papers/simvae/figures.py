"""Pictures of this chapter, and the tables beside them. `page` is a `Page` of the chapter's runs."""

import pandas as pd
import torch
from torch import Tensor

from sslbook.papers.provenance import facts
from sslbook.papers.simvae.plan import GENERATIVE, METHODS

RANDOM = "random encoder"
_MARKS = dict(zip((*METHODS, RANDOM), "osD^vPX", strict=True))


def line(page, **labels) -> str:
    """The line under a figure of those of the page's runs that have these labels."""
    return facts(_chosen(page, labels), page.profile).line


def array(page, name: str, when: int = -1, **labels) -> Tensor:
    """The array `name` of the first of the runs with these labels, at its last (−1) or first (0) kept epoch."""
    return page.paper.arrays(_chosen(page, labels)[0].run)[name][when]


def _chosen(page, labels: dict) -> list:
    return [found for found in page.found if all(found.labels[name] == value for name, value in labels.items())]


def beside_random(page, name: str) -> pd.DataFrame:
    """The rows of the set `name` at the end of training, then those of its random encoders, the start of any method."""
    ends, starts = (page.at(when).loc[lambda rows: rows["set"] == name] for when in ("end", "start"))
    return pd.concat([ends, starts[starts.method == starts.method.iloc[0]].assign(method=RANDOM)], ignore_index=True)


def terms(page, name: str) -> pd.DataFrame:
    """The terms of the bound through training on a set, in nats for a view, of the latent-variable models."""
    rows = []
    for run, labels in page.found:
        if labels["set"] == name and labels["method"] in GENERATIVE:
            history = run.history.assign(**labels, seed=run.config.seed)
            # A β-VAE logs them with the weight that they have in its loss.
            history[["entropy", "prior"]] /= getattr(run.config.method, "beta", 1.0)
            rows.append(history)
    return pd.concat(rows, ignore_index=True)


def plate(page):
    """The graphical model: shaded is what is observed; solid arrows generate, the dashed one infers."""
    from matplotlib.patches import Circle, FancyBboxPatch

    figure, (ax,) = page.axes(figsize=(6.4, 2.9))
    nodes = {"y": (1.6, 0.0), "z": (3.6, 0.0), "x": (5.4, 0.0)}
    names = {"y": "$y_i$", "z": "$z_i^j$", "x": "$x_i^j$"}
    parameters = {"π": ((0.1, 0.0), "y"), "ψ": ((3.6, 1.35), "z"), "θ": ((5.4, 1.35), "x")}
    outline = {"facecolor": "none", "edgecolor": "black", "linewidth": 1}
    for corner, size, says in (((0.8, -1.1), (5.6, 2.1), "i = 1 … N"), ((2.7, -0.8), (3.5, 1.55), "j = 1 … J")):
        ax.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.15", **outline))
        ax.text(corner[0] + size[0] - 0.1, corner[1] + 0.09, says, ha="right", fontsize=9)
    for name, place in nodes.items():
        ax.add_patch(Circle(place, 0.38, facecolor="none" if name == "z" else "#76767655", edgecolor="black"))
        ax.text(*place, names[name], ha="center", va="center")
    arrows = [(nodes["y"], nodes["z"], 0.38, "-", 0), (nodes["z"], nodes["x"], 0.38, "-", -0.25)]
    arrows += [(nodes["x"], nodes["z"], 0.38, "--", -0.25)]
    for name, (place, to) in parameters.items():
        ax.add_patch(Circle(place, 0.05, color="black"))
        ax.text(place[0] - 0.16, place[1], name, ha="right", va="center")
        arrows.append((place, nodes[to], 0.06, "-", 0))
    for start, end, room, style, bend in arrows:
        look = {"arrowstyle": "-|>", "linestyle": style, "color": "black", "connectionstyle": f"arc3,rad={bend}"}
        ax.annotate("", end, start, arrowprops=look | {"shrinkA": 65 * room, "shrinkB": 65 * 0.38})
    ax.text(4.5, -0.62, "φ", ha="center", va="center")
    ax.set(xlim=(-0.3, 6.6), ylim=(-1.25, 1.6), aspect="equal")
    ax.axis("off")
    return figure


def strip(images: Tensor) -> Tensor:
    """Images (n, C, H, W), uint8, in a row with transparent pixels around each: (H + 2, n (W + 2), 4)."""
    opaque = torch.cat([images.expand(-1, 3, -1, -1), torch.full_like(images[:, :1], 255)], 1)
    return torch.nn.functional.pad(opaque, (1, 1, 1, 1)).permute(2, 0, 3, 1).flatten(1, 2)


def rows(page, pictures: dict[str, Tensor], *, size: float = 0.62):
    """Rows of images (n, C, H, W), uint8, each with its name on the left."""
    wide = max(map(len, pictures.values()))
    figure, axes = page.grid(len(pictures), 1, figsize=(1.9 + size * wide, size * len(pictures)))
    figure.get_layout_engine().set(h_pad=0.01, hspace=0.01)
    for ax, (name, images) in zip(axes.flat, pictures.items(), strict=True):
        tiles = strip(images)
        ax.imshow(tiles.numpy(), interpolation="none")
        ax.set(xlim=(-0.5, wide * tiles.shape[1] / len(images) - 0.5), xticks=[], yticks=[])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        ax.spines[:].set_visible(False)
        ax.set_anchor("E")  # what the pictures leave of the width is on the side of the names
    return figure


def gallery(page, name: str):
    """Views of test images of a set, and what a fresh decoder draws from the features of each method."""
    first = METHODS[0]
    pictures = {"view": array(page, "views", method=first, set=name)}
    pictures[RANDOM] = array(page, "rebuilt_views", 0, method=first, set=name)
    return rows(page, pictures | {m: array(page, "rebuilt_views", method=m, set=name) for m in METHODS})


def groups(page, name: str, methods: tuple[str, ...] = ("SimVAE", "VAE")):
    """Of each of some images a row for each method: a view, then images drawn from N(ψ, σ² I) around its group."""
    drawn = {method: array(page, "groups", method=method, set=name) for method in methods}
    views = array(page, "views", method=methods[0], set=name)
    pictures = {
        f"image {k + 1}, {method}": torch.cat([views[k : k + 1], images[:, k]])
        for k in range(len(drawn[methods[0]][0]))
        for method, images in drawn.items()
    }
    return rows(page, pictures)


def trade_off(page, content: str = "linear", style: str = "style", **labels):
    """Content against style at the end of training, a panel for each set, a point for each method and seed.

    The panels have the scale of style in common, from 0 or the least value.
    """
    sets = list(page.frame["set"].unique())
    down, across = -(-len(sets) // 2), min(2, len(sets))
    figure, axes = page.grid(down, across, share=False, figsize=(1.4 + 3.5 * across, 0.4 + 3.1 * down))
    for ax, name in zip(axes.flat, sets, strict=False):
        for method, part in beside_random(page, name).groupby("method", sort=False):
            look = {"edgecolor": page.paper.colours.get(method, "black"), "marker": _MARKS[method], "label": method}
            ax.scatter(part[style], part[content], s=28, facecolor="none", linewidth=1.1, **look)
        ax.set(title=name, **labels)
    ends = [end for ax in axes.flat[: len(sets)] for end in ax.get_xlim()]
    for ax in axes.flat[: len(sets)]:  # one scale of style, from 0, so that panels can be compared
        ax.set_xlim(min(0, *ends), max(ends))
    axes[0, 0].legend(fontsize=8)
    return figure


def knob_map(page, content: str = "linear", style: str = "style", **labels):
    """Content against style of each cell, mean over seeds with bars of one standard deviation, named."""
    figure, (ax,) = page.axes(figsize=(7.4, 4.4))
    cells = page.at("end").groupby("knob", sort=False)[[style, content]]
    mean, deviation = cells.mean(), cells.std(ddof=0)
    for knob, (x, y) in mean.iterrows():
        colour = {"main": "C1", "as released": "C2"}.get(knob, "C0")
        ax.errorbar(x, y, deviation.loc[knob, content], deviation.loc[knob, style], color=colour, lw=1, alpha=0.4)
        ax.plot(x, y, "o", color=colour)
        ax.annotate(knob, (x, y), (6, 5), textcoords="offset points", fontsize=9)
    ax.margins(0.12)
    ax.set(**labels)
    return figure
