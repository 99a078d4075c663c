"""Image sets with fine and coarse labels: CIFAR-100, CIFAR-10, Fashion-MNIST, MNIST, and the procedural `shapes`.

Official sets are read from the folders that torchvision uses, below `SSLBOOK_DATA` (default: `data/` in the
checkout). Nothing here downloads on its own: `make data DATASET=cifar100`, or `python -m sslbook.data cifar100`,
is a step of its own.
"""

import argparse
import gzip
import hashlib
import io
import math
import os
import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslbook.config import Part, require

SPLITS = ("train", "validation", "test")


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
        return self._map(lambda values: values[indices])


class _Official(NamedTuple):
    """Where an official set comes from. MD5 sums are those its publishers and torchvision state."""

    train: int  # images left for `train` when `validation` has been set apart
    address: str
    archives: dict[str, str]  # path below the root: MD5
    files: dict[str, dict[str, str]]  # part: {path below the root: MD5}


def _idx(folder: str, sums: dict[str, tuple[str, str]]) -> tuple[dict, dict]:
    """Archives and files of a set in four packed IDX files, from {file: (MD5 packed, MD5 unpacked)}."""
    parts = {"train": "train", "t10k": "test"}
    files: dict = {"train": {}, "test": {}}
    for name, (_, md5) in sums.items():
        files[parts[name.split("-")[0]]][f"{folder}/{name}-ubyte"] = md5
    return {f"{folder}/{name}-ubyte.gz": md5 for name, (md5, _) in sums.items()}, files


