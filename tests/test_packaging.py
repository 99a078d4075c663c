"""Laws of the tree: what may import what, what is pinned where, what stays out of git, what `make` offers."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, canonicalize_version

from sslbook import papers

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]

# Rooms on one line know nothing of each other; each room may import those above it, none below.
FLOW = [
    {"config"},
    {"files"},
    {"checkpoints", "notebooks", "tensors"},
    {"data"},
    {"views"},
    {"models", "losses", "metrics"},
    {"lie"},
    {"methods"},
    {"optim", "processes", "ledger"},
    {"hardware"},
    {"training"},
    {"runs"},
    {"papers"},
    {"plotting"},
    {"widgets"},
    {"pages"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOW) for room in rooms}
NOT_CORE = {"notebooks", "plotting", "widgets", "pages"}
ONLY_INSIDE_FUNCTIONS = {"pooch", "PIL", "seaborn", "matplotlib", "papermill", "anywidget", "IPython"}


def sources(*folders, suffix):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}") if path.is_file())


def room(path):
    """The room of a module of the library: `losses/contrastive.py` → `losses`."""
    return path.relative_to(ROOT / "sslbook").parts[0].removesuffix(".py")


def imports(path, *, inside_functions=True):
    """Absolute dotted names of the modules and names that a file imports; at module level only, if so asked."""
    package = path.relative_to(ROOT).parts[:-1]
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            yield from (".".join(filter(None, (parent, node.module, alias.name))) for alias in node.names)
        elif inside_functions or not isinstance(node, ast.FunctionDef):
            nodes.extend(ast.iter_child_nodes(node))


def imported_room(name):
    """The room that an import reaches: `sslbook.losses.info_nce` → `losses`, a name of the package → `__init__`."""
    first = name.split(".")[1] if "." in name else "__init__"
    return first if first in LEVEL else "__init__"


def third_party(names):
    return {top for name in names if (top := name.split(".")[0]) not in {*sys.stdlib_module_names, "sslbook"}}


def distributions(requirements):
    return {canonicalize_name(Requirement(line).name) for line in requirements}


@pytest.fixture(scope="module")
def provided_by():
    """Import name → distributions that provide it, in this environment."""
    table = importlib.metadata.packages_distributions()
    return lambda module: {canonicalize_name(name) for name in table.get(module, [module])}


def test_every_module_belongs_to_a_room_with_a_place_in_the_flow():
    rooms = {room(path) for path in sources("sslbook", suffix=".py")}
    assert rooms <= set(LEVEL), f"Give {rooms - set(LEVEL)} a place in FLOW."


def test_imports_flow_one_way():
    backwards = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("sslbook", suffix=".py")
        for name in imports(path)
        if name.split(".")[0] == "sslbook"
        and imported_room(name) != room(path)
        and LEVEL[imported_room(name)] >= LEVEL[room(path)]
    ]
    assert not backwards


def test_the_core_imports_only_core_dependencies(provided_by):
    core = distributions(PROJECT["dependencies"])
    foreign = []
    for path in sources("sslbook", suffix=".py"):
        if room(path) not in NOT_CORE:
            at_import = third_party(imports(path, inside_functions=False)) & ONLY_INSIDE_FUNCTIONS
            anywhere = third_party(imports(path)) - ONLY_INSIDE_FUNCTIONS
            refused = at_import | {module for module in anywhere if not provided_by(module) & core}
            foreign += [f"{path.relative_to(ROOT)} imports {module}" for module in refused]
    assert not foreign


def test_every_imported_package_is_declared(provided_by):
    declared = distributions(DECLARED)
    local = {path.stem for path in sources("tests", "benchmarks", "book/_ext", suffix=".py")} | {"tests", "benchmarks"}
    undeclared = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("sslbook", "tests", "benchmarks", suffix=".py")
        for module in third_party(imports(path)) - local
        if not provided_by(module) & declared
    }
    assert not undeclared


# KB that each part may take. The machinery is done, and a new paper should not need more of it. The building blocks
# grow with the methods and metrics that a paper studies, by 30 to 60 a paper. An explorer takes 5 to 13; a paper brings
# its plan, measurements and theory. What took the machinery from 130 to 137: precision asked for by name and checked by
# verdicts, batch norm's statistics at the start, the cost on a processor, a command that starts without PyTorch, a time
# limit that counts waiting. From 137 to 139: weights that are no numbers, attempts that trained nothing, an end to the
# wait for another process, figures whose names are spelt alike. From 139 to 140: a precision of measurements, sets with
# fewer images than a plan asks for. The largest paper has 45 claims, and tangents of its own.
SIZES = {"machinery": 140, "blocks": 270, "widgets": 112, "a paper": 80}
BLOCKS = {"data", "views", "lie", "models", "losses", "metrics", "methods", "optim", "tensors"}


def test_the_library_is_compact():
    """A reminder, not a lock: whoever needs more says why above."""
    sizes: dict = {}
    for path in sources("sslbook", suffix=""):
        if "__pycache__" not in path.parts:
            parts = path.relative_to(ROOT / "sslbook").parts
            of_paper = parts[0] == "papers" and len(parts) > 2
            shared = "widgets" if parts[0] == "widgets" else "blocks" if room(path) in BLOCKS else "machinery"
            part = f"papers/{parts[1]}" if of_paper else shared
            sizes[part] = sizes.get(part, 0) + path.stat().st_size / 1024
    assert {part: size for part, size in sizes.items() if size > SIZES.get(part, SIZES["a paper"])} == {}


def test_no_shared_module_names_a_paper():
    """A paper is found by its folder: no list, literal or default elsewhere names one. (A loss has its own name.)"""
    names = re.compile(rf"\b({'|'.join(papers.names())})\b(?!\()")
    shared = [
        p
        for p in sources("sslbook", suffix=".py")
        if room(p) not in {"widgets", "losses"} and len(p.relative_to(ROOT).parts) < 4
    ]
    found = []
    for path in [*shared, ROOT / "Snakefile", ROOT / "Makefile"]:
        text = (
            path.read_text() if path.suffix != ".py" else ast.unparse(without_docstrings(ast.parse(path.read_text())))
        )
        found += [f"{path.relative_to(ROOT)}: {line}" for line in text.splitlines() if names.search(line)]
    assert len(shared) > 20 and not found


def without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            node.body = [
                n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
            ] or [ast.Pass()]
    return tree


def test_notebook_sources_hold_no_outputs_and_one_cell_of_parameters():
    notebooks = [path for path in sources("notebooks", suffix=".ipynb") if ".ipynb_checkpoints" not in path.parts]
    assert notebooks
    for path in notebooks:
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert not any(cell["outputs"] or cell["execution_count"] for cell in code), path
        assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1, path
        assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 30, path


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and not pin.url for pin in requirements)
    assert len({canonicalize_name(pin.name) for pin in requirements}) == len(requirements)
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in requirements}


def test_pins_lie_in_the_declared_ranges(pins):
    for requirement in map(Requirement, DECLARED):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_every_package_that_gets_installed_is_pinned(pins):
    waiting = [Requirement(line) for line in DECLARED]
    reached = set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if key in reached:
            continue
        reached.add(key)
        try:
            needs = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:  # the extra that asks for it is not installed here
            continue
        environments = [{"extra": extra} for extra in ("", *requirement.extras)]
        waiting += [
            need for need in map(Requirement, needs) if not need.marker or any(map(need.marker.evaluate, environments))
        ]
    assert {name for name, _ in reached} <= set(pins)


@pytest.fixture(scope="module")
def promised():
    """Every Python that the project says it runs on, from the first micro version of each minor one."""
    versions = [f"3.{minor}.{micro}" for minor in range(30) for micro in range(30)]
    return [version for version in versions if SpecifierSet(PROJECT["requires-python"]).contains(version)]


def test_every_pin_admits_every_python_that_is_promised(pins, promised):
    refused = {}
    for name, version in pins.items():
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:  # the extra that asks for it is not installed here
            continue
        admitted = SpecifierSet(metadata.get("Requires-Python", ""))
        if canonicalize_version(metadata["Version"].split("+")[0]) == canonicalize_version(version):
            refused[name] = [python for python in promised if not admitted.contains(python)]
    assert {"3.11.0", "3.13.0"} <= set(promised) and len(refused) > 100
    assert {name: pythons for name, pythons in refused.items() if pythons} == {}


def test_every_minor_python_that_is_promised_is_tested_and_said(promised):
    minors = sorted({tuple(map(int, version.split(".")[:2])) for version in promised})
    names = [f"{major}.{minor}" for major, minor in minors]
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == names
    said = f"Python {', '.join(names[:-1])} or {names[-1]}"
    assert all(said in (ROOT / page).read_text() for page in ("README.md", "book/how-to.md", "Makefile"))


def test_environment_yml_repeats_no_pin():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    constraint, install = pip["pip"]
    assert constraint == "--constraint constraints.txt"
    assert Requirement(f"sslbook{install.removeprefix('--editable .')}").extras <= set(PROJECT["optional-dependencies"])


def test_the_address_of_the_repository_stands_once():
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    slug = "/".join(address.rstrip("/").split("/")[-2:])
    owned = [path for path in ROOT.iterdir() if path.is_file() and path.name != "_config.yml"]
    owned += sources("book", "sslbook", "tests", "benchmarks", "notebooks", ".github", ".ci", suffix="")
    repeated = [path for path in owned if f"github.com/{slug}".encode() in path.read_bytes()]
    assert not repeated


def make(*arguments, cwd=ROOT, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(["make", *arguments], cwd=cwd, env=clean | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def targets():
    return set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())


def test_make_help_lists_every_target(targets):
    lines = make().stdout.splitlines()
    assert {re.match(r"  make (\w+) +\S", line)[1] for line in lines} == targets
    assert len(lines) == len(targets)


def test_the_prose_names_only_targets_that_exist(targets):
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sources("book", suffix=".md")]
    named = {target for page in pages for target in re.findall(r"`make (\w+)|^make (\w+)", page.read_text(), re.M)}
    assert {"book", "test"} <= {name for pair in named for name in pair if name} <= targets


def test_profile_and_data_set_reach_the_batch_only_when_given():
    assert "--config" not in make("-n", "book").stdout
    assert "--config profile=smoke dataset=shapes" in make("-n", "book", "PROFILE=smoke", "DATASET=shapes").stdout
    assert "--config dataset=shapes" in make("-n", "sweep", "DATASET=shapes").stdout


@pytest.fixture
def clone(tmp_path):
    """The files that installation reads, in a folder with a space in its path."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
        os.utime(folder / name, (1, 1))
    return folder


