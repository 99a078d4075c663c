"""Laws of the explorers in the browser: alive without a kernel, their numbers are Python's, nothing leaves the machine.

The page is made by hand from a notebook that was really executed, its widgets embedded as the book embeds them.
"""

import base64
import functools
import inspect
import io
import json
import random
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from sslbook import notebooks, widgets
from sslbook.widgets import augmentation_strength
from tests import test_book
from tests.test_widgets import ARGUMENTS, GROUPS, made, setting

pytestmark = pytest.mark.browser
browser, page = test_book.browser, test_book.page
STATIC = Path(__file__).parents[1] / "book" / "_static"
SHOWN = {name: thing for name, thing in vars(widgets).items() if inspect.isclass(thing) and name != "Explorer"}
each_explorer = pytest.mark.parametrize("name", SHOWN)
SLID = [
    name
    for name, thing in SHOWN.items()
    if any("step" in trait.metadata.get("control", {}) for trait in thing.class_traits().values())
]
"""Those with a slider; the others have choices alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`index.html` with every explorer, alive, and `dead.html`, the same without scripts."""
    folder = tmp_path_factory.mktemp("explorers")
    cells = [nbformat.v4.new_code_cell("profile: str = 'smoke'", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell("from sslbook import widgets"))
    for name in SHOWN:
        text = f"caption='Caption of {name}.', alt='Picture \"of\" {name}.'"
        cells.append(nbformat.v4.new_code_cell(f"widgets.{name}(*{ARGUMENTS.get(name, ())!r}).show({text})"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "source.ipynb")
    copy = nbformat.read(notebooks.execute(folder / "source.ipynb", "smoke", folder / "copy.ipynb"), 4)
    body = ""
    for output in (output for cell in copy.cells for output in cell.get("outputs", [])):
        for kind in ("application/vnd.jupyter.widget-view+json", "text/html"):
            if kind in output.data:
                body += output.data[kind] if kind == "text/html" else script(kind, output.data[kind])
    body += "".join(script(kind, state) for kind, state in copy.metadata.widgets.items())
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Explorers</title><link rel="icon" href="data:,">'
    )
    head += '<meta name="viewport" content="width=device-width"><style>:root { color-scheme: light dark; }</style>'
    head += '<link rel="stylesheet" href="book.css">'
    (folder / "dead.html").write_text(f"{head}<main>{body}</main>")
    (folder / "index.html").write_text(f'{head}<script src="widgets.js"></script><main>{body}</main>')
    for file in ("book.css", "widgets.js"):
        shutil.copy(STATIC / file, folder)
    return folder


def script(kind, content):
    return f'<script type="{kind}">{json.dumps(content)}</script>'


@pytest.fixture(scope="module")
def address(folder):
    with test_book.serve(folder) as address:
        yield address


@pytest.fixture(scope="module")
def alive(browser, address):
    """A page with all explorers drawn, loaded once: a test begins with `reset` where it needs the first parameters."""
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    awake(page)
    yield page
    page.close()


@pytest.fixture(scope="module", params=["http", "file"])
def heard(request, browser, address, folder):
    """The same in a page of its own over HTTP and as a file, with all that it says, what it asks for, and its root."""
    console, requests = [], []
    page = browser.new_page()
    page.on("console", lambda message: message.type in ("error", "warning") and console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    root = address if request.param == "http" else folder.as_uri()
    page.goto(f"{root}/index.html")
    awake(page)
    page.evaluate("document.addEventListener('keydown', () => { window.leaked = true; })")
    yield page, console, requests, root
    page.close()


@functools.cache
def python(name):
    """An explorer at its first parameters."""
    return made(SHOWN[name])


def reset(page, name):
    page.bring_to_front()  # behind another page each movement of the mouse takes a second
    move(page, name, {control["name"]: getattr(python(name), control["name"]) for control in python(name).controls})


def awake(page):
    page.wait_for_function(f"document.querySelectorAll('.sslbook-explorer svg > *').length >= {len(SHOWN)}")


def explorer(page, name):
    return page.locator(".sslbook-explorer").nth(list(SHOWN).index(name))


def move(page, name, values):
    """Set the controls as a reader does, each with an event of input; return the milliseconds that each took."""
    return explorer(page, name).evaluate(
        """(el, values) => {
            const times = [];
            for (const [name, value] of Object.entries(values)) {
                const control = el.querySelector(`[name="${name}"]`);
                const start = performance.now();
                control.value = value;
                control.dispatchEvent(new Event("input", { bubbles: true }));
                el.getBoundingClientRect();
                times.push(performance.now() - start);
            }
            return times;
        }""",
        values,
    )


def resize(page, width):
    """Give the window another width and wait until every explorer is drawn at its own."""
    page.bring_to_front()
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(
        """() => [...document.querySelectorAll('.sslbook-explorer')].every(
            el => el.querySelector('svg').viewBox.baseVal.width === el.clientWidth)"""
    )


def displayed(page, name):
    return explorer(page, name).evaluate(
        """el => Object.fromEntries([...el.querySelectorAll('output[data-name]')].map(
            ({ dataset: { name, value } }) => [name, isNaN(value) ? value : +value]))"""
    )


def read_out(page, name):
    return explorer(page, name).locator("output[data-name]").all_inner_texts()


@each_explorer
def test_numbers_on_the_page_are_those_of_python(alive, name):
    rng, worst = random.Random(name), 0
    for _ in range(8):
        values = {control["name"]: setting(control, rng) for control in python(name).controls}
        times = move(alive, name, values)
        worst = max(worst, *times)
        expected = made(SHOWN[name], **values).exact
        shown = displayed(alive, name)
        for text, (key, value) in zip(read_out(alive, name), shown.items(), strict=True):
            if isinstance(value, str):
                assert text == value == expected[key], values
            else:
                assert value == pytest.approx(expected[key], rel=2e-5, abs=2e-5), values
                assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.051)
    print(f"{name}: at most {worst:.1f} ms from input to picture")
    assert worst < 500


@each_explorer
def test_keys_move_picture_numbers_and_words(heard, name):
    page, console, requests, root = heard
    control = explorer(page, name).locator("input[type=range]" if name in SLID else "select").first
    picture = explorer(page, name).locator("svg")
    before = displayed(page, name), picture.inner_html(), picture.get_attribute("aria-label")
    words = control.get_attribute("aria-valuetext") or control.input_value()
    for _ in range(5):
        control.press("ArrowRight")
    after = displayed(page, name), picture.inner_html(), picture.get_attribute("aria-label")
    assert all(old != new for old, new in zip(before, after))
    assert (control.get_attribute("aria-valuetext") or control.input_value()) != words
    assert not page.evaluate("window.leaked ?? false")
    assert not console
    assert not [url for url in requests if not url.startswith((root, "data:", "blob:"))]


@pytest.mark.parametrize("name", SLID)
def test_mouse_moves_the_slider(alive, name):
    reset(alive, name)
    slider = explorer(alive, name).locator("input[type=range]").first
    slider.scroll_into_view_if_needed()
    before, box = displayed(alive, name), slider.bounding_box()
    alive.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
    step = float(slider.get_attribute("step"))
    assert abs(float(slider.input_value()) - (0.1 * low + 0.9 * high)) <= 0.03 * (high - low) + step
    assert displayed(alive, name) != before


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_an_image_is_dragged_around_the_circle(alive, by):
    name = "AttractionRepulsion"
    reset(alive, name)
    grip = explorer(alive, name).locator("[data-drag=turn]")
    grip.scroll_into_view_if_needed()
    svg, box = explorer(alive, name).locator("svg").bounding_box(), grip.bounding_box()
    start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    centre = svg["x"] + svg["width"] / 2, start[1]
    above = centre[0], centre[1] - (start[0] - centre[0])
    if by == "mouse":
        alive.mouse.move(*start)
        alive.mouse.down()
        alive.mouse.move(*above, steps=4)
        alive.mouse.up()
        alive.mouse.move(*start)
    else:
        session = alive.context.new_cdp_session(alive)
        path = {"touchStart": [start], "touchMove": [above], "touchEnd": []}
        for kind, at in path.items():
            points = [{"x": x, "y": y} for x, y in at]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert float(explorer(alive, name).locator("[name=turn]").input_value()) == pytest.approx(90, abs=1)
    expected = widgets.AttractionRepulsion(turn=90).exact["loss"]
    assert displayed(alive, name)["loss"] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    "name, grip, values",
    [
        ("OneOrMany", "place", {"place": 150}),
        ("Matching", "three", {"three": -70}),
        ("Polytope", "query", {"x": 1.5, "y": 4.0}),
    ],
)
def test_what_is_dragged_to_where_its_sliders_put_it_sets_the_sliders(alive, name, grip, values):
    reset(alive, name)
    here = explorer(alive, name).locator(f"[data-drag={grip}]")

    def centre():
        here.scroll_into_view_if_needed()
        box = here.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    fields = {key: explorer(alive, name).locator(f"[name={key}]") for key in values}
    before = {key: field.input_value() for key, field in fields.items()}
    move(alive, name, values)
    target = centre()
    move(alive, name, before)
    alive.mouse.move(*centre())
    alive.mouse.down()
    alive.mouse.move(*target, steps=3)
    alive.mouse.up()
    for key, field in fields.items():
        assert float(field.input_value()) == pytest.approx(values[key], abs=1.01 * float(field.get_attribute("step")))


