"""Manifold graph metrics of features: what the chapter measures, of points whose truth is known and of a model.

The paper's number of candidates, kernel, images and averages are not known to us: all are ours. K and kernel are those
of the authors' public scripts for features.
"""

from collections.abc import Iterator

from torch import Tensor

from sslbook import metrics
from sslbook.config import Config
from sslbook.papers.observe import held_out, observe
from sslbook.runs import Run
from sslbook.tensors import unit

VERSION = 1
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew."""
K = 50
"""Candidates of each neighbourhood."""
IMAGES = 1_000
"""Test images whose features are measured; fewer where a set has fewer."""


def geometry(features: Tensor, *, k: int = K) -> dict[str, Tensor]:
    """The metrics (N,) of the NNK neighbourhood of each of the `features` (N, D) among the others, cosine kernel.

    `count`; `diameter` in [0, 2] and `dimension`, the low-rank one, of unit features; `affinity` with all neighbours,
    `affinity_nearest` with the nearest, `affinity_random` with a random feature; see `metrics`. Raises `ValueError`
    unless k is in 1 … N − 1.
    """
    x = unit(features)
    found = metrics.nnk(x, k=k)
    own = metrics.tangents(found, x)
    return {
        "count": metrics.neighbor_count(found),
        "diameter": metrics.diameter(found, x),
        "dimension": own.dimension,
        "affinity": metrics.affinity(found, own),
        "affinity_nearest": metrics.affinity_nearest(found, own),
        "affinity_random": metrics.affinity_random(own),
    }


def measure(run: Run, device: str | None = None) -> Iterator[dict[str, Tensor]]:
    """The `geometry` (N,) of the encoder's features of `IMAGES` test images as they are, for each kept epoch."""
    images = held_out(run.config).images[:IMAGES]
    for _, _, features in observe(run, {"images": images}, device):
        yield geometry(features["images"])


def row(config: Config, arrays: dict[str, Tensor]) -> dict[str, float]:
    """Mean over images of each metric, and its standard deviation under the name with `_deviation`.

    Images without tangents have no affinity and are left out of it.
    """
    row = {}
    for name, values in arrays.items():
        values = values[~values.isnan()].double()
        row |= {name: float(values.mean()), f"{name}_deviation": float(values.std(correction=0))}
    return row
