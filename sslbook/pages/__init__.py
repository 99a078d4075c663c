"""Pages of the book: executes notebooks as a batch, with the answers to their `{eval}` roles and what made them.

A number in prose is the MyST role `{eval}` with a Python expression. It is evaluated in the notebook's own kernel after
the last cell, and the kernel's reply is kept in the metadata `user_expressions` of the Markdown cell, as JupyterLab's
MyST extension does. The engine is registered with papermill: `papermill --engine sslbook`.
"""

import json

from sslbook.pages.engine import execute
from sslbook.pages.page import Page, interval, listed, made_by, note, noted, signed, styled
from sslbook.pages.source import NotebookError, parameters, roles

__all__ = [
    "NotebookError",
    "Page",
    "execute",
    "facts",
    "interval",
    "listed",
    "made_by",
    "note",
    "parameters",
    "roles",
    "signed",
    "styled",
]


def facts() -> str:
    """The facts noted in this kernel, as a JSON object."""
    return json.dumps(noted())
