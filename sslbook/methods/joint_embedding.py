"""Joint embedding: encoder, projector, and a loss between the projections of two views of each image."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from sslbook.config import Part, require
from sslbook.models import Encoder, projector


class Method(nn.Module):
    """What the training loop knows. `after_step` is called with the share of training done, in (0, 1].

    Where several processes share a batch, `loss` gets the views of one of them; what it compares or averages over the
    batch must have passed through `gather`, and is then the same in all.
    """

    views = 2

    def loss(self, views: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `views (k, N, C, H, W)` in [0, 1], and scalars to log."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")

    def encode(self, images: Tensor) -> Tensor:
        """Features `h (N, D)` of `images (N, C, H, W)` in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} defines no features.")

    def gather(self, z: Tensor) -> Tensor:
        """The rows of the whole batch, of which `z` are those of this process; alone, they are `z`."""
        return z

    def after_step(self, progress: float) -> None:
        """Update what is not learnt by gradient."""


class JointEmbedding(Method):
    """`g(h(x))` for both views in one forward pass (batch norm sees all 2N views), then `pair_loss(z1, z2)`."""

    def __init__(self, encoder: Encoder, widths: tuple[int, ...], pair_loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.encoder, self.projector, self.pair_loss = encoder, projector(encoder.dim, widths), pair_loss

    def loss(self, views):
        z1, z2 = self.projector(self.encoder(views.flatten(0, 1))).chunk(2)
        return self.pair_loss(self.gather(z1), self.gather(z2)), {}

    def encode(self, images):
        return self.encoder(images)


@dataclass(frozen=True)
class Pairwise(Part):
    """Base of the parts whose method is a `JointEmbedding`: a projector of `widths` and a `pair_loss`."""

    widths: tuple[int, ...] = (128,)

    def validate(self):
        require(
            len(self.widths) > 0 and min(self.widths) >= 1,
            f"{type(self).__name__}.widths is {self.widths}; it must list the width of at least one layer.",
        )

    @property
    def name(self) -> str:
        """What pages call the loss."""
        return type(self).__name__

    def build(self, encoder: Encoder) -> JointEmbedding:
        """The method around `encoder`, with PyTorch's default initialisation."""
        return JointEmbedding(encoder, self.widths, self.pair_loss)

    def pair_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss between projections (N, D) of two views of the same N images."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")
