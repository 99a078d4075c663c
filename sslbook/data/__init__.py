"""Image sets with fine and coarse labels and, where they are known, factors of style.

A module of sets has `SETS`, their `Info` by name, and `load(name, split, root)`; `add` makes them known. It may have
`info(name, root)`, where the sizes depend on what lies there, and `download(name, root)`.
"""

from dataclasses import dataclass

from sslbook.config import Part, require
from sslbook.data import binarised, celeba, official, shapes, transfer
from sslbook.data.imageset import SPLITS, ImageSet, Info, Names, balanced_order, channel_statistics
from sslbook.data.official import folder
from sslbook.data.transfer import as_colour

__all__ = [
    "SETS",
    "SPLITS",
    "Data",
    "ImageSet",
    "Info",
    "Names",
    "add",
    "as_colour",
    "balanced_order",
    "channel_statistics",
    "download",
    "folder",
    "info",
    "load",
    "load_train",
]

_MODULES: list = []
SETS: list[str] = []


def add(module) -> None:
    """Make the sets of a module known, such as those of a paper of your own."""
    _MODULES.append(module)
    SETS.extend(module.SETS)


add(official)
add(shapes)
add(binarised)
add(celeba)
add(transfer)


def _source(name: str):
    require(name in SETS, f"The data set {name!r} is unknown; allowed are {', '.join(SETS)}.")
    return next(module for module in _MODULES if name in module.SETS)


def info(name: str, root=None) -> Info:
    """Shape (C, H, W), numbers of classes and sizes of the splits of a set, without reading it.

    The sizes are those of the whole set, or, of a set of `sslbook.data.transfer` that lies in folders of classes below
    `root` (default: see `folder`), the numbers of pictures there. Raises `ValueError` for an unknown name.
    """
    module = _source(name)
    return module.info(name, root) if hasattr(module, "info") else module.SETS[name]


def load(name: str, split: str, root=None) -> ImageSet:
    """One split of an image set, "train", "validation" or "test", from `root` (default: see `folder`).

    Raises `ValueError` for an unknown name or split, and for a missing, truncated or altered file.
    """
    module = _source(name)
    require(split in SPLITS, f"The split {split!r} is unknown; allowed are {', '.join(SPLITS)}.")
    return module.load(name, split, root)


def download(name: str, root=None) -> bool:
    """Fetch a set below `root` and verify it; False if nothing was missing. See `official.download`."""
    module = _source(name)
    return hasattr(module, "download") and module.download(name, root)


@dataclass(frozen=True)
class Data(Part, slot="data"):
    """The images a run trains on: the set's `train` split, or a fixed class-balanced part of it of size `images`."""

    name: str = "cifar100"
    images: int | None = None

    def validate(self):
        size = _source(self.name).SETS[self.name].sizes["train"]  # a configuration is good or bad on every machine
        require(
            self.images is None or 1 <= self.images <= size,
            f"Data.images is {self.images}; {self.name} has 1 … {size} images to train on.",
        )


def load_train(data: Data) -> ImageSet:
    """The images `data` asks for. A smaller number gives a prefix of a larger one; run seeds play no part.

    Raises `ValueError` as `load` does, and where a part of a set lies in `folder` that has fewer images.
    """
    train = load(data.name, "train")
    require(
        data.images is None or data.images <= len(train),
        f"Data.images is {data.images}; the part of {data.name} in {folder()} has 1 … {len(train)} images to train on.",
    )
    return train if data.images is None else train.balanced(data.images, seed=1)
