"""Toward a Geometrical Understanding of Self-supervised Contrastive Learning (Cosentino et al. 2022, arXiv 2205.06926).

All figures on training come from the same main runs, SimCLR with a linear projector under three strengths of
augmentation. What the paper states: CIFAR-100, ResNet-18, a linear projector 512→128, LARS with learning rate 4.0,
weight decay 1e-6 and momentum 0.9, β = 2, Table 2. Where it is silent the choice is ours, and said so below.
"""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import data, metrics
from sslbook.config import Config, require
from sslbook.data import Data
from sslbook.losses import info_nce, info_nce_upper_bound
from sslbook.methods import JointEmbedding, SimCLR
from sslbook.models import ResNet
from sslbook.optim import Optim
from sslbook.papers import BATCH, check, observe, with_dataset
from sslbook.papers import geometry_theory as theory
from sslbook.runs import Run
from sslbook.views import policy

STRENGTHS = ("small", "moderate", "large")

_PROFILES = {
    "smoke": dict(
        data=Data("shapes", 512), encoder=ResNet(8, (1, 1)), widths=(8,), epochs=2, batch_size=64, snapshots=2
    ),
    # Ours: a quarter of the width and a fifth of the images, so that all runs together take an hour on two cores; the
    # batch of Fig. 3; the ratio 4 : 1 of encoder to projector dimensions is the paper's.
    "laptop": dict(
        data=Data("cifar100", 10_000),
        encoder=ResNet(16, (1, 1, 1, 1)),
        widths=(32,),
        epochs=8,
        batch_size=128,
        snapshots=4,
    ),
    # Ours: 500 epochs (the only number in the paper, Fig. 6), batch 1024, and a tenth of train held out as validation.
    "paper": dict(data=Data("cifar100"), encoder=ResNet(), widths=(128,), epochs=500, batch_size=1024, snapshots=20),
}
# Ours: Eq. 1 symmetrised ("in practice, this loss is often symmetrized"), a linear warm-up over a tenth of the steps,
# then cosine decay. Seed 0 is the pilot's; claims are decided on the others.
_OPTIM = Optim("lars", learning_rate=4.0, weight_decay=1e-6, momentum=0.9, warmup=0.1)
_SEEDS = {
    "smoke": {"small": (1, 2), "moderate": (1, 2), "large": (1, 2)},
    "laptop": {"small": (1, 2, 3), "moderate": (1, 2, 3), "large": (1, 2, 3, 4, 5)},
    "paper": dict.fromkeys(STRENGTHS, (1, 2, 3, 4, 5)),
}

FIGURES = ("main", *(f"fig{i}" for i in range(1, 10)), "knobs", "losses", "duration", "long")
"""All are drawn from the main runs, but for five, which go beyond the paper: `fig8` varies depth and width of the
projector, `knobs` turns one augmentation at a time, `losses` compares Eq. 1 with NT-Xent, `duration` trains longer. `long` holds
the coming main runs: long enough to collapse, of fresh seeds, with many kept epochs."""

# Ours: hidden widths in units of the projector's output, before its last layer; large augmentations.
_HIDDEN = ((), (1,), (4,), (16,), (4, 4))
_KNOBS = {
    "flip": dict(flip=0.5),
    "crop": dict(crop=policy("large").crop),
    "jitter": dict(jitter=policy("large").jitter),
}
_SWEEP_SEEDS = {"fig8": (1, 2, 3)}
# Ours: how many times as long as the main runs those of `duration` are, and more seeds where a claim is decided.
_LONGER = {"smoke": 2, "laptop": 8, "paper": 1}
_LONG_SEEDS = {"small": (1,), "moderate": (1,), "large": (1, 2, 3, 4)}

SWEEP = ("fig8", "knobs", "losses", "duration")
SHOWN = ("main", *SWEEP)


