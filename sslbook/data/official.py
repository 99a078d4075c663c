"""Official image sets: CIFAR-100, CIFAR-10, Fashion-MNIST, MNIST, read from the folders that torchvision uses.

They lie below `SSLBOOK_DATA` (for its default see `folder`). What is read is verified by its checksum. Nothing is
fetched unless `download` is called: `make data DATASET=cifar100`, or `python -m sslbook.data cifar100`.
"""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import torch
from torch import Tensor

from sslbook.config import require
from sslbook.data.imageset import ImageSet, Info, Names, split_training
from sslbook.files import CHECKOUT, absolute, write_whole


class _Official(NamedTuple):
    """Where an official set comes from. MD5 sums are those its publishers and torchvision state."""

    address: str
    archives: dict[str, str]  # path below the root: MD5
    files: dict[str, dict[str, str]]  # part: {path below the root: MD5}


def _idx(folder: str, packed: str, unpacked: str) -> tuple[dict, dict]:
    """Archives and files of a set in four IDX files, from their MD5: images and labels of train, then of test."""
    names = [f"{folder}/{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    files = list(zip(names, unpacked.split()))
    archives = zip((f"{name}.gz" for name in names), packed.split())
    return dict(archives), {"train": dict(files[:2]), "test": dict(files[2:])}


_OFFICIAL = {
    "cifar100": _Official(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        {
            "train": {"cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            "names": {"cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48"},
        },
    ),
    "cifar10": _Official(
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
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        *_idx(
            "FashionMNIST/raw",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe "
            "bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310",
            "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9 "
            "8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
    "mnist": _Official(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        *_idx(
            "MNIST/raw",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873 d53e105ee54ea40749a09fcbcd1e9432 "
            "9fb629c4189551a2d022fa330f9573f3 ec29112dd5afa0611ce80d1b7f02629c",
            "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 "
            "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
        ),
    ),
}
SETS = {
    "cifar100": Info((3, 32, 32), 100, 20, {"train": 45_000, "validation": 5_000, "test": 10_000}),
    "cifar10": Info((3, 32, 32), 10, 10, {"train": 45_000, "validation": 5_000, "test": 10_000}),
    "fashion_mnist": Info((1, 28, 28), 10, 10, {"train": 54_000, "validation": 6_000, "test": 10_000}),
    "mnist": Info((1, 28, 28), 10, 10, {"train": 54_000, "validation": 6_000, "test": 10_000}),
}


def load(name: str, split: str, root=None) -> ImageSet:
    """A split, in the order of its files. `validation` is a tenth of the official training images, balanced, the same
    for every run (`balanced_order` with seed 0); `train` is the rest; `test` is the official test set.

    Raises `ValueError` for a missing, truncated or altered file.
    """
    read = _read_cifar if name.startswith("cifar") else _read_mnist
    whole = read(name, "test" if split == "test" else "train", root)
    if split == "test":
        return whole
    return whole.subset(split_training(whole.fine, split))


def folder(root=None) -> Path:
    """Where official sets are looked for: `root`, else SSLBOOK_DATA, else `data` in the checkout, without one the
    user's cache."""
    return absolute(root or os.environ.get("SSLBOOK_DATA") or _usual_folder())


def _usual_folder() -> Path:
    if CHECKOUT is not None:
        return CHECKOUT / "data"
    import pooch

    return pooch.os_cache("sslbook")


def _command(name: str) -> str:
    """What fetches a set."""
    return f"`make data DATASET={name}`" if CHECKOUT is not None else f"`python -m sslbook.data {name}`"


def missing(path: Path | str, mend: str) -> str:
    """The sentence for a file or folder that is not there, with what to do."""
    return f"{path} is missing; {mend}, and SSLBOOK_DATA names the folder to look in."


def verified(path: Path, md5: str, mend: str) -> bytes:
    """The content of a file whose MD5 is as published; what is parsed is what was verified. `mend` says what to do."""
    require(path.is_file(), missing(path, mend))
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    require(found == md5, f"{path} is truncated or altered (its MD5 is {found}, not {md5}); {mend} again.")
    return content


def _verified_part(name: str, part: str, root) -> list[bytes]:
    mend = f"{_command(name)} fetches it"
    return [verified(folder(root) / file, md5, mend) for file, md5 in _OFFICIAL[name].files[part].items()]


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
    """Fetch the set `name` into torchvision's layout below `root`; False if it is there already, and verified.

    Archives come from the publisher, or from the address in `SSLBOOK_MIRROR`, which must serve a folder laid out
    like `root`. They are verified before they are unpacked, and stay, so that a damaged file is mended without
    the network; one laid there by hand is used as well. Raises `ValueError` if an archive cannot be had.
    """
    if _is_complete(name, root):
        return False
    folder(root).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder(root) / ".download.lock"):
        if _is_complete(name, root):  # another process fetched it while this one waited
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

    target, part = folder(root) / archive, folder(root) / ".download"
    if target.is_file() and pooch.file_hash(str(target), "md5") == md5:
        return
    mirror = os.environ.get("SSLBOOK_MIRROR")
    address = f"{mirror.rstrip('/')}/{archive}" if mirror else _OFFICIAL[name].address + Path(archive).name
    shutil.rmtree(part, ignore_errors=True)  # of a download that was killed
    shelf = pooch.create(
        part, base_url="", registry={archive: f"md5:{md5}"}, urls={archive: address}, retry_if_failed=2
    )
    try:
        fetched = shelf.fetch(archive, progressbar=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, target)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{address} could not be fetched ({error}); run {_command(name)} again, or set SSLBOOK_MIRROR "
            f"to the address of a folder that holds {archive}."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(name: str, archive: str, root) -> None:
    source = folder(root) / archive
    if source.suffixes[-2:] != [".tar", ".gz"]:
        write_whole(source.with_suffix(""), gzip.decompress(source.read_bytes()))
        return
    with tarfile.open(source) as tar:
        for files in _OFFICIAL[name].files.values():
            for file in files:
                target = folder(root) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, tar.extractfile(file).read())
