"""One module per paper: its configurations, its measurements, and the tidy frames behind its figures."""

import functools
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from sslbook import data, runs, training
from sslbook.config import Config, require

PROFILES = ("smoke", "laptop", "paper")


def check(profile: str, dataset: str | None = None, seeds=None, device: str | None = None) -> None:
    """Raise `ValueError` with the allowed values if a notebook parameter is not one of them."""
    require(profile in PROFILES, f"profile is {profile!r}; allowed are {', '.join(map(repr, PROFILES))}.")
    require(
        dataset is None or dataset in data.SETS,
        f"dataset is {dataset!r}; allowed are None, {', '.join(map(repr, data.SETS))}.",
    )
    require(
        seeds is None or (len(seeds) > 0 and all(isinstance(seed, int) and seed >= 0 for seed in seeds)),
        f"seeds is {seeds!r}; allowed are None or a list of integers of at least 0.",
    )
    runs.check_device(device)


@functools.lru_cache
def _forward_flop(config: Config) -> float:
    channels, size = (1, 28) if "mnist" in config.data.name else (3, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        training.build(config, channels).eval().encode(torch.zeros(1, channels, size, size))
    return counter.get_total_flops()


def gpu_hours(config: Config) -> float:
    """What a run is expected to take on an H200, from its arithmetic at a third of 790 TFLOP/s: an estimate."""
    images = config.data.images or data.train_size(config.data.name)
    return config.epochs * images * 2 * 3 * _forward_flop(config) / (790e12 / 3) / 3600


def describe(config: Config) -> str:
    """A configuration in a line: what varies among the runs of a paper."""
    c = config
    return f"{c.data.name} {c.views.name} {type(c.method).__name__} {'-'.join(map(str, c.method.widths))} seed {c.seed}"


def obtain(configs: list[Config], *, device: str | None = None, time_limit: float | None = None) -> Iterator[runs.Run]:
    """The finished runs of `configs` one after the other, the missing ones trained.

    Raises `ValueError` if they would take more than half an hour of a fast GPU, there is none here, and no `device`
    was named: then a processor must be asked for by name.
    """
    hours = sum(gpu_hours(config) for config in configs if runs.find(config) is None)
    require(
        hours < 0.5 or device is not None or torch.cuda.is_available(),
        f"The missing runs take about {hours:.1f} hours on a fast GPU, and a thousand times that on a processor; "
        f"PyTorch sees no GPU here. The device 'cpu', given by name, starts them all the same.",
    )
    for config in configs:
        yield runs.ensure(config, device=device, time_limit=time_limit)