def configs(figure: str, profile: str, dataset: str | None = None, seeds=None) -> list[Config]:
    """The runs behind a figure ("main" for all), the most valuable first: one seed of each strength, then more."""
    require(figure in FIGURES, f"figure is {figure!r}; allowed are {', '.join(map(repr, FIGURES))}.")
    check(profile, dataset, seeds)
    settings = with_dataset(dataset, _PROFILES[profile])
    (last,) = settings.pop("widths")
    varied = {
        "fig8": [(policy("large"), SimCLR(widths=(*(last * h for h in hidden), last))) for hidden in _HIDDEN],
        "knobs": [(policy("small").replace(**knob), SimCLR(widths=(last,))) for knob in _KNOBS.values()],
        "losses": [(policy(s), SimCLR(loss="nt_xent", widths=(last,))) for s in STRENGTHS],
    }
    own = _SEEDS[profile]
    if figure == "duration" and _LONGER[profile] > 1:
        own, settings = _LONG_SEEDS, settings | dict(epochs=_LONGER[profile] * settings["epochs"], snapshots=8)
    if figure == "long" and profile == "laptop":
        own, settings = (
            dict.fromkeys(STRENGTHS, range(11, 16)),
            settings | dict(epochs=64, snapshots=16, early=(1, 2, 3, 6)),
        )
    if figure in varied:
        return [
            Config(views=views, method=method, optim=_OPTIM, seed=seed, **settings)
            for seed in (seeds or _SWEEP_SEEDS.get(figure, (1,)))
            for views, method in varied[figure]
        ]
    chosen = [(seed, strength) for strength in STRENGTHS for seed in (own[strength] if seeds is None else tuple(seeds))]
    return [
        Config(views=policy(strength), method=SimCLR(widths=(last,)), optim=_OPTIM, seed=seed, **settings)
        for seed, strength in sorted(chosen, key=lambda pair: pair[0])
    ]


