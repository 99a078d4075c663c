"""The runs of the chapter: SimCLR with a linear projector under three strengths of augmentation, and variations of it.

What the paper states: CIFAR-100, ResNet-18, a linear projector 512→128, LARS with learning rate 4.0, weight decay 1e-6
and momentum 0.9, β = 2, Table 2. Where it is silent the choice is ours, and said so below.
"""

from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import SimCLR
from sslbook.models import ResNet
from sslbook.optim import LARS, SGD, Adam
from sslbook.papers.paper import Planned
from sslbook.views import policy

STRENGTHS = ("small", "moderate", "large")
COLOURS = {"small": "#0072b2", "moderate": "#008f68", "large": "#d55e00"}
"""The same on every page. All have a contrast of at least 3 to 1 with the light and with the dark page, and differ
under the common kinds of colour blindness."""

DASHES = {"small": (1, 1.2), "moderate": (5, 1.5), "large": ""}
"""The dashes that go with `COLOURS`, for print without colour."""

# Ours: Eq. 1 symmetrised ("in practice, this loss is often symmetrized"), a linear warm-up over a tenth of the steps,
# then cosine decay. Seed 0 is the pilot's; claims are decided on the others.
_LARS = LARS(learning_rate=4.0, weight_decay=1e-6, momentum=0.9, warmup=0.1)
_PROFILES = {
    "smoke": (8, dict(data=Data("shapes", 128), encoder=ResNet(8, (1, 1)), epochs=2, batch_size=64, snapshots=2)),
    # Ours: a quarter of the width and a fifth of the images, so that a run takes half an hour of one core; long enough
    # to collapse; the batch of Fig. 3; the ratio 4 : 1 of encoder to projector dimensions is the paper's.
    "laptop": (
        32,
        dict(
            data=Data("cifar100", 10_000),
            encoder=ResNet(16, (1, 1, 1, 1)),
            epochs=64,
            batch_size=128,
            snapshots=16,
            early=(1, 2, 3, 6),
        ),
    ),
    # Ours: 500 epochs (the only number in the paper, Fig. 6), batch 1024, and a tenth of train held out as validation.
    "paper": (128, dict(data=Data("cifar100"), encoder=ResNet(), epochs=500, batch_size=1024, snapshots=20)),
}
"""By profile: the projector's width, and the rest of a configuration."""

# At `laptop` seeds 1 to 4 and 17 are left out: their long runs were seen before the rules were written. Seeds 11 to 15
# were named beforehand.
_SEEDS = {"smoke": (1, 2), "laptop": (11, 12, 13, 14, 15), "paper": (1, 2, 3, 4, 5)}
# Ours: hidden widths in units of the projector's output, before its last layer; large augmentations.
_HIDDEN = ((), (1,), (16,), (4, 4))


def _run(profile: str, seed: int, views, *, hidden: tuple[int, ...] = (), **changes) -> Config:
    width, settings = _PROFILES[profile]
    method = SimCLR(widths=(*(h * width for h in hidden), width), loss=changes.pop("loss", "info_nce"))
    return Config(views=views, method=method, seed=seed, **(settings | {"optim": _LARS} | changes))


def _words(profile: str, hidden: tuple[int, ...]) -> str:
    """The hidden widths of a projector, "linear" if it has none."""
    return "–".join(str(h * _PROFILES[profile][0]) for h in hidden) or "linear"


def _by_strength(profile: str, seeds, strengths=STRENGTHS, **changes) -> list[Planned]:
    """Runs of each strength, a seed of all before the next seed."""
    return [Planned(_run(profile, seed, policy(s), **changes), {"strength": s}) for seed in seeds for s in strengths]


def main(profile: str) -> list[Planned]:
    """The runs that decide the claims."""
    return _by_strength(profile, _SEEDS[profile])


def projectors(profile: str) -> list[Planned]:
    """Depth and width of the projector under large augmentations; the linear ones are main runs.

    The page beyond the paper names the differences that are *visible*, as it defines the word; the yardstick is the
    variance of the main runs over seeds.
    """
    return [
        Planned(
            _run(profile, seed, policy("large"), hidden=hidden),
            {"strength": "large", "hidden": _words(profile, hidden)},
        )
        for seed in _SEEDS[profile][:2]
        for hidden in _HIDDEN
    ]


def knobs(profile: str) -> list[Planned]:
    """Small augmentations with the crop, or the jitter, of large ones. Does accuracy need the collapse?

    A knob *brings accuracy* if with it half of the 20-NN accuracy is gained that large augmentations gain over small
    ones, and it *costs rank* if the projector loses more than a tenth of it by each definition of `fig1-collapse`; both
    in every run, against the main runs of its seed.
    """
    small, large = policy("small"), policy("large")
    turned = {"crop": small.replace(crop=large.crop), "jitter": small.replace(jitter=large.jitter)}
    return [
        Planned(_run(profile, seed, views), {"knob": name})
        for seed in _SEEDS[profile][:2]
        for name, views in turned.items()
    ]


def losses(profile: str) -> list[Planned]:
    """NT-Xent in the place of Eq. 1, under large augmentations.

    The page beyond the paper names the differences to the main runs that are *visible*, as it defines the word.
    """
    swapped = _by_strength(profile, _SEEDS[profile][:2], ("large",), loss="nt_xent")
    return [planned._replace(labels=planned.labels | {"contrast": "NT-Xent"}) for planned in swapped]


def tangents(profile: str) -> list[Planned]:
    """Runs of the two extremes on `shapes`, whose factors are known, so that tangents can be computed."""
    changes = {
        "smoke": {},
        "laptop": dict(data=Data("shapes", 2048), snapshots=4, early=()),
        "paper": dict(data=Data("shapes"), batch_size=128),
    }
    return _by_strength(profile, _SEEDS[profile][:3], ("small", "large"), **changes[profile])


def optimisers(profile: str) -> list[Planned]:
    """The main runs with large augmentations, with SGD and AdamW in the place of LARS: does the collapse need LARS?

    It does not if the projector loses more than a tenth of its rank with both, by each definition of `fig1-collapse`.
    """
    # Ours: the usual rates, no other was tried; weight decay and warm-up are those of LARS.
    kinds = {
        "SGD": SGD(learning_rate=0.05, weight_decay=1e-6, warmup=0.1),
        "AdamW": Adam(learning_rate=1e-3, weight_decay=1e-6, warmup=0.1),
    }
    return [
        Planned(_run(profile, seed, policy("large"), optim=optim), {"optimiser": name})
        for seed in _SEEDS[profile][:2]
        for name, optim in kinds.items()
    ]


PLANS = {"main": main, **{f"fig{i}": main for i in range(1, 10)}, "fig8": projectors}
PLANS |= {"knobs": knobs, "losses": losses, "tangents": tangents, "optimisers": optimisers}
"""All but the last four and `fig8` are drawn from the main runs alone."""

SWEEP = ("fig8", "knobs", "losses", "tangents", "optimisers")
