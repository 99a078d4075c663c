"""The papermill engine `sslbook`, and how the batch uses it: parameters in, an executed copy out."""

import logging
import os
from pathlib import Path

from sslbook.config import require
from sslbook.files import absolute, replacing
from sslbook.notebooks.source import NotebookError, check, read


def execute(path, profile: str = "laptop", output=None, **values) -> Path:
    """Execute the notebook at `path` with the parameters `profile` and `values`; return the executed copy's path.

    The copy goes to `output`, by default `_build/executed/<profile>/<path of the notebook in the book>`, where a page
    of the book lies, or with `values` below `<profile>-own`, where none does. It appears there only when every cell
    has run and every `{eval}` role has its answer. Its metadata `sslbook` hold profile, parameters, date and minutes,
    and of a notebook that uses `sslbook.pages` hardware, commit, package versions and the facts that it noted. The
    working directory of the notebook is the root of the book.

    Raises `ValueError` if a parameter is unknown or of a wrong kind, or if `output` is the notebook itself, and
    `NotebookError` if a cell or an expression raises; then the copy up to there stays beside the output with the
    ending `.failed.ipynb`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError

    path = absolute(path).resolve()
    given, values = values, {"profile": profile} | values
    check(read(path), path.name, values)
    root = next((folder for folder in path.parents if (folder / "_toc.yml").is_file()), None)
    require(bool(root or output), f"{path} lies in no book (no _toc.yml above it): say where the copy goes by output.")
    if not output:
        output = root / "_build" / "executed" / (f"{profile}-own" if given else profile) / path.relative_to(root)
    output = absolute(output).resolve()
    same = output.exists() and output.samefile(path)
    require(not same, f"The executed copy would replace its own source {path}: name another output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_suffix(".failed.ipynb")
    papermill_engines.register("sslbook", Engine)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that only `check` can read
    with replacing(output) as partial:
        try:
            papermill.execute_notebook(
                _literal(path),
                _literal(partial),
                values,
                "sslbook",
                progress_bar=False,
                cwd=root or path.parent,
                save_once=True,
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
        from sslbook.notebooks.kernel import KernelEngine

        page = Path(input_path).name
        check(nb, page, nb.metadata.papermill["parameters"])
        return KernelEngine.execute_notebook(nb, kernel_name, page=page, **options)