VERSION = 2
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew."""

_LOCAL = 512
_DISTANCES = torch.linspace(0, 2, 51)


def measure(run: Run, device: str | None = None) -> dict[str, Tensor]:
    """All that the figures need, at each of the T kept epochs; kept beside the run and shipped with it.

    Encoders are in evaluation mode. Features are taken of all training images (the bank of the neighbour and linear
    classifiers), of the test images (where a run trains on a part, a balanced set of a fifth of its size), and of two
    views of a fixed balanced 2048 of the training images, with the same draws at every epoch, in B batches of 128.

    - (T,) `epoch`; `knn`, `linear`: accuracies on the test images.
    - (T, ·) singular values of `projector` W, `encoder` and `encoder_centered` (training images), `views` and
      `views_centered` (first views), `displacement` h² − h¹.
    - (T, B) `loss` (Eq. 1), `upper`, `invariance`, `repulsion` (Prop. 3.1); `fine`, `coarse`: label agreement, and
      `…_chance`, `…_limit`: what it is by chance and at most in this batch; `attraction_gradient`,
      `repulsion_gradient`: means of `gradient_norms`.
    - (T, 50) counts `distance_unit`, `distance_relative` of h¹ to its nearest negative, unit features or relative to
      the mean distance of random pairs, in bins of `distance_edges`; (T,) their means `…_mean`, and `second_mean`, the
      relative distance of h² to it.
    - (T,) Eq. 10 `unexplained`, `unexplained_half` (directions with σ ≥ σ_max/2 only), `unexplained_oracle`, and, for
      other differences than δh, `unexplained_pairs` (random pairs of images) and `unexplained_views` (h² − h¹);
      `unexplained_local` (with the projector's linear map at each of 512 anchors, Eq. 11), `unexplained_elsewhere`
      (with the map at another of them); `regions`: how many of the
      projector's linear regions the 2048 anchors fall into.
    - (T,) `energy_displacement`, `energy_features`: ‖Wᵀx‖²/‖x‖²; `spread_encoder`, `spread_projector`:
      ‖x² − x¹‖²/‖x_i − x_j‖² of features and of unit outputs.

    What is made of the matrix W is missing where the projector is not one matrix.
    """
    return run.measured("geometry", VERSION, lambda run: _measure(run, device))


@torch.no_grad()
def _measure(run: Run, device: str | None) -> dict[str, Tensor]:
    train, test, pairs, observations = observe(run, device)
    rows = []
    for method, bank, queries, h1, h2 in observations:
        row = _spectra(method, bank, h1, h2) | _neighbourhood(method.projector, h1, h2, pairs, run.config)
        row["knn"] = metrics.knn_accuracy(bank, train.fine, queries, test.fine)
        row["linear"] = metrics.linear_probe(bank, train.fine, queries, test.fine)
        rows.append(row)
    stacked = {name: torch.stack([torch.as_tensor(row[name]).float() for row in rows]) for name in rows[0]}
    return {"epoch": torch.tensor(list(run.snapshots)), "distance_edges": _DISTANCES} | stacked


def _spectra(method: JointEmbedding, bank: Tensor, h1: Tensor, h2: Tensor) -> dict[str, Tensor]:
    values = metrics.singular_values
    spectra = {"projector": values(method.projector[-1].weight)} if len(method.projector) == 1 else {}
    for name, features in (("encoder", bank), ("views", h1)):
        spectra |= {name: values(features), f"{name}_centered": values(features, centered=True)}
    return spectra | {"displacement": values(h2 - h1)}


def _neighbourhood(projector, h1: Tensor, h2: Tensor, pairs: data.ImageSet, config: Config) -> dict:
    """What happens between each anchor, its twin and its nearest negative, in sub-batches."""
    beta, labels = config.method.beta, zip(pairs.fine.split(BATCH), pairs.coarse.split(BATCH), strict=True)
    rows, nearest = [], []
    for a, b, (fine, coarse) in zip(h1.split(BATCH), h2.split(BATCH), labels, strict=True):
        z1, z2 = projector(a), projector(b)
        bound = info_nce_upper_bound(z1, z2, beta=beta)
        attraction, repulsion = gradient_norms(z1, z2, beta=beta)
        rows.append(
            {
                "loss": info_nce(z1, z2, beta=beta),
                "upper": bound.total,
                "invariance": bound.invariance,
                "repulsion": bound.repulsion,
                **_agreement("fine", fine, bound.nearest),
                **_agreement("coarse", coarse, bound.nearest),
                "attraction_gradient": attraction.mean(),
                "repulsion_gradient": repulsion.mean(),
            }
        )
        nearest.append(torch.cat([a, b])[bound.nearest])
    star = torch.cat(nearest)
    shuffled = h1.roll(1, 0)
    typical = (h1 - shuffled).norm(dim=1).mean()
    unit = (F.normalize(h1) - F.normalize(star)).norm(dim=1)
    relative = (h1 - star).norm(dim=1) / typical
    row = {name: torch.tensor([float(r[name]) for r in rows]) for name in rows[0]}
    for name, distance in (("unit", unit), ("relative", relative)):
        row[f"distance_{name}"] = torch.histogram(distance.clamp(max=float(_DISTANCES[-1])), _DISTANCES).hist
        row[f"distance_{name}_mean"] = distance.mean()
    row["second_mean"] = (h2 - star).norm(dim=1).mean() / typical
    f1, f2 = F.normalize(projector(h1)), F.normalize(projector(h2))
    row["spread_encoder"] = (h2 - h1).square().sum() / (h1 - shuffled).square().sum()
    row["spread_projector"] = (f2 - f1).square().sum() / (f1 - f1.roll(1, 0)).square().sum()
    delta, few = h2 - star, slice(_LOCAL)
    maps = theory.local_maps(projector, h1[few])
    row["unexplained_local"] = theory.local_unexplained(maps, delta[few])
    row["unexplained_elsewhere"] = theory.local_unexplained(maps.roll(1, 0), delta[few])
    row["regions"] = len({pattern.tobytes() for pattern in theory.activation_patterns(projector, h1).numpy()})
    if len(projector) > 1:
        return row
    basis = projector[0].weight.T
    half = float(torch.linalg.matrix_norm(basis, 2)) / 2
    return row | {
        "unexplained": metrics.unexplained_variance(delta, basis),
        "unexplained_half": metrics.unexplained_variance(delta, basis, threshold=half),
        "unexplained_oracle": metrics.pca_unexplained(delta, basis.shape[1]),
        "unexplained_pairs": metrics.unexplained_variance(h1 - shuffled, basis),
        "unexplained_views": metrics.unexplained_variance(h2 - h1, basis),
        "energy_displacement": _energy(h2 - h1, basis),
        "energy_features": _energy(h1, basis),
    }


def _agreement(level: str, labels: Tensor, nearest: Tensor) -> dict[str, float]:
    """Label agreement, its chance level, and the most that it can be: the anchors with a namesake in the batch."""
    others = (labels[:, None] == labels).sum(1).double() - 1
    return {
        level: metrics.label_agreement(labels, nearest),
        f"{level}_chance": float(others.mean() / (len(labels) - 1)),
        f"{level}_limit": float((others > 0).double().mean()),
    }


def _energy(x: Tensor, basis: Tensor) -> Tensor:
    return (x @ basis).square().sum() / x.square().sum()


def gradient_norms(z1: Tensor, z2: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """How hard each anchor is pulled to its twin and pushed by its negatives, (N,) each.

    Norms of the gradients, along the sphere at f_i, of the two terms of l_i (Eq. 1): β ‖P_i f_i^(2)‖ and
    β ‖P_i E_{D₋ᵢ}[f]‖ with P_i = I − f_i f_iᵀ and the expectation of Prop. C.1.
    """
    f1, f2 = F.normalize(z1), F.normalize(z2)
    others = torch.cat([f1, f2])
    own = torch.eye(len(f1), dtype=torch.bool, device=f1.device).repeat(1, 2)
    weights = (beta * f1 @ others.T).masked_fill(own, -torch.inf).softmax(1)
    along = [beta * (v - (v * f1).sum(1, keepdim=True) * f1).norm(dim=1) for v in (f2, weights @ others)]
    return along[0], along[1]


def scalars(runs: list[Run]) -> pd.DataFrame:
    """One row for each run and kept epoch: `strength`, `seed`, `epoch`, and every scalar of `measure`.

    Sub-batches are averaged. Added are what derives from spectra: `effective_rank` of the projector, `sigma_min`,
    `sigma_max`, `norm` (Frobenius), counts `rank_0.25` … (σ ≥ τ) and `relative_0.25` … (σ ≥ τ σ_max) for the
    thresholds of `THRESHOLDS`, `energy_rank` (99 % of Σ σ²); `encoder_rank` and `views_rank`, the share of encoder
    directions with σ ≥ 10⁻³ σ_max after centring.
    """
    rows = []
    for run in runs:
        arrays = measure(run)
        for t, epoch in enumerate(arrays["epoch"].tolist()):
            row = {"strength": run.config.views.name, "seed": run.config.seed, "epoch": epoch}
            for name, values in arrays.items():
                if name in _SPECTRA or name.startswith(("distance_edges", "epoch")):
                    continue
                if values.ndim == 1 or name not in ("distance_unit", "distance_relative"):
                    row[name] = float(values[t].double().mean())
            rows.append(row | (_ranks(arrays["projector"][t]) if "projector" in arrays else {}) | _shares(arrays, t))
    return pd.DataFrame(rows)


_SPECTRA = ("projector", "encoder", "encoder_centered", "views", "views_centered", "displacement")
THRESHOLDS = (0.001, 0.01, 0.1, 0.25, 0.5)


def _ranks(sigma: Tensor) -> dict[str, float]:
    row = {
        "effective_rank": metrics.effective_rank(sigma),
        "energy_rank": metrics.energy_rank(sigma),
        "sigma_min": float(sigma[-1]),
        "sigma_max": float(sigma[0]),
        "norm": float(sigma.norm()),
    }
    for tau in THRESHOLDS:
        row[f"rank_{tau}"] = metrics.rank(sigma, tau)
        row[f"relative_{tau}"] = metrics.rank(sigma, tau, relative=True)
    return row


def _shares(arrays: dict[str, Tensor], t: int) -> dict[str, float]:
    spectra = {"encoder_rank": arrays["encoder_centered"][t], "views_rank": arrays["views_centered"][t]}
    return {name: metrics.rank(sigma, 1e-3, relative=True) / len(sigma) for name, sigma in spectra.items()}


def spectra(runs: list[Run], name: str) -> pd.DataFrame:
    """One row for each run, kept epoch and direction of a spectrum of `measure`: `index` (from 1), `sigma`.

    Raises `ValueError` for an unknown spectrum, or one that a run does not have.
    """
    require(name in _SPECTRA, f"The spectrum is {name!r}; allowed are {', '.join(map(repr, _SPECTRA))}.")
    frames = []
    for run in runs:
        arrays = measure(run)
        require(name in arrays, f"Run {run.config.id} has no spectrum {name!r}: its projector is not one matrix.")
        for epoch, sigma in zip(arrays["epoch"].tolist(), arrays[name].double(), strict=True):
            frame = pd.DataFrame({"index": range(1, len(sigma) + 1), "sigma": sigma.numpy()})
            frames.append(frame.assign(strength=run.config.views.name, seed=run.config.seed, epoch=epoch))
    return pd.concat(frames, ignore_index=True)