@each_explorer
def test_every_control_and_number_is_named_for_those_who_listen(alive, name):
    here = explorer(alive, name)
    for control in python(name).controls:
        field = here.get_by_label(control["label"], exact=True)
        assert field.count() == 1 and field.get_attribute("name") == control["name"]
    assert len(here.locator("svg[role=img]").get_attribute("aria-label")) > 40
    assert here.locator("[role=status] output[data-name]").count() == len(SHOWN[name].numbers)


def test_the_figure_stands_where_the_explorer_is_not_alive(page, address):
    page.goto(f"{address}/dead.html")
    figures = page.locator("figure.sslbook > svg")
    assert figures.count() == len(SHOWN) and all(figure.is_visible() for figure in figures.all())
    page.goto(f"{address}/index.html")
    awake(page)
    assert not any(figure.is_visible() for figure in figures.all())
    assert all(caption.is_visible() for caption in page.locator("figcaption").all())
    page.emulate_media(media="print")
    assert not any(figure.is_visible() for figure in figures.all())
    assert all(picture.is_visible() for picture in page.locator(".sslbook-explorer > svg").all())
    assert not any(slider.is_visible() for slider in page.locator(".sslbook-explorer input").all())


def test_a_widget_that_cannot_start_leaves_its_figure_and_the_others(page, address, folder):
    text = (folder / "index.html").read_text()
    assert text.count("export default explorer") == len(SHOWN)
    (folder / "broken.html").write_text(text.replace("export default explorer", "export default broken", 1))
    page.goto(f"{address}/broken.html")
    page.wait_for_selector(".sslbook-explorer")
    assert page.locator(".sslbook-explorer").count() == len(SHOWN) - 1
    assert sum(figure.is_visible() for figure in page.locator("figure.sslbook > svg").all()) == 1


