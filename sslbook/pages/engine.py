"""The papermill engine `sslbook`, and how the batch uses it: parameters in, an executed copy out."""

import ast
import datetime
import logging
import os
import re
from importlib import metadata
from pathlib import Path

import torch

from sslbook import hardware, runs
from sslbook.config import require
from sslbook.files import absolute, replacing

PACKAGES = ("sslbook", "torch", "torchvision", "numpy", "scipy", "pandas", "papermill")
"""The packages whose versions are written into every executed copy."""

_KINDS = {"str": str, "bool": bool, "int": int, "float": (int, float), "list": list, "dict": dict}
_FENCE = re.compile(r"[\s>]*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}(?=[^`]*$)|~{3,})\s*(.*)")
_CODE_DIRECTIVE = re.compile(r"\{(code|code-block|code-cell|sourcecode|eval-rst|math|raw)\}")
_SPAN = re.compile(r"\\.|(\{eval\})?(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\2(?!`)", re.DOTALL)


class NotebookError(ValueError):
    """A notebook stopped with an exception; the sentence names the cell and the exception."""


def roles(text: str) -> list[tuple[slice, str]]:
    """The `{eval}` roles of a Markdown text: where each stands, and its expression.

    A role has one or more backticks on either side. In code, inline or fenced, there are none; in the body of a
    directive there are. A line break inside an expression is a space.
    """
    spans = _SPAN.finditer(_without_code(text))
    return [(slice(*span.span()), span[3].replace("\n", " ")) for span in spans if span[1]]


def _without_code(text: str) -> str:
    """The text with spaces in the place of fenced code and of all fences."""
    lines, fences = [], []  # of each fence that is open: its marks, and whether it holds code
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line.rstrip())
        in_code = bool(fences) and fences[-1][1]
        blank = bool(found) or in_code
        if found and fences and not found[2] and found[1].startswith(fences[-1][0]):
            fences.pop()
        elif found and not in_code:
            fences.append((found[1], not found[2].startswith("{") or bool(_CODE_DIRECTIVE.match(found[2]))))
        lines.append(re.sub(r"[^\n]", " ", line) if blank else line)
    return "".join(lines)


def parameters(path) -> dict[str, str]:
    """The parameters of the notebook at `path` and the source of their defaults, from its cell tagged `parameters`.

    Raises `ValueError` if there is no such file, or if that cell is not Python.
    """
    return {name: ast.unparse(default) for name, (_, default) in _declared(_read(path), Path(path).name).items()}


def _read(path):
    import nbformat

    path = absolute(path)
    require(path.is_file(), f"There is no notebook {path}.")
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook; it is torn or altered.") from error


