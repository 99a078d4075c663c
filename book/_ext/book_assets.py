"""Everything a page loads comes from the book itself: MathJax is copied from its Python package at build time."""

import importlib.util
import shutil
from pathlib import Path

SCRIPT = "tex-mml-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"


def set_path(app, config):
    config.mathjax_path = f"mathjax/{SCRIPT}"


def copy_mathjax(app, error):
    if error is not None or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / SCRIPT, target)
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def setup(app):
    app.connect("config-inited", set_path)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
