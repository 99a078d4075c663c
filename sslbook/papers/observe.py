"""What the encoders of a run make of images, epoch by kept epoch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from sslbook import data, hardware
from sslbook.config import Config, require
from sslbook.data import ImageSet
from sslbook.methods import Method
from sslbook.runs import Run

BATCH = 128
"""Images in a measured sub-batch: the batch of Fig. 3 of Cosentino et al. (2022)."""

_PAIRS = 2048


class Observation(NamedTuple):
    """After one kept epoch: the method in evaluation mode on the CPU, and features (N, D) by the name of the images."""

    epoch: int
    method: Method
    features: dict[str, Tensor]


Layer = Callable[[Method, Tensor], Tensor]
"""From a method and images in [0, 1] to features (N, D) of them."""


def observe(
    run: Run,
    images: dict[str, Tensor],
    device: str | None = None,
    layer: Layer | None = None,
    precision: str | None = None,
    calibrated: bool = True,
) -> Iterator[Observation]:
    """The features of named `images`, of any image set, each (N, C, H, W), uint8 or float in [0, 1].

    Yields an observation for each kept epoch. At epoch 0 the running mean and variance of batch norm are computed on
    the training images (see `calibrate`); if not `calibrated`, they stay 0 and 1. `device` as in `runs.ensure`, `layer`
    as in `encode`. `precision`: one of `hardware.PRECISIONS`; None: that of the run.
    """
    hardware.keep_memory()
    precision = precision or run.provenance["precision"]
    for epoch in run.snapshots:
        method = run.method(epoch)
        with hardware.claim_device(device) as chosen:
            method.to(chosen, memory_format=torch.channels_last)
            if epoch == 0 and calibrated:
                calibrate(method, data.load_train(run.config.data).images, chosen, precision)
            features = {name: encode(method, tensor, chosen, layer, precision) for name, tensor in images.items()}
        yield Observation(epoch, method.cpu(), features)


def calibrate(method: Method, images: Tensor, device: str = "cpu", precision: str | None = None) -> None:
    """Give batch norm the mean and variance of batches of `images`, averaged, as its statistics, in place.

    In the encoder and, where there is one, in the projector. A last batch of one image has no variance and is left out.
    `precision` as in `encode`.
    """
    parts = (getattr(method, name) for name in ("encoder", "projector") if hasattr(method, name))
    network = torch.nn.Sequential(*parts).eval()
    with hardware.autocast(device, precision):
        update_bn((batch for batch in _batches(images, device) if len(batch) > 1), network)


@torch.no_grad()
def encode(
    method: Method, images: Tensor, device: str = "cpu", layer: Layer | None = None, precision: str | None = None
) -> Tensor:
    """The features (N, D) in float32 of `images`, uint8 or float in [0, 1]: those of the method, or of another `layer`.

    Forward passes are in `precision`, one of `hardware.PRECISIONS`; None: the device's own.
    """
    layer = layer or type(method).encode
    with hardware.autocast(device, precision):
        return torch.cat([layer(method, batch).float().cpu() for batch in _batches(images, device)])


def _batches(images: Tensor, device: str) -> Iterator[Tensor]:
    batches = (batch.to(device) for batch in images.split(BATCH))
    return (batch.float() / 255 if batch.dtype == torch.uint8 else batch for batch in batches)


def held_out(config: Config) -> ImageSet:
    """The test images that a run is measured on: balanced, a fifth of the training images where it trains on a part."""
    test = data.load(config.data.name, "test")
    if config.data.images is None:
        return test
    return test.balanced(config.data.images // 5, seed=3)


def pairs(config: Config, train: ImageSet) -> tuple[ImageSet, Tensor, Tensor]:
    """A fixed balanced 2048 of the training images, a multiple of `BATCH`, and two views of each by the run's policy.

    The draws are the same at every epoch and for every run. Raises `ValueError` for fewer than `BATCH` images.
    """
    require(len(train) >= BATCH, f"There are {len(train)} training images; at least {BATCH} are needed for pairs.")
    order = data.balanced_order(train.fine, seed=2)[: min(_PAIRS, len(train) // BATCH * BATCH)]
    # Balanced as a whole, in random order: a balanced order would keep images of a class apart in every sub-batch.
    chosen = train.subset(order[np.random.RandomState(3).permutation(len(order))])
    generator = torch.Generator().manual_seed(0)
    policies = getattr(config.views, "views", (config.views, config.views))
    first, second = (policy(chosen.images, generator) for policy in policies[:2])
    return chosen, first, second
