"""What every image set is: images, labels of two levels, known factors of style; and orders and statistics of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslbook.config import require_number

SPLITS = ("train", "validation", "test")


class Info(NamedTuple):
    """What is known of a set without reading it: `shape` (C, H, W), numbers of classes, images in each split."""

    shape: tuple[int, int, int]
    classes: int
    coarse: int
    sizes: dict[str, int]


class Names(NamedTuple):
    """Names of the classes: `fine[i]` belongs to label i of `ImageSet.fine`, `coarse[i]` to label i of `.coarse`."""

    fine: tuple[str, ...]
    coarse: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (N, C, H, W) uint8, labels `fine` and `coarse` (N,) int64, known style `factors` {name: (N,) float32}.

    `coarse` equals `fine` where a set has one level of classes; `factors` is empty where none are known.
    """

    images: Tensor
    fine: Tensor
    coarse: Tensor
    names: Names
    factors: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "ImageSet":
        factors = {name: function(values) for name, values in self.factors.items()}
        images, fine, coarse = map(function, (self.images, self.fine, self.coarse))
        return replace(self, images=images, fine=fine, coarse=coarse, factors=factors)

    def to(self, device) -> "ImageSet":
        """The same set on another device."""
        return self._map(lambda values: values.to(device))

    def subset(self, indices) -> "ImageSet":
        """A copy of the images at `indices` (integers in any order, or a mask of N booleans)."""
        indices = torch.as_tensor(indices, device=self.images.device)
        if indices.numel() == 0:
            indices = indices.long()  # an empty list has no type
        return self._map(lambda values: values[indices])

    def balanced(self, n: int | None, seed: int) -> "ImageSet":
        """The first n ≥ 0 images of `balanced_order`, or all if there are fewer; None for all."""
        require_number("n", 0 if n is None else n, least=0, whole=True)
        return self.subset(balanced_order(self.fine, seed)[:n])


def balanced_order(labels: Tensor, seed: int) -> Tensor:
    """A fixed random order (N,) int64 of which every prefix holds the classes in their overall proportions.

    The r-th image (r = 0, 1, …) of a class of n, in random order, is placed by (r + 1/2) / n, so that a prefix of
    length m holds m·n/N images of the class, to within (1 + K·n/N) / 2 for K classes.
    """
    labels = labels.cpu().numpy()
    random = np.random.RandomState(seed).permutation(len(labels))  # of all NumPy streams only this one is frozen
    shuffled = labels[random]
    counts = np.bincount(shuffled)
    by_class = np.argsort(shuffled, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - (counts.cumsum() - counts)[shuffled[by_class]]
    return torch.from_numpy(random[np.argsort((rank + 0.5) / counts[shuffled], kind="stable")])


def split_training(labels: Tensor, split: str) -> Tensor:
    """Ascending indices: of a fixed balanced tenth of the training images for "validation", of the rest for "train"."""
    order = balanced_order(labels, seed=0)
    tenth = len(order) // 10
    return (order[:tenth] if split == "validation" else order[tenth:]).sort().values


def pillow():
    """The module that reads and resizes pictures, loaded when first needed. Raises `ValueError` where it is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "Pictures are read with Pillow, which is missing: `pip install pillow` installs it."
        ) from error
    return Image


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation (C,) of uint8 images (N, C, H, W), in units where 255 is 1; exact sums."""
    counts = torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.transpose(0, 1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, device=images.device) / 255.0
    mean = (share * values).sum(1)
    deviation = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), deviation.float()
