"""Laws of executing a page: its own kernel answers its expressions, bad input gets a sentence, odd paths work."""

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sslbook import cli, notebooks, papers
from tests.test_training import tiny

ROOT = Path(__file__).parents[1]
PARAMETERS = """profile: str = "laptop"  # the scale
seeds: list[int] = None  # one run for each
text: str = "a=b"  # with a sign that papermill does not read
share: float = 0.5
"""

expressions = st.sampled_from(["x", "1 + 1", 'f"{x:.2f}"', "v['a']", 'f"`{x}`"'])
ticks = st.sampled_from(["``", "```"])  # more than any expression holds
spans = st.one_of(
    st.sampled_from(
        ["word", "- dash", "$x$", r"\`", "`code`", "`` ` ``", "`{eval}`", r"\{eval}`x`", "{cite:p}`x`"]
    ).map(lambda text: (text, [])),
    st.sampled_from(["x", "1 +\n1", "v['a']"]).map(lambda e: (f"{{eval}}`{e}`", [e.replace("\n", " ")])),
    st.tuples(ticks, expressions).map(lambda pair: (f"{{eval}}{pair[0]}{pair[1]}{pair[0]}", [pair[1]])),
)


def joined(parts, between):
    return between.join(text for text, _ in parts), [role for _, found in parts for role in found]


paragraphs = st.lists(spans, max_size=4).map(lambda parts: joined([("Text", []), *parts], " "))
codes = st.tuples(
    st.sampled_from(["```", "~~~~", "```python", "````{code-block} python", "```{math}"]), paragraphs
).map(lambda pair: (f"{pair[0]}\n{pair[1][0]}\n{'`' * 5 if pair[0][0] == '`' else '~' * 5}", []))
directives = st.tuples(paragraphs, codes).map(
    lambda pair: (f"``````{{note}}\n{pair[0][0]}\n\n{pair[1][0]}\n``````", pair[0][1])
)
texts = st.lists(paragraphs | codes | directives, max_size=4).map(lambda parts: joined(parts, "\n\n"))


@given(texts)
def test_the_roles_of_a_text_are_those_it_was_made_of_and_none_stands_in_code(made):
    text, expected = made
    found = notebooks.roles(text)
    assert [expression for _, expression in found] == expected
    for place, expression in found:
        assert text[place].startswith("{eval}`") and text[place].endswith("`")
        assert expression in text[place].replace("\n", " ")


def notebook(folder, *cells, name="page.ipynb", kernel="python3"):
    """The path of a notebook of these cells after one of parameters; a string that begins with `#` is Markdown."""
    made = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    made += [new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell) for cell in cells]
    spec = {"kernelspec": {"name": kernel, "display_name": "Python 3", "language": "python"}}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made, metadata=spec), folder / name)
    return folder / name


def test_answers_are_kept_as_the_kernel_gives_them_with_the_state_after_the_last_cell(tmp_path):
    text = '# {eval}`x`, {eval}``f"`{text}`"``, {eval}`x` and {eval}`n`\n\n`{eval}` `x`\n\n```python\n{eval}`none`\n```'
    source = notebook(
        tmp_path,
        text,
        "x = 1\nimport numpy",
        "# No role",
        "x, n = -0.5, numpy.int64(8)\nfrom sslbook.pages import note",
        "note(seeds=[3])",
    )
    copy = nbformat.read(notebooks.execute(source, "smoke", tmp_path / "copy.ipynb", text="c=d"), 4)
    answers = [("x", "-0.5"), ('f"`{text}`"', "'`c=d`'"), ("x", "-0.5"), ("n", "8")]
    asked, silent = (cell for cell in copy.cells if cell.cell_type == "markdown")
    assert asked.metadata["user_expressions"] == [
        {"expression": expression, "result": {"status": "ok", "data": {"text/plain": answer}, "metadata": {}}}
        for expression, answer in answers
    ]
    assert asked.source == text and "user_expressions" not in silent.metadata
    facts = copy.metadata["sslbook"]
    assert facts["seeds"] == [3] and facts["profile"] == "smoke"
    assert facts["parameters"] == {"profile": "smoke", "text": "c=d"}


