"""Paths as users write them, files that are whole or absent, and what a run writes: weights and checkpoints."""

import contextlib
import glob
import hashlib
import io
import json
import os
import platform
import sys
import textwrap
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor
from torch.nn import Module

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


def save_weights(path: Path, method: Module) -> None:
    """Write all state of `method` as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in method.state_dict().items()}))


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
    """Let standard output take what its encoding has not, as the code of the character: ASCII has no μ."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def save_checkpoint(directory: Path, method: Module, optimizer, history: list[dict], seconds: float) -> None:
    """Everything needed to go on, in one safetensors file with its SHA-256 behind; the two newest are kept."""
    tensors = {f"method.{name}": value.cpu().contiguous() for name, value in method.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.cpu().contiguous() for name, value in state.items()}
    content = safetensors.torch.save(tensors, {"history": json.dumps(history), "seconds": repr(seconds)})
    path = directory / f"checkpoint-{len(history):05d}.safetensors"
    write_whole(path, content + hashlib.sha256(content).digest())
    for old in checkpoints(directory)[2:]:
        old.unlink()


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted(directory.glob(f"checkpoint-{'[0-9]' * 5}.safetensors"), reverse=True)


def resume(directory: Path, method: Module, optimizer) -> tuple[list[dict], float]:
    """Load the newest intact checkpoint; the history so far and the seconds spent on it."""
    for path in checkpoints(directory):
        content = path.read_bytes()
        content, digest = content[:-32], content[-32:]
        if hashlib.sha256(content).digest() != digest:
            warnings.warn(f"{path} is torn or altered; falling back to the checkpoint before it.", stacklevel=2)
            path.unlink()  # it must not count as one of the two that are kept
            continue
        tensors, metadata = load(content)
        method.load_state_dict({k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")})
        state: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return json.loads(metadata["history"]), float(metadata["seconds"])
    return [], 0.0


def load(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Its bytes are read before: a mapped file that another
    process cuts would end this one."""
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})
