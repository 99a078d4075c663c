"""Joint embedding: encoder, projector, and a loss between the projections of two views of each image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sslbook import losses
from sslbook.config import Part, require
from sslbook.models import Encoder, projector


class Method(nn.Module):
    """What the training loop knows. `after_step` is called with the share of training done, in (0, 1]."""

    views = 2

    def loss(self, views: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `views (k, N, C, H, W)` in [0, 1], and scalars to log."""
        raise TypeError(f"{type(self).__name__} defines no loss.")

    def encode(self, images: Tensor) -> Tensor:
        """Features `h (N, D)` of `images (N, C, H, W)` in [0, 1]."""
        raise TypeError(f"{type(self).__name__} defines no features.")

    def after_step(self, progress: float) -> None:
        """Update what is not learnt by gradient."""


class JointEmbedding(Method):
    """`g(h(x))` for both views in one forward pass (batch norm sees all 2N views), then `pair_loss(z1, z2)`."""

    def __init__(self, encoder: Encoder, widths: tuple[int, ...], pair_loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.encoder, self.projector, self.pair_loss = encoder, projector(encoder.dim, widths), pair_loss

    def loss(self, views):
        z1, z2 = self.projector(self.encoder(views.flatten(0, 1))).chunk(2)
        return self.pair_loss(z1, z2), {}

    def encode(self, images):
        return self.encoder(images)


@dataclass(frozen=True)
class SimCLR(Part, slot="method"):
    """SimCLR (Chen et al. 2020) with a projector of `widths` and either of two losses.

    `loss="info_nce"` is Eq. 1 of Cosentino et al. (2022), one-sided or `symmetric`; `"nt_xent"` SimCLR's own,
    with temperature 1/β.
    """

    loss: Literal["info_nce", "nt_xent"] = "info_nce"
    widths: tuple[int, ...] = (128,)
    beta: float = 2.0
    symmetric: bool = True

    def validate(self):
        require(
            len(self.widths) > 0 and min(self.widths) >= 1,
            f"SimCLR.widths is {self.widths}; it must list the width of at least one layer.",
        )
        require(self.beta > 0, f"SimCLR.beta is {self.beta}; it must be positive.")

    def build(self, encoder: Encoder) -> JointEmbedding:
        """The method around `encoder`, with PyTorch's default initialisation."""
        return JointEmbedding(encoder, self.widths, self._pair_loss)

    def _pair_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        if self.loss == "info_nce":
            return losses.info_nce(z1, z2, beta=self.beta, symmetric=self.symmetric)
        return losses.nt_xent(z1, z2, temperature=1 / self.beta)
