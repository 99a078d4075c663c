"""Laws of the built book: no warnings, nothing from other machines, described pictures, and it fits a telephone."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from sslbook import ledger, papers

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


PART = "book"
"""The folder whose pages `seen` loads in the browser here."""


@pytest.fixture(scope="module")
def site(executed):
    """The folder of the book's pages, built from the copies executed at `smoke`, with warnings as errors."""
    output, copies = executed.with_name("site"), {"SSLBOOK_EXECUTED": str(executed), "SSLBOOK_PROFILE": "smoke"}
    command = [sys.executable, Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "--path-output", output]
    with FileLock(output.with_suffix(".lock")):
        if not (output / "whole").exists():
            command += ["-W", "-n", "--keep-going"]
            build = subprocess.run(command, env=os.environ | copies, capture_output=True, text=True)
            assert build.returncode == 0, build.stdout[-2000:] + build.stderr[-4000:]
            (output / "whole").touch()
    return output / "_build" / "html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing of it; what is served may be kept."""

    def end_headers(self):
        self.send_header("Cache-Control", "max-age=3600")  # else each page asks again for every script
        super().end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder):
    """The address of a folder, served until the end of the block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def address(site):
    with serve(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for the module; a skip without Chromium, a failure if $SSLBOOK_REQUIRE_BROWSER insists on it."""
    if CHROMIUM is None:
        insist = pytest.fail if os.environ.get("SSLBOOK_REQUIRE_BROWSER") == "1" else pytest.skip
        insist("there is no Chromium on this machine (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=FLAGS)
        context.set_default_timeout(300_000)  # in milliseconds: a busy machine takes its time
        yield context
        context.close()


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def pages(site, *folders):
    return sorted(str(path.relative_to(site)) for folder in folders for path in (site / folder).rglob("*.html"))


def settle(page):
    """Wait until mathematics has been set."""
    page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("window.MathJax && MathJax.startup.promise.then(() => true)")


def test_every_page_of_the_contents_is_there(site):
    assert {"book/intro.html", "book/status.html", "notebooks/geometry/lie-groups.html"} <= set(
        pages(site, "book", "notebooks")
    )
    assert "book/intro.html" in (site / "index.html").read_text()


def test_pages_show_the_executed_copy_and_offer_the_source_behind_a_cell_that_no_page_shows(site):
    page = (site / "notebooks/geometry/lie-groups.html").read_text()
    assert "<svg" in page and "with profile" in page and "pip" not in page
    offered = json.loads((site / "_sources/notebooks/geometry/lie-groups.ipynb").read_text())
    assert "find_spec" in "".join(offered["cells"].pop(0)["source"])
    assert offered == json.loads((ROOT / "notebooks/geometry/lie-groups.ipynb").read_text())
    assert "/blob/launch/notebooks/geometry/lie-groups.ipynb" in page


def test_status_has_a_row_for_every_notebook(site):
    page = (site / "book/status.html").read_text()
    assert page.count("<td><p>smoke</p></td>") == len(list((ROOT / "notebooks").rglob("*.ipynb")))
    assert "not executed" not in page


def test_verdicts_have_a_row_for_every_claim(site):
    page = (site / "book/verdicts.html").read_text()
    claims = [claim for name in papers.names() for claim in papers.paper(name).claims]
    assert sum(page.count(f"<strong>{status}</strong>") for status in ledger.STATUSES) == len(claims)


def test_the_address_of_the_repository_stands_once(site):
    config = (ROOT / "_config.yml").read_text()
    url = config.split("url: ")[1].split()[0]
    assert url in (site / "book/how-to.html").read_text()
    texts = [path for path in (ROOT / "book").rglob("*.*") if path.suffix in {".md", ".py", ".css", ".js"}]
    assert config.count(url) == 1
    assert not [path for path in texts if url in path.read_text()]


UNNAMED = """() => [...document.querySelectorAll('img:not([alt]), main figure svg:not([aria-label])')]
    .map(e => e.outerHTML.slice(0, 200))"""
WRONG = "mjx-merror, mjx-container [style*='color: red']"
WIDE = """() => [...document.querySelectorAll('div.math:has(> .eqno)')].flatMap(equation => {
    const [number, formula] = ['.eqno', 'mjx-container'].map(name => equation.querySelector(name));
    return formula.scrollWidth <= formula.clientWidth + 1 ? [] : [
        formula.clientWidth >= equation.clientWidth - 1 &&
        number.getBoundingClientRect().bottom <= formula.getBoundingClientRect().top + 1];
})"""
"""For each equation that is wider than the page: whether it has the whole width, beneath its number."""

EMPTIED = """() => document.querySelectorAll('article :is(svg, mjx-container, .highlight)').forEach(
    e => e.replaceChildren())"""
THINNED = """() => { const [article, alike] = [document.querySelector('article'), {}];
    for (const e of article.querySelectorAll('*')) {
        const texts = [...e.childNodes].filter(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
        let look = '';
        for (let n = e; n !== article; n = n.parentElement)
            look += `${n.tagName} ${n.getAttribute('class')} ${n.getAttribute('style')};`;
        if (texts.length && (alike[look] = (alike[look] ?? 0) + 1) > 3) texts.forEach(n => n.remove());
    } }"""
"""Of elements with the same tags, classes and styles up to the article, three keep their text: odd and even rows."""


AXE = "([context, options]) => axe.run(context, options)"


@pytest.fixture(scope="module")
def seen(site, address, browser, request):
    """What the browser finds on each page of the module's `PART`, loaded once: by page, and what it said and asked for.

    The rules of accessibility are those of axe-core, on what the book puts on its pages: frame, mathematics and the
    colours of code are others', and a picture is one image, whose inside `test_explorers` and `test_plotting` look at.
    """
    from axe_playwright_python.base import AXE_SCRIPT

    console, requests, found = [], [], {}
    page = browser.new_page()
    page.on("console", lambda message: message.type in ("error", "warning") and console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    article = {"include": ["article"], "exclude": [".citation-list", "mjx-container", ".highlight"]}
    for name in pages(site, request.module.PART):
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(f"{address}/{name}")
        settle(page)
        found[name] = {"unnamed": page.evaluate(UNNAMED), "wrong": page.locator(WRONG).count()}
        found[name] |= {"width": page.evaluate("document.documentElement.scrollWidth"), "wide": page.evaluate(WIDE)}
        page.set_viewport_size({"width": 1300, "height": 900})
        page.evaluate(AXE_SCRIPT)
        page.evaluate(EMPTIED)  # axe would look at each of the thousands of elements that it is to leave out
        options = {"preload": False, "resultTypes": ["violations"]}
        others = {"rules": {"color-contrast": {"enabled": False}}}
        found[name]["structure"] = page.evaluate(AXE, [article, options | others])
        page.evaluate(THINNED)  # contrast takes ten times as long as all else
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            found[name][scheme] = page.evaluate(AXE, [article, options | {"runOnly": ["color-contrast"]}])
    page.close()
    return found, console, requests


@pytest.mark.browser
def test_pages_in_the_browser(seen, address, request):
    """On every page: a silent console, requests to this machine only, labelled pictures, no sideways scrolling."""
    found, console, requests = seen
    assert found
    assert not [name for name, page in found.items() if page["unnamed"] or page["wrong"] or page["width"] > 390]
    wide = [whole for page in found.values() for whole in page["wide"]]
    assert all(wide) and (len(wide) > 5 or request.module.PART == "book")
    assert not console
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]


@pytest.mark.browser
@pytest.mark.parametrize("rules", ["structure", "light", "dark"])
def test_pages_break_no_rule_of_accessibility(seen, rules):
    """The contrast of colours in either scheme, and all other rules."""
    broken = {}
    for name, page in seen[0].items():
        assert page[rules]["passes"], name
        violations = page[rules]["violations"]
        broken |= {(name, rule["id"]): [node["html"] for node in rule["nodes"]] for rule in violations}
    assert not broken


@pytest.mark.browser
def test_the_first_page_begins_with_an_explorer_of_training_that_lives(address, page):
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(f"{address}/book/intro.html")
    slider = page.locator(".sslbook-explorer input[type=range]").first
    picture = page.locator(".sslbook-explorer svg").first
    page.wait_for_function("document.querySelectorAll('.sslbook-explorer svg > *').length > 0")
    assert slider.bounding_box()["y"] < 900 and not page.locator("figure#training > svg").is_visible()
    before = picture.inner_html()
    slider.press("Home")
    assert slider.input_value() == "0" and picture.inner_html() != before


@pytest.mark.browser
def test_mathematics_is_set_and_numbered(address, page):
    page.goto(f"{address}/book/notation.html")
    settle(page)
    assert page.locator("mjx-container").count() > 30
    assert page.locator("span.eqno").count() >= 5


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_take_the_colour_of_the_text(address, page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/notebooks/geometry/lie-groups.html")
    ink, paper, figure = page.evaluate(
        """() => [getComputedStyle(document.querySelector('figure.sslbook svg')).fill,
                  getComputedStyle(document.body).backgroundColor,
                  getComputedStyle(document.querySelector('figure.sslbook').parentElement).backgroundColor]"""
    )
    lightness = {
        name: sum(map(float, colour[4:-1].split(","))) / 765 for name, colour in (("ink", ink), ("paper", paper))
    }
    assert abs(lightness["ink"] - lightness["paper"]) > 0.6
    assert figure == "rgba(0, 0, 0, 0)"


@pytest.mark.browser
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("exponential", "notebooks/geometry/lie-groups"),
        ("fig1-collapse", "book/verdicts"),
        ("effective_rank", "book/api/metrics"),
        ("Eq. 1", "notebooks/geometry/upper-bound"),
    ],
)
def test_search_finds_words_claims_functions_and_equations(address, page, words, found):
    page.goto(f"{address}/search.html?q={words}")
    page.wait_for_selector("#search-results li a")
    assert page.wait_for_selector(f"#search-results a[href*='{found}.html']").is_visible()


@pytest.mark.browser
def test_a_page_is_printed_with_all_that_is_folded_and_folds_again(address, page):
    page.goto(f"{address}/notebooks/geometry/upper-bound.html")
    settle(page)
    folded = page.locator(".bd-article details:not([open])")
    before = folded.count()
    count = "document.querySelectorAll('.bd-article details:not([open])').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.left = {count}; }})")
    pdf = page.pdf(format="A4")
    assert before > 0 and page.evaluate("window.left") == 0
    assert pdf.startswith(b"%PDF") and folded.count() == before
    page.set_viewport_size({"width": 794, "height": 1123})  # a page of A4 at 96 dots per inch
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelector('.bd-article').scrollWidth") <= 794


@pytest.mark.browser
def test_search_shows_as_many_excerpts_without_a_server_as_with_one(site, address, page):
    found = {}
    for place in (address, site.as_uri()):
        page.goto(f"{place}/search.html?q=exponential")
        page.wait_for_selector("#search-results li p.context")
        page.wait_for_load_state("networkidle")
        excerpts = page.locator("#search-results li p.context").all_inner_texts()
        found[place] = len(excerpts)
        assert any("exponential" in text.lower() for text in excerpts)
    assert found[address] == found[site.as_uri()] > 1
