"""Residual networks, and what every encoder is: an `Encoder` knows the normalisation of its images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslbook.config import Part, require
from sslbook.data import Info
from sslbook.tensors import finite, floating


@dataclass(frozen=True)
class ResNet(Part, slot="encoder"):
    """A residual network for small images: 3×3 stem of stride 1 and padding 1, no max-pool, one stage per entry.

    Source: He et al. 2016; the stem is the usual one for CIFAR.

    `width`, at least 8, is the number of channels of the first stage, doubled at each further stage (which also halves
    the resolution); `blocks` the number of basic blocks of each stage. The default is ResNet-18: 512 features, 0.5554
    GMAC for an image of 32×32.

    **Raises** `ValueError` for a smaller width, or without blocks.

    >>> models.ResNet(width=16, blocks=(1, 1)).dim
    32
    """

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)

    def validate(self):
        # With fewer channels the channels-last convolutions of PyTorch 2.11 overrun their memory on AVX2 processors.
        self.limit("width", least=8)
        require(
            len(self.blocks) > 0 and min(self.blocks) >= 1,
            f"ResNet.blocks is {self.blocks}; it must list one stage or more, each of at least one block.",
        )

    @property
    def dim(self) -> int:
        """The number of features."""
        return self.width * 2 ** (len(self.blocks) - 1)

    def build(self, about: Info, mean: Tensor, std: Tensor) -> "Encoder":
        """The encoder of images of `about.shape` (C, H, W), with PyTorch's default initialisation.

        `mean` and `std` (C,) are those of the images' channels, in units where the largest value is 1.
        """
        layers = [_conv(about.shape[0], self.width), nn.BatchNorm2d(self.width), nn.ReLU(inplace=True)]
        width_in = self.width
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                layers.append(BasicBlock(width_in, width, stride=2 if stage > 0 and block == 0 else 1))
                width_in = width
        return Encoder(nn.Sequential(*layers), width_in, mean, std)


def _conv(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut, 1×1 where the shape changes. Source: He et al. 2016.

    (N, channels_in, H, W) to (N, channels_out, H/stride, W/stride), rounded up.
    """

    conv = staticmethod(_conv)

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            self.conv(channels_in, channels_out, 3, stride),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            self.conv(channels_out, channels_out, 3, 1),
            nn.BatchNorm2d(channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(self.conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class Encoder(nn.Module):
    """Images `(N, C, H, W)` in [0, 1] → features `h (N, dim)`: normalise per channel, convolve, average over space.

    The features are averages of rectified maps, so they are never negative. Raises `ValueError` unless `mean` and `std`
    are (C,), finite, and `std` is positive, and for images that are not floating-point or not (N, C, H, W).
    """

    def __init__(self, trunk: nn.Module, dim: int, mean: Tensor, std: Tensor):
        super().__init__()
        mean, std = finite("mean", mean, 1), finite("std", std, 1)
        require(
            len(mean) == len(std) and bool((std > 0).all()),
            f"The images' mean and deviation are {mean.tolist()} and {std.tolist()}; each channel needs both, and a "
            "channel that is the same everywhere cannot be normalised.",
        )
        self.trunk, self.dim = trunk, dim
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.float().view(1, -1, 1, 1).clone())

    def before(self, images: Tensor) -> Tensor:
        """What the trunk computes of the normalised images."""
        floating("The tensor of images", images)
        channels = self.mean.shape[1]
        if images.ndim != 4 or images.shape[1] != channels:  # a sentence made of shapes would fix them when compiled
            raise ValueError(f"The images have the shape {tuple(images.shape)}; it must be (N, {channels}, H, W).")
        normalised = (images - self.mean) / self.std
        return self.trunk(normalised.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Tensor) -> Tensor:
        return self.before(images).mean(dim=(2, 3))
