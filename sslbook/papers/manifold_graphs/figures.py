"""Pictures of neighbourhoods and of published scores, which have no runs behind them, and of the zoo.

`page` is a `Page` of the chapter's runs.
"""

import itertools

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sslbook import metrics
from sslbook.papers.manifold_graphs import statistics
from sslbook.papers.manifold_graphs.measure import BINARY, FAMILIES, NEAR
from sslbook.papers.manifold_graphs.plan import PARADIGMS, POLICIES

UNTRAINED = "untrained"
_MARKS = dict(zip((*POLICIES, UNTRAINED), "osX", strict=True))

GROUPS = {
    "semantic manifold": {
        "count": "count",
        "dimension": "low-rank dimension",
        "diameter": "diameter",
        "affinity": "affinity",
        "two_nn": "TwoNN",
        "rankme": "RankMe",
    },
    "relative diameter": {f"diameter_{family}": family for family in FAMILIES},
    "count among views": {f"count_{family}": family for family in FAMILIES if family not in BINARY},
    "affinity among views": {f"affinity_{family}": family for family in FAMILIES if family not in BINARY},
}
"""Numbers of a model that are looked at together, with short names."""


def zoo(page) -> pd.DataFrame:
    """A row for each model at the end of training, means over seeds, with its `paradigm`.

    The last row is the untrained model, where all start; its policy is "untrained", too.
    """
    first = page.at("start").head(1).assign(policy=UNTRAINED, method=UNTRAINED)
    rows = pd.concat([page.at("end"), first])
    table = rows.groupby(["policy", "method"], sort=False).mean(numeric_only=True).reset_index()
    table.insert(0, "paradigm", table.method.map(PARADIGMS).fillna(UNTRAINED))
    return table.drop(columns=["seed", "epoch"])


def named(table: pd.DataFrame) -> pd.Index:
    """The names of the models of `zoo` as a figure shows them: "SimCLR, weak"; large views are not named."""
    return pd.Index([m if p in ("large", UNTRAINED) else f"{m}, {p}" for m, p in zip(table.method, table.policy)])


def heat(page, table: pd.DataFrame, *, label: str = "", **size):
    """A heat map of a table of numbers, with these numbers in it."""
    import seaborn

    figure, (ax,) = page.axes(**({"figsize": (7.6, 0.27 * len(table) + 1)} | size))
    shown = {"annot": True, "fmt": ".2f", "cmap": "viridis", "annot_kws": {"size": 8}, "cbar_kws": {"label": label}}
    seaborn.heatmap(table.astype(float), ax=ax, **shown)
    ax.set(xlabel="", ylabel="")
    return figure


def embedding(page, table: pd.DataFrame, columns, ax) -> np.ndarray:
    """Models on the first two principal components of standardised columns, a colour for each paradigm and a mark for
    each policy, each with its name; returns the shares of variance of the two."""
    z = statistics.standardised(table[list(columns)].to_numpy())
    left, values, _ = np.linalg.svd(z, full_matrices=False)
    at = left[:, :2] * values[:2]
    for (paradigm, policy), rows in table.groupby(["paradigm", "policy"], sort=False).indices.items():
        looks = {"color": page.paper.colours[paradigm], "marker": _MARKS[policy]}
        label = UNTRAINED if policy == UNTRAINED else f"{paradigm}, {policy}"
        ax.scatter(*at[rows].T, s=40, label=label, **looks)
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    ax.margins(x=0.12)
    _name(ax, at, table.method)
    return values[:2] ** 2 / (values**2).sum()


def _name(ax, places, names) -> None:
    """Writes a name beside each place, on the first of its four sides where it meets no place and no other name."""
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()  # lays out the axes, so that their places are known
    side = 7 * ax.figure.dpi / 72  # of a mark
    taken = [Bbox.from_bounds(x - side / 2, y - side / 2, side, side) for x, y in ax.transData.transform(places)]
    for place, name in zip(places, names, strict=True):
        written = ax.annotate(name, place, (4, 3), textcoords="offset points", fontsize=7)
        for ha, x, y in (("left", 4, 3), ("left", 4, -9), ("right", -4, 3), ("right", -4, -9)):
            written.set(ha=ha, position=(x, y))
            if not written.get_window_extent().count_overlaps(taken):
                break
        taken.append(written.get_window_extent())


