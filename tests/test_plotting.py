"""Laws of the figures: legible on light and dark pages, described in words, and the band is what it says."""

import itertools
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from sslbook import plotting, views
from sslbook.papers.geometry.plan import COLOURS, DASHES

LIGHT, DARK = "#ffffff", "#121212"


def luminance(colour):
    """Relative luminance of WCAG 2."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def deuteranope(colour):
    """The colour as seen without the middle cones, in linear RGB (Viénot, Brettel and Mollon 1999)."""
    linear = np.array([(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)])
    return np.array([[0.293, 0.707, 0], [0.293, 0.707, 0], [-0.022, 0.022, 1]]) @ linear


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: outputs.append(data))
    return outputs


@pytest.fixture
def frame():
    rows = itertools.product(["small", "large"], range(5), range(4))
    rng = np.random.default_rng(0)
    return pd.DataFrame([(s, e, r, rng.normal()) for s, e, r in rows], columns=["strength", "epoch", "run", "rank"])


@pytest.mark.parametrize("colour", [*COLOURS.values(), *plotting.PALETTE])
def test_colours_stand_out_on_both_pages(colour):
    assert min(contrast(colour, LIGHT), contrast(colour, DARK)) >= 3


def test_strengths_differ_for_the_colour_blind():
    seen = [deuteranope(colour) for colour in COLOURS.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.15


def test_band_is_one_standard_deviation_about_the_mean(frame):
    ax = plotting.axes()
    plotting.curves_with_band(frame, "epoch", "rank", "strength", ax=ax)
    groups = frame[frame.strength == "small"].groupby("epoch")["rank"]
    mean, deviation = groups.mean().to_numpy(), groups.std(ddof=0).to_numpy()
    assert np.allclose(ax.lines[0].get_ydata(), mean)
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(heights.max(), (mean + deviation).max())
    assert np.isclose(heights.min(), (mean - deviation).min())


def test_strengths_keep_colour_and_dashes_beside_others_and_there_are_colours_for_few():
    kinds = [*COLOURS, "flip", "crop", "jitter"]
    ax = plotting.axes()
    frame = pd.DataFrame({"epoch": [0, 1] * 6, "rank": range(12), "kind": [k for k in kinds for _ in range(2)]})
    plotting.curves_with_band(frame, "epoch", "rank", "kind", ax=ax, colours=COLOURS, dashes=DASHES)
    drawn = ax.lines[:6]  # those of the legend follow
    colours, dashes = [line.get_color() for line in drawn], [str(line._unscaled_dash_pattern) for line in drawn]
    assert colours[:3] == list(COLOURS.values()) and len(set(colours)) == 6
    assert len(set(dashes)) == 6
    many = pd.DataFrame({"epoch": range(8), "rank": range(8), "kind": [f"k{i}" for i in range(8)]})
    with pytest.raises(ValueError, match="kind has 8 values without a colour; there are 6 left"):
        plotting.curves_with_band(many, "epoch", "rank", "kind")


def test_a_logarithmic_axis_of_few_settings_has_its_ticks_there():
    frame = pd.DataFrame({"batch": [64, 128, 512], "rank": [1.0, 2.0, 3.0]})
    ax = plotting.curves_with_band(frame, "batch", "rank", xscale="log").axes[0]
    assert [(tick.get_position()[0], tick.get_text()) for tick in ax.get_xticklabels()] == [
        (64, "64"),
        (128, "128"),
        (512, "512"),
    ]
    assert not ax.get_xticks(minor=True).size


def test_a_strength_has_one_colour_whatever_else_is_drawn(frame):
    for kept in (["small", "large"], ["large"]):
        ax = plotting.axes()
        plotting.curves_with_band(frame[frame.strength.isin(kept)], "epoch", "rank", "strength", ax=ax, colours=COLOURS)
        assert ax.lines[kept.index("large")].get_color() == COLOURS["large"]


def test_beside_a_strength_nothing_else_has_the_colour_of_a_strength(frame):
    names = ["large", "a", "b", "c"]
    frame = frame.assign(kind=frame.run.map(dict(enumerate(names))))
    ax = plotting.axes()
    plotting.curves_with_band(frame, "epoch", "rank", "kind", ax=ax, colours=COLOURS, dashes=DASHES)
    colours = {
        text.get_text(): line.get_color() for text, line in zip(ax.get_legend().texts, ax.get_legend().get_lines())
    }
    assert colours["large"] == COLOURS["large"]
    assert len(set(colours.values())) == 4 and set(colours.values()) & set(COLOURS.values()) == {colours["large"]}


def test_a_figure_is_text_coloured_and_described(frame, shown):
    figure = plotting.curves_with_band(frame, "epoch", "rank", "strength")
    plotting.show(figure, caption=r"Rank <at> $\tau<3$", alt='A "rising" line', made_by="a & b")
    page = shown[0]["text/html"]
    assert 'role="img" aria-label="A &quot;rising&quot; line"' in page
    assert r'<span class="math notranslate nohighlight">\(\tau&lt;3\)</span>' in page
    assert "a &amp; b" in page
    assert "currentColor" in page
    assert not re.search(r"#000000|#fff(fff)?\b|black|white", page)


def test_ids_of_two_figures_never_meet(frame, shown):
    for alt in ("one", "two"):
        plotting.show(plotting.curves_with_band(frame, "epoch", "rank"), caption="c", alt=alt)
    first, second = (set(re.findall(r'\bid="([^"]+)"', output["text/html"])) for output in shown)
    assert first and not first & second
    for output, ids in zip(shown, (first, second), strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', output["text/html"])) <= ids


def test_a_name_is_the_id_of_the_figure_and_changes_nothing_else(frame, shown):
    figure = plotting.curves_with_band(frame, "epoch", "rank", "strength")
    for name in ({}, {"name": "fig-1"}):
        plotting.show(figure, caption="c", alt="a", **name)
    plain, named = (output["text/html"] for output in shown)
    assert named == plain.replace('<figure class="sslbook">', '<figure class="sslbook" id="fig-1">') != plain


def test_the_same_figure_gives_the_same_bytes(frame, shown):
    for _ in range(2):
        plotting.show(plotting.spectra(frame, "epoch", "rank", "strength"), caption="c", alt="a")
    assert shown[0] == shown[1]


PERSONAL = """
text.usetex: True
axes.prop_cycle: cycler('color', ['red'])
image.origin: lower
font.family: monospace
figure.dpi: 31
savefig.dpi: 31
savefig.bbox: tight
svg.fonttype: none
lines.marker: o
"""


def test_a_personal_style_changes_no_figure(frame, shown, tmp_path):
    """Neither one that was there before the figure was drawn, nor one that came before it was shown."""
    (tmp_path / "matplotlibrc").write_text(PERSONAL)
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4) * 16
    with matplotlib.rc_context():
        for before, after in itertools.product([False, True], repeat=2):
            for draw in (
                lambda: plotting.spectra(frame, "epoch", "rank", "strength", title="$x$"),
                lambda: plotting.sheet(image),
            ):
                matplotlib.rc_file(tmp_path / "matplotlibrc") if before else matplotlib.rcdefaults()
                figure = draw()
                matplotlib.rc_file(tmp_path / "matplotlibrc") if after else None
                plotting.show(figure, caption="c", alt="a")
    pages = [output["text/html"] for output in shown]
    assert len(pages) == 8 and set(pages[::2]) == {pages[0]} and set(pages[1::2]) == {pages[1]}


def test_a_sheet_holds_every_image(shown):
    plotting.show(plotting.sheet(torch.rand(11, 3, 8, 8), columns=4), caption="c", alt="a")
    assert shown[0]["text/html"].count("<image") == 11


def test_a_gray_image_keeps_its_brightness():
    images = torch.full((2, 1, 4, 4), 90, dtype=torch.uint8) + torch.arange(4, dtype=torch.uint8)
    for given, white in ((images, 255), (images / 255, 1)):
        panels = [ax.get_images()[0] for ax in plotting.sheet(given).axes]
        assert {panel.get_clim() for panel in panels} == {(0, white)}
    with pytest.raises(ValueError, match="There are no images to show"):
        plotting.sheet(images[:0])


def test_each_policy_sees_an_image_with_the_same_random_numbers():
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    policies = {"large": views.policy("large"), "again": views.policy("large"), "small": views.policy("small")}
    panels = plotting.views(images, policies, seed=1).axes
    once, again, small = (np.stack([ax.get_images()[0].get_array() for ax in panels[i : i + 16]]) for i in (0, 16, 32))
    assert np.array_equal(once, again) and np.array_equal(once[::8], small[::8]) and not np.array_equal(once, small)
    assert np.allclose(once[::8], images.permute(0, 2, 3, 1) / 255)
    assert [ax.get_title() for ax in panels if ax.get_title()] == list(policies)


def test_dotted_lines_cross_the_axes_at_their_heights(frame):
    ax = plotting.curves_with_band(frame, "epoch", "rank", "strength", dotted=[-0.25, 0.5]).axes[0]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [-0.25, 0.5]
    assert all(list(line.get_xdata()) == [0, 1] and line.get_transform() != ax.transData for line in dotted)


def test_a_figure_without_words_is_refused(frame):
    with pytest.raises(ValueError, match="needs a caption and alt text"):
        plotting.show(plotting.curves_with_band(frame, "epoch", "rank"), caption="c", alt=" ")
