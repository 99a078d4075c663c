"""Laws of the examples in docstrings: they give what they say."""

import ast
import doctest
from pathlib import Path

import pytest
import torch

import sslbook
from sslbook import lie, losses, methods, metrics, models, optim, tensors, views

NAMES = {"lie": lie, "losses": losses, "methods": methods, "metrics": metrics, "models": models}
NAMES |= {"optim": optim, "tensors": tensors, "torch": torch, "views": views}
EXAMPLES = {
    f"{path.stem}.{node.name}": text
    for path in sorted(Path(sslbook.__file__).parent.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ">>> " in (text := ast.get_docstring(node) or "")
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_its_docstring_says(name):
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(NAMES), name, None, 0)
    assert doctest.DocTestRunner().run(example).failed == 0
