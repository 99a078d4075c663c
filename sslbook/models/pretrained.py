"""Public checkpoints of ResNet-50 on ImageNet: where they are published, and a loader that runs no code of theirs.

The table follows Ericsson et al. (2021) and their repository linusericsson/ssl-transfer: addresses, prefixes of names,
normalisation of images. Digests are those that the repository of MoCo and torchvision state; of the other files none is
known. No address has been tried. The families are our labels, except "supervised".
"""

import hashlib
import io
import pickle
import re
import textwrap
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbook import files
from sslbook.checkpoints import load
from sslbook.config import require, require_choice
from sslbook.models.resnet import Encoder, _conv
from sslbook.tensors import floating

SIDE = 224
"""Height and width, in pixels, of the images that the networks were trained on."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the channels of ImageNet, by which most of the networks normalise."""
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""The same of networks that take images in [0, 1] as they are."""

_OTHER_PARTS = {"encoder_k", "fc", "head", "head_jig", "jigsaw", "linear", "projection_head", "prototypes"}
_OTHER_PARTS |= {"queue", "queue_ptr"}
_WRAPPERS = ("state_dict", "model", "resnet")


@dataclass(frozen=True)
class Checkpoint:
    """A public ResNet-50: paradigm, address, the prefix of its tensors' names, mean and deviation of its images.

    `digest` is the kind and the beginning of a digest of the published file, if one is stated. `convert` says what a
    file in another format is, and how it becomes one that `pretrained` reads.
    """

    family: str
    address: str
    prefix: str = ""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    digest: str | None = None
    convert: str | None = None

    @property
    def label_is_ours(self) -> bool:
        """Whether we, and not a source, chose the word for the family."""
        return self.family != "supervised"


_META, _DROPBOX = "https://dl.fbaipublicfiles.com", "https://www.dropbox.com/sh/87d24jqsl6ra7t2"
_PCL = "https://storage.googleapis.com/sfr-pcl-data-research/PCL_checkpoint"
_TENSORFLOW = "a checkpoint of TensorFlow, which must be converted first, as by {}"

CHECKPOINTS = {
    "insdis": Checkpoint("contrastive", f"{_DROPBOX}/AACcsSIt1_Njv7GsmsuzZ6Sta/InsDis.pth", "module.encoder."),
    "pirl": Checkpoint("contrastive", f"{_DROPBOX}/AADN4jKnvTI0U5oT6hTmQZz8a/PIRL.pth", "module.encoder."),
    "moco-v1": Checkpoint(
        "contrastive",
        f"{_META}/moco/moco_checkpoints/moco_v1_200ep/moco_v1_200ep_pretrain.pth.tar",
        "module.encoder_q.",
        digest="md5 b251726a",
    ),
    "moco-v2": Checkpoint(
        "contrastive",
        f"{_META}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        "module.encoder_q.",
        digest="md5 a04e12f8",
    ),
    "pcl-v1": Checkpoint("contrastive + prototypes", f"{_PCL}/PCL_v1_epoch200.pth.tar", "module.encoder_q."),
    "pcl-v2": Checkpoint("contrastive + prototypes", f"{_PCL}/PCL_v2_epoch200.pth.tar", "module.encoder_q."),
    "simclr-v1": Checkpoint(
        "contrastive",
        "https://storage.cloud.google.com/simclr-gcs/checkpoints/ResNet50_1x.zip",
        normalisation=PLAIN,
        convert=_TENSORFLOW.format("tonylins/simclr-converter"),
    ),
    "simclr-v2": Checkpoint(
        "contrastive",
        "https://console.cloud.google.com/storage/browser/simclr-checkpoints/simclrv2/pretrained/r50_1x_sk0",
        normalisation=PLAIN,
        convert=_TENSORFLOW.format("Separius/SimCLRv2-Pytorch, with torchvision's names"),
    ),
    "infomin": Checkpoint("contrastive", f"{_DROPBOX}/AAAzMTynP3Qc8mIE4XWkgILUa/InfoMin_800.pth", "module.encoder."),
    "byol": Checkpoint(
        "non-contrastive",
        "https://storage.googleapis.com/deepmind-byol/checkpoints/pretrain_res50x1.pkl",
        convert="a pickle of JAX, which must be converted first, as by download_and_prepare_models.py of "
        "linusericsson/ssl-transfer",
    ),
    "sela-v2": Checkpoint("cluster-based", f"{_META}/deepcluster/selav2_400ep_pretrain.pth.tar", "module."),
    "deepcluster-v2": Checkpoint(
        "cluster-based", f"{_META}/deepcluster/deepclusterv2_800ep_pretrain.pth.tar", "module."
    ),
    "swav": Checkpoint("cluster-based", f"{_META}/deepcluster/swav_800ep_pretrain.pth.tar", "module."),
    "supervised": Checkpoint(
        "supervised", "https://download.pytorch.org/models/resnet50-0676ba61.pth", digest="sha256 0676ba61"
    ),
}
"""The 14 models of Ericsson et al. (2021), by their names there."""


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with batch norm and a shortcut, the stride in the middle one, torchvision's names.

    (N, channels_in, H, W) to (N, 4·width, H/stride, W/stride), rounded up. Source: He et al. 2016.
    """

    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        same = stride == 1 and channels_in == 4 * width
        self.downsample = (
            None if same else nn.Sequential(_conv(channels_in, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn1(self.conv1(x)).relu()
        residual = self.bn2(self.conv2(residual)).relu()
        return (self.bn3(self.conv3(residual)) + (x if self.downsample is None else self.downsample(x))).relu()


def _trunk(width: int, blocks: tuple[int, ...]) -> nn.Sequential:
    """A residual network without classifier and without memory for its weights; its names are torchvision's."""
    with torch.device("meta"):
        layers = [("conv1", _conv(3, width, 7, 2)), ("bn1", nn.BatchNorm2d(width)), ("relu", nn.ReLU())]
        layers.append(("maxpool", nn.MaxPool2d(3, stride=2, padding=1)))
        channels = width
        for stage, number in enumerate(blocks):
            inner = width * 2**stage
            first = Bottleneck(channels, inner, 1 if stage == 0 else 2)
            channels = 4 * inner
            others = (Bottleneck(channels, inner, 1) for _ in range(number - 1))
            layers.append((f"layer{stage + 1}", nn.Sequential(first, *others)))
        return nn.Sequential(OrderedDict(layers))


class PretrainedEncoder(Encoder):
    """Images (N, C, H, W) in [0, 1], with one channel or three, of any size → pooled features (N, dim), never negative.

    Images of another size are `resized`; of one channel, the other two are copies; all are normalised inside.

    **Raises** `ValueError` for images of integers, of another shape, or with values outside [0, 1].
    """

    def forward(self, images: Tensor) -> Tensor:
        floating("The batch of images", images)
        require(
            images.ndim == 4 and images.shape[1] in (1, 3) and images.numel() > 0,
            f"The images have the shape {tuple(images.shape)}; it must be (N, 1, H, W) or (N, 3, H, W).",
        )
        low, high = (float(end) for end in images.aminmax())
        require(low >= 0 and high <= 1, f"The images hold values of {low:g} … {high:g}; they must lie in 0 … 1.")
        return super().forward(resized(images.expand(-1, 3, -1, -1)))


def resized(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] at `SIDE`×`SIDE` pixels: the shorter side is scaled to it, the middle is kept.

    Scaling is bicubic and antialiased, as in Pillow, and clipped to [0, 1]: the rule of Ericsson et al. (2021).
    Images of that size stay as they are.
    """
    shape = images.shape[-2:]
    if tuple(shape) == (SIDE, SIDE):
        return images
    size = [SIDE * length // min(shape) for length in shape]
    images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (round((length - SIDE) / 2) for length in size)
    return images[..., top : top + SIDE, left : left + SIDE]


def pretrained(name: str, file) -> PretrainedEncoder:
    """The encoder of one of the `CHECKPOINTS` from its `file` on disk, in evaluation mode: images → (N, 2048).

    Nothing is fetched. `file` is the published one, or a copy of its tensors as safetensors; names are those published
    or torchvision's. Only tensors, numbers and words are read, whatever else a pickle asks for. Heads, queues and
    momentum encoders are left out; every other tensor must have its place.

    **Raises** `ValueError` for an unknown name; a file that is missing, is no checkpoint, asks for code, is still to be
    converted or has another digest than the published one; and for tensors that are missing, unknown or of another
    shape, or hold values that are not finite.
    """
    require_choice("The checkpoint", name, tuple(CHECKPOINTS))
    return _load(name, CHECKPOINTS[name], file, 64, (3, 4, 6, 3))


def _load(name: str, checkpoint: Checkpoint, file, width: int, blocks: tuple[int, ...]) -> PretrainedEncoder:
    path, trunk = files.absolute(file), _trunk(width, blocks)
    expected, found = trunk.state_dict(), _own(name, checkpoint, path)
    # Old files have no count of batches, which plays no part in evaluation.
    found = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")} | found
    missing, extra = ([key for key in one if key not in other] for one, other in ((expected, found), (found, expected)))
    before = f"with {checkpoint.prefix!r} or nothing before" if checkpoint.prefix else "with nothing before"
    all_of_them = f"the {len(expected)} tensors of a ResNet-50, named as in torchvision {before}"
    require(not missing, f"{path} is no checkpoint of {name}: it lacks {_listed(missing)} of {all_of_them}.")
    require(not extra, f"{path} is no checkpoint of {name}: it holds {_listed(extra)} besides {all_of_them}.")
    for key, tensor in expected.items():
        value = found[key]
        real = value.is_floating_point() or key.endswith("num_batches_tracked")
        require(
            value.shape == tensor.shape and real and value.layout == torch.strided and not value.is_meta,
            f"{key} of {path} is {value.dtype} of the shape {tuple(value.shape)}; a ResNet-50 has real numbers of the "
            f"shape {tuple(tensor.shape)} there.",
        )
        require(bool(value.isfinite().all()), f"{key} of {path} holds values that are infinite or not a number.")
    trunk.to_empty(device="cpu").load_state_dict(found)
    mean, std = map(torch.tensor, checkpoint.normalisation)
    return PretrainedEncoder(trunk, 4 * width * 2 ** (len(blocks) - 1), mean, std).eval()


def _own(name: str, checkpoint: Checkpoint, path) -> dict[str, Tensor]:
    """The tensors of the file by their names without prefix, those of known heads left out."""
    held = _read(name, checkpoint, path)
    for wrapper in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
            break
    require(
        isinstance(held, Mapping) and all(isinstance(key, str) for key in held),
        f"{path} holds a {type(held).__name__}; a checkpoint of {name} holds tensors by name.",
    )
    tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)}
    prefix = checkpoint.prefix if any(key.startswith(checkpoint.prefix) for key in tensors) else ""
    own = {}
    for key, value in tensors.items():
        short = key.removeprefix(prefix)
        require(short not in own, f"{path} holds {short} twice, with and without {prefix!r}.")
        if short.removeprefix("module.").split(".")[0] not in _OTHER_PARTS:
            own[short] = value
    return own


def _read(name: str, checkpoint: Checkpoint, path):
    """What the file holds, read without running code; safetensors by its ending, else a file of PyTorch."""
    require(path.is_file(), f"{path} is no file; {name} is published at {checkpoint.address}, and nothing is fetched.")
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return load(content)[0]
        with warnings.catch_warnings(action="ignore"):  # that a file which is then refused is of an odd kind
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of a file of unknown origin anything may be wrong
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        other = isinstance(error, pickle.UnpicklingError)
        why = "a pickle of other things" if other else textwrap.shorten(str(error), 100, placeholder=" …")
        why = f"it asks for {code[1]}" if code else why or "it is empty"
        convert = f"; {name} is published as {checkpoint.convert}" if checkpoint.convert else ""
        sentence = f"{path} is no checkpoint of tensors alone ({why}), and no code of a file is run{convert}."
        raise ValueError(sentence) from None
    if checkpoint.digest:
        kind, begins = checkpoint.digest.split()
        digest = hashlib.new(kind, content, usedforsecurity=False).hexdigest()[: len(begins)]
        require(
            digest == begins,
            f"The {kind} of {path} begins with {digest}, that of the published {name} with {begins}; save a copy of "
            "your own as safetensors.",
        )
    return held


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more
