"""Runs notebooks as a batch: parameters in, an executed copy with its provenance out."""

import ast
import datetime
import os
import tempfile
from importlib import metadata
from pathlib import Path

import torch

from sslbook import runs
from sslbook.config import require

PACKAGES = ("sslbook", "torch", "torchvision", "numpy", "scipy", "pandas", "papermill")
"""The packages whose versions are written into every executed copy."""


class NotebookError(ValueError):
    """A notebook stopped with an exception; the sentence names the cell and the exception."""


def parameters(path) -> dict[str, str]:
    """The parameters of the notebook at `path` and the source of their defaults, from its cell tagged `parameters`."""
    import papermill

    require(Path(path).is_file(), f"There is no notebook {path}.")
    return {name: found["default"] for name, found in papermill.inspect_notebook(str(path)).items()}


def execute(path, profile: str = "laptop", output=None, **values) -> Path:
    """Execute the notebook at `path` with the parameters `profile` and `values`; return the executed copy's path.

    The copy goes to `output`, by default `_build/executed/<profile>/<path of the notebook in the book>`, and appears
    there only when every cell has run. Its metadata `sslbook` hold profile, parameters, hardware, commit, package
    versions, date, minutes, and what the notebook glued under the names `data`, `seeds` and `result`. The working
    directory of the notebook is the root of the book.

    Raises `ValueError` if a parameter is unknown and `NotebookError` if a cell raises; then the copy up to that cell
    stays beside the output with the ending `.failed.ipynb`.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    path = Path(path).resolve()
    known = parameters(path)
    unknown = sorted(set(values) - set(known))
    require(not unknown, f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}.")
    root = next((folder for folder in path.parents if (folder / "_toc.yml").is_file()), None)
    require(bool(root or output), f"{path} lies in no book (no _toc.yml above it): say where the copy goes by output.")
    output = Path(output).resolve() if output else root / "_build" / "executed" / profile / path.relative_to(root)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.{os.getpid()}.ipynb")
    failed = output.with_suffix(".failed.ipynb")
    values = {"profile": profile} | values
    _register_engine()
    try:
        notebook = papermill.execute_notebook(
            path, partial, values, engine_name="sslbook", progress_bar=False, cwd=root or path.parent
        )
        notebook.metadata["sslbook"] = _facts(notebook, values)
        papermill.iorw.write_ipynb(notebook, str(partial))
        os.replace(partial, output)
        failed.unlink(missing_ok=True)
    except PapermillExecutionError as error:
        os.replace(partial, failed)
        where = f"{path.name} stopped in cell {error.exec_count}"
        said = f"{error.ename}: {error.evalue}".rstrip(".")
        raise NotebookError(f"{where} with {said}. The copy up to there is {failed}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return output


def made_by(*, profile: str, data: str, seeds=(), seconds: float | None = None) -> str:
    """The line under a figure that was computed on its page; under one of runs stands `papers.facts(…).line`."""
    parts = [f"profile {profile}", data]
    parts += [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] if seeds else []
    parts += [runs.hardware(), f"commit {runs.commit()}"]
    parts += [] if seconds is None else [f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"]
    return " · ".join(parts)


def _facts(notebook, values: dict) -> dict:
    glued = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            text = next((v for k, v in output.get("data", {}).items() if k.endswith("text/plain")), None)
            if name in ("data", "seeds", "result") and text is not None:
                glued[name] = ast.literal_eval("".join(text))
    return glued | {
        "profile": values["profile"],
        "parameters": values,
        "hardware": runs.hardware(values.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")),
        "commit": runs.commit(),
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "minutes": round(notebook.metadata.papermill["duration"] / 60, 2),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _register_engine() -> None:
    """Register an engine whose kernels talk through sockets in a folder: kernels over TCP race for ports."""
    from jupyter_client import AsyncKernelManager
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
            with tempfile.TemporaryDirectory(prefix="k") as folder:

                class Manager(AsyncKernelManager):
                    def __init__(self, **traits):
                        super().__init__(connection_file=f"{folder}/k.json", **traits)
                        self.transport = "ipc" if os.name == "posix" else "tcp"

                return super().execute_managed_notebook(nb_man, kernel_name, kernel_manager_class=Manager, **kwargs)

    papermill_engines.register("sslbook", Engine)
