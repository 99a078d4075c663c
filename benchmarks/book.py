"""What the book costs: the time to make it, its size, the weight of its pages, and how fast its explorers answer.

Needs the executed copies of `make book`. Explorers and the files that a page loads are measured in Chromium, and left
out without it.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
EXECUTED = ROOT / "_build" / "executed" / "laptop"
MOVES = 40

EXPLORERS = """async (moves) => {
    const json = (kind) => [...document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`)]
        .map((script) => JSON.parse(script.textContent));
    const states = Object.assign({}, ...json("state").map((content) => content.state));
    const alive = json("view").map(({ model_id }) => states[model_id]).filter((entry) => entry.state._esm);
    const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const found = [];
    for (const [i, el] of [...document.querySelectorAll(".sslbook-explorer")].entries()) {
        const controls = el.querySelectorAll("input[type=range], select"), drawn = [], seen = [];
        el.scrollIntoView();
        for (let move = 0; move < moves; move++) {
            const control = controls[move % controls.length];
            await painted();
            const start = performance.now();
            if (control.options) control.selectedIndex = Math.random() * control.options.length;
            else control.value = +control.min + Math.random() * (control.max - control.min);
            control.dispatchEvent(new Event("input", { bubbles: true }));
            el.getBoundingClientRect();
            drawn.push(performance.now() - start);
            await painted();
            seen.push(performance.now() - start);
        }
        const name = alive[i].state._anywidget_id.split(".").at(-1);
        found.push({ name, bytes: JSON.stringify(alive[i]).length, drawn, seen });
    }
    return found;
}"""


def making(folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    """Compile the book into `folder`; the site, and what it took and weighs as rows of name and value."""
    copies = [json.loads(path.read_text()) for path in EXECUTED.rglob("*.ipynb")]
    if not copies:
        raise FileNotFoundError(f"There are no executed notebooks in {EXECUTED}; `make book` makes them.")
    command = [sys.executable, Path(sys.executable).with_name("jupyter-book"), "build", ROOT]
    command += ["--path-output", folder, "-q"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds, site = time.perf_counter() - started, folder / "_build" / "html"
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    mathjax = sum(size for path, size in sizes.items() if "mathjax" in path.parts)
    executing = sum(60 * copy["metadata"]["sslbook"]["minutes"] for copy in copies)
    return site, [
        (f"executing its {len(copies)} notebooks on shipped records, one after the other", f"{executing:.0f} s"),
        ("compiling", f"{seconds:.0f} s"),
        ("size of the site", f"{sum(sizes.values()) / 1e6:.1f} MB"),
        ("of which MathJax", f"{mathjax / 1e6:.1f} MB"),
    ]


def reading(site: Path) -> tuple[list[tuple[str, str]], list[dict]]:
    """Rows on what pages load, and on each explorer; none of either without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return [], []
    weights, explorers = {}, []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless=new", "--no-sandbox"])
        for path in sorted(path for part in ("book", "notebooks") for path in (site / part).rglob("*.html")):
            page, loaded = browser.new_page(), set()
            page.on("request", lambda request, loaded=loaded: loaded.add(Path(unquote(urlsplit(request.url).path))))
            page.goto(path.as_uri())
            page.evaluate("window.MathJax && MathJax.startup.promise.then(() => true)")
            weights[path] = sum(file.stat().st_size for file in loaded if file.is_file())
            explorers += page.evaluate(EXPLORERS, MOVES)
            page.close()
    heaviest = max(weights, key=weights.get)
    return [
        ("a page with all that it loads, median", f"{statistics.median(weights.values()) / 1e6:.2f} MB"),
        (f"the heaviest, `{heaviest.relative_to(site)}`", f"{weights[heaviest] / 1e6:.2f} MB"),
        ("its HTML alone", f"{heaviest.stat().st_size / 1e6:.2f} MB"),
    ], explorers


def section() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        site, made = making(Path(folder))
        read, explorers = reading(site)
    lines = [
        "## The book",
        "",
        "| What | Value |",
        "|---|--:|",
        *(f"| {name} | {value} |" for name, value in made + read),
    ]
    if explorers:
        lines += [
            "",
            "| Explorer | On its page, KB | Input to picture, ms | At most | To the painted frame, ms | At most |",
        ]
        lines += ["|---|--:|--:|--:|--:|--:|"]
    for e in explorers:
        times = (f"{statistics.median(e[name]):.1f} | {max(e[name]):.1f}" for name in ("drawn", "seen"))
        lines.append(f"| {e['name']} | {e['bytes'] / 1e3:.0f} | {' | '.join(times)} |")
    return lines