def test_an_expression_that_fails_stops_the_page_with_its_name_its_cell_and_the_exception(tmp_path):
    source = notebook(tmp_path, "# Of {eval}`profile`", "# Where {eval}``f'{nothing}'`` is")
    output = tmp_path / "copy.ipynb"
    with pytest.raises(notebooks.NotebookError) as stopped:
        notebooks.execute(source, "smoke", output)
    failed = output.with_suffix(".failed.ipynb")
    assert str(stopped.value) == (
        "page.ipynb: {eval}``f'{nothing}'`` in the cell '# Where {eval}``f'{nothing}'`` is' raised NameError: "
        f"name 'nothing' is not defined. The copy up to there is {failed}."
    )
    assert {path.name for path in tmp_path.iterdir()} == {"page.ipynb", failed.name}
    good, bad = (cell.metadata["user_expressions"][0]["result"] for cell in nbformat.read(failed, 4).cells[-2:])
    assert good["data"]["text/plain"] == "'smoke'" and bad["ename"] == "NameError"
    assert "sslbook" not in nbformat.read(failed, 4).metadata


def test_a_cell_that_fails_leaves_the_expressions_unasked(tmp_path):
    source = notebook(tmp_path, "# Of {eval}`x`", "1 / 0")
    with pytest.raises(notebooks.NotebookError, match=r"page\.ipynb stopped in cell 3 with ZeroDivisionError"):
        notebooks.execute(source, "smoke", tmp_path / "copy.ipynb")
    (text,) = (c for c in nbformat.read(tmp_path / "copy.failed.ipynb", 4).cells if c.source.startswith("# Of"))
    assert "user_expressions" not in text.metadata


def test_a_kernel_that_dies_is_told_in_a_sentence(tmp_path):
    source = notebook(tmp_path, "import os\nos._exit(1)")
    with pytest.raises(notebooks.NotebookError, match=r"page\.ipynb stopped because its kernel died\. The copy up to"):
        notebooks.execute(source, "smoke", tmp_path / "copy.ipynb")


@pytest.mark.parametrize("short", [True, False], ids=["sockets in /tmp", "TCP"])
def test_the_path_of_the_folder_for_temporary_files_may_be_long(tmp_path, monkeypatch, short):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *mode: (short or path != "/tmp") and access(path, *mode))
    source = notebook(
        tmp_path, "import ipykernel.kernelapp as k\nused = k.IPKernelApp.instance().transport", "# {eval}`used`"
    )
    copy = nbformat.read(notebooks.execute(source, "smoke", tmp_path / "copy.ipynb"), 4)
    (answer,) = copy.cells[-1].metadata["user_expressions"]
    assert answer["result"]["data"]["text/plain"] == ("'ipc'" if short and os.name == "posix" else "'tcp'")


def test_braces_in_the_path_of_a_book_are_kept(tmp_path):
    root = tmp_path / "a {profile} {} {0} {"
    source = notebook(root / "notebooks", "import os\nwhere = os.getcwd()", "# {eval}`where`", name="{text}.ipynb")
    (root / "_toc.yml").touch()
    copy = notebooks.execute(source, "smoke")
    assert copy == root / "_build/executed/smoke/notebooks/{text}.ipynb"
    # A page of the book keeps its own parameters.
    own = notebooks.execute(source, "smoke", seeds=[7])
    assert own == root / "_build/executed/smoke-own/notebooks/{text}.ipynb"
    (answer,) = nbformat.read(copy, 4).cells[-1].metadata["user_expressions"]
    assert answer["result"]["data"]["text/plain"] == repr(str(root))


@pytest.mark.parametrize("kernel", ["python3", "another"])
def test_a_page_runs_in_this_interpreter_whatever_kernels_there_are(tmp_path, monkeypatch, kernel):
    folder = tmp_path / "share" / "kernels" / kernel
    folder.mkdir(parents=True)
    dead = {"argv": ["false", "{connection_file}"], "display_name": kernel, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(dead))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    source = notebook(tmp_path, "import sys", "# {eval}`sys.executable`", kernel=kernel)
    copy = nbformat.read(notebooks.execute(source, "smoke", tmp_path / "copy.ipynb"), 4)
    (answer,) = copy.cells[-1].metadata.user_expressions
    assert answer["result"]["data"]["text/plain"] == repr(sys.executable)


