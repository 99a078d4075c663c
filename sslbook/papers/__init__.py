"""One module per paper: its configurations, its measurements, and the tidy frames behind its figures.

The module of a paper has `configs(figure, profile, dataset=None, seeds=None)`, the runs behind a figure; `measure(run,
device=None)`, the arrays made of a run; `scalars(runs)`, a tidy frame for its claims; `FIGURES`, the figures that have
runs, of which "main" is what its claims are decided on; `SHOWN`, those that the book needs; and `SWEEP`, those among
them that go beyond the paper, which `make sweep` trains.
"""

import importlib
import time
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslbook import data, runs, training
from sslbook.config import Config, require
from sslbook.methods import Method

PAPERS = ("geometry", "matching_gap")
PROFILES = ("smoke", "laptop", "paper")


def module(name: str) -> ModuleType:
    """The module of the paper of this name."""
    require(name in PAPERS, f"The paper is {name!r}; allowed are {', '.join(map(repr, PAPERS))}.")
    return importlib.import_module(f"{__name__}.{name}")


def check(profile: str, dataset: str | None = None, seeds=None, device: str | None = None) -> None:
    """Raise `ValueError` with the allowed values if a notebook parameter is not one of them."""
    require(profile in PROFILES, f"profile is {profile!r}; allowed are {', '.join(map(repr, PROFILES))}.")
    require(
        dataset is None or dataset in data.SETS,
        f"dataset is {dataset!r}; allowed are None, {', '.join(map(repr, data.SETS))}.",
    )
    require(
        seeds is None
        or (isinstance(seeds, (list, tuple)) and seeds and all(isinstance(s, int) and s >= 0 for s in seeds)),
        f"seeds is {seeds!r}; allowed are None or a list of integers of at least 0.",
    )
    runs.check_device(device)


def with_dataset(dataset: str | None, settings: dict) -> dict:
    """A copy of a profile's settings, with as many images of `dataset` (all, of `shapes`) in the place of its own."""
    if dataset in (None, settings["data"].name):
        return dict(settings)
    return settings | {"data": data.Data(dataset, settings["data"].images if dataset != "shapes" else None)}


FAST = 790e12 / 3
"""Operations per second: a third of what an H200 reaches in products of bfloat16 matrices."""


def gpu_hours(config: Config) -> float:
    """Hours that a run is expected to take on an H200, from its arithmetic at the rate `FAST`: an estimate."""
    images = config.data.images or data.train_size(config.data.name)
    shape = (1, 28, 28) if "mnist" in config.data.name else (3, 32, 32)
    return config.epochs * images * training.flop(config, shape) / FAST / 3600


def describe(config: Config) -> str:
    """A configuration in a line: what varies among the runs of a paper."""
    values = config.to_dict()["method"]
    method = " ".join([values.pop("kind"), *(f"{name}={value}" for name, value in values.items())])
    return f"{config.data.name} {config.views.name} {method} batch {config.batch_size} seed {config.seed}"


BATCH = 128
"""Images in a measured sub-batch: the batch of Fig. 3 of Cosentino et al. (2022)."""

_PAIRS = 2048


class Observation(NamedTuple):
    """Features after one kept epoch, in evaluation mode, each (·, D): of all training images (`bank`), of the test
    images (`queries`), of two views of the pairs."""

    method: Method
    bank: Tensor
    queries: Tensor
    h1: Tensor
    h2: Tensor


def observe(
    run: runs.Run, device: str | None = None
) -> tuple[data.ImageSet, data.ImageSet, data.ImageSet, Iterator[Observation]]:
    """Training images, test images and pairs of a run, and what its encoders make of them, epoch by kept epoch.

    The test set is, where a run trains on a part, a balanced one of a fifth of its size. The pairs are a fixed balanced
    2048 of the training images, each seen in two views with the same draws at every epoch, a multiple of `BATCH`.
    """
    train, test = data.load_train(run.config.data), data.load(run.config.data.name, "test")
    if run.config.data.images is not None:
        test = test.subset(data.balanced_order(test.fine, seed=3)[: len(train) // 5])
    order = data.balanced_order(train.fine, seed=2)[: min(_PAIRS, len(train) // BATCH * BATCH)]
    # Balanced as a whole, in random order: a balanced order would keep images of a class apart in every sub-batch.
    pairs = train.subset(order[np.random.RandomState(3).permutation(len(order))])
    generator = torch.Generator().manual_seed(0)
    views = [run.config.views(pairs.images, generator) for _ in range(2)]
    inputs = [train.images.float() / 255, test.images.float() / 255, *views]

    def observations():
        training.keep_memory()
        for epoch in run.snapshots:
            method = run.method(epoch)
            with runs.claim_device(device) as chosen:
                method.to(chosen, memory_format=torch.channels_last)
                features = [_encode(method, images, chosen) for images in inputs]
            yield Observation(method.cpu(), *features)

    return train, test, pairs, observations()


@torch.no_grad()
def _encode(method: Method, images: Tensor, device: str) -> Tensor:
    with training.autocast(device):
        return torch.cat([method.encode(batch.to(device)).float().cpu() for batch in images.split(BATCH)])


class Facts(NamedTuple):
    """What a page says of its runs: the line under a figure, data set, seeds, numbers of dimensions, scale, seconds."""

    line: str
    data: str
    seeds: list[int]
    encoder: int
    projector: int
    scale: str
    seconds: float


def facts(found: list[runs.Run], profile: str) -> Facts:
    """The provenance of figures drawn from `found`; data set, epochs and dimensions are those of the first run."""
    require(bool(found), "There are no runs to tell the provenance of.")
    config, seeds = found[0].config, sorted({run.config.seed for run in found})
    made = [run.provenance for run in found]
    hardware = sorted({f"{facts['hardware']}, {facts['precision']}" for facts in made})
    commits = sorted({facts["commit"] for facts in made})
    seconds = sum(facts["seconds"] for facts in made)
    images = config.data.images or data.train_size(config.data.name)
    scale = f"profile {profile}: {config.data.name}, {images} images, {config.epochs} epochs"
    counts = Counter(run.config.views.name for run in found)
    policies = ", ".join(f"{n} {name}" for name, n in counts.items())
    line = (
        f"{scale} · runs: {policies} · {' and '.join(hardware)} · commit {', '.join(commits)} · "
        f"{seconds / 60:.1f} min of training"
    )
    return Facts(line, config.data.name, seeds, config.encoder.dim, config.method.widths[-1], scale, seconds)


def require_affordable(configs: list[Config], device: str | None) -> None:
    """Raise `ValueError` if the missing ones of `configs` would take more than six minutes of a fast GPU, there is none
    here, and no `device` was named: then a processor must be asked for by name."""
    hours = sum(gpu_hours(config) for config in configs if runs.find(config) is None)
    require(
        hours < 0.1 or device is not None or torch.cuda.is_available(),
        f"The missing runs take about {hours:.1f} hours on a fast GPU, and a thousand times that on a processor; "
        f"PyTorch sees no GPU here. The device 'cpu', given by name, starts them all the same.",
    )


def obtain(configs: list[Config], *, device: str | None = None, time_limit: float | None = None) -> Iterator[runs.Run]:
    """The finished runs of `configs` one after the other, the missing ones trained; see `require_affordable`."""
    require_affordable(configs, device)
    started = time.monotonic()
    for config in configs:
        left = None if time_limit is None else time_limit - (time.monotonic() - started)
        yield runs.ensure(config, device=device, time_limit=left)
