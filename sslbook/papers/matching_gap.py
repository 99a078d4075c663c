"""Self-Supervised Learning with the Matching Gap (submitted to ICLR 2024).

The body of the paper is not public: only its abstract, its reviews and the successor (arXiv 2405.19532). What is here
reconstructs the claims that these state. ε, batch, projector, optimiser and symmetry of the original are unknown: every
value is ours, the same for all losses and chosen for none of them.
"""

import itertools

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import losses, metrics
from sslbook.config import Config, require
from sslbook.data import Data
from sslbook.methods import MatchingGap, SimCLR, VICReg
from sslbook.models import ResNet
from sslbook.optim import Optim
from sslbook.papers import BATCH, check, observe, with_dataset
from sslbook.runs import Run
from sslbook.views import policy

EPSILON = 0.2
"""Ours. With the cost 1 − cos the contrastive losses have the same temperature."""

_GAP, _NT_XENT = MatchingGap(epsilon=EPSILON), SimCLR(loss="nt_xent", beta=1 / EPSILON)
_METHODS = (_GAP, SimCLR(loss="cross_view", beta=1 / EPSILON), _NT_XENT, VICReg())
LOSSES = tuple(method.name for method in _METHODS)
POLICIES = ("weak", "large")
"""Crop and flip alone, as in the abstract's result, and the large augmentations of Cosentino et al. (2022)."""

EPSILONS = (0.05, 0.1, 0.2, 0.5, 1.0)
BATCH_SIZES = {"smoke": (64,), "laptop": (64, 128, 256, 512), "paper": (128, 256, 512, 1024)}

_PROFILES = {
    "smoke": dict(
        data=Data("shapes", 512), encoder=ResNet(8, (1, 1)), widths=(16, 8), epochs=2, batch_size=64, snapshots=2
    ),
    "laptop": dict(
        data=Data("cifar100", 10_000),
        encoder=ResNet(16, (1, 1, 1, 1)),
        widths=(128, 64),
        epochs=6,
        batch_size=128,
        snapshots=2,
    ),
    "paper": dict(data=Data("cifar100"), encoder=ResNet(), widths=(512, 128), epochs=200, batch_size=512, snapshots=20),
}
# LARS divides each layer's gradient by its norm, so that the scale of a loss (ε, or VICReg's weights) plays no part.
_OPTIM = Optim("lars", learning_rate=1.0, weight_decay=1e-6, momentum=0.9, warmup=0.1)
_SEEDS = {"smoke": (1, 2), "laptop": (1, 2, 3), "paper": (1, 2, 3)}

FIGURES = ("main", "epsilon", "batch")
"""`main`: four losses under two policies. `epsilon` and `batch` vary one setting of the matching gap (and, for the
batch, of NT-Xent beside it) under crop and flip."""

SWEEP = ("epsilon", "batch")
SHOWN = ("main", *SWEEP)


def configs(figure: str, profile: str, dataset: str | None = None, seeds=None) -> list[Config]:
    """The runs behind a figure ("main" for those that decide claims), the most valuable first: seed after seed."""
    require(figure in FIGURES, f"figure is {figure!r}; allowed are {', '.join(map(repr, FIGURES))}.")
    check(profile, dataset, seeds)
    settings = with_dataset(dataset, _PROFILES[profile])
    widths, batch_size = settings.pop("widths"), settings.pop("batch_size")
    if figure == "main":
        varied = [(name, method, batch_size) for name, method in itertools.product(POLICIES, _METHODS)]
    elif figure == "epsilon":
        varied = [("weak", _GAP.replace(epsilon=epsilon), batch_size) for epsilon in EPSILONS]
    else:
        varied = [("weak", method, n) for n, method in itertools.product(BATCH_SIZES[profile], (_GAP, _NT_XENT))]
    return [
        Config(
            views=policy(name),
            method=method.replace(widths=widths),
            optim=_OPTIM,
            batch_size=size,
            seed=seed,
            **settings,
        )
        for seed in (seeds or (_SEEDS[profile] if figure == "main" else (1,)))
        for name, method, size in varied
    ]


