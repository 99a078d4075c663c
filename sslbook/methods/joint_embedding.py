"""Joint embedding: encoder, projector, and a loss between the projections of two views of each image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslbook.config import Part, require
from sslbook.data import Info
from sslbook.methods.method import Method
from sslbook.models import Encoder, projector


class Embedding(Method):
    """An encoder h, and a projector g of `widths` and output width `dim` (see `models.projector`); `encode` gives h."""

    def __init__(self, encoder: Encoder, widths: tuple[int, ...]):
        super().__init__()
        self.encoder, self.projector = encoder, projector(encoder.dim, widths)
        self.dim = widths[-1] if widths else encoder.dim

    def encode(self, images):
        return self.encoder(images)

    def project(self, views: Tensor) -> Tensor:
        """Projections (kN, D) of views (k, N, C, H, W), in one forward pass: batch norm sees all kN views."""
        return self.projector(self.encoder(views.flatten(0, 1)))


class JointEmbedding(Embedding):
    """An `Embedding` with a loss between the projections of the views."""

    def __init__(self, encoder: Encoder, widths: tuple[int, ...], pair_loss: Callable[..., Tensor], views: int = 2):
        super().__init__(encoder, widths)
        self.pair_loss, self.views = pair_loss, views

    def loss(self, batch):
        return self.pair_loss(*map(self.gather, self.project(batch.views).chunk(self.views))), {}


@dataclass(frozen=True)
class Headed(Part):
    """Base of the parts with a projector of `widths`; without widths the loss acts on the features."""

    widths: tuple[int, ...] = (128,)

    def validate(self):
        name = type(self).__name__
        require(all(width >= 1 for width in self.widths), f"{name}.widths is {self.widths}; each must be at least 1.")


@dataclass(frozen=True)
class Pairwise(Headed):
    """Base of the parts whose method is a `JointEmbedding`, with a `pair_loss` and so many `views` of each image."""

    views: ClassVar[int] = 2

    def build(self, encoder: Encoder, about: Info) -> JointEmbedding:
        """The method around `encoder`, with PyTorch's default initialisation."""
        return JointEmbedding(encoder, self.widths, self.pair_loss, self.views)

    def pair_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss, a scalar, between projections (N, D) of two views of the same N images."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")