def script(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.fixture
def ready(clone):
    """A clone whose `.venv` says that it was set up there, with a Python that agrees to everything."""
    script(clone / ".venv/bin/python")
    (clone / ".venv/.ready").write_text(f"{clone.resolve()}\n")
    os.utime(clone / ".venv/.ready", (2, 2))
    return clone


def test_setup_runs_again_only_when_the_pins_change(ready):
    assert make("-q", "setup", cwd=ready).returncode == 0
    (ready / "constraints.txt").touch()
    assert make("-q", "setup", cwd=ready).returncode == 1


def test_setup_runs_again_where_the_checkout_was_moved_and_names_the_new_place(ready):
    moved = ready.rename(ready.with_name("moved #1 (to)"))
    assert make("-q", "setup", cwd=moved).returncode == 1
    assert make("setup", cwd=moved).returncode == 0
    assert (moved / ".venv/.ready").read_text() == f"{moved.resolve()}\n"
    assert make("-q", "setup", cwd=moved).returncode == 0


@pytest.mark.parametrize("line", ["exit 127", "exec /nonexistent/python"])
def test_an_environment_whose_python_is_gone_is_made_again(ready, line):
    script(ready / ".venv/bin/python", line)
    maker = script(ready / "maker", 'case "$1" in -m) echo "$@" >made ;; esac')
    assert make("setup", f"PYTHON={maker.name}", cwd=ready, PATH=f"{ready}:{os.environ['PATH']}").returncode
    assert (ready / "made").read_text() == "-m venv --clear .venv\n"


@pytest.mark.parametrize(
    ("version", "refused"), [((3, 10, 4), True), ((3, 14, 0), True), ((3, 11, 0), False), ((3, 13, 9), False)]
)
def test_a_python_that_is_not_promised_is_refused_with_a_sentence(clone, version, refused):
    code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    script(clone / "python", f"""[ "$1" = -c ] && exec '{sys.executable}' -c '{code}' "$2"; exit 1""")
    result = make("setup", "PYTHON=./python", cwd=clone)
    assert result.returncode and not (clone / ".venv").exists()
    sentence = f"sslbook needs Python 3.11, 3.12 or 3.13, and ./python is 3.{version[1]}; name another one"
    assert (sentence in result.stderr) == refused


@pytest.mark.parametrize("home", ["", "/nonexistent", "/dev/null"])
def test_a_user_without_a_home_gets_one_inside_the_checkout(clone, home):
    script(clone / "python", 'echo "$HOME" >home; exit 1')
    make("setup", "PYTHON=./python", cwd=clone, HOME=home)
    assert (clone / "home").read_text().strip() == str(clone.resolve() / ".cache/home")
    assert (clone / ".cache/home").is_dir()


def test_a_home_that_can_be_written_to_stays(clone, tmp_path):
    script(clone / "python", 'echo "$HOME" >home; exit 1')
    make("setup", "PYTHON=./python", cwd=clone, HOME=str(tmp_path))
    assert (clone / "home").read_text().strip() == str(tmp_path) and not (clone / ".cache").exists()


def test_nothing_relies_on_scripts_whose_first_line_names_the_place_of_installation():
    files = ["Makefile", "Snakefile", "README.md", "CONTRIBUTING.md", ".ci/run", ".pre-commit-config.yaml"]
    files = (
        [ROOT / name for name in files] + sources("book", ".github", suffix=".md") + sources(".github", suffix=".yml")
    )
    called = {
        f"{file.name}: {hit}"
        for file in files
        for hit in re.findall(r"(?<!venv && source )\.venv/bin/(?!python\b)\S+", file.read_text())
    }
    assert called == set()


def test_workflows_pin_actions_to_a_major_version_and_call_the_project_s_own_commands():
    jobs = {}
    for path in sources(".github/workflows", suffix=".yml"):
        jobs |= yaml.safe_load(path.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert {step["run"] for step in steps if "run" in step} == {"make book", ".ci/run", ".ci/launch"}
