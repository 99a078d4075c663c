"""Pictures of single pages of the chapter, drawn with the axes and curves of a `Page`."""

from sslbook.papers.geometry.plan import STRENGTHS


def over_beta(page, frame, y: str, hue: str):
    """Curves of a column of `frame` against its column β, the inverse temperature; returns the axes."""
    ax = page.draw(y, hue, frame=frame, x="β", xlabel="inverse temperature β", xscale="log").axes[0]
    ax.xaxis.set_major_formatter("{x:g}")
    return ax


def loss_and_bound(page, levels):
    """Figure 3: loss and upper bound through training, a panel for each strength, with dotted lines at `levels`."""
    figure, axes = page.axes(len(STRENGTHS), sharey=True, figsize=(8.6, 3.2))
    curves = page.frame.rename(columns={"upper": "upper bound"})
    curves = curves.melt(["strength", "seed", "epoch"], ["loss", "upper bound"], "curve", "nats")
    for ax, (strength, part) in zip(axes, curves.groupby("strength", sort=False), strict=True):
        page.draw("nats", "curve", frame=part, ax=ax, title=f"{strength}, {part.seed.nunique()} seeds")
        ax.xaxis.get_major_locator().set_params(integer=True)
        for level in levels:
            ax.axhline(level, color="black", linewidth=1, linestyle=":")
        if ax is not axes[-1]:
            ax.get_legend().remove()
    return figure
