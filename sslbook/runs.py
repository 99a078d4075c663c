"""Runs are values: one directory for each configuration, found again by its identity, trained when it is missing.

A run lives in `runs/<id>` (see `folder`), a shipped record, without weights, in `book/records/<id>`. Locks need a
local file system; the system frees them when their holder dies.
"""

import contextlib
import datetime
import functools
import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sslbook import data, files, hardware, training
from sslbook.config import Config, require
from sslbook.methods import Method
from sslbook.processes import world

RECORDS = Path(__file__).with_name("records").resolve()
"""The shipped records: `book/records` in a checkout, part of the package where it was installed without one."""


def folder() -> Path:
    """Where runs are kept: `SSLBOOK_RUNS`, else `runs` in the checkout, without one in the working directory."""
    return files.absolute(os.environ.get("SSLBOOK_RUNS") or (files.CHECKOUT or Path()) / "runs")


@dataclass(frozen=True)
class Run:
    """A finished run, or the record of one."""

    config: Config
    path: Path

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """A row for each epoch: `epoch` (from 1), mean `loss`, what the method logs, last `learning_rate`."""
        return pd.read_csv(self.path / "history.csv")

    @functools.cached_property
    def provenance(self) -> dict:
        """What made the run: hardware, precision, processes, threads, versions, commit, date, seconds, speed."""
        return json.loads((self.path / "provenance.json").read_text())

    @property
    def snapshots(self) -> dict[int, Path]:
        """The weights kept, by epoch; empty for a record."""
        paths = {epoch: files.snapshot_path(self.path, epoch) for epoch in self.config.snapshot_epochs}
        return {epoch: path for epoch, path in paths.items() if path.exists()}

    def method(self, epoch: int | None = None) -> Method:
        """The method with the weights after `epoch` (default: the last), in evaluation mode on the CPU.

        Raises `ValueError` if they were not kept.
        """
        epoch = self.config.epochs if epoch is None else epoch
        require(
            epoch in self.snapshots,
            f"Run {self.config.id} keeps no weights of epoch {epoch}; it keeps {sorted(self.snapshots) or 'none'}.",
        )
        weights = safetensors.torch.load_file(self.snapshots[epoch])
        method = training.build(self.config)
        method.load_state_dict(weights)
        return method.eval()

    def encoder(self, epoch: int | None = None):
        """The encoder after `epoch` (default: the last)."""
        return self.method(epoch).encoder

    def measured(self, name: str, version: int, compute: Callable[["Run"], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The arrays `compute(run)`, kept in `<name>.safetensors` beside the run under a `version` of their making.

        Raises `ValueError` for a record without them.
        """
        path = self.path / f"{name}.safetensors"
        arrays = _read_measured(path, version)
        if arrays is not None:
            return arrays
        require(
            bool(self.snapshots),
            f"The record {self.path} has no measurements `{name}` of version {version}, and a record keeps no weights "
            f"to make them from; train the run again.",
        )
        with filelock.FileLock(folder() / f"{self.config.id}.lock"):
            arrays = _read_measured(path, version)  # another process may have made them while this one waited
            if arrays is None:
                arrays = {key: value.contiguous() for key, value in compute(self).items()}
                files.write_whole(path, safetensors.torch.save(arrays, {"version": str(version)}))
        return arrays

    def ship(self) -> Path:
        """Copy the run without its weights to `book/records`; returns the record's folder.

        Raises `ValueError` outside a checkout.
        """
        require(
            files.CHECKOUT is not None,
            f"Records belong to a checkout of the book, and this sslbook was installed without one; {self.path} stays "
            f"as it is.",
        )
        target = RECORDS / self.config.id
        if target == self.path:
            return target
        target.mkdir(parents=True, exist_ok=True)
        kept = [
            path for path in self.path.iterdir() if path.is_file() and not path.name.startswith((".", "checkpoint"))
        ]
        for source in sorted(kept, key=lambda path: path.name == "history.csv"):  # last: it says that the rest is there
            files.write_whole(target / source.name, source.read_bytes())
        return target


def find(config: Config) -> Run | None:
    """The finished run of `config`: a local one, else a shipped record, else None.

    Raises `ValueError` for a directory whose `config.json` is of another configuration or recipe.
    """
    for path in (folder() / config.id, RECORDS / config.id):
        if (path / "history.csv").exists():
            _require_same(config, path)
            return Run(config, path)
    return None


def ensure(config: Config, *, device: str | None = None, time_limit: float | None = None) -> Run:
    """The finished run of `config`, trained (or continued) first if it is missing.

    Two processes that ask for the same run do not train it twice: one trains, the other waits and reads. Those that
    `torchrun` started train it together, and the first of them locks it and writes. `device` is "cpu", "cuda" or
    "cuda:0", …; the default is a free GPU where there is one, under `torchrun` one for each process.

    Raises `ValueError` for a directory of another configuration, an unknown device or missing data, and what
    `training.train` raises.
    """
    processes, path = world(), folder() / config.id
    first = processes.rank == 0
    run = find(config)
    if processes.broadcast(run is not None):
        return run or find(config)
    path.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder() / f"{config.id}.lock") if first else contextlib.nullcontext():
        run = find(config)
        if processes.broadcast(run is not None):
            return run or find(config)
        if (path / "config.json").exists():
            _require_same(config, path)
        elif first:
            _write_json(path / "config.json", config.to_dict())
        with contextlib.ExitStack() as stack:
            chosen = processes.in_turn(lambda: stack.enter_context(hardware.claim_device(device)))
            facts = provenance(chosen)  # the code that is running, not what lies there at the end
            facts = _started(path, facts) if first else facts
            images = data.load_train(config.data)
            history, seconds, speed = training.train(config, images, path, device=chosen, time_limit=time_limit)
        if first:
            facts |= {"seconds": round(seconds, 1)} | _speed(config, chosen, speed)
            _write_json(path / "provenance.json", facts)
            table = pd.DataFrame(history or {"epoch": [], "loss": [], "learning_rate": []})
            files.write_whole(path / "history.csv", table.to_csv(index=False).encode())
            for checkpoint in files.checkpoints(path):
                checkpoint.unlink()
        processes.barrier()
    return Run(config, path)


def _read_measured(path: Path, version: int) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    with safetensors.safe_open(path, "pt") as file:
        if file.metadata() != {"version": str(version)}:
            return None
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _started(path: Path, facts: dict) -> dict:
    """Note who trains from here on; what trained the run up to here is kept under `earlier`."""
    file = path / "provenance.json"
    before = json.loads(file.read_text()) if file.exists() else None
    if before is not None:
        facts = facts | {"earlier": [*before.pop("earlier", []), before]}
    _write_json(file, facts)
    return facts


def provenance(device: str) -> dict:
    """What computes here and now: hardware, precision, threads, versions, commit and date."""
    return {
        "hardware": hardware.name(device),
        "precision": "bfloat16" if hardware.uses_bfloat16(device) else "float32",
        "processes": world().size,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _speed(config: Config, device: str, speed: float | None) -> dict:
    """Images per second, and what share of the GPUs' peak their arithmetic is (None where either is not known)."""
    peak = hardware.PEAK.get(hardware.name(device))
    share = speed * training.flop(config) / (peak * world().size) if speed and peak else None
    return {"images_per_second": speed and round(speed, 1), "share_of_peak": share and round(share, 4)}


def commit() -> str:
    """The commit of the checkout, with "+" if files of the library differ from it.

    "unknown" without git, without a checkout, and in a copy without a `.git` of its own, whatever encloses it.
    """
    root = files.CHECKOUT

    def git(*arguments) -> str:
        command = ["git", "-C", root, f"--git-dir={root / '.git'}", f"--work-tree={root}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if root is None:
        return "unknown"
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "sslbook") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _write_json(path: Path, values: dict) -> None:
    files.write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


def _require_same(config: Config, path: Path) -> None:
    try:
        values = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path / 'config.json'} cannot be read ({error}); move {path} away to train it anew."
        ) from error
    require(
        values == json.loads(json.dumps(config.to_dict())),
        f"{path / 'config.json'} is not the configuration {config.id} (edited, or of another recipe); its results are "
        f"not used. Move {path} away to train it anew.",
    )
