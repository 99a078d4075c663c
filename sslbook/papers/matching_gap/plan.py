"""The runs of the chapter: four losses on one network under two policies, and sweeps of ε, batch and views.

ε, batch, projector, optimiser and symmetry of the original are unknown: every value is ours, the same for all losses
and chosen for none of them, save for the weights of VICReg.
"""

import itertools

from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import MatchingGap, SimCLR, VICReg
from sslbook.models import ResNet
from sslbook.optim import LARS, Adam
from sslbook.papers.paper import Planned
from sslbook.views import policy

EPSILON = 0.2
"""Ours. With the cost 1 − cos the contrastive losses have the same temperature."""

_GAP, _NT_XENT = MatchingGap(epsilon=EPSILON), SimCLR(loss="nt_xent", beta=1 / EPSILON)
_METHODS = {
    "matching gap": _GAP,
    "cross-view InfoNCE": SimCLR(loss="cross_view", beta=1 / EPSILON),
    "NT-Xent": _NT_XENT,
    "VICReg": VICReg(invariance=5.0, covariance=10.0),
}
# Invariance and covariance of VICReg; the variance weighs 25. With those of its paper, the first, its projections fell
# into 15 of 64 dimensions here. Those were taken that have the highest sum of linear-probe and 20-NN accuracy on
# validation images, over both policies, seed 0, among those whose projections end with an effective rank of at least
# half their width under both: the last.
GRID = ((25.0, 1.0), (25.0, 10.0), (25.0, 100.0), (5.0, 10.0))
LOSSES = tuple(_METHODS)
POLICIES = ("weak", "large")
"""Crop and flip alone, as in the abstract's result, and the large augmentations of Cosentino et al. (2022)."""

EPSILONS = (0.05, 0.1, 0.2, 0.5, 1.0)
BATCH_SIZES = {"smoke": (64,), "laptop": (64, 128, 512), "paper": (128, 256, 512, 1024)}
VIEWS = (2, 4)
"""Views of an image in a step, of batches of 32 images: with four the cost has 32⁴ entries."""

# At `laptop` none of the seeds of earlier runs, 1 to 3: the rules were fixed before these were trained.
_SEEDS = {"smoke": (1,), "laptop": (11, 12, 13), "paper": (1, 2, 3)}

_PROFILES = {
    "smoke": dict(
        data=Data("shapes", 128), encoder=ResNet(8, (1, 1)), widths=(16, 8), epochs=2, batch_size=64, snapshots=2
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
# LARS divides the gradient of each layer's weights by its norm, but not that of biases and of batch norm: for these the
# scale of a loss (ε, or VICReg's weights) is a learning rate.
_LARS = LARS(learning_rate=1.0, weight_decay=1e-6, momentum=0.9, warmup=0.1)


def _run(profile: str, seed: int, policy_name: str, loss: str, label: str | None = None, **changes) -> Planned:
    """A run with the labels of its kind, policy and loss; `changes` are to the method or to the configuration.

    The change that is called `label` becomes a label, too.
    """
    labels = {"policy": policy_name, "loss": loss} | ({label: changes[label]} if label else {})
    fields = {
        name: changes.pop(name) for name in ("epsilon", "beta", "views", "invariance", "covariance") if name in changes
    }
    settings = _PROFILES[profile] | changes
    method = _METHODS[loss].replace(widths=settings.pop("widths"), **fields)
    settings = {"optim": _LARS} | settings
    return Planned(Config(views=policy(policy_name), method=method, seed=seed, **settings), labels)


def main(profile: str) -> list[Planned]:
    """Four losses under two policies."""
    return [_run(profile, s, p, loss) for s, p, loss in itertools.product(_SEEDS[profile], POLICIES, LOSSES)]


def _at_each(profile: str, values: tuple[float, ...], **changes) -> list[Planned]:
    """The gap at each ε and cross-view InfoNCE at the same temperature, under crop and flip."""
    planned = []
    for seed, epsilon, loss in itertools.product(_SEEDS[profile], values, ("matching gap", "cross-view InfoNCE")):
        change = {"epsilon": epsilon} if loss == "matching gap" else {"beta": 1 / epsilon}
        run = _run(profile, seed, "weak", loss, **change, **changes)
        planned.append(run._replace(labels=run.labels | {"epsilon": epsilon}))
    return planned


def epsilons(profile: str) -> list[Planned]:
    """ε of the matching gap, and the same as the temperature of cross-view InfoNCE, under crop and flip."""
    return _at_each(profile, EPSILONS)


def batches(profile: str) -> list[Planned]:
    """The batch size of the matching gap and of NT-Xent, under crop and flip."""
    sizes = itertools.product(BATCH_SIZES[profile], ("matching gap", "NT-Xent"))
    return [_run(profile, _SEEDS[profile][0], "weak", loss, "batch_size", batch_size=n) for n, loss in sizes]


def views(profile: str) -> list[Planned]:
    """Two views of each image or four, of the matching gap, under crop and flip."""
    counts = itertools.product(_SEEDS[profile], VIEWS)
    return [_run(profile, seed, "weak", "matching gap", "views", views=k, batch_size=32) for seed, k in counts]


def grid(profile: str) -> list[Planned]:
    """The candidates for the weights of VICReg, on a seed that decides nothing else."""
    return [
        Planned(
            _run(profile, 0, name, "VICReg", invariance=invariance, covariance=covariance).config,
            {"policy": name, "candidate": f"{invariance:g}, 25, {covariance:g}"},
        )
        for invariance, covariance in GRID
        for name in POLICIES
    ]


def scale(profile: str) -> list[Planned]:
    """The gap and cross-view InfoNCE with Adam, whose steps do not depend on the scale of a loss, under crop and flip.

    The gap has a factor ε that InfoNCE has not, and LARS does not take it out of all parameters.
    """
    adam = Adam(learning_rate=2e-3, weight_decay=1e-4, warmup=0.1)  # ours, no other was tried
    return _at_each(profile, (0.05, EPSILON), optim=adam)


PLANS = {"main": main, "epsilon": epsilons, "batch": batches, "views": views, "grid": grid, "scale": scale}
SWEEP = ("epsilon", "batch", "views", "scale")
