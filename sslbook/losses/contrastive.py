"""Contrastive losses on two views of the same N images.

Notation: f_i^(k) = z_i^(k) / ‖z_i^(k)‖ is the normalised output for view k of image i, and B₋ᵢ the 2(N − 1) views of
the other images. Every loss here but `cross_view_info_nce` is a function of one term for each anchor,

    l_i = −β ⟨f_i^(1), f_i^(2)⟩ + log Σ_{l ∈ B₋ᵢ} exp(β ⟨f_i^(1), f_l⟩).

Both arguments are (N, D) of one shape, N ≥ 2. Half precision is computed in float32 whatever autocast says, float64
stays. A row of zeros has no direction: its similarities are 0 and its gradient is finite.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook.config import require_choice, require_number
from sslbook.tensors import paired, unit


class UpperBound(NamedTuple):
    """The parts of `info_nce_upper_bound`.

    `total` (in nats), `invariance` and `repulsion` (mean cosines) are scalars; `nearest` (N,) holds for each anchor the
    index of its nearest negative.
    """

    total: Tensor
    invariance: Tensor
    repulsion: Tensor
    nearest: Tensor


def info_nce(z1: Tensor, z2: Tensor, *, beta: float = 2.0, symmetric: bool = False) -> Tensor:
    """Contrastive loss whose denominator holds neither the positive nor the anchor: the mean of l_i.

    Source: Cosentino et al. 2022, Eq. 1.

    **Arguments**

    - `z1`, `z2` (N, D): outputs for the two views. The rows of `z1` are the anchors.
    - `beta` in ±1e30: the inverse temperature.
    - `symmetric`: average over the anchors of both views.

    **Returns** a scalar in nats, which can be negative. If all outputs are equal it is log 2(N − 1). With N ≤ D + 1 and
    beta > 0 its minimum is −β − β/(N − 1) + log 2(N − 1), reached by a regular simplex with identical views.

    **Raises** `ValueError` if beta is not in ±1e30, the shapes differ or N < 2.

    >>> z = torch.eye(3)  # l_i = log 4 − β
    >>> print(f"{losses.info_nce(z, z, beta=2.0):.4f}")
    -0.6137
    """
    require_choice("symmetric", symmetric, (False, True))
    loss, n = _terms(z1, z2, beta, symmetric).mean(), len(z1)
    # At its least value the gradient is 0, so what rounding puts below it may be cut off.
    return loss.clamp(min=-beta * n / (n - 1) + math.log(2 * (n - 1))) if beta > 0 else loss


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float) -> Tensor:
    """SimCLR's loss: cross-entropy of finding, for each of the 2N views, its partner among the 2N − 1 others.

    With β = 1/temperature it is the mean of softplus(l_i) over the anchors of both views.
    Source: Chen et al. 2020, Eq. 1.

    `z1` and `z2` are (N, D), `temperature` is at least 1e-30.

    **Returns** a scalar in nats, at least 0; log(2N − 1) if all outputs are equal.

    **Raises** `ValueError` if the temperature is below 1e-30, the shapes differ or N < 2.

    >>> z = torch.ones(2, 8)  # log 3
    >>> print(f"{losses.nt_xent(z, z, temperature=0.5):.4f}")
    1.0986
    """
    require_number("The temperature", temperature, least=1e-30)
    # The default threshold of 20 would cut off at 2e-9, which float64 can tell from 0.
    return F.softplus(_terms(z1, z2, 1 / temperature, symmetric=True), threshold=40).mean()


def cross_view_info_nce(x: Tensor, y: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of finding y_i among all y_j, and x_i among all x_j: the mean over both directions.

    With s_ij the cosine of x_i and y_j and τ the temperature it is the mean of the two scalars

        row = (1/N) Σ_i [log Σ_j exp(s_ij/τ) − s_ii/τ],   column = (1/N) Σ_j [log Σ_i exp(s_ij/τ) − s_jj/τ].

    The positive stands in the denominator, and negatives come from the other view only.
    Source: Radford et al. 2021, Fig. 3.

    `x` and `y` are (N, D), `temperature` is at least 1e-30.

    **Returns** a scalar in nats, at least 0; log N if all outputs are equal. ε times each direction at τ = ε bounds
    `matching_gap` from above.

    **Raises** `ValueError` if the temperature is below 1e-30, the shapes differ or N < 2.
    """
    require_number("The temperature", temperature, least=1e-30)
    row, column = _cross_view(x, y, temperature)
    return (row + column) / 2