def alike(page, policy: str) -> tuple[dict[str, pd.DataFrame], float]:
    """How alike the features of each pair of models are at the end of training, under one policy, first seeds.

    By name: linear "CKA" of the first principal components, and the share of nearest "neighbours" that two have in
    common; beside them this share for unrelated features.
    """
    chosen = {}
    for run, labels in page.found:
        if labels["policy"] == policy:
            chosen.setdefault(labels["method"], {k: v[-1] for k, v in page.paper.arrays(run).items() if v.ndim > 1})
    found = {name: pd.DataFrame(1.0, list(chosen), list(chosen)) for name in ("CKA", "neighbours")}
    images = len(next(iter(chosen.values()))["near"])
    for (one, a), (two, b) in itertools.combinations(chosen.items(), 2):
        shared = (a["near"][:, :, None] == b["near"][:, None]).any(2).double().mean()
        for name, value in (("CKA", metrics.cka(a["components"], b["components"])), ("neighbours", float(shared))):
            found[name].loc[one, two] = found[name].loc[two, one] = value
    return found, NEAR / (images - 1)


def square(values: pd.DataFrame, ax, **labels) -> None:
    """A square heat map of numbers in [0, 1] for pairs of models."""
    import seaborn

    seaborn.heatmap(
        values, ax=ax, vmin=0, vmax=1, square=True, annot=True, fmt=".2f", annot_kws={"size": 7}, cbar=False
    )
    ax.set(**labels)
    ax.tick_params(labelsize=8)


def pairs(values: pd.DataFrame, kind: str) -> float:
    """The mean over pairs of methods without labels, of the "same paradigm" or of a "different paradigm"."""
    methods = [name for name in values if PARADIGMS[name] != "supervised"]
    same = kind == "same paradigm"
    chosen = [p for p in itertools.combinations(methods, 2) if (PARADIGMS[p[0]] == PARADIGMS[p[1]]) == same]
    return float(np.mean([values.loc[pair] for pair in chosen]))


def error_of_diameter(page) -> float:
    """The largest standard error of a mean diameter over images, relative to the mean, of all runs and families."""
    views = [page.paper.arrays(run)["view_diameter"][-1] for run, _ in page.found]
    return max(float((v.std(1) / v.mean(1)).max()) / v.shape[1] ** 0.5 for v in views)


def predicted_against_true(page, table: pd.DataFrame, guess: np.ndarray, y: np.ndarray, ax, named: str) -> None:
    """What was predicted and what is true of each model, a colour for each paradigm and a mark for each policy.

    The models of the method `named` have its name.
    """
    for (method, policy), rows in table.groupby(["method", "policy"], sort=False).indices.items():
        looks = {"color": page.paper.colours[PARADIGMS[method]], "marker": _MARKS[policy]}
        ax.scatter(guess[rows], y[rows], s=30, **looks)
    ax.axline((0, 0), slope=1, color="black", linewidth=1, linestyle=":")
    for paradigm in dict.fromkeys(table.method.map(PARADIGMS)):
        ax.scatter([], [], color=page.paper.colours[paradigm], label=paradigm)
    for policy in dict.fromkeys(table.policy):
        ax.scatter([], [], facecolor="none", edgecolor="black", marker=_MARKS[policy], label=f"{policy} views")
    rows = (table.method == named).to_numpy()
    _name(ax, np.stack([guess, y], 1)[rows], table.method[rows])


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


def ranks_and_agreement(page, ranks: pd.DataFrame, agreement: pd.DataFrame):
    """Ranks of models (rows) on tasks (columns), and correlations of the tasks: shaded cells with their numbers.

    Shades are see-through, because black is the colour of the page's text and so may be white. The first rank and a
    correlation of 1 are the darkest.
    """
    figure, axes = page.axes(2, figsize=(9.4, 4.6))
    for ax, frame, form, ends in zip(axes, (ranks, agreement), ("g", ".2f"), ((len(ranks), 1), (0, 1)), strict=True):
        _shaded_table(ax, frame, form, *ends)
    axes[0].set_title("rank of the model")
    axes[1].set_title("Spearman correlation of tasks")
    return figure


def _shaded_table(ax, frame: pd.DataFrame, form: str, light: float, dark: float) -> None:
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
