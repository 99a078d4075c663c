"""Everything a page loads comes from the book itself: MathJax is copied from its Python package at build time, and the
excerpts of search results are kept in a script for readers who open the pages as files."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

SCRIPT = "tex-mml-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"


def set_path(app, config):
    config.mathjax_path = f"mathjax/{SCRIPT}"
    static = Path(app.outdir, "_static")
    if static.is_file():  # a build that failed before the folder was there leaves a file of an extension in its place
        static.unlink()


def copy_mathjax(app, error):
    if error is not None or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / SCRIPT, target)
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def add_search(app, pagename, templatename, context, doctree):
    if pagename == "search":
        app.add_js_file("search.js")


def write_excerpts(app, error):
    """The sections of all pages by their ids, without any other mark-up, as `search.js` reads them."""
    if error is not None or app.builder.format != "html":
        return
    pages = {name: excerpt(Path(app.builder.get_outfilename(name)).read_text("utf-8")) for name in app.env.found_docs}
    script = Path(app.outdir) / "_static" / "excerpts.js"
    script.write_text(f"window.EXCERPTS = {json.dumps(pages)};\n", "utf-8")


def excerpt(page):
    """The article of a page: its sections and their text."""
    article = re.search(r"<article\b.*?</article>", page, re.DOTALL)
    text = re.sub(r"<(script|style|svg)\b.*?</\1>|<a class=\"headerlink.*?</a>", "", article[0], flags=re.DOTALL)
    text = re.sub(r"<(?!/?section\b)[^>]*>", "", text)
    return f'<main role="main">{" ".join(text.split())}</main>'


def setup(app):
    app.connect("config-inited", set_path)
    app.connect("html-page-context", add_search)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", write_excerpts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
