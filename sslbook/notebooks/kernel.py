"""The kernel of a page: runs its cells, then answers the expressions in its text."""

import ast
import datetime
import json
import os
import tempfile
import textwrap

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine
from papermill.log import logger

from sslbook.notebooks.source import NotebookError, declared, roles

_PROVENANCE = "getattr(__import__('sys').modules.get('sslbook.pages'), 'provenance', lambda device: '{}')"
"""What a kernel that has loaded `sslbook.pages` says of itself; of others nothing is known."""


_PLAIN = "(lambda value: value.item() if getattr(value, 'shape', None) == () else value)"
"""Makes of a scalar of NumPy or PyTorch the number that the text is to show: 8, not np.int64(8)."""


class KernelEngine(Engine):
    """Executes a notebook for papermill, with the answers to its roles and what made it in its metadata.

    The kernel talks through sockets in a folder: kernels over TCP race for ports. The path of a socket holds about
    100 bytes, so where the folder for temporary files has a long path, the sockets lie in /tmp.

    papermill saves the copy before and after each cell. With `save_once` it does so at the end alone.
    """

    @classmethod
    def execute_managed_notebook(
        cls, nb_man, kernel_name, page, start_timeout=60, execution_timeout=None, save_once=False, **options
    ) -> None:
        places = [place for place in (tempfile.gettempdir(), "/tmp") if len(os.fsencode(place)) < 80]
        places = [place for place in places if os.access(place, os.W_OK)]
        transport = "ipc" if os.name == "posix" and places else "tcp"
        with tempfile.TemporaryDirectory(prefix="k", dir=places[0] if places else None) as folder:

            class Manager(AsyncKernelManager):
                kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

                def __init__(self, **traits):
                    super().__init__(connection_file=f"{folder}/k.json", transport=transport, **traits)

            client = Client(
                nb_man,
                page,
                kernel_manager_class=Manager,
                kernel_name=kernel_name,
                startup_timeout=start_timeout,
                timeout=execution_timeout,
                shutdown_kernel="immediate",  # to leave on its own takes a kernel seconds
                log=logger,
                **options,
            )
            path = nb_man.output_path
            nb_man.output_path = None if save_once else path
            try:
                client.execute(env=os.environ | {"IPYTHONDIR": folder})  # no settings and startup files of the user
            finally:
                nb_man.output_path = path
        if not nb_man.nb.metadata.papermill["exception"]:
            seconds = (nb_man.now() - nb_man.start_time).total_seconds()
            nb_man.nb.metadata["sslbook"] = client.facts | {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "minutes": round(seconds / 60, 2),
            }


class Client(PapermillNotebookClient):
    """Runs the cells of `page`; after the last one, if none failed, asks for the answers to the roles in its text."""

    def __init__(self, nb_man, page: str, **traits):
        super().__init__(nb_man, **traits)
        self.page = page
        self.facts = {}

    def papermill_execute_cells(self) -> None:
        super().papermill_execute_cells()
        if self.nb.metadata.papermill["exception"]:
            return
        for cell in self.nb.cells:
            if cell.cell_type == "markdown":
                self._answer(cell)
        given = dict(self.nb.metadata.papermill["parameters"])
        _, default = declared(self.nb, self.page).get("profile", (None, ast.Constant(None)))
        (facts,) = self._ask([f"{_PROVENANCE}({given.get('device')!r})"])
        if facts["status"] != "ok":
            raise NotebookError(f"{self.page}: what made it is unknown, {facts['ename']}: {facts['evalue']}")
        self.facts = json.loads(ast.literal_eval(facts["data"]["text/plain"])) | {
            "profile": given.get("profile") or ast.literal_eval(default),
            "parameters": given,
        }

    def _answer(self, cell) -> None:
        cell.metadata.pop("user_expressions", None)
        found = roles(cell.source)
        if not found:
            return
        results = self._ask([f"{_PLAIN}(({expression}))" for _, expression in found])
        cell.metadata["user_expressions"] = [
            {"expression": expression, "result": result} for (_, expression), result in zip(found, results, strict=True)
        ]
        for (place, _), result in zip(found, results, strict=True):
            if result["status"] != "ok":
                where = f"{cell.source[place]} in the cell '{textwrap.shorten(cell.source, 60, placeholder=' …')}'"
                raise NotebookError(f"{self.page}: {where} raised {result['ename']}: {result['evalue']}")

    def _ask(self, expressions: list[str]) -> list[dict]:
        """The kernel's reply to each expression."""
        asked = {str(index): expression for index, expression in enumerate(expressions)}
        reply = self.wait_for_reply(self.kc.execute("", silent=True, user_expressions=asked))
        return [reply["content"]["user_expressions"][key] for key in asked]
