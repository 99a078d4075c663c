"""What a notebook needs away from its book.

A page offers its notebook for download and on Colab: the source with one more cell in front. That cell installs the
library, at the commit from which the page was made, if it is missing. The sources have no such cell, and no page shows
it. Colab opens notebooks of a repository only, so its button leads to the branch `launch`, on which `.ci/launch` puts
them.
"""

import importlib
import json
from pathlib import Path

BRANCH = "launch"
CELL = """import importlib.util, subprocess, sys
if importlib.util.find_spec("sslbook") is None:  # as on Colab: the library as it was when this page was made
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "sslbook[notebook]@git+{address}@{ref}"], check=True)
"""


def offered(source, address, ref):
    """The text of a notebook with the first cell that installs the library, as it is at `ref`, from `address`."""
    notebook = json.loads(source)
    cell = {"cell_type": "code", "execution_count": None, "id": "install", "metadata": {}, "outputs": []}
    lines = CELL.format(address=address, ref=ref).rstrip().splitlines(keepends=True)
    notebook["cells"].insert(0, cell | {"source": lines})
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def ref(branch):
    """The commit of the checkout; the branch instead if files differ from it, or if no commit is known."""
    commit = importlib.import_module("sslbook.runs").commit()
    return branch if commit == "unknown" or commit.endswith("+") else commit


def offer(app, error):
    """Write what the pages offer in the place of their sources."""
    if error is not None or app.builder.format != "html":
        return
    repository = {part: app.config.html_theme_options.get(f"repository_{part}", "") for part in ("url", "branch")}
    version = ref(repository["branch"])
    for name in app.env.found_docs:
        if name.startswith("notebooks/"):
            source = Path(app.env.doc2path(name)).read_text("utf-8")
            target = Path(app.outdir, "_sources", f"{name}.ipynb")
            target.write_text(offered(source, repository["url"], version), "utf-8")


def lead(app, pagename, templatename, context, doctree):
    """Let the button of Colab open what `offer` has written."""
    branch = app.config.html_theme_options.get("repository_branch", "")
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{BRANCH}/")


def setup(app):
    app.connect("build-finished", offer)
    app.connect("html-page-context", lead, priority=900)  # after the theme, which makes the buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}
