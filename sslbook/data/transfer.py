"""Small image sets on which features learned elsewhere are tested: USPS, GTSRB, Flowers-102, RSSCN7; all 3×32×32.

Each set has two layouts below `root`. If the folder `<set>/train` is there, the set is read from folders of classes,
`<set>/<split>/<class>/<file>`; they may hold a part of the set, in any format that Pillow reads, in folders named

    usps/train/0 … 9   gtsrb/train/00 … 42   flowers102/train/001 … 102   rsscn7/train/aGrass … gParking

Otherwise the official files are read, in the folders that torchvision uses (RSSCN7 has none):

    usps.bz2   usps.t.bz2
    gtsrb/GTSRB/Training/00000/….ppm   gtsrb/GTSRB/Final_Test/Images/….ppm   gtsrb/GT-final_test.csv
    flowers-102/jpg/image_00001.jpg …   flowers-102/imagelabels.mat   flowers-102/setid.mat

`validation` is the set's own where there is one: the folder `<set>/val`, or the official split of Flowers-102.
Elsewhere it is a fixed balanced tenth of the training images, as in `official.load`. In GTSRB and RSSCN7 these are no
independent images: frames of one traffic sign, or overlapping photographs, may lie on both sides.

What is ours: every image is made 3×32×32 by the rule of `as_colour`, and the classes are named by their folders.
"""

import bz2
import csv
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslbook.config import require, require_number
from sslbook.data.imageset import SPLITS, ImageSet, Info, Names, pillow, split_training
from sslbook.data.official import folder, missing, verified

_SHAPE = (3, 32, 32)
_CLASSES = {
    "usps": tuple("0123456789"),
    "gtsrb": tuple(f"{label:02}" for label in range(43)),
    "flowers102": tuple(f"{label:03}" for label in range(1, 103)),
    "rsscn7": ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking"),
}
"""Names of the classes and of their folders, in the order of the labels."""

_SIZES = {
    "usps": (6_562, 729, 2_007),
    "gtsrb": (23_976, 2_664, 12_630),
    "flowers102": (1_020, 1_020, 6_149),
    "rsscn7": (1_890, 210, 700),
}
SETS = {
    name: Info(_SHAPE, len(_CLASSES[name]), len(_CLASSES[name]), dict(zip(SPLITS, sizes)))
    for name, sizes in _SIZES.items()
}
"""The sizes are those of the official files; of RSSCN7, which has no official split, with a quarter as `test`."""

_MD5 = {
    "usps.bz2": "ec16c51db3855ca6c91edd34d0e9b197",
    "usps.t.bz2": "8ea070ee2aca1ac39742fdd1ef5ed118",
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
"""Sums of official files, as torchvision states them."""


def load(name: str, split: str, root=None) -> ImageSet:
    """A split, in the order of the official files, or of the names of its files where they lie in folders of classes.

    So both layouts of USPS are one set where each file is named by its index, padded with zeros.
    `coarse` is `fine`; `factors` is empty. The official images of Flowers-102 are large: `test` takes minutes.

    Raises `ValueError` for a missing, truncated or altered file, a picture of more than 8 bits a channel, and a folder
    of a class without pictures.
    """
    pictures, labels = _listed(name, split, folder(root))
    with ThreadPoolExecutor() as pool:
        images = torch.stack(list(pool.map(_read, pictures)))
    return ImageSet(images, labels, labels, Names(_CLASSES[name], _CLASSES[name]))


def info(name: str, root=None) -> Info:
    """What is known of a set; the sizes are those of the folders of classes where there are any below `root`."""
    at = folder(root) / name
    if not (at / "train").is_dir():
        return SETS[name]
    train, validation, test = (
        sum(path.is_file() for each in _CLASSES[name] for path in (at / part / each).glob("[!.]*"))
        for part in ("train", "val", "test")
    )
    tenth = 0 if (at / "val").is_dir() else train // 10
    return SETS[name]._replace(sizes={"train": train - tenth, "validation": validation + tenth, "test": test})


def download(name: str, root=None) -> bool:
    """False where all files of the set are there. Nothing is fetched: `ValueError` says where to get them."""
    for split in SPLITS:
        _listed(name, split, folder(root))
    return False


def as_colour(images: Tensor, size: int = 32) -> Tensor:
    """Images (N, C, H, W) uint8 of one or three channels as (N, 3, size, size) uint8, for an encoder of such images.

    The rule is ours, and the one by which the sets of `sslbook.data.transfer` are read: a grey value stands in all
    three channels; the short side is scaled to `size` with Pillow's bilinear filter, which averages when it makes
    images smaller, and the long side, rounded down, with it; of the result the centre is taken. Images that are
    3×`size`×`size` stay as they are. Pillow computes with integers: the result is the same on every machine.

    Raises `ValueError` for other types, ranks or numbers of channels, and for a size that is no whole number above 0.
    """
    require(isinstance(images, Tensor) and images.dtype == torch.uint8, "The images must be a tensor of type uint8.")
    shape = tuple(images.shape)
    require(
        len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) > 0,
        f"The images have the shape {shape}; it must be (N, 1, H, W) or (N, 3, H, W).",
    )
    require_number("size", size, least=1, whole=True)
    pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    converted = [_square(pillow().fromarray(image), size) for image in pixels]
    return torch.stack(converted).to(images.device) if converted else images.new_empty(0, 3, size, size)


