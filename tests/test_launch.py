"""Laws of the notebooks that the pages offer: the source, behind a cell that installs the library if it is missing."""

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))
import book_launch

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").rglob("*.ipynb"))
ADDRESS, REF = "https://example.org/a/book", "0123456789ab"


def first_cell(source):
    notebook = nbformat.reads(book_launch.offered(source.read_text(), ADDRESS, REF), 4)
    nbformat.validate(notebook)
    return notebook.cells[0].source


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_an_offered_notebook_is_its_source_behind_one_cell_of_three_lines(source):
    offered = json.loads(book_launch.offered(source.read_text(), ADDRESS, REF))
    first = offered["cells"].pop(0)
    assert offered == json.loads(source.read_text())
    assert len(first["source"]) == 3 and not first["outputs"]


PIP = """import pathlib, sys
here = pathlib.Path(__file__).parents[1]
(here / "asked").open("a").write(repr(sys.argv[1:]) + "\\n")
(here / "sslbook.py").write_text("told = 1")
"""


@pytest.fixture
def empty(tmp_path):
    """A folder for `fresh` that holds nothing but a pip, which notes what it was asked and installs an `sslbook`."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/__init__.py").touch()  # else the pip of this environment goes before it
    (tmp_path / "pip/__main__.py").write_text(PIP)
    return tmp_path


def fresh(code, folder):
    """Run code in a new interpreter that knows the standard library and a folder."""
    command, environment = [sys.executable, "-S", "-c", code], {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_first_cell_installs_the_library_of_the_page_s_commit_once(empty):
    code = first_cell(SOURCES[0])
    assert fresh(f"{code}\nimport sslbook; print(sslbook.told)", empty) == "1\n"
    assert fresh(f"{code}\nimport sslbook; print(sslbook.told)", empty) == "1\n"
    (asked,) = map(ast.literal_eval, (empty / "asked").read_text().splitlines())
    *words, wanted = asked
    assert words == ["install", "-q"]
    wanted = Requirement(wanted)
    assert (wanted.name, wanted.url) == ("sslbook", f"git+{ADDRESS}@{REF}")
    assert wanted.extras <= set(project()["optional-dependencies"])


def test_the_first_cell_does_nothing_where_the_library_is(empty):
    (empty / "sslbook.py").write_text("raise RuntimeError('imported too early')")
    assert fresh(first_cell(SOURCES[0]), empty) == "" and not (empty / "asked").exists()


def test_an_installation_that_fails_stops_the_notebook(empty):
    (empty / "pip/__main__.py").write_text("raise SystemExit(1)")
    with pytest.raises(AssertionError, match="CalledProcessError"):
        fresh(first_cell(SOURCES[0]), empty)


@pytest.mark.parametrize("commit, ref", [(REF, REF), (f"{REF}+", "main"), ("unknown", "main")])
def test_a_commit_is_named_only_where_the_library_is_that_of_the_commit(monkeypatch, commit, ref):
    monkeypatch.setattr("sslbook.runs.commit", lambda: commit)
    assert book_launch.ref("main") == ref


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_what_the_first_cell_installs_is_what_notebooks_import(tmp_path):
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["notebook"]]
    waiting, there = [*wanted, "ipykernel"], {"sslbook"}  # without the last no notebook runs
    (tmp_path / "sslbook").symlink_to(ROOT / "sslbook")
    while waiting:
        need = Requirement(waiting.pop())
        if need.name not in there and (not need.marker or need.marker.evaluate({"extra": ""})):
            there.add(need.name)
            waiting += importlib.metadata.requires(need.name) or []
            installed = importlib.metadata.distribution(need.name)
            for name in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
                if not (tmp_path / name).exists():
                    (tmp_path / name).symlink_to(installed.locate_file(name))
    cells = [cell.source for path in SOURCES for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.parse(cell).body]
    imports = {ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))}
    code = [*sorted(imports), "import anywidget, matplotlib, seaborn", "from importlib.util import find_spec"]
    code.append("print(find_spec('papermill'), find_spec('sphinx'))")
    assert fresh("\n".join(code), tmp_path) == "None None\n"


def test_the_button_of_colab_leads_to_the_offered_notebooks_and_no_other_button_does():
    binder, colab = (
        "https://b.org/v2/gh/a/book/main?urlpath=x",
        "https://c.org/github/a/book/blob/main/notebooks/x.ipynb",
    )
    buttons = [{"text": "Binder", "url": binder}, {"text": "Colab", "url": colab}]
    app = SimpleNamespace(config=SimpleNamespace(html_theme_options={"repository_branch": "main"}))
    context = {"header_buttons": [{"type": "link"}, {"buttons": buttons}]}
    book_launch.lead(app, "notebooks/x", "page.html", context, None)
    assert [button["url"] for button in buttons] == [binder, colab.replace("/main/", "/launch/")]


def git(folder, *arguments):
    command = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@localhost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_branch_that_colab_opens_holds_the_offered_notebooks_alone(tmp_path):
    clone, remote = tmp_path / "a clone", tmp_path / "remote"
    (clone / "notebooks").mkdir(parents=True)
    (clone / "notebooks/page.ipynb").write_text("source")
    (clone / ".gitignore").write_text("_build/\n")
    (clone / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/launch", clone / ".ci")
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "-m", "a book")
    for text in ("offered", "offered later"):
        path = clone / "_build/html/_sources/notebooks/page.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        subprocess.run([clone / ".ci/launch", remote], check=True)
        assert git(remote, "ls-tree", "-r", "--name-only", book_launch.BRANCH) == "notebooks/page.ipynb\n"
        assert git(remote, "show", f"{book_launch.BRANCH}:notebooks/page.ipynb") == text
    assert git(clone, "status", "--porcelain") == ""
