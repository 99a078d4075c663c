"""What the training loop knows of a method."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """What a step gets, as tensors.

    `views` (k, N, C, H, W) in [0, 1]; `labels` (N,); `noise`, as `Method.draw` made it; `progress` () in (0, 1], the
    share of training done after this step.
    """

    views: Tensor
    labels: Tensor
    noise: tuple[Tensor, ...]
    progress: Tensor


class Method(nn.Module):
    """Base of all methods: modules, a loss of a batch, and features. All state is in `state_dict`.

    Where several processes share a batch, `loss` gets the images of one of them; what it compares or averages over the
    batch must have passed through `gather`, and is then the same in all.
    """

    views = 2
    """Views of each image in a batch."""

    def draw(self, n: int, generator: torch.Generator, device: str) -> tuple[Tensor, ...]:
        """All chance that the loss of `n` images needs beside their views: tensors (n, …) on `device`.

        They come from `generator` alone, so that a run that was stopped goes on to the same bits.
        """
        return ()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and scalars to log by name."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")

    def encode(self, images: Tensor) -> Tensor:
        """Features `h (N, D)` of `images (N, C, H, W)` in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} defines no features.")

    def gather(self, z: Tensor) -> Tensor:
        """The rows of the whole batch, of which `z` are those of this process; alone, they are `z`."""
        return z

    def after_step(self, progress: float) -> None:
        """Update what is not learnt by gradient, when the share `progress` of training, in (0, 1], is done."""