def _square(picture, size: int) -> Tensor:
    """A picture of Pillow as (3, size, size) uint8, by the rule of `as_colour`."""
    # Pillow would make all that is above 255 white.
    require(picture.mode[0] not in "IF", f"its mode is {picture.mode}, with more than 8 bits; 8 are needed")
    sides = [size * side // min(picture.size) for side in picture.size]
    left, top = (round((side - size) / 2) for side in sides)
    scaled = picture.convert("RGB").resize(sides, pillow().Resampling.BILINEAR)
    pixels = np.array(scaled.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _read(picture: Path | np.ndarray) -> Tensor:
    """A picture in a file, or an array of its grey values, as (3, 32, 32) uint8."""
    Image = pillow()
    if isinstance(picture, np.ndarray):
        return _square(Image.fromarray(picture), _SHAPE[-1])
    try:
        with Image.open(picture) as image:
            return _square(image, _SHAPE[-1])
    except Exception as error:  # of a damaged file decoders raise much besides OSError
        raise ValueError(f"{picture} is no whole picture ({error}); replace it by a whole one.") from error


def _listed(name: str, split: str, at: Path) -> tuple[list[Path] | np.ndarray, Tensor]:
    """The pictures of a split, in files that are all there or as grey values (N, 16, 16), and their labels (N,)."""
    in_folders = (at / name / "train").is_dir() or name not in _OFFICIAL
    has_validation = (at / name / "val").is_dir() if in_folders else name == "flowers102"
    part = split if split != "validation" else "val" if has_validation else "train"
    if in_folders:
        mend = f"lay its pictures in {at / name / part / '<class>'}"
        pictures, labels = _in_folders(at / name / part, _CLASSES[name], mend)
        order = sorted(range(len(labels)), key=lambda i: (pictures[i].name, labels[i]))
        pictures, labels = [pictures[i] for i in order], [labels[i] for i in order]
    else:
        official, read = _OFFICIAL[name]
        fetch = f"fetch it with `torchvision.datasets.{official}` and `download=True`"
        pictures, labels = read(at, part, f"lay its pictures in {at / name / 'train' / '<class>'}, or {fetch}")
    labels = torch.as_tensor(labels, dtype=torch.int64)
    if part == "train" and not has_validation:
        kept = split_training(labels, split)
        require(len(kept) > 0, f"{at / name} has {len(labels)} training images, too few to hold out a tenth of them.")
        pictures, labels = [pictures[i] for i in kept], labels[kept]
    return pictures, labels


def _in_folders(at: Path, classes: tuple[str, ...], mend: str, suffix: str = "") -> tuple[list[Path], list[int]]:
    """The files of all classes, each in its folder, in the order of their names; hidden ones are left out."""
    require(at.is_dir(), missing(at, mend))
    unknown = {path.name for path in at.iterdir() if path.is_dir() and path.name[0] != "."} - {*classes}
    allowed = f"allowed are {classes[0]} … {classes[-1]}"
    require(not unknown, f"{at / min(unknown, default='')} is the folder of no class; {allowed}.")
    pictures, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(path for path in (at / name).glob(f"[!.]*{suffix}") if path.is_file())
        require(len(found) > 0, f"{at / name} has no pictures; {mend}.")
        pictures += found
        labels += [label] * len(found)
    return pictures, labels


def _all_there(pictures: list[Path], mend: str) -> list[Path]:
    for picture in pictures:
        require(picture.is_file(), missing(picture, mend))
    return pictures


def _usps(at: Path, part: str, mend: str) -> tuple[np.ndarray, np.ndarray]:
    """Lines of a label from 1 to 10 and 256 times `index:value`, each value from −1 to 1.

    A value v becomes ⌊255 (v + 1) / 2⌋, as in torchvision.
    """
    file = {"train": "usps.bz2", "test": "usps.t.bz2"}[part]
    lines = bz2.decompress(verified(at / file, _MD5[file], mend)).replace(b":", b" ")
    numbers = np.loadtxt(io.BytesIO(lines), dtype=np.float32, ndmin=2)
    grey = (numbers[:, 2::2] + 1) / 2 * 255
    return grey.astype(np.uint8).reshape(-1, 16, 16), numbers[:, 0].astype(np.int64) - 1


def _gtsrb(at: Path, part: str, mend: str) -> tuple[list[Path], list[int]]:
    images = at / "gtsrb" / "GTSRB"
    if part == "train":
        return _in_folders(images / "Training", tuple(f"{label:05}" for label in range(43)), mend, ".ppm")
    table, numbers = at / "gtsrb" / "GT-final_test.csv", [str(label) for label in range(43)]
    require(table.is_file(), missing(table, mend))
    with table.open(newline="", encoding="utf-8", errors="replace") as lines:
        rows = list(csv.DictReader(lines, delimiter=";", skipinitialspace=True))
    whole = all(row.get("Filename") and row.get("ClassId") in numbers for row in rows)
    require(
        whole and len(rows) > 0,
        f"{table} should name in each row a Filename and a ClassId from 0 to 42, and does not; {mend} again.",
    )
    pictures = [images / "Final_Test" / "Images" / row["Filename"] for row in rows]
    return _all_there(pictures, mend), [int(row["ClassId"]) for row in rows]


def _flowers102(at: Path, part: str, mend: str) -> tuple[list[Path], np.ndarray]:
    from scipy.io import loadmat

    def values(file, key):
        content = verified(at / "flowers-102" / file, _MD5[file], mend)
        return loadmat(io.BytesIO(content))[key].ravel().astype(np.int64)

    labels = values("imagelabels.mat", "labels")
    numbers = values("setid.mat", {"train": "trnid", "val": "valid", "test": "tstid"}[part])
    pictures = [at / "flowers-102" / "jpg" / f"image_{number:05}.jpg" for number in numbers]
    return _all_there(pictures, mend), labels[numbers - 1] - 1


_OFFICIAL = {"usps": ("USPS", _usps), "gtsrb": ("GTSRB", _gtsrb), "flowers102": ("Flowers102", _flowers102)}
"""The class of torchvision that fetches the official files of a set, and what reads them here."""
