"""A paper of nobody's, with all that one may bring: gray images, labels, noise, a moving average, a queue, a decoder.

Everything stands here and nothing in the library: `tests/test_toy_paper.py` goes with it from plan to page.
"""

import copy
import sys
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from sslbook import data, metrics
from sslbook.config import Config, Part
from sslbook.data import Data, ImageSet, Info, Names, shapes
from sslbook.ledger import Claim, Counterexample, FromDraws, FromRuns, Test, Untestable, value
from sslbook.methods import Method
from sslbook.optim import Adam
from sslbook.papers.observe import observe
from sslbook.papers.paper import Paper, Planned
from sslbook.views import PerView, policy

SETS = {"gray": Info((1, 16, 16), 12, 4, {"train": 96, "validation": 24, "test": 24})}


def load(name: str, split: str, root=None) -> ImageSet:
    """Shapes without colour, half as large."""
    whole = shapes.load("shapes", split).subset(range(SETS[name].sizes[split]))
    gray = whole.images.float().mean(1, keepdim=True)[:, :, ::2, ::2].to(torch.uint8)
    return ImageSet(gray, whole.fine, whole.coarse, Names(whole.names.fine, whole.names.coarse))


data.add(sys.modules[__name__])


@dataclass(frozen=True)
class Flat(Part, slot="encoder"):
    """A linear map of the pixels."""

    dim: int = 8

    def build(self, about, mean, std):
        channels, height, width = about.shape
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, self.dim))
        encoder.dim, encoder.pixels = self.dim, channels * height * width
        return encoder


@dataclass(frozen=True)
class Back(Part, slot="decoder"):
    """One hidden layer back to the pixels."""

    width: int = 16

    def build(self, dim, pixels):
        return nn.Sequential(nn.Linear(dim, self.width), nn.ReLU(), nn.Linear(self.width, pixels))


class Echoing(Method):
    """Rebuilds a view from noisy features, tells its class, and keeps away from a queue of a slow twin's features."""

    def __init__(self, encoder, decoder, classes):
        super().__init__()
        self.encoder, self.decoder, self.classifier = encoder, decoder, nn.Linear(encoder.dim, classes)
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(64, encoder.dim))

    def draw(self, n, generator, device):
        return (torch.randn(n, self.encoder.dim, generator=generator, device=device),)

    def loss(self, batch):
        first, second = batch.views
        (noise,) = batch.noise
        h = self.encoder(first)
        rebuilt = (self.decoder(h + 0.1 * noise) - first.flatten(1)).square().mean(1)
        told = F.cross_entropy(self.classifier(h), batch.labels, reduction="none")
        crowded = torch.logsumexp(h @ self.queue.clone().T / 10, dim=1)  # the queue moves on before the backward pass
        with torch.no_grad():
            fresh = self.gather(self.target(second))
            self.queue.copy_(torch.cat([fresh, self.queue])[: len(self.queue)])
        terms = {"reconstruction": rebuilt, "label": told, "crowding": batch.progress * crowded}
        means = {name: self.gather(term).mean() for name, term in terms.items()}
        return sum(means.values()), means

    def encode(self, images):
        return self.encoder(images)

    @torch.no_grad()
    def after_step(self, progress):
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 0.1)


@dataclass(frozen=True)
class Echo(Part, slot="method"):
    """`Echoing` with its decoder."""

    decoder: Part = Back()

    def build(self, encoder, about):
        return Echoing(encoder, self.decoder.build(encoder.dim, encoder.pixels), about.classes)


def _main(profile):
    views = {"alike": policy("small"), "unlike": PerView((policy("small"), policy("weak")))}
    return [
        Planned(
            Config(
                data=Data("gray"),
                views=view,
                encoder=Flat(),
                method=Echo(Back(24)),
                optim=Adam(learning_rate=1e-2, schedule="constant"),
                epochs=4,
                batch_size=32,
                seed=seed,
                snapshots=2,
                early=(1,),
            ),
            {"views": name},
        )
        for seed in (1, 2, 3)
        for name, view in views.items()
    ]


def _measure(run, device):
    train, test = (data.load("gray", split) for split in ("train", "test"))
    for _, _, h in observe(run, {"bank": train.images, "queries": test.images}, device):
        yield {
            "spectrum": metrics.singular_values(h["bank"]),
            "knn": metrics.knn_accuracy(h["bank"], train.fine, h["queries"], test.fine, k=5),
        }


def _row(config, arrays):
    return {"knn": float(arrays["knn"]), "rank": metrics.effective_rank(arrays["spectrum"])}


def _gain(frame):
    return value(frame, "rank", views="alike") - value(frame, "rank", "start", views="alike")


def _draws():
    means = [torch.rand(8, generator=torch.Generator().manual_seed(seed)).mean().item() for seed in range(5)]
    return pd.Series(means)


PAPER = Paper(
    name="toy",
    title="A toy",
    plans={"main": _main},
    measure=_measure,
    row=_row,
    version=1,
    colours={"alike": "#123456"},
    claims=(
        Claim("page", "toy-rank", "Here", "Rank changes.", FromRuns((Test("change of rank", _gain, -100.0),))),
        Claim("page", "toy-draws", "Here", "Means of uniform draws exceed 0.", FromDraws((Test("mean", _draws),))),
        Claim("page", "toy-false", "Here", "One is zero.", Counterexample(lambda: 1.0)),
        Claim("page", "toy-open", "Here", "It pays.", Untestable("Nobody pays.")),
    ),
)
