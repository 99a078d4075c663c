"""Joint embedding: encoder, projector, and a loss between the projections of two views of each image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslbook.config import Part, require
from sslbook.data import Info
from sslbook.methods.method import Method
from sslbook.models import Encoder, projector


class JointEmbedding(Method):
    """`g(h(x))` for all k views in one forward pass (batch norm sees all kN views), then the loss between them.

    `widths` are those of `models.projector`; `encode` gives h, before the projector.
    """

    def __init__(self, encoder: Encoder, widths: tuple[int, ...], pair_loss: Callable[..., Tensor], views: int = 2):
        super().__init__()
        self.encoder, self.projector, self.pair_loss = encoder, projector(encoder.dim, widths), pair_loss
        self.views = views

    def loss(self, batch):
        projections = self.projector(self.encoder(batch.views.flatten(0, 1))).chunk(self.views)
        return self.pair_loss(*map(self.gather, projections)), {}

    def encode(self, images):
        return self.encoder(images)


@dataclass(frozen=True)
class Pairwise(Part):
    """Base of the parts whose method is a `JointEmbedding`: a projector of `widths` and a `pair_loss`.

    Without widths there is no head: the loss acts on the features. `views`, the views of each image in a step, are two
    unless a part says otherwise.
    """

    widths: tuple[int, ...] = (128,)
    views: ClassVar[int] = 2

    def validate(self):
        require(
            all(width >= 1 for width in self.widths),
            f"{type(self).__name__}.widths is {self.widths}; each must be at least 1.",
        )

    def build(self, encoder: Encoder, about: Info) -> JointEmbedding:
        """The method around `encoder`, with PyTorch's default initialisation."""
        return JointEmbedding(encoder, self.widths, self.pair_loss, self.views)

    def pair_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss, a scalar, between projections (N, D) of two views of the same N images."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")
