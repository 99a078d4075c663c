"""Paths as users write them, those of a run, and files that are whole or absent."""

import contextlib
import glob
import io
import os
import platform
import sys
import textwrap
from pathlib import Path

import safetensors

_ABOVE = Path(__file__).resolve().parents[1]
CHECKOUT = _ABOVE if (_ABOVE / "_toc.yml").is_file() else None
"""The checkout that this library is part of; None where it was installed without one."""


def absolute(path) -> Path:
    """A path of the command line or the environment: `~` is a home, a relative one starts at the working directory."""
    return Path(os.path.expanduser(path)).absolute()


def _keep_folders() -> None:
    """Make the variables that name folders absolute: what is started from here, as a notebook's kernel, may start in
    another folder, and papermill itself changes it."""
    if CHECKOUT is None:
        os.environ.setdefault("SSLBOOK_RUNS", "runs")
    for name in {"SSLBOOK_RUNS", "SSLBOOK_DATA", "SSLBOOK_PAPERS"} & set(os.environ):
        folders = os.environ[name].split(os.pathsep if name == "SSLBOOK_PAPERS" else "\0")
        os.environ[name] = os.pathsep.join(str(absolute(folder)) for folder in folders if folder)


_keep_folders()


class Damaged(ValueError):
    """What a run or a record should hold is missing, torn or altered; the sentence names the file."""


@contextlib.contextmanager
def reading(path: Path, run: Path):
    """Turns whatever goes wrong while a file of the directory `run` is read into a `Damaged` that names it."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        why = textwrap.shorten(str(error).rstrip("."), 200, placeholder=" …")
        raise Damaged(f"{path} cannot be read ({why}); move {run} away to train it anew.") from error


def snapshot_path(directory: Path, epoch: int) -> Path:
    """Where the weights after `epoch` lie."""
    return directory / "snapshots" / f"{epoch:05d}.safetensors"


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path):
    """A file to write beside `path`, whose place it takes at the end of the block; an exception deletes it.

    What was left there by processes of this machine that were killed is deleted too.
    """
    mark = f".{platform.node()}-"
    for left in path.parent.glob(f"{glob.escape(mark)}*"):
        writer = left.name.removeprefix(mark).split(".")[0]
        if writer.isdigit() and not _runs(int(writer)):
            left.unlink(missing_ok=True)
    beside = path.with_name(f"{mark}{os.getpid()}.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    return True


def allow_all_characters() -> None:
    """Make standard output escape the characters that its encoding lacks, as μ in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = directory.glob(f"checkpoint-{'[0-9]' * 5}*.safetensors")
    return sorted(found, key=lambda path: int(path.stem.split("-")[1]), reverse=True)