def test_a_personal_profile_of_ipython_changes_no_page(tmp_path, monkeypatch):
    startup = tmp_path / "home" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("mine = 1")
    (startup.parent / "ipython_config.py").write_text("get_config().PlainTextFormatter.float_precision = 1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "home"))
    source = notebook(tmp_path, "# {eval}`1 / 3, 'mine' in dir()`")
    copy = nbformat.read(notebooks.execute(source, "smoke", tmp_path / "copy.ipynb"), 4)
    (answer,) = copy.cells[-1].metadata.user_expressions
    assert answer["result"]["data"]["text/plain"] == "(0.3333333333333333, False)"


def test_the_executed_copy_never_replaces_its_source(tmp_path, capsys):
    source = notebook(tmp_path)
    before = source.read_bytes()
    (tmp_path / "link.ipynb").symlink_to(source)
    for output in (source, tmp_path / "link.ipynb", tmp_path / "none" / ".." / "page.ipynb"):
        assert cli.main(["notebook", str(source), "--profile", "smoke", "--output", str(output)]) == 1
        assert (
            capsys.readouterr().err
            == f"The executed copy would replace its own source {source}: name another output.\n"
        )
    assert source.read_bytes() == before


ODD = {
    "[0, True]": "seeds is [0, True]; page.ipynb takes list[int] or None.",
    "{1, 2}": "seeds is {1, 2}; page.ipynb takes list[int] or None.",
    "[yes]": "seeds is '[yes]'; page.ipynb takes list[int] or None.",
    "3": "seeds is 3; page.ipynb takes list[int] or None.",
}


@pytest.mark.parametrize("value, sentence", ODD.items())
def test_a_parameter_of_another_kind_than_its_annotation_is_refused(tmp_path, capsys, value, sentence):
    source = notebook(tmp_path)
    copy = str(tmp_path / "copy.ipynb")
    assert cli.main(["notebook", str(source), "--output", copy, "-p", "seeds", value]) == 1
    assert capsys.readouterr().err == f"{sentence}\n"


@pytest.mark.parametrize("values", [{"text": None}, {"text": 1}, {"share": True}, {"share": "0.5"}, {"seeds": (0, 1)}])
def test_each_kind_has_its_values(tmp_path, values):
    with pytest.raises(
        ValueError, match=rf"{next(iter(values))} is .*; page\.ipynb takes (str|float|list\[int\] or None)\."
    ):
        notebooks.execute(notebook(tmp_path), "smoke", tmp_path / "copy.ipynb", **values)


def test_papermill_itself_is_refused_what_the_page_does_not_take(tmp_path):
    papermill.engines.papermill_engines.register("sslbook", notebooks.engine.Engine)
    for values, sentence in (({"seeds": [True]}, r"seeds is \[True\]; page"), ({"sead": 1}, "has no parameter sead")):
        with pytest.raises(ValueError, match=sentence):
            papermill.execute_notebook(notebook(tmp_path), tmp_path / "copy.ipynb", values, "sslbook")


def test_every_parameter_is_found_whatever_its_default_holds(tmp_path):
    found = notebooks.parameters(notebook(tmp_path))
    assert found == {"profile": "'laptop'", "seeds": "None", "text": "'a=b'", "share": "0.5"}


def test_parameters_that_are_not_python_are_refused_with_the_line(tmp_path):
    made = nbformat.read(notebook(tmp_path), 4)
    made.cells[0].source += "%matplotlib inline\n"
    nbformat.write(made, tmp_path / "page.ipynb")
    with pytest.raises(ValueError, match=r"The parameters of page\.ipynb are not Python: .* in line 5\."):
        notebooks.parameters(tmp_path / "page.ipynb")


@pytest.fixture
def installed(tmp_path):
    """A folder that says of this checkout what an installation of it says: the entry points of `pyproject.toml`."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in names.items()) for group, names in groups.items()]
    (tmp_path / "site" / "sslbook-0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "sslbook-0.dist-info" / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join([str(tmp_path / "site"), str(ROOT)])


def test_papermill_finds_the_engine_by_its_entry_point(tmp_path, installed):
    copy = tmp_path / "copy.ipynb"
    source = notebook(tmp_path, "# {eval}`profile`")
    command = [sys.executable, "-m", "papermill", source, copy, "--engine", "sslbook", "-p", "profile", "smoke"]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": installed}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (answer,) = nbformat.read(copy, 4).cells[-1].metadata["user_expressions"]
    assert answer["result"]["data"]["text/plain"] == "'smoke'"
    assert nbformat.read(copy, 4).metadata["sslbook"]["profile"] == "smoke"


@pytest.mark.parametrize("engine", [[], ["--engine", "sslbook"]], ids=["plain", "sslbook"])
def test_training_in_a_notebook_is_shown_on_the_terminal_of_papermill_and_not_in_the_copy(tmp_path, installed, engine):
    config = tiny(epochs=1)
    train = "from sslbook import data, methods, models, optim, runs, views\nfrom sslbook.config import Config\n"
    train += f"run = runs.ensure(Config.from_dict({config.to_dict()!r}))"
    source, copy = notebook(tmp_path, train), tmp_path / "copy.ipynb"
    # A kernel that believes to be inside pytest does not catch what is written to standard error.
    places = {"PYTHONPATH": installed, "SSLBOOK_RUNS": str(tmp_path / "runs")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | places
    said, (screen, terminal) = b"", os.openpty()
    command = [sys.executable, "-m", "papermill", source, copy, *engine]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        with contextlib.suppress(OSError):  # as a terminal ends once nobody writes to it
            while part := os.read(screen, 4096):
                said += part
    os.close(screen)
    assert process.returncode == 0, said.decode()
    shown = re.findall(rf"run {config.id}: +(\d+)%", said.decode())
    assert shown[0] == "0" and shown[-1] == "100"
    assert not any(cell.get("outputs") for cell in nbformat.read(copy, 4).cells)


def test_what_is_no_notebook_is_named(tmp_path):
    for content in ("", "{", "[]", "3", '{"nbformat": 4, "cells"'):
        (tmp_path / "page.ipynb").write_text(content)
        with pytest.raises(ValueError, match=rf"^{tmp_path}/page\.ipynb is no notebook; it is torn or altered\.$"):
            notebooks.execute(tmp_path / "page.ipynb", "smoke", tmp_path / "copy.ipynb")


def test_executing_needs_no_pytorch_in_the_process_that_asks_for_it():
    asked = "import sys, sslbook.notebooks.command, sslbook.notebooks.kernel; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout == "False\n"


def test_the_command_of_the_batch_fails_with_one_sentence_and_knows_the_profiles(tmp_path):
    def said(*arguments):
        command = [sys.executable, "-m", "sslbook.notebooks.command", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    missing = tmp_path / "none.ipynb"
    code, sentence = said(str(missing))
    assert code == 1 and str(missing) in sentence and "Traceback" not in sentence and sentence.count("\n") == 1
    assert f"{{{','.join(papers.PROFILES)}}}" in said("--help")[1]
    assert said(str(missing), "--profile", "huge")[0] == 2


def test_the_library_can_be_imported_before_papermill(installed):
    run = [sys.executable, "-c", "import sslbook.notebooks, sslbook.notebooks.kernel"]
    assert subprocess.run(run, cwd="/", env=os.environ | {"PYTHONPATH": installed}).returncode == 0


def test_an_installation_of_this_checkout_registers_the_engine():
    """Read from the metadata of the installed package, where that is this checkout."""
    installations = list(importlib.metadata.distributions(name="sslbook"))
    origins = [json.loads(found.read_text("direct_url.json") or "{}").get("url") for found in installations]
    if ROOT.as_uri() not in origins:
        pytest.skip(f"the installed sslbook is that of {', '.join(filter(None, origins))}, not of this checkout")
    (engine,) = installations[origins.index(ROOT.as_uri())].entry_points.select(group="papermill.engine")
    assert engine.name == "sslbook" and engine.load() is notebooks.engine.Engine
