"""Runs are values: one directory for each configuration, found again by its identity, trained when it is missing.

A run lives in `runs/<id>` (see `folder`), a shipped record, without weights, in `book/records/<id>`. Locks need a
local file system; the system frees them when their holder dies.
"""

import contextlib
import datetime
import functools
import io
import json
import os
import platform
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from sslbook import data, files, hardware, training
from sslbook.checkpoints import load
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
        """A row for each epoch: `epoch` (from 1), mean `loss`, what the method logs, last `learning_rate`.

        Here and in the functions below, `files.Damaged`, a `ValueError`, names a file that is torn or altered.
        """
        path = self.path / "history.csv"
        with files.reading(path, self.path):
            text = path.read_text()
            table = pd.read_csv(io.StringIO(text))
            whole = text.endswith("\n") and np.isfinite(table.to_numpy(float)).all()
            whole = whole and table["epoch"].tolist() == list(range(1, self.config.epochs + 1))
            require(whole, f"it does not hold numbers for each of {self.config.epochs} epochs")
        return table

    @functools.cached_property
    def provenance(self) -> dict:
        """What made the run: hardware, precision, processes, threads, versions, commit, date, seconds, speed."""
        path = self.path / "provenance.json"
        with files.reading(path, self.path):
            facts = json.loads(path.read_text())
            kinds = {"hardware": str, "precision": str, "commit": str, "seconds": (int, float)}
            lost = [name for name, kind in kinds.items() if not isinstance(facts[name], kind)]
            require(not lost, f"it does not say {', '.join(lost)}")
        return facts

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
        method = training.build(self.config)
        with files.reading(self.snapshots[epoch], self.path):
            method.load_state_dict(safetensors.torch.load(self.snapshots[epoch].read_bytes()))
        return method.eval()

    def encoder(self, epoch: int | None = None):
        """The encoder after `epoch` (default: the last)."""
        return self.method(epoch).encoder

    def measured(self, name: str, version: int, compute: Callable[["Run"], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The arrays `compute(run)`, kept in `<name>.safetensors` beside the run under a `version` of their making.

        They are made again where the file is damaged and the weights are there. Raises `files.Damaged` for a record
        without them, and where weights are missing.
        """
        path = self.path / f"{name}.safetensors"
        arrays = self._kept(path, version)
        if arrays is not None:
            return arrays
        lost = sorted(set(self.config.snapshot_epochs) - set(self.snapshots))
        if not self.snapshots:
            raise files.Damaged(
                f"The record {self.path} has no measurements `{name}` of version {version}, and a record keeps no "
                f"weights to make them from; move it away to train the run anew."
            )
        if lost:
            raise files.Damaged(
                f"{files.snapshot_path(self.path, lost[0])} is missing; move {self.path} away to train it anew."
            )
        with filelock.FileLock(folder() / f"{self.config.id}.lock"):
            arrays = self._kept(path, version)  # another process may have made them while this one waited
            if arrays is None:
                arrays = {key: value.contiguous() for key, value in compute(self).items()}
                files.write_whole(path, safetensors.torch.save(arrays, {"version": str(version)}))
        return arrays

    def _kept(self, path: Path, version: int) -> dict[str, Tensor] | None:
        if not path.exists():
            return None
        try:
            with files.reading(path, self.path):
                arrays, made = load(path.read_bytes())
                return arrays if made == {"version": str(version)} else None
        except files.Damaged:
            if not self.snapshots:
                raise
            return None

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


def local() -> list[Path]:
    """The directories of the runs that are here, finished or not."""
    return sorted({path.parent for name in ("config.json", "history.csv") for path in folder().glob(f"*/{name}")})


def state(path: Path) -> tuple[Config, str]:
    """The configuration of a run's directory, and how far it is.

    Raises `files.Damaged` if that cannot be read, or if the name of the directory is that of another configuration.
    """
    with files.reading(path / "config.json", path):
        config = Config.from_dict(json.loads((path / "config.json").read_text()))
        require(config.id == path.name, f"it is the configuration {config.id}")
    run, checkpoints = Run(config, path), files.checkpoints(path)
    if (path / "history.csv").exists():
        _ = run.history, run.provenance  # read, to find what is damaged
        return config, "finished"
    if checkpoints:
        return config, f"stopped or running, checkpoint of epoch {int(checkpoints[0].stem.split('-')[1])}"
    return config, "no checkpoint yet"


def find(config: Config) -> Run | None:
    """The finished run of `config`: a local one, else a shipped record, else None.

    Raises `files.Damaged` for a directory whose `config.json` is torn, or of another configuration or recipe.
    """
    for path in (folder() / config.id, RECORDS / config.id):
        if (path / "history.csv").exists():
            _require_same(config, path)
            return Run(config, path)
    return None


def require_one_precision(found: Iterable[Run], what: str, *, missing: int = 0, device: str | None = None) -> None:
    """Raise `ValueError` if `found`, or parts of a run that was continued elsewhere, differ in precision.

    `what` rests on them and on as many `missing` ones, which `device` would train (as in `ensure`).
    """
    made = [(run.provenance, *run.provenance.get("earlier", [])) for run in found]
    made = [{each.get("precision", "an unknown precision") for each in parts} for parts in made]
    counts = Counter(f"in {' and '.join(sorted(kinds))}" for kinds in made)
    if missing:
        to_come = hardware.precision(device or hardware.default())
        made.append({to_come})
        counts[f"to be trained in {to_come}"] = missing
    require(
        len(set().union(*made)) < 2,
        f"{what} needs runs of one precision, and there are {', '.join(f'{n} {how}' for how, n in counts.items())}. "
        "`sslbook run --precision`, or the variable SSLBOOK_PRECISION, says in which they are trained.",
    )


def ensure(config: Config, *, device: str | None = None, time_limit: float | None = None) -> Run:
    """The finished run of `config`, trained (or continued) first if it is missing.

    Two processes that ask for the same run do not train it twice: one trains, the other waits and reads. Those that
    `torchrun` started train it together, and the first of them locks it and writes. `device` is "cpu", "cuda" or
    "cuda:0", …; the default is a free GPU where there is one, under `torchrun` one for each process. `time_limit` is in
    seconds. It ends the wait for another process that has the run, and the wait for a device counts. From there on at
    least one epoch is trained, whatever the limit.

    Raises `ValueError` for a directory of another configuration, an unknown device or missing data, and what
    `training.train` raises.
    """
    began, processes, path = time.monotonic(), world(), folder() / config.id
    first = processes.rank == 0
    run = find(config)
    if processes.broadcast(run is not None):
        return run or find(config)
    path.mkdir(parents=True, exist_ok=True)
    with _locked(config, time_limit) if first else contextlib.nullcontext():
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
            left = None if time_limit is None else time_limit - (time.monotonic() - began)
            history, seconds, speed = training.train(config, images, path, device=chosen, time_limit=left)
        if first:
            facts |= {"seconds": round(seconds, 1)} | _speed(config, chosen, speed)
            _write_json(path / "provenance.json", facts)
            table = pd.DataFrame(history or {"epoch": [], "loss": [], "learning_rate": []})
            files.write_whole(path / "history.csv", table.to_csv(index=False).encode())
            for checkpoint in files.checkpoints(path):
                checkpoint.unlink()
        processes.barrier()
    return Run(config, path)


def _locked(config: Config, time_limit: float | None):
    """The lock of the run, held; raises `TimeLimit` if another process has it for longer."""
    limit = -1 if time_limit is None else max(0, time_limit)
    try:
        return filelock.FileLock(folder() / f"{config.id}.lock").acquire(timeout=limit)
    except filelock.Timeout:
        raise training.TimeLimit(f"Another process has the run {config.id}, and the time limit is over.") from None


def _started(path: Path, facts: dict) -> dict:
    """Note who trains from here on; what trained the run up to its checkpoint is kept under `earlier`."""
    file = path / "provenance.json"
    if file.exists() and files.checkpoints(path):
        try:
            before = dict(json.loads(file.read_text()))
        except (ValueError, TypeError):
            warnings.warn(f"{file} is torn or altered; what trained the run up to here is unknown.", stacklevel=2)
            before = {}
        facts = facts | {"earlier": [*before.pop("earlier", []), before]}
    _write_json(file, facts)
    return facts


def provenance(device: str) -> dict:
    """What computes here and now: hardware, precision, threads, versions, commit and date."""
    return {
        "hardware": hardware.name(device),
        "precision": hardware.precision(device),
        "processes": world().size,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _speed(config: Config, device: str, speed: float | None) -> dict:
    """Images per second, and their arithmetic as a share of the GPUs' peak in bfloat16; None where unknown."""
    peak = hardware.PEAK.get(hardware.name(device)) if hardware.precision(device) == "bfloat16" else None
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
    file = path / "config.json"
    with files.reading(file, path):
        values = json.loads(file.read_text())
    if values != json.loads(json.dumps(config.to_dict())):
        raise files.Damaged(
            f"{file} is not the configuration {config.id} (edited, or of another recipe); its results are not used. "
            f"Move {path} away to train it anew."
        )
