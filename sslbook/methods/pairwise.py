"""Methods that differ in the loss between the projections of two views, and in nothing else."""

from dataclasses import dataclass
from typing import Literal

import torch

from sslbook import losses
from sslbook.config import require
from sslbook.methods.joint_embedding import Pairwise


@dataclass(frozen=True)
class SimCLR(Pairwise, slot="method"):
    """SimCLR with one of three contrastive losses at inverse temperature `beta` in (0, 1e30]. Source: Chen et al. 2020.

    `loss="info_nce"` is Eq. 1 of Cosentino et al. (2022), symmetrised; `"nt_xent"` SimCLR's own; `"cross_view"` the
    one whose negatives come from the other view alone.

    >>> method = methods.SimCLR(widths=(128,), loss="nt_xent", beta=2.0)
    >>> z = torch.ones(2, 8)
    >>> print(f"{method.pair_loss(z, z):.4f}")
    1.0986
    """

    loss: Literal["info_nce", "nt_xent", "cross_view"] = "info_nce"
    beta: float = 2.0

    def validate(self):
        super().validate()
        self.limit("beta", above=0, most=1e30)

    def pair_loss(self, z1, z2):
        if self.loss == "info_nce":
            return losses.info_nce(z1, z2, beta=self.beta, symmetric=True)
        loss = losses.nt_xent if self.loss == "nt_xent" else losses.cross_view_info_nce
        return loss(z1, z2, temperature=1 / self.beta)


@dataclass(frozen=True)
class MatchingGap(Pairwise, slot="method"):
    """The matching gap with cost 1 − cos, see `losses.matching_gap`; `epsilon` is in units of the cost.

    With more than two `views` it is 2 `losses.multi_matching_gap` at `epsilon`/2, which for two is the same loss. It
    does not take the `epsilon` 0, and a batch of N images needs N^views entries.
    """

    epsilon: float = 0.2
    views: int = 2

    def validate(self):
        super().validate()
        self.limit("epsilon", least=0)
        self.limit("views", least=2)
        require(
            self.epsilon >= 2e-30 or (self.views == 2 and self.epsilon == 0),
            f"MatchingGap.epsilon is {self.epsilon}; it must be at least 2e-30, or of two views 0.",
        )

    def pair_loss(self, *z):
        if self.views == 2:
            return losses.matching_gap(*z, epsilon=self.epsilon)
        return 2 * losses.multi_matching_gap(torch.stack(z), epsilon=self.epsilon / 2)


@dataclass(frozen=True)
class VICReg(Pairwise, slot="method"):
    """VICReg; the three weights, at least 0, are by default those of its paper. Source: Bardes et al. 2022."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def validate(self):
        super().validate()
        self.limit("invariance", "variance", "covariance", least=0)

    def pair_loss(self, z1, z2):
        weights = {"invariance": self.invariance, "variance": self.variance, "covariance": self.covariance}
        return losses.vicreg(z1, z2, **weights)
