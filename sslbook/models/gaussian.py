"""Encoders that give a distribution over latents, and decoders from latents to images.

They are for latent-variable models, and any other method may use the same encoders: `forward` is the posterior mean.
A part in the slot "decoder" has `build(dim, about)`, which makes a module from latents (N, dim) to the logits of images
(N, C, H, W) with `about.shape` = (C, H, W); their sigmoid is the reconstruction.

The networks follow those of Bizeul et al. (2024), as far as the released code tells. What differs:

| | released | here |
|---|---|---|
| input | pixels in [0, 1] | normalised for each channel, as every encoder of the library |
| MLP encoder and decoder | 784–2000–500–500–(2·10), 10–500–500–2000–784 | the same |
| stem of the residual encoder | no padding: 32 → 30 → 15 after the max-pool | padding 1: 32 → 32 → 16 |
| stem for images of 64×64 | 4×4 | 3×3, as for 32×32 |
| decoder: blocks that keep the resolution | no shortcut | identity as shortcut |
"""

import itertools
from dataclasses import dataclass

from torch import Tensor, nn

from sslbook.config import Part, require
from sslbook.data import Info
from sslbook.models.resnet import BasicBlock, Encoder, _conv


class GaussianEncoder(Encoder):
    """Images (N, C, H, W) in [0, 1] → the posterior N(μ, diag v) of `dim` latents; as an encoder it gives μ (N, dim).

    `trunk` maps normalised images to `width` numbers each; one linear layer on top gives μ and log v. `mean` and `std`
    are as in `ResNet.build`.
    """

    def __init__(self, trunk: nn.Module, width: int, dim: int, mean: Tensor, std: Tensor):
        super().__init__(trunk, dim, mean, std)
        self.head = nn.Linear(width, 2 * dim)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean μ and log-variance log v, each (N, dim), linear functions of `before`."""
        return self.head(self.before(images)).chunk(2, dim=1)

    def forward(self, images):
        return self.posterior(images)[0]


def _require_widths(part: Part, name: str, values: tuple[int, ...], least: int = 1) -> None:
    require(
        len(values) > 0 and min(values) >= least,
        f"{type(part).__name__}.{name} is {values}; it must list one width or more, each at least {least}.",
    )


def _layers(widths: tuple[int, ...]) -> list[nn.Module]:
    pairs = itertools.pairwise(widths)
    return [layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU(inplace=True))]


@dataclass(frozen=True)
class MLP(Part, slot="encoder"):
    """A multilayer perceptron on the pixels, ReLU and no batch norm, with a Gaussian of `dim` latents at its end.

    The default is the one for MNIST and Fashion-MNIST: 784–2000–500–500–(2·10), 2.83 million parameters.
    """

    dim: int = 10
    widths: tuple[int, ...] = (2000, 500, 500)

    def validate(self):
        self.limit("dim", least=1)
        _require_widths(self, "widths", self.widths)

    def build(self, about: Info, mean: Tensor, std: Tensor) -> GaussianEncoder:
        """The encoder of images of `about.shape`; see `ResNet.build`."""
        channels, height, width = about.shape
        trunk = nn.Sequential(nn.Flatten(), *_layers((channels * height * width, *self.widths)))
        return GaussianEncoder(trunk, self.widths[-1], self.dim, mean, std)


@dataclass(frozen=True)
class MLPDecoder(Part, slot="decoder"):
    """The mirror image of `MLP`: dim–500–500–2000–pixels, ReLU between."""

    widths: tuple[int, ...] = (500, 500, 2000)

    def validate(self):
        _require_widths(self, "widths", self.widths)

    def build(self, dim: int, about: Info) -> nn.Sequential:
        """Latents (N, dim) → logits of images (N, C, H, W)."""
        channels, height, width = about.shape
        last = nn.Linear(self.widths[-1], channels * height * width)
        return nn.Sequential(*_layers((dim, *self.widths)), last, nn.Unflatten(1, about.shape))


@dataclass(frozen=True)
class GaussianResNet(Part, slot="encoder"):
    """A small residual network that keeps where things are: no average over space before the Gaussian of `dim` latents.

    A 3×3 stem of `stem` channels with a max-pool, then one stage of two basic blocks for each of `widths`, all but the
    first halving the resolution. The default is the one for CIFAR-10 and CelebA, which the released code calls
    ResNet-18: it has three of its four stages, at half its width. 0.97 million parameters at 32×32, 1.76 at 64×64.
    """

    dim: int = 64
    stem: int = 64
    widths: tuple[int, ...] = (32, 64, 128)

    def validate(self):
        self.limit("dim", least=1)
        # As for ResNet: fewer channels are not safe on every processor.
        self.limit("stem", least=8)
        _require_widths(self, "widths", self.widths, least=8)

    def build(self, about: Info, mean: Tensor, std: Tensor) -> GaussianEncoder:
        """The encoder of images of `about.shape`; see `ResNet.build`.

        **Raises** `ValueError` unless 2^(number of stages) divides both sides of the images.
        """
        channels, *sides = about.shape
        height, width = _starting_sides(sides, 2 ** len(self.widths), type(self).__name__)
        layers = [
            _conv(channels, self.stem),
            nn.BatchNorm2d(self.stem),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        width_in = self.stem
        for stage, width_out in enumerate(self.widths):
            layers += [
                BasicBlock(width_in, width_out, stride=1 if stage == 0 else 2),
                BasicBlock(width_out, width_out, 1),
            ]
            width_in = width_out
        trunk = nn.Sequential(*layers, nn.Flatten())
        return GaussianEncoder(trunk, width_in * height * width, self.dim, mean, std)


@dataclass(frozen=True)
class ConvDecoder(Part, slot="decoder"):
    """Transposed convolutions from latents to images: for each of `widths` a block that keeps the resolution and one
    that doubles it, then two blocks that keep it and a 7×7 transposed convolution that doubles it.

    `start` is the number of channels at the lowest resolution. The default is the one for CIFAR-10 and CelebA: 8.98
    million parameters at 32×32, 9.38 at 64×64.
    """

    start: int = 512
    widths: tuple[int, ...] = (256, 128, 64)

    def validate(self):
        self.limit("start", least=8)
        _require_widths(self, "widths", self.widths, least=8)

    def build(self, dim: int, about: Info) -> nn.Sequential:
        """Latents (N, dim) → logits of images (N, C, H, W).

        **Raises** `ValueError` unless 2^(number of widths + 1) divides both sides of the images.
        """
        channels, *sides = about.shape
        height, width = _starting_sides(sides, 2 ** (len(self.widths) + 1), type(self).__name__)
        layers = [nn.Linear(dim, self.start * height * width), nn.Unflatten(1, (self.start, height, width))]
        width_in = self.start
        for width_out in self.widths:
            layers += [TransposedBlock(width_in, width_in, 1), TransposedBlock(width_in, width_out, 2)]
            width_in = width_out
        layers += [TransposedBlock(width_in, width_in, 1), TransposedBlock(width_in, width_in, 1)]
        last = nn.ConvTranspose2d(width_in, channels, 7, stride=2, padding=3, output_padding=1)
        return nn.Sequential(*layers, last)


def _transposed(channels_in: int, channels_out: int, size: int, stride: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        channels_in, channels_out, size, stride, padding=size // 2, output_padding=stride - 1, bias=False
    )


class TransposedBlock(BasicBlock):
    """`BasicBlock` with transposed convolutions: (N, channels_in, H, W) to (N, channels_out, stride·H, stride·W)."""

    conv = staticmethod(_transposed)


def _starting_sides(sides: list[int], factor: int, name: str) -> list[int]:
    require(
        all(side % factor == 0 for side in sides),
        f"{name} with its stages changes the resolution by {factor}, but the images are {sides[0]}×{sides[1]}; both "
        f"sides must be multiples of {factor}.",
    )
    return [side // factor for side in sides]
