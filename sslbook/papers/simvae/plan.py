"""The runs of the chapter: SimVAE, other VAEs and discriminative methods on the same views and the same encoder.

What the released code states: Adam with learning rate 8e-5 and eps 1e-4 for 400 epochs, 128 views a step, J = 2,
σ² = 0.15, σ_x² = 0.01, 10 latent dimensions for gray images and 64 for colour, the networks of `models.gaussian`. All
else is ours, and said so below.
"""

import math

from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import CRVAE, VAE, BetaVAE, SimCLR, SimVAE, VICReg
from sslbook.models import MLP, ConvDecoder, GaussianResNet, MLPDecoder
from sslbook.optim import Adam
from sslbook.papers.paper import Planned
from sslbook.views import Policy

# The usual views are ours: the released crops, a flip that mirrors left and right (none for digits), and for colour the
# jitter of SimCLR with its probabilities. The released ones mirror top and bottom and jitter always.
_GRAY = Policy(crop=(0.4, 1), flip=0, jitter=(0, 0, 0, 0), grayscale=0, ratio=(0.75, 1.3))
_COLOUR = Policy(crop=(0.6, 1), flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), ratio=(0.75, 1.3))
VIEWS = {"mnist": _GRAY, "fashion_mnist": _GRAY.replace(flip=0.5), "cifar10": _COLOUR, "shapes": _COLOUR}
RELEASED_VIEWS = {
    "mnist": _GRAY.replace(vertical=0.5),
    "fashion_mnist": _GRAY.replace(vertical=0.5),
    "cifar10": _COLOUR.replace(flip=0, vertical=0.5, jitter_probability=1.0, grayscale=0),
}

GENERATIVE = ("SimVAE", "VAE", "β-VAE", "CR-VAE")
DISCRIMINATIVE = ("SimCLR", "VICReg")
METHODS = (*GENERATIVE, *DISCRIMINATIVE)
COLOURS = dict(zip(METHODS, ("#d55e00", "#0072b2", "#8a7a00", "#b2619b", "#008f68", "#767676"), strict=True))
SETS = ("fashion_mnist", "mnist", "shapes", "cifar10")

_VARIATIONAL = {"SimVAE": SimVAE, "VAE": VAE, "β-VAE": BetaVAE, "CR-VAE": CRVAE}
# By profile and set: images, encoder, decoder. At `laptop` they are ours: a tenth to a sixth of the images, and for
# CIFAR-10 the released networks at an eighth to a quarter of their width.
_LAPTOP_NETS = {
    "gray": (MLP(dim=10), MLPDecoder()),
    "colour": (GaussianResNet(dim=64, stem=16, widths=(8, 16, 32)), ConvDecoder(start=64, widths=(32, 16, 8))),
}
_PAPER_NETS = {"gray": (MLP(dim=10), MLPDecoder()), "colour": (GaussianResNet(), ConvDecoder())}
_IMAGES = {"fashion_mnist": 10_000, "mnist": 10_000, "cifar10": 10_000, "shapes": None}
_VIEWED = 128
"""Views in a step, as released: 64 images for J = 2."""

# Chosen by the sum of linear-probe and 20-NN accuracy on validation images of Fashion-MNIST, seed 0, from three
# candidates for each method: those of `grid`.
_CHOSEN = {
    "SimVAE": {},
    "VAE": {},
    "β-VAE": {"pace": 0.5},
    "CR-VAE": {"pace": 0.5},
    "SimCLR": {"beta": 5.0},
    "VICReg": {"widths": (512, 512)},
}
GRID = {
    **dict.fromkeys(("SimVAE", "VAE", "β-VAE", "CR-VAE"), ({"pace": 0.5}, {"pace": 1.0}, {"pace": 2.0})),
    "SimCLR": ({"beta": 2.0}, {"beta": 5.0}, {"beta": 5.0, "widths": ()}),
    "VICReg": ({}, {"widths": (512, 512)}, {"widths": ()}),
}
_RATES = {"smoke": 1e-3, "laptop": 1e-3, "paper": 8e-5}
_HEAD = (128, 64)

_SEEDS = {
    "smoke": dict.fromkeys(SETS, (1, 2)),
    "laptop": dict.fromkeys(SETS, (1, 2, 3, 4, 5)),
    "paper": dict.fromkeys(SETS, (1, 2, 3)),
}


