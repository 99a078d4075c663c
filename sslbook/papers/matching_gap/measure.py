"""What the figures show of a run: accuracies, distances between views, and the gap at every ε."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import data, losses, metrics
from sslbook.config import Config, require
from sslbook.papers.matching_gap.plan import EPSILON, EPSILONS
from sslbook.papers.observe import BATCH, held_out, observe, pairs
from sslbook.runs import Run

VERSION = 3
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew.

In the shipped records epoch 0 was measured later than the rest, from initial weights made again from the seed.
"""

_DISTANCES = torch.linspace(0, 2, 51)


def measure(run: Run, device: str | None = None) -> Iterator[dict[str, Tensor]]:
    """All that the figures need, for each kept epoch.

    Encoders are in evaluation mode; at epoch 0 batch norm has statistics of the training images. The pairs are those of
    `papers.pairs`, in batches of 128.

    - () `knn`, `linear`: accuracies on the test images; `validation_knn`, `validation_linear`: on as many validation
      images at most, from which settings are chosen.
    - (·,) singular values, centred, of `encoder` (features of the training images) and `projector` (unit projections
      of the first views).
    - for `x` = `encoder` and `projector`, distances between unit features or projections of the two views of an image
      (`positive`) and of the nearest view of another image of the batch (`negative`): (50,) counts
      `x_positive`, `x_negative` in 50 equal bins of [0, 2]; () their means `x_positive_mean`, `x_negative_mean`, and
      `x_typical`, the mean distance of random images.
    - (E,) of the projections, for each ε of `EPSILONS`: `gap`, the matching gap; `info_nce`, ε times the cross-view
      InfoNCE at temperature ε; `misplaced`, the mass of the plan off the pairs; `gradient`, the root mean square over
      images of ‖N ∂gap/∂f_i‖ for unit projections f_i of the first view, along the sphere. () `exact`, the gap at
      ε = 0.
    """
    train, test = data.load_train(run.config.data), held_out(run.config)
    _, first, second = pairs(run.config, train)
    validation = data.load(run.config.data.name, "validation").balanced(len(test), seed=3)
    images = {"bank": train.images, "queries": test.images, "validation": validation.images}
    images |= {"first": first, "second": second}
    for _, method, h in observe(run, images, device):
        bank, queries, chosen_on, h1, h2 = h.values()
        with torch.no_grad():
            z1, z2 = (F.normalize(method.projector(h)) for h in (h1, h2))
        yield {
            "knn": metrics.knn_accuracy(bank, train.fine, queries, test.fine),
            "linear": metrics.linear_probe(bank, train.fine, queries, test.fine),
            "validation_knn": metrics.knn_accuracy(bank, train.fine, chosen_on, validation.fine),
            "validation_linear": metrics.linear_probe(bank, train.fine, chosen_on, validation.fine),
            "encoder": metrics.singular_values(bank, centered=True),
            "projector": metrics.singular_values(z1, centered=True),
            **_distances("encoder", F.normalize(h1), F.normalize(h2)),
            **_distances("projector", z1, z2),
            **_gaps(z1, z2),
        }


def _distances(name: str, f1: Tensor, f2: Tensor) -> dict[str, Tensor]:
    """Of unit rows: to the other view, and in batches to the nearest view of another image."""
    nearest = []
    for a, b in zip(f1.split(BATCH), f2.split(BATCH), strict=True):
        own = torch.eye(len(a), dtype=torch.bool).repeat(1, 2)
        nearest.append(torch.cdist(a, torch.cat([a, b])).masked_fill(own, torch.inf).amin(1))
    row = {f"{name}_typical": (f1 - f1.roll(1, 0)).norm(dim=1).mean()}
    for kind, distance in (("positive", (f1 - f2).norm(dim=1)), ("negative", torch.cat(nearest))):
        row[f"{name}_{kind}"] = torch.histogram(distance.clamp(max=2), _DISTANCES).hist
        row[f"{name}_{kind}_mean"] = distance.mean()
    return row


def _gaps(f1: Tensor, f2: Tensor) -> dict[str, Tensor]:
    """Means over batches, for each ε; in float64, so that a gap near 0 is resolved."""
    batches = list(zip(f1.double().split(BATCH), f2.double().split(BATCH), strict=True))
    rows = {
        "exact": torch.tensor([float(losses.matching_gap(a, b, epsilon=0)) for a, b in batches]).mean(),
        "gap": [],
        "info_nce": [],
        "misplaced": [],
        "gradient": [],
    }
    for epsilon in EPSILONS:
        values = torch.tensor([_gap(a, b, epsilon) for a, b in batches]).mean(0)
        for name, value in zip(("gap", "info_nce", "misplaced", "gradient"), values, strict=True):
            rows[name].append(value)
    return {name: torch.stack(value) if isinstance(value, list) else value for name, value in rows.items()}


def _gap(a: Tensor, b: Tensor, epsilon: float) -> tuple[float, float, float, float]:
    plan = losses.sinkhorn(1 - a @ b.T, epsilon).plan
    pull = len(a) * (plan - torch.eye(len(a), dtype=a.dtype) / len(a)) @ b
    along = pull - (pull * a).sum(1, keepdim=True) * a
    return (
        float(losses.matching_gap(a, b, epsilon=epsilon)),
        epsilon * float(losses.cross_view_info_nce(a, b, temperature=epsilon)),
        1 - float(plan.trace()),
        float(along.square().sum(1).mean().sqrt()),
    )


OF_EPSILON = ("gap", "info_nce", "misplaced", "gradient")
"""The arrays over `EPSILONS`."""


def row(config: Config, arrays: dict[str, Tensor]) -> dict[str, float]:
    """The scalars of one kept epoch.

    Of spectra the effective ranks `encoder_rank` and `projector_rank`; of arrays over ε the values at the run's own,
    which is its temperature if it is contrastive, and at `EPSILON` if it has none; `x_positive_relative`: the mean
    distance of positive pairs over that of random images.
    """
    method = config.method
    epsilon = 1 / method.beta if hasattr(method, "beta") else getattr(method, "epsilon", EPSILON)
    require(epsilon in EPSILONS, f"Run {config.id} has epsilon {epsilon}; it is measured at {EPSILONS}.")
    row = {name: float(values) for name, values in arrays.items() if values.ndim == 0}
    row |= {name: float(arrays[name][EPSILONS.index(epsilon)]) for name in OF_EPSILON}
    for name in ("encoder", "projector"):
        row[f"{name}_rank"] = metrics.effective_rank(arrays[name])
        row[f"{name}_positive_relative"] = row[f"{name}_positive_mean"] / row[f"{name}_typical"]
    return row
