"""What a paper is to the book: the runs that it plans, what is measured of them, and the claims that these decide."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sslbook import data, hardware, ledger, runs
from sslbook.config import Config, require, require_choice, require_known
from sslbook.data import Data
from sslbook.files import Damaged
from sslbook.ledger import Claim, FromRuns, Verdict
from sslbook.papers.cost import require_affordable

PROFILES = ("smoke", "laptop", "paper")


class Planned(NamedTuple):
    """A run that a figure needs. Its `labels`, as {"strength": "large"}, name it in frames, listings and figures."""

    config: Config
    labels: dict[str, Any]


class Finished(NamedTuple):
    """A planned run that is there."""

    run: runs.Run
    labels: dict[str, Any]


def check(profile: str, dataset: str | None = None, seeds=None, device: str | None = None) -> None:
    """Raise `ValueError` with the allowed values if a notebook parameter is not one of them."""
    require_choice("profile", profile, PROFILES)
    if dataset is not None:
        require_choice("dataset", dataset, (None, *data.SETS))
    whole = isinstance(seeds, (list, tuple)) and all(type(s) is int and 0 <= s < 2**31 for s in seeds)
    require(
        seeds is None or (whole and 0 < len(seeds) == len(set(seeds))),
        f"seeds is {seeds!r}; allowed are None or a list of different integers of at least 0.",
    )
    hardware.check_device(device)


@dataclass(frozen=True)
class Paper:
    """A paper. Its folder below `sslbook.papers` has the `name`, and an `__init__` that makes this object as `PAPER`.

    `plans` gives for each figure a function of the profile to the runs behind it, the most valuable first; "main" are
    those that decide claims unless these say otherwise. `measure(run, device)` yields a dictionary of arrays for each
    kept epoch (pictures as uint8), kept beside the run under `version`, which rises when an array changes its meaning;
    `row(config, arrays)` makes the scalars of one epoch's arrays. The book needs the figures `shown`; those of `sweep`
    go beyond the paper. `colours` and `dashes` are those of labels in figures.
    """

    name: str
    title: str
    plans: dict[str, Callable[[str], list[Planned]]]
    measure: Callable[[runs.Run, str | None], Iterator[dict[str, Tensor]]]
    row: Callable[[Config, dict[str, Tensor]], dict[str, float]]
    claims: tuple[Claim, ...]
    version: int = 1
    shown: tuple[str, ...] = ("main",)
    sweep: tuple[str, ...] = ()
    colours: dict[str, str] = field(default_factory=dict)
    dashes: dict[str, tuple] = field(default_factory=dict)

    def plan(
        self, figure: str = "main", profile: str = "laptop", dataset: str | None = None, seeds=None
    ) -> list[Planned]:
        """The runs behind a figure; `seeds` take the place of the planned ones, seed after seed.

        With `dataset`, the planned runs on that set. If there are none, the runs on the first planned set, with the set
        replaced in the configuration and in the labels. The number of images stays; of `shapes`, and of a set that
        has fewer, all are used.

        Raises `ValueError` for an unknown figure, profile or data set, and for seeds that are not different integers.
        """
        require_choice("figure", figure, self.plans)
        check(profile, dataset, seeds)
        planned = self.plans[figure](profile)
        if seeds is not None:
            kinds = {config.replace(seed=0).id: (config, labels) for config, labels in reversed(planned)}
            kinds = list(reversed(kinds.values()))
            planned = [Planned(config.replace(seed=seed), labels) for seed in seeds for config, labels in kinds]
        if dataset is None or not planned:
            return planned
        first = planned[0].config.data.name
        on_it = [each for each in planned if each.config.data.name == dataset]
        return on_it or [_on(dataset, each) for each in planned if each.config.data.name == first]

    def find(self, planned: Iterable[Planned]) -> list[Finished]:
        """Those of the planned runs that are here or shipped; nothing is trained."""
        return [Finished(run, labels) for config, labels in planned if (run := runs.find(config)) is not None]

    def obtain(
        self, planned: list[Planned], *, device: str | None = None, time_limit: float | None = None
    ) -> Iterator[Finished]:
        """The planned runs one after the other, the missing ones trained.

        Raises as `require_trainable` does, before anything is trained.
        """
        self.require_trainable(planned, device)
        started = time.monotonic()
        for config, labels in planned:
            left = None if time_limit is None else time_limit - (time.monotonic() - started)
            yield Finished(runs.ensure(config, device=device, time_limit=left), labels)

    def require_trainable(self, planned: list[Planned], device: str | None = None) -> None:
        """Raise `ValueError` if the missing runs would cost too much here (see `require_affordable`), or be in another
        precision than those that are there."""
        hardware.check_device(device)
        require_affordable([config for config, _ in planned], device)
        found = [run for run, _ in self.find(planned)]
        runs.require_one_precision(found, "A figure", missing=len(planned) - len(found), device=device)

    def arrays(self, run: runs.Run, device: str | None = None) -> dict[str, Tensor]:
        """What `measure` gives, stacked over the T kept epochs: `epoch` (T,), and each array (T, …).

        Measured once and kept beside the run; raises `files.Damaged` for a record without it.
        """
        arrays = run.measured(self.name, self.version, lambda run: self._stack(run, device))
        epochs = arrays.get("epoch", torch.empty(0)).tolist()
        if epochs != list(run.config.snapshot_epochs) or min(map(len, arrays.values())) < len(epochs):
            raise Damaged(
                f"{run.path / self.name}.safetensors does not hold all epochs that were kept; delete it to measure a "
                f"run again, and move {run.path} away where its weights are gone."
            )
        return arrays

    def _stack(self, run: runs.Run, device: str | None) -> dict[str, Tensor]:
        measured = list(self.measure(run, device))
        stacked = {name: torch.stack([_compact(row[name]) for row in measured]) for name in measured[0]}
        return {"epoch": torch.tensor(list(run.snapshots))} | stacked

    def frame(self, found: Iterable[Finished]) -> pd.DataFrame:
        """One row for each run and kept epoch: its labels, `seed`, `epoch`, the identity `run`, and the scalars of
        `row`."""
        rows = []
        for run, labels in found:
            arrays = self.arrays(run)
            for t, epoch in enumerate(arrays["epoch"].tolist()):
                about = labels | {"seed": run.config.seed, "epoch": epoch, "run": run.config.id}
                now = {name: values[t] for name, values in arrays.items() if name != "epoch"}
                rows.append(about | self.row(run.config, now))
        return pd.DataFrame(rows)

    def entries(self, found: Iterable[Finished], name: str) -> pd.DataFrame:
        """One row for each run, kept epoch and entry of the array `name` of `measure`: labels, `seed`, `epoch`, `index`
        (from 1) and `value`.

        Raises `ValueError` if a run has no such array.
        """
        frames = []
        for run, labels in found:
            arrays = self.arrays(run)
            require(name in arrays, f"Run {run.config.id} has no array {name!r}; it has {', '.join(arrays)}.")
            values = arrays[name].double().reshape(len(arrays["epoch"]), -1).numpy()
            times, entries = values.shape
            columns = {
                "epoch": np.repeat(arrays["epoch"].numpy(), entries),
                "index": np.tile(np.arange(1, entries + 1), times),
                "value": values.ravel(),
            }
            frames.append(pd.DataFrame(columns).assign(**labels, seed=run.config.seed))
        return pd.concat(frames, ignore_index=True)

    def claim(self, id: str) -> Claim:
        """The claim of this id."""
        known = {claim.id: claim for claim in self.claims}
        require_known("claim", id, known)
        return known[id]

    def judge(self, claim: Claim, found: list[Finished], profile: str, frame: pd.DataFrame | None = None) -> Verdict:
        """The verdict on `claim` from the runs `found` at `profile`; nothing is decided unless they are those declared.

        `frame` spares measuring again: it is `frame(found)`. Raises `ValueError` if the runs differ in precision.
        """
        if not isinstance(claim.evidence, FromRuns):
            return ledger.judge(claim)
        if not found or PROFILES.index(profile) < PROFILES.index(claim.evidence.profile):
            return ledger.judge(claim)
        declared = {config.id for config, _ in self.plan(claim.evidence.figure, profile)}
        complete = {run.config.id for run, _ in found} == declared
        if complete:
            runs.require_one_precision([run for run, _ in found], f"The claim {claim.id!r}")
        return ledger.judge(claim, self.frame(found) if complete and frame is None else frame, complete, profile)

    def verdicts(
        self,
        profile: str = "laptop",
        *ids: str,
        dataset: str | None = None,
        seeds=None,
        known: dict | None = None,
        damaged: Callable[[Damaged], None] | None = None,
    ) -> list[Verdict]:
        """The verdicts on the claims `ids` (all by default) from the finished runs of `profile`; nothing is trained.

        Runs on another `dataset` or of other `seeds` than the declared ones decide nothing. `known` spares reading
        again: by figure, its finished runs and their frame. `damaged` is told of a damaged file, and the claims on
        runs of that figure are not decided; without it, it is raised.
        """
        known, judged = dict(known or {}), []
        for claim in [self.claim(id) for id in ids] or self.claims:
            figure = getattr(claim.evidence, "figure", None)
            if figure is not None and figure not in known:
                try:
                    found = self.find(self.plan(figure, profile, dataset, seeds))
                    for run, _ in found:
                        _ = run.provenance  # here, so that a damaged file is told
                    known[figure] = found, self.frame(found)
                except Damaged as error:
                    if damaged is None:
                        raise
                    damaged(error)
                    known[figure] = [], None
            found, frame = known.get(figure, ([], None))
            judged.append(self.judge(claim, found, profile, frame))
        return judged


def _compact(value) -> Tensor:
    """As records keep it: pictures as bytes, all else in float32."""
    value = torch.as_tensor(value)
    return value if value.dtype == torch.uint8 else value.float()


def _on(dataset: str, planned: Planned) -> Planned:
    config, labels = planned
    name, images = config.data.name, config.data.images
    if dataset == "shapes" or (images is not None and images > data.info(dataset).sizes["train"]):
        images = None
    labels = {label: dataset if value == name else value for label, value in labels.items()}
    return Planned(config.replace(data=Data(dataset, images)), labels)