_OFFICIAL = {
    "cifar100": _Official(
        45_000,
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        {
            "train": {"cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            "names": {"cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48"},
        },
    ),
    "cifar10": _Official(
        45_000,
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        {
            "train": {
                "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
                "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
                "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            "test": {"cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e"},
            "names": {"cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        },
    ),
    "fashion_mnist": _Official(
        54_000,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        *_idx(
            "FashionMNIST/raw",
            {
                "train-images-idx3": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
                "train-labels-idx1": ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
                "t10k-images-idx3": ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
                "t10k-labels-idx1": ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
            },
        ),
    ),
    "mnist": _Official(
        54_000,
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        *_idx(
            "MNIST/raw",
            {
                "train-images-idx3": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
                "train-labels-idx1": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
                "t10k-images-idx3": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
                "t10k-labels-idx1": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
            },
        ),
    ),
}
_SHAPES = {"train": (4000, 1), "validation": (500, 2), "test": (1000, 3)}  # images, seed
SETS = (*_OFFICIAL, "shapes")


def _require_known(name: str) -> None:
    require(name in SETS, f"The data set {name!r} is unknown; allowed are {', '.join(SETS)}.")


def train_size(name: str) -> int:
    """The number of images of the split `train`."""
    _require_known(name)
    return _OFFICIAL[name].train if name in _OFFICIAL else _SHAPES["train"][0]


@dataclass(frozen=True)
class Data(Part, slot="data"):
    """The images a run trains on: the set's `train` split, or a fixed class-balanced part of it of size `images`."""

    name: str = "cifar100"
    images: int | None = None

    def validate(self):
        size = train_size(self.name)
        require(
            self.images is None or 1 <= self.images <= size,
            f"Data.images is {self.images}; {self.name} has 1 … {size} images to train on.",
        )


def load(name: str, split: str, root=None) -> ImageSet:
    """One split of an image set, in the order of its files.

    `validation` is a tenth of the official training images, the same for every run (`balanced_order` with seed 0);
    `train` is the rest; `test` is the official test set. `shapes` has 4000, 500 and 1000 images.

    Raises `ValueError` for an unknown name or split, and for a missing, truncated or altered file.
    """
    _require_known(name)
    require(split in SPLITS, f"The split {split!r} is unknown; allowed are {', '.join(SPLITS)}.")
    if name == "shapes":
        return _shapes(*_SHAPES[split])._map(Tensor.clone)  # the cached original stays as it is
    read = _read_cifar if name.startswith("cifar") else _read_mnist
    whole = read(name, "test" if split == "test" else "train", root)
    if split == "test":
        return whole
    order = balanced_order(whole.fine, seed=0)
    tenth = len(order) // 10
    return whole.subset((order[:tenth] if split == "validation" else order[tenth:]).sort().values)


def load_train(data: Data) -> ImageSet:
    """The images `data` asks for. A smaller number gives a prefix of a larger one; run seeds play no part."""
    train = load(data.name, "train")
    return train if data.images is None else train.subset(balanced_order(train.fine, seed=1)[: data.images])


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


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation (C,) of uint8 images (N, C, H, W), in units where 255 is 1; exact sums."""
    counts = torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.transpose(0, 1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, device=images.device) / 255.0
    mean = (share * values).sum(1)
    deviation = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), deviation.float()


def folder(root=None) -> Path:
    """Where official sets are looked for: `root`, else SSLBOOK_DATA, else `data` in the checkout."""
    return Path(root or os.environ.get("SSLBOOK_DATA") or Path(__file__).resolve().parents[1] / "data")


def _verified(name: str, file: str, md5: str, root) -> bytes:
    """The content of a file whose MD5 is as published; what is parsed is what was verified."""
    path = folder(root) / file
    mend = f"`make data DATASET={name}` fetches it"
    require(path.is_file(), f"{path} is missing; {mend}, and SSLBOOK_DATA names the folder to look in.")
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    require(found == md5, f"{path} is truncated or altered (its MD5 is {found}, not {md5}); {mend} again.")
    return content


def _verified_part(name: str, part: str, root) -> list[bytes]:
    return [_verified(name, file, md5, root) for file, md5 in _OFFICIAL[name].files[part].items()]


def _byte_dtype(code, align, copy) -> np.dtype:
    require(code == b"u1", f"A pickle of images holds an array of {code!r}; only b'u1', bytes, is allowed.")
    return np.dtype("u1", copy=True)


_ADMITTED = {
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": _byte_dtype,
}


class _Unpickler(pickle.Unpickler):
    """Rebuilds plain containers and arrays of bytes, and refuses to look up anything else."""

    def find_class(self, module, name):
        wanted = f"{module}.{name}"
        require(wanted in _ADMITTED, f"A pickle of images asks for {wanted}, which is not allowed.")
        return _ADMITTED[wanted]


def _unpickle(content: bytes) -> dict:
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


def _read_cifar(name: str, part: str, root) -> ImageSet:
    fine, coarse = (b"fine_label", b"coarse_label") if name == "cifar100" else (b"label", b"label")
    batches = [_unpickle(content) for content in _verified_part(name, part, root)]
    names = _unpickle(_verified_part(name, "names", root)[0])
    pixels = [batch[b"data"] for batch in batches]
    pixels = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)  # CIFAR-100 is large: no needless copy

    def labels(level):
        return torch.tensor([label for batch in batches for label in batch[level + b"s"]])

    def class_names(level):
        return tuple(word.decode() for word in names[level + b"_names"])

    return ImageSet(
        torch.from_numpy(pixels.reshape(-1, 3, 32, 32)),
        labels(fine),
        labels(coarse),
        Names(class_names(fine), class_names(coarse)),
    )


_GARMENTS = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot"


def _read_mnist(name: str, part: str, root) -> ImageSet:
    images, labels = (_parse_idx(content) for content in _verified_part(name, part, root))
    classes = tuple(_GARMENTS.split("|")) if name == "fashion_mnist" else tuple("0123456789")
    return ImageSet(images[:, None], labels.long(), labels.long(), Names(classes, classes))


def _parse_idx(content: bytes) -> Tensor:
    """An array in the IDX format: two zero bytes, type 8 (unsigned byte), rank, big-endian sizes, values."""
    rank = content[3]
    sizes = np.frombuffer(content, ">i4", rank, offset=4)
    return torch.tensor(np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes))


def download(name: str, root=None) -> bool:
    """Fetch an official set into torchvision's layout below `root`; False if it is there already, and verified.

    Archives come from the publisher, or from the address in `SSLBOOK_MIRROR`, which must serve a folder laid out
    like `root`. They are verified before they are unpacked, and stay, so that a damaged file is mended without
    the network; one laid there by hand is used as well. Raises `ValueError` if an archive cannot be had.
    """
    _require_known(name)
    if name == "shapes" or _is_complete(name, root):
        return False
    for archive, md5 in _OFFICIAL[name].archives.items():
        _fetch(name, archive, md5, root)
        _unpack(name, archive, root)
    for part in _OFFICIAL[name].files:
        _verified_part(name, part, root)
    return True


def _is_complete(name: str, root) -> bool:
    try:
        return all(_verified_part(name, part, root) for part in _OFFICIAL[name].files)
    except ValueError:
        return False


def _fetch(name: str, archive: str, md5: str, root) -> None:
    import pooch

    mirror = os.environ.get("SSLBOOK_MIRROR")
    address = f"{mirror.rstrip('/')}/{archive}" if mirror else _OFFICIAL[name].address + Path(archive).name
    shelf = pooch.create(
        folder(root), base_url="", registry={archive: f"md5:{md5}"}, urls={archive: address}, retry_if_failed=2
    )
    try:
        shelf.fetch(archive, progressbar=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{address} could not be fetched ({error}); run `make data DATASET={name}` again, or set SSLBOOK_MIRROR "
            f"to the address of a folder that holds {archive}."
        ) from error


def _unpack(name: str, archive: str, root) -> None:
    source = folder(root) / archive
    if source.suffixes[-2:] != [".tar", ".gz"]:
        with gzip.open(source) as packed, open(source.with_suffix(""), "wb") as plain:
            shutil.copyfileobj(packed, plain)
        return
    with tarfile.open(source) as tar:
        for files in _OFFICIAL[name].files.values():
            for file in files:
                tar.extract(file, folder(root), filter="data")


FACTORS = {
    "x": (-4.0, 4.0),
    "y": (-4.0, 4.0),
    "scale": (4.0, 6.5),
    "rotation": (0.0, 360.0),
    "hue": (0.0, 1.0),
    "background": (0.0, 1.0),
    "light": (0.6, 1.0),
}
"""Ranges of the style factors of `shapes`, drawn uniformly and independently of the class and of each other.

`x` (right) and `y` (down) in pixels from the centre of the image to the shape's centroid; `scale` in pixels, the
radius of the disk of equal area; `rotation` in degrees, anticlockwise; `hue` of the shape and of its `background`
in turns of the colour circle; `light` multiplies every colour.
"""


def render(fine: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """Draw `shapes`: labels (N,) and the factors of `FACTORS`, each (N,), to images (N, 3, 32, 32) uint8.

    All classes have the area π scale², so that colour means say nothing of the class. A pixel is covered by
    clip(1/2 − d, 0, 1), with d the signed distance of its centre to the outline in pixels. Only + − × ÷ √ act on
    pixels, which IEEE arithmetic rounds exactly: the images are the same on every machine.
    """
    fine = fine.cpu().numpy()
    known = np.isin(fine, np.arange(len(_OUTLINES)))
    require(known.all(), f"The labels {fine[~known]} are no shapes; allowed are 0 … {len(_OUTLINES) - 1}.")
    absent = set(FACTORS) - set(factors)
    require(not absent, f"Factors of the shapes are missing: {', '.join(sorted(absent))}.")
    values = {name: factors[name].cpu().double().numpy()[:, None] for name in FACTORS}
    images = np.empty((len(fine), 3, 32 * 32), np.uint8)
    for label, distance in enumerate(_OUTLINES.values()):
        chosen = fine == label
        images[chosen] = _draw(distance, {name: value[chosen] for name, value in values.items()})
    return torch.from_numpy(images.reshape(-1, 3, 32, 32))


def _draw(distance, factors: dict[str, np.ndarray]) -> np.ndarray:
    rows, columns = np.divmod(np.arange(32 * 32, dtype=np.float32), 32)
    angle = np.deg2rad(factors["rotation"])
    x, y, scale, light, cosine, sine = (
        value.astype(np.float32)
        for value in (factors["x"], factors["y"], factors["scale"], factors["light"], np.cos(angle), np.sin(angle))
    )
    right, up = columns - 15.5 - x, 15.5 - rows + y
    cover = 0.5 - scale * distance((cosine * right + sine * up) / scale, (cosine * up - sine * right) / scale)
    cover = np.clip(cover, 0, 1)[:, None]
    # Saturations and values are such that the shape is brighter than its ground for every pair of hues.
    shape = _rgb(factors["hue"], saturation=0.6, value=0.95)
    ground = _rgb(factors["background"], saturation=0.5, value=0.35)
    colour = (ground + cover * (shape - ground)) * light[:, None]
    return (colour * 255 + 0.5).astype(np.uint8)


def _rgb(hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """HSV (hue (N, 1) in turns) to RGB (N, 3, 1) in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return (value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)))[..., None].astype(np.float32)


def _polygon_distance(u, v, vertices: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) of points (u, v) to a simple polygon of area π about its centroid."""
    nearest, inside = np.inf, False
    for (au, av), (bu, bv) in zip(vertices.tolist(), np.roll(vertices, -1, 0).tolist(), strict=True):
        eu, ev, pu, pv = bu - au, bv - av, u - au, v - av
        along = np.clip((pu * eu + pv * ev) / (eu * eu + ev * ev), 0, 1)
        nearest = np.minimum(nearest, (pu - along * eu) ** 2 + (pv - along * ev) ** 2)
        inside ^= ((v < av) != (v < bv)) & ((pu * ev < pv * eu) == (ev > 0))  # a ray to the right crosses the edge
    return np.sqrt(nearest) * np.where(inside, np.float32(-1), np.float32(1))


def _polygon(vertices) -> Callable:
    """The distance to a polygon with these vertices (anticlockwise), moved to its centroid and scaled to area π."""
    a = np.array(vertices, dtype=float)
    b = np.roll(a, -1, 0)
    cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    centroid = ((a + b) * cross[:, None]).sum(0) / (3 * cross.sum())
    return partial(_polygon_distance, vertices=(a - centroid) * np.sqrt(2 * np.pi / cross.sum()))


def _star(points: int, inner: float) -> Callable:
    angle = np.pi / 2 + np.pi / points * np.arange(2 * points)
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))


def _regular(corners: int) -> Callable:
    return _star(corners, np.cos(np.pi / corners))


def _half_disk(u, v) -> np.ndarray:
    radius = 2**0.5
    v = v + 4 * radius / (3 * math.pi)
    return np.maximum(np.sqrt(u * u + v * v) - radius, -v)


def _ring(u, v) -> np.ndarray:
    outer = (1 - 0.55**2) ** -0.5  # the hole has 0.55 of the outer radius
    return np.abs(np.sqrt(u * u + v * v) - 0.775 * outer) - 0.225 * outer


_OUTLINES = {
    "disk": lambda u, v: np.sqrt(u * u + v * v) - 1,
    "half_disk": _half_disk,
    "ring": _ring,
    "triangle": _regular(3),
    "square": _regular(4),
    "pentagon": _regular(5),
    "star_4": _star(4, 0.4),
    "star_5": _star(5, 0.4),
    "star_6": _star(6, 0.5),
    "bar": _polygon([(-3, -1), (3, -1), (3, 1), (-3, 1)]),
    "tee": _polygon([(-1, -4), (1, -4), (1, 0), (4, 0), (4, 2), (-4, 2), (-4, 0), (-1, 0)]),
    "plus": _polygon(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    ),
}
"""Signed distance to the outline of each fine class, three to a coarse class, in units of the factor `scale`."""


@lru_cache
def _shapes(images: int, seed: int) -> ImageSet:
    """`shapes` drawn with equal numbers of each class, to within one, in random order."""
    stream = np.random.RandomState(seed)
    fine = torch.from_numpy(stream.permutation(images) % len(_OUTLINES))
    factors = {name: torch.from_numpy(stream.uniform(*ends, images)).float() for name, ends in FACTORS.items()}
    names = Names(tuple(_OUTLINES), ("round", "polygon", "star", "bars"))
    return ImageSet(render(fine, factors), fine, fine // 3, names, factors)


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sslbook.data", description="Fetch an image set and verify it.")
    parser.add_argument("name", help=f"one of {', '.join(SETS)}")
    name = parser.parse_args(arguments).name
    try:
        fetched = download(name)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if name == "shapes":
        print("shapes is computed when it is needed; there is nothing to fetch.")
    else:
        print(f"{name} {'is now' if fetched else 'was already'} complete and verified in {folder()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
