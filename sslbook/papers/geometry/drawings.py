"""Pictures of the pages on tangents and pieces, drawn with the axes and curves of a `Page`."""

import pandas as pd
import torch.nn.functional as F


def one_legend(*panels, columns: int, side: str = "center", title: str | None = None) -> None:
    """The legend of the first of the given panels below their figure, on one side, in the place of their own."""
    figure, entries = panels[0].figure, panels[0].get_legend_handles_labels()
    for ax in panels:
        ax.get_legend().remove()
    figure.legend(*entries, loc=f"outside lower {side}", ncols=columns, title=title)


def beside(page, names: dict[str, str], hue: str, *, columns: int, height: float, title: str | None = None, **labels):
    """Curves of columns of the frame, each with its name at the ordinate, over one legend: the figure and its panels.

    `columns` and `title` are those of the legend, `labels` as in `Page.draw`.
    """
    figure, panels = page.axes(len(names), figsize=(8, height))
    for ax, (name, label) in zip(panels, names.items(), strict=True):
        page.draw(name, hue, ax=ax, ylabel=label, **labels)
    one_legend(*panels, columns=columns, title=title)
    return figure, panels


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
    """Figures 4 and 9: singular values of the features of images and of views, with their mean and without."""
    figure, axes = page.axes(2, sharey=True, figsize=(8, 4))
    for ax, name in zip(axes, ("encoder", "views"), strict=True):
        kinds = large(page, name).assign(mean="kept"), large(page, f"{name}_centered").assign(mean="removed")
        page.spectra(pd.concat(kinds), "mean", {"end": "end", "half": "half", "start": "start"}, ax=ax)
    axes[0].set(title="images (Fig. 4)", ylabel="singular value")
    axes[1].set(title="views (Fig. 9)")
    one_legend(*axes, columns=7)
    return figure


def pieces(page, networks: dict, arc, missed):
    """Figure 8: the regions of named networks, an arc of features, and the direction of W_ω at every sixteenth.

    `networks` holds `theory.local_maps` along the arc and `theory.cells`, `missed` what W_ω misses of the tangents.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    figure, axes = page.axes(len(networks), figsize=(8, 3.1))
    for ax, (name, (maps, cells)) in zip(axes, networks.items(), strict=True):
        ax.add_collection(PolyCollection(cells, facecolors="none", edgecolors="black", linewidths=0.5, alpha=0.5))
        ax.plot(*arc.T, color="C0", linewidth=1.2)
        at, along = arc[8::16], F.normalize(maps[8::16, :, 0], dim=1) * 0.16
        ends = zip((at - along).tolist(), (at + along).tolist(), strict=True)
        ax.add_collection(LineCollection(list(ends), colors="C1", linewidths=2.2))
        ax.set(aspect="equal", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
        regions = f"{len(cells)} region{'s' * (len(cells) > 1)}"
        ax.set_title(f"{name}: {regions}, misses {missed[name]:.2f}", fontsize=10)
    return figure