@pytest.mark.parametrize("width", [320, 390, 1300])
def test_page_is_as_wide_as_its_window_and_letters_keep_their_size(alive, width):
    resize(alive, width)
    assert alive.evaluate("document.documentElement.scrollWidth") <= width
    outside = alive.evaluate(
        """() => [...document.querySelectorAll('.sslbook-explorer svg text')].filter(text => {
            const [a, b] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
            return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1; }
        ).map(text => text.textContent)"""
    )
    assert not outside


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_on_the_page(alive, scheme):
    alive.emulate_media(color_scheme=scheme)
    ink = alive.evaluate("getComputedStyle(document.querySelector('.sslbook-explorer svg text')).fill")
    lightness = sum(map(float, ink[4:-1].split(","))) / 765
    assert lightness < 0.2 if scheme == "light" else lightness > 0.8


FAKE = """async ([source, state]) => {
    const { default: widget } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const heard = {}, sent = [];
    const letters = Uint8Array.from(atob(state.data), (letter) => letter.charCodeAt(0));
    const shifted = new Uint8Array(letters.length + 3);
    shifted.set(letters, 3);
    state.data = new DataView(shifted.buffer, 3, letters.length);
    const model = {
        get: (name) => state[name],
        set: (name, value) => { state[name] = value; heard[`change:${name}`]?.(); },
        on: (event, callback) => { heard[event] = callback; },
        off: (event) => { delete heard[event]; },
        save_changes: () => sent.push({ beta: state.beta }),
    };
    const el = document.body.appendChild(document.createElement("div"));
    const stop = widget.render({ model, el });
    const shown = () => +el.querySelector("output[data-name=gap]").dataset.value;
    const input = el.querySelector("[name=beta]");
    input.value = 7;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    const seen = [shown()];
    model.set("exact", { at: { ...state.exact.at, beta: 7 }, gap: 0.125 });
    seen.push(shown());
    model.set("exact", { at: { ...state.exact.at, beta: 8 }, gap: 0.25 });
    seen.push(shown());
    model.set("beta", 9);
    seen.push(+input.value);
    stop();
    el.remove();
    return [seen, sent, Object.keys(heard)];
}"""


