"""The source of a notebook: its `{eval}` roles and its parameters."""

import ast
import re
from pathlib import Path

from sslbook.config import require
from sslbook.files import absolute

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
    return {name: ast.unparse(default) for name, (_, default) in declared(read(path), Path(path).name).items()}


def read(path):
    """The notebook at `path`; raises `ValueError` if there is none, or if it is torn."""
    import nbformat

    path = absolute(path)
    require(path.is_file(), f"There is no notebook {path}.")
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook; it is torn or altered.") from error


def declared(notebook, page: str) -> dict[str, tuple[ast.expr | None, ast.expr]]:
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
    known = declared(notebook, page)
    unknown = sorted(set(values) - set(known) - {"profile"})
    require(not unknown, f"{page} has no parameter {', '.join(unknown)}; it has {', '.join(known)}.")
    for name in set(values) & set(known):
        kind, default = known[name]
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
