"""The runs of the chapter: four losses on one network under two policies, and sweeps of ε and of the batch.

ε, batch, projector, optimiser and symmetry of the original are unknown: every value is ours, the same for all losses
and chosen for none of them.
"""

import itertools

from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import MatchingGap, SimCLR, VICReg
from sslbook.models import ResNet
from sslbook.optim import LARS
from sslbook.papers.paper import Planned
from sslbook.views import policy

EPSILON = 0.2
"""Ours. With the cost 1 − cos the contrastive losses have the same temperature."""

_GAP, _NT_XENT = MatchingGap(epsilon=EPSILON), SimCLR(loss="nt_xent", beta=1 / EPSILON)
_METHODS = {
    "matching gap": _GAP,
    "cross-view InfoNCE": SimCLR(loss="cross_view", beta=1 / EPSILON),
    "NT-Xent": _NT_XENT,
    "VICReg": VICReg(),
}
LOSSES = tuple(_METHODS)
POLICIES = ("weak", "large")
"""Crop and flip alone, as in the abstract's result, and the large augmentations of Cosentino et al. (2022)."""

EPSILONS = (0.05, 0.1, 0.2, 0.5, 1.0)
BATCH_SIZES = {"smoke": (64,), "laptop": (64, 128, 256, 512), "paper": (128, 256, 512, 1024)}

_PROFILES = {
    "smoke": dict(
        data=Data("shapes", 256), encoder=ResNet(8, (1, 1)), widths=(16, 8), epochs=2, batch_size=64, snapshots=2
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
_LARS = LARS(learning_rate=1.0, weight_decay=1e-6, momentum=0.9, warmup=0.1)


def _run(profile: str, seed: int, policy_name: str, loss: str, **changes) -> Planned:
    """A run with the labels of its kind; `changes` are to the method (`epsilon`) or to the configuration."""
    settings = _PROFILES[profile] | changes
    method = _METHODS[loss].replace(widths=settings.pop("widths"))
    labels = {"policy": policy_name, "loss": loss}
    if "epsilon" in changes:
        labels["epsilon"] = settings.pop("epsilon")
        method = method.replace(epsilon=labels["epsilon"])
    if "batch_size" in changes:
        labels["batch_size"] = changes["batch_size"]
    return Planned(Config(views=policy(policy_name), method=method, optim=_LARS, seed=seed, **settings), labels)


def main(profile: str) -> list[Planned]:
    """Four losses under two policies."""
    return [
        _run(profile, s, p, loss)
        for s, p, loss in itertools.product((1, 2) if profile == "smoke" else (1, 2, 3), POLICIES, LOSSES)
    ]


def epsilons(profile: str) -> list[Planned]:
    """ε of the matching gap, under crop and flip."""
    return [_run(profile, 1, "weak", "matching gap", epsilon=epsilon) for epsilon in EPSILONS]


def batches(profile: str) -> list[Planned]:
    """The batch size of the matching gap and of NT-Xent, under crop and flip."""
    sizes = itertools.product(BATCH_SIZES[profile], ("matching gap", "NT-Xent"))
    return [_run(profile, 1, "weak", loss, batch_size=n) for n, loss in sizes]


PLANS = {"main": main, "epsilon": epsilons, "batch": batches}
SWEEP = ("epsilon", "batch")
