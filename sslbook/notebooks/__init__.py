"""Executes notebooks as a batch, with the answers to their `{eval}` roles and what made them.

A number in prose is the MyST role `{eval}` with a Python expression. It is evaluated in the notebook's own kernel after
the last cell, and the kernel's reply is kept in the metadata `user_expressions` of the Markdown cell, as JupyterLab's
MyST extension does. The engine is registered with papermill: `papermill --engine sslbook`.

Nothing here needs PyTorch: whoever only executes a notebook does not wait for it.
"""

from sslbook.notebooks.engine import execute
from sslbook.notebooks.source import NotebookError, parameters, roles

__all__ = ["NotebookError", "execute", "parameters", "roles"]