def info_nce_upper_bound(z1: Tensor, z2: Tensor, *, beta: float = 2.0) -> UpperBound:
    """Upper bound of one-sided `info_nce`, in which the nearest negative stands for all of them.

        total = β·invariance + β·repulsion + log 2(N − 1)
        invariance = −(1/N) Σ_i ⟨f_i^(1), f_i^(2)⟩,   repulsion = (1/N) Σ_i max_{l ∈ B₋ᵢ} ⟨f_i^(1), f_l⟩

    Source: Cosentino et al. 2022, Prop. 3.1 and Eq. 3, which need β ≥ 0.

    `z1` and `z2` are (N, D); `beta` is the inverse temperature, in 0 … 1e30.

    **Returns** an `UpperBound`. `nearest[i]` is the arg max, an index into `torch.cat([z1, z2])`, the first one among
    equals. It holds that

        0 ≤ total − info_nce ≤ log 2(N − 1),   invariance ≥ −1,   repulsion ≥ −1/(N − 1).

    **Raises** `ValueError` if β lies outside 0 … 1e30, the shapes differ or N < 2.

    >>> z = torch.eye(3)
    >>> losses.info_nce_upper_bound(z, z).nearest
    tensor([1, 0, 0])
    """
    require_number("beta", beta, least=0, most=1e30)
    f1, f2 = map(unit, paired(z1, z2))
    with torch.autocast(f1.device.type, enabled=False):
        similarity = torch.cat([_without_diagonal(f1 @ f1.T), _without_diagonal(f1 @ f2.T)], dim=1)  # (N, 2N)
    largest, nearest = similarity.max(dim=1)
    invariance = (-(f1 * f2).sum(1).mean()).clamp(min=-1)  # see `info_nce`
    repulsion = largest.mean().clamp(min=-1 / (len(z1) - 1))
    total = beta * invariance + beta * repulsion + math.log(2 * (len(z1) - 1))
    return UpperBound(total, invariance, repulsion, nearest)


def _cross_view(x: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`row` and `column` of `cross_view_info_nce`."""
    x, y = map(unit, paired(x, y))
    with torch.autocast(x.device.type, enabled=False):
        logits = (x / temperature) @ y.T
    positive = logits.diagonal()
    # Subtracted before the mean: each term is then at least 0 in floating point too.
    return (logits.logsumexp(1) - positive).mean(), (logits.logsumexp(0) - positive).mean()


def _terms(z1: Tensor, z2: Tensor, beta: float, symmetric: bool) -> Tensor:
    """l_i for the anchors of view 1, (N,), or of view 1 then view 2, (2N,)."""
    require_number("beta", beta, least=-1e30, most=1e30)
    f1, f2 = map(unit, paired(z1, z2))
    with torch.autocast(f1.device.type, enabled=False):
        across = _without_diagonal(beta * (f1 @ f2.T))
        terms = torch.logaddexp(_log_sum(f1, beta), across.logsumexp(1))
        if symmetric:
            terms = torch.cat([terms, torch.logaddexp(_log_sum(f2, beta), across.logsumexp(0))])
    positive = beta * (f1 * f2).sum(1)
    return terms - (positive.repeat(2) if symmetric else positive)


def _log_sum(f: Tensor, beta: float) -> Tensor:
    """log Σ_{j ≠ i} exp(β ⟨f_i, f_j⟩), (N,)."""
    return _without_diagonal(beta * (f @ f.T)).logsumexp(1)


def _without_diagonal(square: Tensor) -> Tensor:
    """`square` itself, with −∞ on its diagonal; no boolean indexing, so shapes stay static and nothing synchronises."""
    return square.masked_fill_(torch.eye(len(square), dtype=torch.bool, device=square.device), -math.inf)
