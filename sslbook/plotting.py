"""The house style, one function per kind of figure, and `show`, which puts a figure on a page.

A figure is one piece of HTML: an inline SVG whose black is the text colour of the page (so it is legible in light
and in dark mode), described in words for those who cannot see it, a caption, and a line that says what made it.
"""

import hashlib
import html
import io
import re

import torch

from sslbook.config import require

_DASHES = ((3, 1, 1, 1), (8, 2), (1, 3), (6, 1, 1, 1, 1, 1), (3, 3), (8, 1, 3, 1))

PALETTE = ("#0072b2", "#d55e00", "#008f68", "#b2619b", "#8a7a00", "#767676")
"""Colours of what has none of its own, in order of use. All have a contrast of at least 3 to 1 with the light and with
the dark page, and differ under the common kinds of colour blindness."""

_STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": "black",
    "axes.edgecolor": "black",
    "axes.labelcolor": "black",
    "text.color": "black",
    "xtick.color": "black",
    "ytick.color": "black",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "sslbook",
}


def figure(**size):
    """An empty figure in the house style, of the given `figsize` in inches."""
    from matplotlib.figure import Figure

    _use_style()
    return Figure(**size)


def _use_style() -> None:
    """The house style and nothing of a personal one, which may ask for LaTeX, or other sizes and colours."""
    import matplotlib
    import seaborn

    matplotlib.rcdefaults()
    seaborn.set_theme(style="ticks", palette=list(PALETTE), rc=_STYLE)


def axes(**size):
    """Empty axes in the house style; `size` as in `figure`."""
    return figure(**size).subplots()


def curves_with_band(frame, x: str, y: str, hue: str | None = None, *, ax=None, colours=None, dashes=None, **labels):
    """One line of means of `y` against `x` per value of `hue`, in a band of ± one standard deviation of the rows.

    `frame` is tidy: one row per run and abscissa. The standard deviation divides by the number of rows (as in the
    papers' small samples of runs): name it in the caption. `labels` are properties of the axes (`xlabel`, `ylabel`,
    `title`, `xscale`, …), `legend`, its title, and `dotted`, the heights of dotted lines across the axes. `colours` and
    `dashes` are those of values of `hue`; others get the rest of `PALETTE`. A logarithmic abscissa of at most 8 values
    has its ticks there.
    """
    import seaborn

    ax = ax or axes()
    seaborn.lineplot(
        frame,
        x=x,
        y=y,
        hue=hue,
        style=hue,
        errorbar=lambda values: (values.mean() - values.std(ddof=0), values.mean() + values.std(ddof=0)),
        err_kws={"alpha": 0.18, "linewidth": 0},
        ax=ax,
        **_looks(frame, hue, colours, dashes),
    )
    values = sorted(frame[x].unique())
    _finish(ax, labels)
    if ax.get_xscale() == "log" and len(values) <= 8:
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    return ax.figure


def spectra(frame, x: str, y: str, hue: str, style: str | None = None, *, ax=None, colours=None, dashes=None, **labels):
    """Lines of singular values `y` against their index `x`, one colour per `hue`, one kind of line per `style`, or else
    per `hue`.

    `frame` holds one row per line and rank: aggregate over runs beforehand. The ordinate is logarithmic. `colours` and
    `dashes` as in `curves_with_band`.
    """
    import seaborn

    ax = ax or axes()
    looks = _looks(frame, hue, colours, dashes)
    looks |= {"style": style, "dashes": True} if style else {"style": hue}
    seaborn.lineplot(frame, x=x, y=y, hue=hue, errorbar=None, ax=ax, **looks)
    return _finish(ax, {"yscale": "log"} | labels)


def points(frame, x: str, y: str, hue: str, *, ax=None, colours=None, **labels):
    """A point for each row of `frame` at its columns `x` and `y`, one colour and one kind of mark per `hue`.

    `labels` as in `curves_with_band`.
    """
    import seaborn

    ax = ax or axes()
    palette = _looks(frame, hue, colours)["palette"]
    seaborn.scatterplot(frame, x=x, y=y, hue=hue, style=hue, palette=palette, s=28, linewidth=0, ax=ax)
    return _finish(ax, labels)


