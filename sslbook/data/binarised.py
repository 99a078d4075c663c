"""MNIST with black and white pixels alone: each is white with the probability that its grey value is."""

import dataclasses

import torch

from sslbook.data import official
from sslbook.data.imageset import SPLITS, ImageSet

SETS = {"binarised_mnist": official.SETS["mnist"]}


def load(name: str, split: str, root=None) -> ImageSet:
    """A split of MNIST, drawn once: a pixel of grey value g in [0, 1] becomes 1 with probability g.

    The draws are ours; the fixed file of Salakhutdinov and Murray 2008 has other draws from the same distribution.
    """
    grey = official.load("mnist", split, root)
    generator = torch.Generator().manual_seed(SPLITS.index(split))
    white = torch.rand(grey.images.shape, generator=generator) < grey.images / 255
    return dataclasses.replace(grey, images=white.to(torch.uint8) * 255)


def download(name: str, root=None) -> bool:
    """As that of MNIST."""
    return official.download("mnist", root)
