"""Laws of the notebooks: every one runs at `smoke`, alone and in the batch, and refuses what it does not know."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill.cli import papermill

from sslbook import hardware, notebooks, pages, runs

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").rglob("*.ipynb"))
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def outputs(path):
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def answers(path):
    """What stands in the place of each role in the text of an executed copy."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    return [answer for cell in cells for answer in cell.metadata.get("user_expressions", [])]


@each_notebook
def test_copy_says_what_made_it(source, executed):
    facts = nbformat.read(executed / "smoke" / source.relative_to(ROOT), 4).metadata["sslbook"]
    assert facts["profile"] == facts["parameters"]["profile"] == "smoke"
    assert {"data", "seeds", "result", "hardware", "commit", "minutes", "date"} <= set(facts)
    assert facts["versions"]["torch"]


@each_notebook
def test_every_figure_is_labelled_and_says_what_made_it(source, executed):
    copy = executed / "smoke" / source.relative_to(ROOT)
    figures = [
        output.data["text/html"] for output in outputs(copy) if "<svg" in output.get("data", {}).get("text/html", "")
    ]
    assert figures
    for figure in figures:
        assert re.search(r'<svg[^>]* aria-label="[^"]{40,}"', figure)
        assert re.search(r"<figcaption>.{40,}profile smoke", figure, re.DOTALL)
    assert not any(key.startswith("image/") for output in outputs(copy) for key in output.get("data", {}))


@each_notebook
def test_text_quotes_only_what_was_computed(source, executed):
    copy = executed / "smoke" / source.relative_to(ROOT)
    cells = [cell for cell in nbformat.read(copy, 4).cells if cell.cell_type == "markdown"]
    asked = [expression for cell in cells for _, expression in notebooks.roles(cell.source)]
    assert asked and asked == [answer["expression"] for answer in answers(copy)]
    assert not any("glue" in cell.source for cell in nbformat.read(copy, 4).cells)
    said = [answer["result"]["data"]["text/plain"] for answer in answers(copy)]
    assert not [text for text in said if re.search(r"\.\d{6}", text)], "a number that no format has rounded"


@each_notebook
def test_a_source_reads_like_its_page(source):
    code = [cell.source for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]
    lengths = [len(cell.splitlines()) for cell in code]
    assert max(lengths) <= 30 and sum(lengths) <= 200


@each_notebook
def test_unknown_parameter_is_refused_with_the_known_ones(source, tmp_path):
    with pytest.raises(ValueError, match=r"no parameter profil, sead; it has profile, dataset, seeds, device\."):
        notebooks.execute(source, "smoke", tmp_path / "copy.ipynb", sead=1, profil="smoke")
    assert not list(tmp_path.iterdir())


@each_notebook
def test_wrong_profile_stops_in_the_first_cell_with_the_allowed_ones(source):
    parameters, first, *_ = (cell.source for cell in nbformat.read(source, 4).cells if cell.cell_type == "code")
    names: dict = {}
    exec(parameters, names)
    with pytest.raises(ValueError, match=r"profile is 'huge'; allowed are 'smoke', 'laptop', 'paper'\."):
        exec(first, names | {"profile": "huge"})


@each_notebook
def test_papermill_shows_the_parameters(source, capsys):
    with pytest.raises(SystemExit):
        papermill(["--help-notebook", str(source)])
    shown = capsys.readouterr().out
    for name in ("profile", "dataset", "seeds", "device"):
        assert re.search(rf"^\s*{name}: \w.*\(default .*\)\s+\S+", shown, re.MULTILINE)


def test_papermill_with_the_engine_computes_the_same_numbers(executed, tmp_path):
    source = ROOT / "notebooks/simvae/one-model-many-losses.ipynb"
    command = [sys.executable, "-m", "papermill", source, tmp_path / "out.ipynb", "--engine", "sslbook"]
    run = subprocess.run([*command, "-p", "profile", "smoke"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert answers(tmp_path / "out.ipynb") == answers(executed / "smoke" / source.relative_to(ROOT))


def test_sources_are_what_nbstripout_leaves():
    for source in SOURCES:
        cells = json.loads(source.read_text())["cells"]
        assert all(
            not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
        )
        assert not any("user_expressions" in cell["metadata"] for cell in cells)


def test_a_made_by_line_names_every_fact():
    line = pages.made_by(profile="laptop", data="shapes", seeds=[0, 1], seconds=200)
    made = f"{hardware.name()} · commit {runs.commit()}"
    assert line == f"profile laptop · shapes · seeds 0, 1 · {made} · 3 min"