def sheet(images, titles=None, *, columns: int = 8):
    """Images (N, C, H, W), uint8 or float in [0, 1], as a sheet of thumbnails, with a short title over each."""
    require(len(images) > 0, "There are no images to show.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    page = figure(figsize=(columns * 0.9, rows * (1.125 if titles else 0.9)))
    grid = list(page.subplots(rows, columns, squeeze=False).flat)
    for ax in grid:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(grid, images, strict=False)):
        pixels, white = image.permute(1, 2, 0).cpu().numpy(), 255 if image.dtype == torch.uint8 else 1
        look = {"cmap": "gray", "vmin": 0, "vmax": white, "interpolation": "none"}
        ax.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], **look)
        if titles is not None:
            ax.set_title(titles[i], fontsize=9)
    return page


def views(images, policies: dict, *, seed: int):
    """A sheet of images (N, C, H, W), uint8, each with seven of its views under each of the named `policies`.

    Every policy gets the same random numbers. A policy is what `sslbook.views.policy` gives.
    """
    rows, titles = [], []
    for name, policy in policies.items():
        generator = torch.Generator().manual_seed(seed)
        for image in images:
            rows += [image[None] / 255, policy(image.expand(7, -1, -1, -1), generator)]
        titles += [name] + [""] * (8 * len(images) - 1)
    return sheet(torch.cat(rows), titles)


def show(figure, *, caption: str, alt: str, made_by: str | None = None, name: str | None = None) -> None:
    """Display `figure` as one piece of HTML that lives in a notebook and in a static page; see `page`."""
    from IPython.display import display

    shown = page(figure, caption=caption, alt=alt, made_by=made_by, name=name)
    display({"text/html": shown, "text/plain": f"{alt}\n{caption}"}, raw=True)


def page(figure, *, caption: str, alt: str, made_by: str | None = None, name: str | None = None) -> str:
    """The HTML of `figure` with its caption.

    `alt` describes in words what the picture shows; `caption` stands below (mathematics between dollar signs);
    `made_by` says what made it: profile, data, seeds, epochs, hardware, commit, wall time. Other pages link to the
    figure, or show it too, by its `name`, the `id` of its HTML. Raises `ValueError` without caption or `alt`.
    """
    require(bool(alt.strip()) and bool(caption.strip()), "A figure needs a caption and alt text; one of them is empty.")
    line = f'<div class="made-by">{html.escape(made_by)}</div>' if made_by else ""
    opening = f'<figure class="sslbook" id="{html.escape(name)}">' if name else '<figure class="sslbook">'
    return f"{opening}{_svg(figure, alt)}<figcaption>{_mathematics(caption)}{line}</figcaption></figure>"


def _looks(frame, hue: str | None, colours: dict | None = None, dashes: dict | None = None) -> dict:
    if hue is None:
        return {}
    names, colours, dashes = list(frame[hue].unique()), colours or {}, dashes or {}
    others = [name for name in names if name not in colours]
    taken = set() if len(others) == len(names) else set(colours.values())
    free = [colour for colour in PALETTE if colour not in taken]
    require(len(others) <= len(free), f"{hue} has {len(others)} values without a colour; there are {len(free)} left.")
    return {
        "palette": colours | dict(zip(others, free)),
        "dashes": dashes | dict(zip(others, _DASHES)) if dashes and taken else True,
    }


def _finish(ax, labels: dict):
    title, dotted = labels.pop("legend", None), labels.pop("dotted", ())
    if ax.get_legend() is not None:
        ax.get_legend().set_title(title)
    ax.set(**labels)
    for y in dotted:
        ax.axhline(y, color="black", linewidth=1, linestyle=":")
    return ax.figure


def _svg(figure, alt: str) -> str:
    buffer = io.StringIO()
    _use_style()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    prefix = "f" + hashlib.sha256((drawing + alt).encode()).hexdigest()[:8]
    drawing = re.sub(r'\bid="', f'id="{prefix}-', drawing)
    drawing = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", drawing)
    drawing = re.sub("#000000|#333333|#262626", "currentColor", drawing)  # seaborn's grays
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawing, flags=re.DOTALL)
    width, height = (float(side) for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing).groups())
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width * 4 / 3:.0f}" role="img" aria-label="{html.escape(alt)}" '
        f'fill="currentColor" stroke-linejoin="round" style="max-width: 100%; height: auto">'
        f"<title>{html.escape(alt)}</title>"
    )
    drawing = re.sub(r"<svg[^>]*>", lambda _: opening, drawing, count=1)
    return re.sub(r"(?<=>)\s+(?=<)", "", drawing).replace("\n", " ")


def _mathematics(text: str) -> str:
    return re.sub(r"\$([^$]+)\$", r'<span class="math notranslate nohighlight">\\(\1\\)</span>', html.escape(text))
