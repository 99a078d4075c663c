"""CelebA: aligned photographs of faces, with hair colour as content and the other binary attributes as style.

The files are those of its authors (Liu et al. 2015), in the folders that torchvision uses, below `root`:

    celeba/list_attr_celeba.txt   celeba/list_eval_partition.txt   celeba/img_align_celeba/000001.jpg …

Nothing is fetched: the authors give the set away for research that is not commercial, after their terms were read.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sslbook.config import require
from sslbook.data.imageset import SPLITS, ImageSet, Info, Names, pillow
from sslbook.data.official import folder

HAIR = ("black", "blond", "brown", "gray", "other")
"""The classes. An image with two of the four colours is left out; one with none is "other"."""

SETS = {
    "celeba": Info((3, 64, 64), len(HAIR), len(HAIR), {"train": 162_770, "validation": 19_867, "test": 19_962}),
}
"""The sizes are those of the official splits, before images with two colours of hair are left out."""

_ALIGNED = (178, 218)
_WHERE = "sslbook does not fetch CelebA: see https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


def load(name: str, split: str, root=None) -> ImageSet:
    """One official split of CelebA, at 64×64 pixels.

    From each aligned image, 178×218, the central square of 178×178 is taken, which holds all of the hair, and scaled
    with Pillow's bilinear filter, which averages when it makes images smaller; the square is our choice. `fine` and
    `coarse` index `HAIR`; `factors` holds the 36 attributes that are no colour of hair, as 0 or 1, under their official
    names. Reading `train` takes minutes and 2 GB.

    Raises `ValueError` for a missing or truncated file, naming it.
    """
    at = folder(root) / "celeba"
    files, labels, factors = _tables(at, split)
    require(len(files) > 0, f"{at / 'list_eval_partition.txt'} has no images for {split!r}; it is altered. {_WHERE}.")
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(_read_image, [at / "img_align_celeba" / file for file in files]))
    return ImageSet(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        labels,
        labels,
        Names(HAIR, HAIR),
        factors,
    )


def download(name: str, root=None) -> bool:
    """False where all files of the set are there. Nothing is fetched: `ValueError` says where to get them."""
    at = folder(root) / "celeba"
    for split in SPLITS:
        for file in _tables(at, split)[0]:
            _require_image(at / "img_align_celeba" / file)
    return False


def _tables(at: Path, split: str) -> tuple[list[str], torch.Tensor, dict[str, torch.Tensor]]:
    """File names, classes and style of the images of a split that have one class."""
    count, header, *rows = _lines(at / "list_attr_celeba.txt")
    names, table = header.split(), [row.split() for row in rows]
    hair = [f"{colour.capitalize()}_Hair" for colour in HAIR[:-1]]
    lost = ", ".join(name for name in hair if name not in names)
    require(not lost, f"{at / 'list_attr_celeba.txt'} has no attribute {lost}; it is altered. {_WHERE}.")
    whole = all(len(row) == 1 + len(names) and {"1", "-1"} >= {*row[1:]} for row in table)
    require(
        whole and count.strip() == str(len(rows)),
        f"{at / 'list_attr_celeba.txt'} should hold {count.strip()} rows, each with the name of an image and 1 or -1 "
        f"for {len(names)} attributes, and does not; it is truncated or altered. {_WHERE}.",
    )
    parts = {line.split()[0]: line.split()[-1] for line in _lines(at / "list_eval_partition.txt") if line.strip()}
    lost = [row[0] for row in table if row[0] not in parts]
    require(
        not lost,
        f"{at / 'list_eval_partition.txt'} names no split for {len(lost)} images, {''.join(lost[:1])} among them; "
        f"it is truncated or altered. {_WHERE}.",
    )
    table = [row for row in table if parts[row[0]] == str(SPLITS.index(split))]
    values = np.array([row[1:] for row in table]).reshape(-1, len(names)) == "1"
    colours = [names.index(name) for name in hair]
    hair = values[:, colours]
    kept = hair.sum(1) <= 1
    labels = np.where(hair.any(1), hair.argmax(1), len(colours))[kept]
    style = {name: values[kept, i] for i, name in enumerate(names) if i not in colours}
    return (
        [row[0] for row, keep in zip(table, kept, strict=True) if keep],
        torch.from_numpy(labels),
        {name: torch.from_numpy(value).float() for name, value in style.items()},
    )


def _lines(path: Path) -> list[str]:
    require(path.is_file(), f"{path} is missing. {_WHERE}, and SSLBOOK_DATA names the folder to look in.")
    lines = path.read_text().splitlines()
    require(len(lines) >= 2, f"{path} has {len(lines)} lines; it is truncated. {_WHERE}.")
    return lines


def _require_image(path: Path) -> None:
    require(path.is_file(), f"{path} is missing. {_WHERE}, and unpack img_align_celeba.zip in {path.parents[1]}.")


def _read_image(path: Path) -> np.ndarray:
    """The image as (64, 64, 3) uint8."""
    _require_image(path)
    Image = pillow()
    width, height = _ALIGNED
    try:
        with Image.open(path) as image:
            size, box = image.size, (0, (height - width) // 2, width, (height + width) // 2)
            square = image.convert("RGB").crop(box)
    except OSError as error:
        raise ValueError(f"{path} is no whole JPEG image ({error}). {_WHERE}.") from error
    require(size == _ALIGNED, f"{path} has {size[0]}×{size[1]} pixels; those of CelebA have {width}×{height}.")
    return np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR))
