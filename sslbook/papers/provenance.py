"""What a page says of its runs."""

from collections import Counter
from typing import NamedTuple

from sslbook import data, runs
from sslbook.config import Config, require
from sslbook.papers.paper import Finished


class Facts(NamedTuple):
    """The line under a figure, data set, seeds, scale, and seconds of training."""

    line: str
    data: str
    seeds: list[int]
    scale: str
    seconds: float


def facts(found: list[Finished], profile: str) -> Facts:
    """The provenance of figures drawn from `found`: data sets with their images and epochs, in the order of the runs.

    The line counts the runs by their first label. Raises `ValueError` without runs, and if they differ in precision.
    """
    require(bool(found), "There are no runs to tell the provenance of.")
    runs.require_one_precision([run for run, _ in found], "A figure")
    configs = [run.config for run, _ in found]
    seeds, sets = sorted({config.seed for config in configs}), dict.fromkeys(config.data.name for config in configs)
    made = [run.provenance for run, _ in found]
    hardware = sorted({f"{facts['hardware']}, {facts['precision']}" for facts in made})
    commits = sorted({facts["commit"] for facts in made})
    seconds = sum(facts["seconds"] for facts in made)
    scale = f"profile {profile}: {'; '.join(dict.fromkeys(map(_scale, configs)))}"
    counts = Counter(str(next(iter(labels.values()), "")) for _, labels in found)
    kinds = ", ".join(f"{n} {name}".strip() for name, n in counts.items())
    line = (
        f"{scale} · runs: {kinds} · {' and '.join(hardware)} · commit {', '.join(commits)} · "
        f"{seconds / 60:.1f} min of training"
    )
    return Facts(line, ", ".join(sets), seeds, scale, seconds)


def _scale(config: Config) -> str:
    images = config.data.images or data.info(config.data.name).sizes["train"]
    return f"{config.data.name}, {images} images, {config.epochs} epochs"


def describe(config: Config, labels: dict | None = None) -> str:
    """A run in a line: data set, labels (or, without them, the method), epochs, batch, seed."""
    values = config.to_dict()["method"]
    kind = " ".join([values.pop("kind"), *(f"{name}={value}" for name, value in values.items())])
    named = " ".join(f"{name}={value}" for name, value in (labels or {}).items())
    return f"{config.data.name} {named or kind} epochs {config.epochs} batch {config.batch_size} seed {config.seed}"
