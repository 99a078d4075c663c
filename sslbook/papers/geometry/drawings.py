"""What several pages of the chapter draw and say: panels under one legend, moments of training, numbers in words."""

import pandas as pd
import torch
import torch.nn.functional as F

from sslbook import plotting
from sslbook.papers.geometry.plan import STRENGTHS

MOMENTS = ("start", "half", "end")


def panels(height: float = 3.5, **options):
    """A figure of two panels beside each other, 8 inches wide, and the panels; `options` are those of `subplots`."""
    figure = plotting.figure(figsize=(8, height))
    return figure, figure.subplots(1, 2, **options)


def one_legend(*panels, columns: int, side: str = "center", title: str | None = None) -> None:
    """The legend of the first of the given panels below their figure, on one side, in the place of their own."""
    figure, entries = panels[0].figure, panels[0].get_legend_handles_labels()
    for ax in panels:
        ax.get_legend().remove()
    figure.legend(*entries, loc=f"outside lower {side}", ncols=columns, title=title)


def dotted(ax, level: float) -> None:
    """A dotted line across a panel, for comparison."""
    ax.axhline(level, color="black", linewidth=1, linestyle=":")


def listed(values: pd.Series, form: str = "{} {:.3f}") -> str:
    """A series in words: index and value of each entry in the given form, with commas between them."""
    return ", ".join(form.format(*entry) for entry in values.items())


def means(page, *names: str, moments=MOMENTS) -> pd.DataFrame:
    """Means over seeds of columns of the page's frame: a row for each strength, for each column one at each moment."""
    columns = pd.MultiIndex.from_product([names, moments], names=[None, "moment"])
    rows = [[page.mean(name, moment, strength=s) for name, moment in columns] for s in STRENGTHS]
    return pd.DataFrame(rows, pd.Index(STRENGTHS, name="strength"), columns)


def spectra(page, name: str) -> pd.DataFrame:
    """An array of `measure` under large augmentations: a row for each moment and seed, a column for each entry."""
    found = [finished for finished in page.found if finished.labels["strength"] == "large"]
    table = page.paper.entries(found, name).pivot(index=["epoch", "seed"], columns="index", values="value")
    half = min(page.epochs, key=lambda epoch: abs(epoch - page.epochs[-1] / 2))
    moments = {page.epochs[-1]: "end", half: "half", page.epochs[0]: "start"}
    return table.loc[sorted(moments)].rename(index=moments, level="epoch").rename_axis(index=["moment", "seed"])


def features(page):
    """Figures 4 and 9: spectra of the features of images and of views under large augmentations, with their mean and
    without, mean over seeds; and the largest values of the views at the end."""
    figure, axes = panels(4, sharey=True)
    for ax, name in zip(axes, ("encoder", "views"), strict=True):
        kinds = {"kept": spectra(page, name), "removed": spectra(page, f"{name}_centered")}
        means = pd.concat({kind: table.groupby("moment").mean() for kind, table in kinds.items()}, names=["mean"])
        lines = means.rename_axis(index={"moment": "when"}).stack().rename("value").reset_index()
        plotting.spectra(lines, "index", "value", "mean", "when", ax=ax, xlabel="direction")
    axes[0].set(title="images (Fig. 4)", ylabel="singular value")
    axes[1].set(title="views (Fig. 9)")
    one_legend(*axes, columns=7)
    return figure, means[1].xs("end", level="moment")


def pieces(networks: dict, arc: torch.Tensor, missed: dict):
    """Figure 8: the regions of named networks, an arc of features, and the direction of W_ω at every sixteenth.

    `networks` holds `theory.local_maps` along the arc and `theory.cells`, `missed` what W_ω misses of the tangents.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    figure = plotting.figure(figsize=(8, 3.1))
    for ax, (name, (maps, cells)) in zip(figure.subplots(1, len(networks)), networks.items(), strict=True):
        ax.add_collection(PolyCollection(cells, facecolors="none", edgecolors="black", linewidths=0.5, alpha=0.5))
        ax.plot(*arc.T, color=plotting.PALETTE[0], linewidth=1.2)
        at, along = arc[8::16], F.normalize(maps[8::16, :, 0], dim=1) * 0.16
        strokes = torch.stack([at - along, at + along], 1).tolist()
        ax.add_collection(LineCollection(strokes, colors=plotting.PALETTE[1], linewidths=2.2))
        ax.set(aspect="equal", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
        regions = f"{len(cells)} region{'s' * (len(cells) > 1)}"
        ax.set_title(f"{name}: {regions}, misses {missed[name]:.2f}", fontsize=10)
    return figure