def test_with_a_kernel_the_answer_replaces_the_script_s_numbers_for_its_parameters_only(alive):
    first = python("WeightsOnNegatives")
    state = {name: getattr(first, name) for name in ("beta", "batch", "controls", "labels", "exact", "alt", "data")}
    state["data"] = base64.b64encode(state["data"]).decode()
    seen, sent, left = alive.evaluate(FAKE, [first._esm, state])
    gap = widgets.WeightsOnNegatives(beta=7).exact["gap"]
    assert seen == [pytest.approx(gap, abs=1e-5), 0.125, pytest.approx(gap, abs=1e-5), 9]
    assert sent == [{"beta": 7}] and not left


def test_a_picture_of_bytes_keeps_its_grays(alive):
    source = (Path(widgets.__file__).parent / "base.js").read_text() + "export { image };"
    pixels = [10, 255, 0, 77, 1, 250]
    seen = alive.evaluate(
        """async ([source, pixels]) => {
            const { image } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
            const picture = new Image();
            picture.src = image(pixels, 3, 2, 0, 0, 30).match(/href="([^"]*)"/)[1];
            await picture.decode();
            const context = Object.assign(document.createElement("canvas"), { width: 3, height: 2 }).getContext("2d");
            context.drawImage(picture, 0, 0);
            return [...context.getImageData(0, 0, 3, 2).data];
        }""",
        [source, pixels],
    )
    assert seen == [value for pixel in pixels for value in (pixel, pixel, pixel, 255)]


def test_the_views_on_the_page_are_those_of_the_library(alive):
    for values in ({"knob": "crop", "strength": 100}, {"knob": "large", "strength": 70}):
        move(alive, "AugmentationStrength", values)
        href = explorer(alive, "AugmentationStrength").locator("svg image").last.get_attribute("href")
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(href.split(",")[1]))).convert("RGB"))
        for i, view in enumerate(augmentation_strength.look(**values)[2]):
            tile = sheet[34 * (i // 4) :, 34 * (i % 4) :][:32, :32]
            assert np.array_equal(tile, (view * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("width", [390, 900])
@pytest.mark.parametrize("group", GROUPS)
def test_marks_of_two_profiles_stand_among_all_models_in_standard_deviations(alive, group, width):
    resize(alive, width)
    table = pd.DataFrame(ARGUMENTS["Profiles"][0])
    names, z = list(table.model), scipy.stats.zscore(table[list(GROUPS[group])].to_numpy(), 0)
    move(alive, "Profiles", {"group": group, "first": names[5], "second": names[3]})
    picture = explorer(alive, "Profiles").locator("svg")
    paths = picture.locator("path").evaluate_all("paths => paths.map(path => path.getAttribute('d'))")
    rows = [re.findall(r"M([\d.-]+) [\d.-]+v10", path) for path in paths if path.endswith("v10")]
    ticks = np.array(rows, float)
    slope, at_mean = np.polyfit(z.T.ravel(), ticks.ravel(), 1)
    assert ticks.shape == z.T.shape and slope > 5
    assert np.abs(ticks - at_mean - slope * z.T).max() < 0.1
    said = [float(text.replace("−", "-")) for text in picture.locator("text[text-anchor=end]").all_text_contents()]
    values = table[list(GROUPS[group])].to_numpy()
    rounding = np.repeat(abs(values).max(0), 2) / 200 + 1e-9
    assert (abs(said - values[[5, 3]].T.ravel()) <= rounding).all()
    circles = picture.locator("circle").evaluate_all("circles => circles.map(circle => +circle.getAttribute('cx'))")
    places = [float(re.match(r"M([\d.-]+) ", path)[1]) + 7 for path in paths if path.endswith("Z")]
    for marks, model in ((circles, 5), (places, 3)):
        rest = sorted(marks)
        for place in at_mean + slope * z[model]:
            near = min(rest, key=lambda mark: abs(mark - place))
            assert near == pytest.approx(place, abs=0.1)
            rest.remove(near)
        assert len(rest) == 2  # those of the legend