VERSION = 1
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew."""

_DISTANCES = torch.linspace(0, 2, 51)


def measure(run: Run, device: str | None = None) -> dict[str, Tensor]:
    """All that the figures need, at each of the T kept epochs; kept beside the run and shipped with it.

    Encoders are in evaluation mode; the images are those of `papers.observe`, the pairs in B batches of 128.

    - (T,) `epoch`; `knn`, `linear`: accuracies on the test images.
    - (T, ·) singular values, centred, of `encoder` (features of the training images) and `projector` (unit projections
      of the first views).
    - for `x` = `encoder` and `projector`, distances between unit features or projections of the two views of an image
      (`positive`) and of the nearest view of another image of the batch (`negative`): (T, 50) counts
      `x_positive`, `x_negative` in bins of `distance_edges`; (T,) their means `x_positive_mean`, `x_negative_mean`, and
      `x_typical`, the mean distance of random images.
    - (T, E) of the projections, for each ε of `EPSILONS`: `gap`, the matching gap; `info_nce`, ε times the cross-view
      InfoNCE at temperature ε; `misplaced`, the mass of the plan off the pairs; `gradient`, the root mean square over
      images of ‖N ∂gap/∂f_i‖ for unit projections f_i of the first view, along the sphere. (T,) `exact`, the gap at
      ε = 0.
    """
    return run.measured("matching_gap", VERSION, lambda run: _measure(run, device))


def _measure(run: Run, device: str | None) -> dict[str, Tensor]:
    train, test, _, observations = observe(run, device)
    rows = []
    for method, bank, queries, h1, h2 in observations:
        with torch.no_grad():
            z1, z2 = (F.normalize(method.projector(h)) for h in (h1, h2))
        rows.append(
            {
                "knn": metrics.knn_accuracy(bank, train.fine, queries, test.fine),
                "linear": metrics.linear_probe(bank, train.fine, queries, test.fine),
                "encoder": metrics.singular_values(bank, centered=True),
                "projector": metrics.singular_values(z1, centered=True),
                **_distances("encoder", F.normalize(h1), F.normalize(h2)),
                **_distances("projector", z1, z2),
                **_gaps(z1, z2),
            }
        )
    stacked = {name: torch.stack([torch.as_tensor(row[name]).float() for row in rows]) for name in rows[0]}
    return {"epoch": torch.tensor(list(run.snapshots)), "distance_edges": _DISTANCES} | stacked


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


def scalars(runs: list[Run]) -> pd.DataFrame:
    """One row for each run and kept epoch: `loss`, `policy`, `epsilon`, `batch_size`, `seed`, `epoch`, and scalars.

    Of spectra the effective ranks `encoder_rank` and `projector_rank`; of arrays over ε the values at the run's own
    where it has one, else at `EPSILON`; `x_positive_relative`: the mean distance of positive pairs over that of random
    images.
    """
    rows = []
    for run in runs:
        arrays, method = measure(run), run.config.method
        epsilon = getattr(method, "epsilon", EPSILON)
        require(epsilon in EPSILONS, f"Run {run.config.id} has epsilon {epsilon}; it is measured at {EPSILONS}.")
        at = EPSILONS.index(epsilon)
        for t, epoch in enumerate(arrays["epoch"].tolist()):
            row = {
                "loss": run.config.method.name,
                "policy": run.config.views.name,
                "epsilon": epsilon,
                "batch_size": run.config.batch_size,
                "seed": run.config.seed,
                "epoch": epoch,
            }
            for name, values in arrays.items():
                if name in ("gap", "info_nce", "misplaced", "gradient"):
                    row[name] = float(values[t, at])
                elif values.ndim == 1 and name not in ("epoch", "distance_edges"):
                    row[name] = float(values[t])
            for name in ("encoder", "projector"):
                row[f"{name}_rank"] = metrics.effective_rank(arrays[name][t])
                row[f"{name}_positive_relative"] = row[f"{name}_positive_mean"] / row[f"{name}_typical"]
            rows.append(row)
    return pd.DataFrame(rows)


def distances(runs: list[Run], space: str) -> pd.DataFrame:
    """One row for each run, kept epoch, kind of pair and bin of the histograms: `distance` (its middle), `share`."""
    rows = []
    for run in runs:
        arrays = measure(run)
        middle = (arrays["distance_edges"][1:] + arrays["distance_edges"][:-1]) / 2
        for (t, epoch), kind in itertools.product(enumerate(arrays["epoch"].tolist()), ("positive", "negative")):
            counts = arrays[f"{space}_{kind}"][t]
            frame = pd.DataFrame({"distance": middle.numpy(), "share": (counts / counts.sum()).numpy()})
            names = dict(loss=run.config.method.name, policy=run.config.views.name, seed=run.config.seed)
            rows.append(frame.assign(pair=kind, epoch=epoch, **names))
    return pd.concat(rows, ignore_index=True)


def gaps(runs: list[Run]) -> pd.DataFrame:
    """One row for each run, kept epoch and ε of `EPSILONS`, at which all of its projections are measured alike: the
    names of `scalars`, `at` (the ε measured at) and `gap`, `info_nce`, `misplaced`, `gradient`."""
    names = ("gap", "info_nce", "misplaced", "gradient")
    frames = []
    for run in runs:
        rows, arrays = scalars([run]).drop(columns=list(names)), measure(run)
        for e, epsilon in enumerate(EPSILONS):
            frames.append(rows.assign(at=epsilon, **{name: arrays[name][:, e].numpy() for name in names}))
    return pd.concat(frames, ignore_index=True)


def descend(x: Tensor, y: Tensor, *, epsilon: float, steps: int = 100) -> tuple[Tensor, Tensor, pd.DataFrame]:
    """Steepest descent of N·MG_ε (cost 1 − cos) over the views themselves, unit vectors `x` and `y` (N, D).

    No encoder ties them, so they end where the loss wants them. Returns both, and a row for each step: `step`, `gap`,
    `distance` (mean ‖x_i − y_i‖).
    """
    rows = []
    for step in range(steps + 1):
        x, y = (F.normalize(z).detach().requires_grad_() for z in (x, y))
        loss = losses.matching_gap(x, y, epsilon=epsilon)
        rows.append((step, loss.item(), (x - y).norm(dim=1).mean().item()))
        if step < steps:
            x, y = (z - 0.3 * len(z) * g for z, g in zip((x, y), torch.autograd.grad(loss, (x, y)), strict=True))
    return x.detach(), y.detach(), pd.DataFrame(rows, columns=["step", "gap", "distance"])
