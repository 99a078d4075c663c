"""Pages of the book: executes notebooks as a batch, with the answers to their `{eval}` roles and what made them.

A number in prose is the MyST role `{eval}` with a Python expression. It is evaluated in the notebook's own kernel after
the last cell, and the kernel's reply is kept in the metadata `user_expressions` of the Markdown cell, as JupyterLab's
MyST extension does. The engine is registered with papermill: `papermill --engine sslbook`.
"""

import json

from sslbook.pages.engine import NotebookError, execute, made_by, parameters, roles

__all__ = ["NotebookError", "execute", "facts", "made_by", "note", "parameters", "roles"]

_facts: dict = {}


def note(**facts) -> None:
    """Keep facts of the page that runs in this kernel, such as `data` and `seeds`, for the metadata of its copy.

    Raises `TypeError` if JSON cannot hold one.
    """
    _facts.update(json.loads(json.dumps(facts)))


def facts() -> str:
    """The facts noted in this kernel, as a JSON object."""
    return json.dumps(_facts)