def _run(profile: str, name: str, seed: int, method: str, *, policy: Policy | None = None, **changes) -> Config:
    """`changes` are to the method, but for `pace`, a factor of the learning rate."""
    rate = _RATES[profile] * changes.pop("pace", 1.0)
    kind = "colour" if name in ("cifar10", "shapes") else "gray"
    encoder, decoder = (_PAPER_NETS if profile == "paper" else _LAPTOP_NETS)[kind]
    settings = dict(
        data=Data(name, _IMAGES[name]), epochs=10 if name != "shapes" else 15, optim=Adam(learning_rate=rate)
    )
    if profile == "smoke":
        encoder, decoder = MLP(dim=4, widths=(32,)), MLPDecoder(widths=(32,))
        settings = dict(data=Data("shapes", 128), epochs=2, optim=Adam(learning_rate=rate))
    if profile == "paper":
        settings = dict(data=Data(name), epochs=400, optim=Adam(learning_rate=rate, eps=1e-4, schedule="constant"))
    if method in _VARIATIONAL:
        part = _VARIATIONAL[method](decoder=decoder, **changes)
    elif method == "SimCLR":
        part = SimCLR(**({"loss": "nt_xent", "widths": _HEAD} | changes))
    else:
        part = VICReg(**({"widths": _HEAD} | changes))
    viewed = getattr(part, "views", 2)
    # With more views of fewer images the passes are as much fewer: the number of steps is about the same.
    settings["epochs"] = max(1, round(settings["epochs"] * 2 / viewed))
    return Config(
        views=policy or VIEWS[name],
        encoder=encoder,
        method=part,
        batch_size=_VIEWED // viewed,
        seed=seed,
        snapshots=1,
        **settings,
    )


def main(profile: str) -> list[Planned]:
    """All methods on all sets, a seed of all before the next, the sets in the order of `SETS`."""
    return [
        Planned(_run(profile, name, seed, method, **_CHOSEN[method]), {"method": method, "set": name})
        for name in (("shapes",) if profile == "smoke" else SETS)
        for seed in _SEEDS[profile][name]
        for method in METHODS
    ]


def grid(profile: str) -> list[Planned]:
    """The candidates among which each method's settings are chosen on the validation images of Fashion-MNIST: three for
    each method, on a seed that decides nothing else."""
    return [
        Planned(
            _run(profile, "shapes" if profile == "smoke" else "fashion_mnist", 0, method, **candidate),
            {"method": method, "candidate": ", ".join(f"{k}={v}" for k, v in candidate.items()) or "default"},
        )
        for method in METHODS
        for candidate in GRID[method]
    ]


KNOBS = {
    "main": {},
    "σ_x² = 1": {"sigma_x2": 1.0},
    "σ_x² = 0.1": {"sigma_x2": 0.1},
    "J = 6": {"views": 6},
    "uniform prior": {"prior": "uniform"},
    "w = 2π": {"entropy_weight": 2 * math.pi},
    "vertical flip": {},
    "as released": {"likelihood": "scaled_bernoulli", "entropy_weight": 2 * math.pi},
}
"""One thing at a time from the main cell of SimVAE, and the released cell, which changes three: flip, likelihood, w."""


def knobs(profile: str) -> list[Planned]:
    """What moves SimVAE, on Fashion-MNIST."""
    name = "shapes" if profile == "smoke" else "fashion_mnist"
    released = RELEASED_VIEWS["fashion_mnist"]
    return [
        Planned(
            _run(
                profile,
                name,
                seed,
                "SimVAE",
                policy=released if knob in ("vertical flip", "as released") else None,
                **(_CHOSEN["SimVAE"] | changes),
            ),
            {"knob": knob},
        )
        for seed in ((1,) if profile == "smoke" else (1, 2, 3))
        for knob, changes in KNOBS.items()
    ]


def likelihood(profile: str) -> list[Planned]:
    """A VAE on binary digits, of the size whose likelihood pythae's table of reproductions has: one hidden layer of 400
    units, 40 latent dimensions, no augmentation (github.com/clementchadebec/benchmark_VAE, examples/scripts). The
    schedule is ours."""
    data, epochs = (Data("shapes", 256), 2) if profile == "smoke" else (Data("binarised_mnist"), 20)
    return [
        Planned(
            Config(
                data=data,
                views=Policy(crop=(1, 1), ratio=(1, 1), flip=0, jitter=(0, 0, 0, 0), grayscale=0),
                encoder=MLP(dim=40, widths=(400,)),
                method=VAE(decoder=MLPDecoder(widths=(400,)), views=1, likelihood="bernoulli", binarised=True),
                optim=Adam(learning_rate=1e-3),
                epochs=500 if profile == "paper" else epochs,
                batch_size=100,
                seed=1,
                snapshots=1,
            ),
            {"model": "VAE on binary digits"},
        )
    ]


PLANS = {"main": main, "grid": grid, "knobs": knobs, "likelihood": likelihood}
SWEEP = ("knobs",)