def _declared(notebook, page: str) -> dict[str, tuple[ast.expr | None, ast.expr]]:
    """Annotation and default of each parameter of a notebook."""
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    try:
        statements = ast.parse(cells[0] if cells else "").body
    except SyntaxError as error:
        raise ValueError(f"The parameters of {page} are not Python: {error.msg} in line {error.lineno}.") from error
    found = {}
    for statement in statements:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value:
            targets = getattr(statement, "targets", None) or [statement.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found |= dict.fromkeys(names, (getattr(statement, "annotation", None), statement.value))
    return found


def check(notebook, page: str, values: dict) -> None:
    """Raise `ValueError` if the notebook has no parameter of a name in `values`, or one annotated otherwise.

    `profile` may be given to every notebook. Allowed is what JSON can hold; `None` also where it is the default.
    """
    declared = _declared(notebook, page)
    unknown = sorted(set(values) - set(declared) - {"profile"})
    require(not unknown, f"{page} has no parameter {', '.join(unknown)}; it has {', '.join(declared)}.")
    for name in set(values) & set(declared):
        kind, default = declared[name]
        none = isinstance(default, ast.Constant) and default.value is None
        require(
            (none and values[name] is None) or _admits(kind, values[name]),
            f"{name} is {values[name]!r}; {page} takes {ast.unparse(kind) if kind else 'what JSON can hold'}"
            f"{' or None' if none else ''}.",
        )


def _admits(kind: ast.expr | None, value) -> bool:
    """Whether an annotation admits a value; one that is not understood admits what JSON can hold."""
    match kind:
        case ast.BinOp(left=left, right=right):
            return _admits(left, value) or _admits(right, value)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(_admits(inner, item) for item in value)
        case ast.Name(id=name) if name in _KINDS:
            of_kind = isinstance(value, _KINDS[name]) and (name == "bool" or not isinstance(value, bool))
            return of_kind and _admits(None, value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _admits(None, item) for key, item in value.items())
    if isinstance(value, list):
        return all(_admits(None, item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def execute(path, profile: str = "laptop", output=None, **values) -> Path:
    """Execute the notebook at `path` with the parameters `profile` and `values`; return the executed copy's path.

    The copy goes to `output`, by default `_build/executed/<profile>/<path of the notebook in the book>`, and appears
    there only when every cell has run and every `{eval}` role has its answer. Its metadata `sslbook` hold profile,
    parameters, hardware, commit, package versions, date, minutes, and the facts that the notebook noted. The working
    directory of the notebook is the root of the book.

    Raises `ValueError` if a parameter is unknown or of a wrong kind, or if `output` is the notebook itself, and
    `NotebookError` if a cell or an expression raises; then the copy up to there stays beside the output with the
    ending `.failed.ipynb`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError

    path = absolute(path).resolve()
    values = {"profile": profile} | values
    check(_read(path), path.name, values)
    root = next((folder for folder in path.parents if (folder / "_toc.yml").is_file()), None)
    require(bool(root or output), f"{path} lies in no book (no _toc.yml above it): say where the copy goes by output.")
    output = absolute(output).resolve() if output else root / "_build" / "executed" / profile / path.relative_to(root)
    same = output.exists() and output.samefile(path)
    require(not same, f"The executed copy would replace its own source {path}: name another output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_suffix(".failed.ipynb")
    papermill_engines.register("sslbook", Engine)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that only `check` can read
    with replacing(output) as partial:
        try:
            papermill.execute_notebook(
                _literal(path), _literal(partial), values, "sslbook", progress_bar=False, cwd=root or path.parent
            )
        except (PapermillExecutionError, NotebookError, DeadKernelError) as error:
            os.replace(partial, failed)
            said = str(error)
            if isinstance(error, PapermillExecutionError):
                said = f"{path.name} stopped in cell {error.exec_count} with {error.ename}: {error.evalue}"
            elif isinstance(error, DeadKernelError):
                said = f"{path.name} stopped because its kernel died"
            raise NotebookError(f"{said.rstrip('.')}. The copy up to there is {failed}.") from error
    failed.unlink(missing_ok=True)
    return output


def _literal(path: Path) -> str:
    """A path in whose braces papermill puts no parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


class Engine:
    """The engine as papermill loads it by its entry point, while papermill itself is not wholly loaded yet.

    Every notebook runs in the IPython kernel of this interpreter, whatever kernels its metadata and Jupyter name.
    """

    @staticmethod
    def nb_kernel_name(nb, name=None) -> str:
        return "python3"

    @staticmethod
    def nb_language(nb, language=None) -> str:
        return "python"

    @staticmethod
    def execute_notebook(nb, kernel_name, input_path="notebook", **options):
        from sslbook.pages.kernel import KernelEngine

        page = Path(input_path).name
        check(nb, page, nb.metadata.papermill["parameters"])
        return KernelEngine.execute_notebook(nb, kernel_name, page=page, **options)


def provenance(notebook, page: str, facts: dict, seconds: float) -> dict:
    """What the copy of a notebook that ran for `seconds` says of itself: `facts`, and what made it."""
    given = dict(notebook.metadata.papermill["parameters"])
    _, default = _declared(notebook, page).get("profile", (None, ast.Constant(None)))
    profile = given.get("profile") or ast.literal_eval(default)
    return facts | {
        "profile": profile,
        "parameters": given,
        "hardware": hardware.name(given.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")),
        "commit": runs.commit(),
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "minutes": round(seconds / 60, 2),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
