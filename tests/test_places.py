"""Where things lie: paths as users write them, inside a checkout and installed without one, and whose commit it is."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from packaging.version import Version

from sslbook import cli, data, files, notebooks, runs
from sslbook.data import official
from tests.test_engine import notebook
from tests.test_training import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory of a test, with a home in it, and no variable that names a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SSLBOOK_RUNS", "SSLBOOK_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


FOLDERS = {"SSLBOOK_RUNS": runs.folder, "SSLBOOK_DATA": data.folder}


@pytest.mark.parametrize("variable", FOLDERS)
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/a b", "home/a b"),
        ("a/b", "a/b"),
        ("../x", "../x"),
        ("{here}/c", "c"),
        ("./~x", "~x"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
    ],
)
def test_a_variable_names_a_folder_as_a_shell_would(here, monkeypatch, variable, written, meant):
    monkeypatch.setenv(variable, written.format(here=here))
    assert FOLDERS[variable]() == here / meant and FOLDERS[variable]().is_absolute()


def test_options_name_files_as_variables_do(here):
    notebook(here / "home")
    assert cli.main(["notebook", "~/page.ipynb", "--profile", "smoke", "--output=~/out/copy.ipynb"]) == 0
    assert (here / "home/out/copy.ipynb").is_file() and not (here / "~").exists()
    assert set(notebooks.parameters("~/page.ipynb")) == {"profile", "seeds", "text", "share"}
    assert data.folder("~/data") == here / "home/data"


def test_a_checkout_keeps_all_in_itself_and_an_installation_nothing(here, monkeypatch):
    assert (runs.folder(), data.folder(), runs.RECORDS) == (ROOT / "runs", ROOT / "data", ROOT / "book/records")
    monkeypatch.setattr(files, "CHECKOUT", None)
    monkeypatch.setattr(official, "CHECKOUT", None)
    assert runs.folder() == here / "runs" and runs.commit() == "unknown"
    if sys.platform == "linux":
        assert data.folder() == here / "home/.cache/sslbook"
        monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
        assert data.folder() == here / "cache/sslbook"
    with pytest.raises(ValueError, match=r"`python -m sslbook\.data mnist` fetches it, and SSLBOOK_DATA names"):
        data.load("mnist", "test")
    with pytest.raises(ValueError, match=r"this sslbook was installed without one; .* stays as it is\."):
        runs.Run(tiny(), here / "runs" / tiny().id).ship()


ASKED = "[str(runs.folder()), str(data.folder()), papers.__path__[-1]]"


def said_in_a_kernel(run, source, here, **variables):
    """What a notebook below `here` answers to `ASKED`, as a path relative to `here`."""
    made = run("sslbook.notebooks.command", source, "--profile", "smoke", "--output", "copy.ipynb", **variables)
    assert made.returncode == 0, made.stderr
    (answer,) = nbformat.read(here / "copy.ipynb", 4).cells[-1].metadata["user_expressions"]
    paths = ast.literal_eval(answer["result"]["data"]["text/plain"])
    return [os.path.relpath(path, here) for path in paths]


@pytest.fixture
def asking(here):
    """A notebook in another folder than the working directory, in which its kernel starts."""
    return notebook(here / "elsewhere", "from sslbook import data, papers, runs", f"# {{eval}}`{ASKED}`")


def test_variables_mean_the_same_in_the_kernel_of_a_notebook(here, asking):
    def run(*arguments, **variables):
        command = [sys.executable, "-m", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)

    variables = {"SSLBOOK_RUNS": "some/runs", "SSLBOOK_DATA": "~/images", "SSLBOOK_PAPERS": "~/papers:mine"}
    assert said_in_a_kernel(run, asking, here, **variables) == ["some/runs", "home/images", "mine"]


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a library in it inside another repository, taken for the checkout."""
    folder = tmp_path / "outer" / "copy of the project"
    (folder / "sslbook").mkdir(parents=True)
    (folder / "sslbook/a.py").write_text("1\n")
    git(tmp_path / "outer", "init", "-q")
    git(tmp_path / "outer", "add", ".")
    git(tmp_path / "outer", "commit", "-qm", "of another project")
    monkeypatch.setattr(files, "CHECKOUT", folder)
    return folder


def test_an_enclosing_repository_does_not_answer_for_a_copy_without_its_own(checkout, monkeypatch):
    assert runs.commit() == "unknown"
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "of the project itself")
    own = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout[:12]
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / ".git"))  # as in a hook of the other repository
    assert runs.commit() == own
    (checkout / "sslbook/a.py").write_text("2\n")
    assert runs.commit() == f"{own}+"


def test_a_worktree_answers_for_itself(checkout, monkeypatch):
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    git(checkout, "worktree", "add", "-q", "--detach", checkout.parent / "tree")
    monkeypatch.setattr(files, "CHECKOUT", checkout.parent / "tree")
    found = runs.commit()
    monkeypatch.setattr(files, "CHECKOUT", checkout)
    assert found == runs.commit() != "unknown"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the wheel of this checkout was installed, and nothing else."""
    found = importlib.metadata.version("setuptools")
    if Version(found) < Version("77"):
        pytest.skip(f"pyproject.toml asks for setuptools of at least 77, and there is {found} (`make setup` mends it)")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("sslbook", "book/records"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", built], check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def elsewhere(installed, here):
    """Runs a module of the installed library in an empty folder."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(here / "home"), "PYTHONPATH": str(installed)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments, **variables):
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=here, env=environment | variables, capture_output=True, text=True)

    return run


def test_the_wheel_holds_every_record_script_and_style(installed):
    shipped = {path.relative_to(ROOT / "book/records") for path in (ROOT / "book/records").glob("*/*")}
    assert {path.relative_to(installed / "sslbook/records") for path in installed.glob("*/records/*/*")} == shipped
    kinds = {".js", ".css", ".py"}
    ours = {path.relative_to(ROOT) for path in (ROOT / "sslbook").rglob("*.*") if path.suffix in kinds}
    theirs = {path.relative_to(installed) for path in installed.rglob("*.*") if path.suffix in kinds}
    assert theirs == ours and len(shipped) > 100


@pytest.mark.slow
def test_installed_from_a_wheel_records_decide_and_the_package_stays_as_it_is(installed, elsewhere, here, asking):
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*")}
    judged = elsewhere("sslbook", "verdicts", "fig1-order")
    assert judged.returncode == 0 and "not decided" not in judged.stdout and "must exceed" in judged.stdout
    missing = elsewhere("sslbook", "run", "--dataset", "mnist", "--seeds", "1")
    assert missing.stderr.startswith(str(here / "home/.cache/sslbook/MNIST")) and missing.returncode == 1
    assert [path.name for path in (here / "runs").glob("*/config.json")] == ["config.json"]
    assert said_in_a_kernel(elsewhere, asking, here)[:2] == ["runs", "home/.cache/sslbook"]
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*")} == before
