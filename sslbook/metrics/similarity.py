"""How alike two sets of features of the same images are, and how features spread over the sphere.

Every function raises `ValueError` for a shape or value that its docstring does not allow.
"""

import math

import torch
from torch import Tensor

from sslbook.config import require, require_number
from sslbook.metrics.neighbors import scores
from sslbook.tensors import centred, finite, promoted, unit


@torch.no_grad()
def alignment(z1: Tensor, z2: Tensor) -> float:
    """Mean of ‖ẑ1 − ẑ2‖² over the N pairs of unit features, in [0, 4]; 0 if all views agree.

    Source: Wang and Isola 2020, Sec. 4.1, with their exponent 2. `z1` and `z2` are (N, D), normalised inside.

    >>> metrics.alignment(torch.eye(2), torch.eye(2).flip(0))
    2.0
    """
    z1, z2 = _pairs(z1=z1, z2=z2)
    return float((unit(z1.double()) - unit(z2.double())).square().sum(1).mean())


@torch.no_grad()
def uniformity(z: Tensor, *, t: float = 2.0) -> float:
    """log of the mean of exp(−t‖ẑ_i − ẑ_j‖²) over all pairs i ≠ j of unit features, in [−4t, 0]; 0 if all agree.

    Source: Wang and Isola 2020, Sec. 4.1.

    `z` is (N, D), N ≥ 2, normalised inside; `t` is positive. Time is quadratic in N, memory linear.
    """
    z = unit(finite("z", z, 2).double())
    require(len(z) > 1, "There is one feature; a pair needs two.")
    require_number("t", t, above=0)
    parts = [(2 * t * (score - 1)).logsumexp((0, 1)) for _, score in scores(z, z, others=True)]
    return float(torch.stack(parts).logsumexp(0)) - math.log(len(z) * (len(z) - 1))


@torch.no_grad()
def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of the centred x (N, D1) and y (N, D2), in [0, 1].

    Source: Kornblith et al. 2019, Eq. 4, the biased form.

    1 if y is x rotated, scaled and shifted. Of unrelated features it is not 0 unless N is much greater than D1 and D2:
    report its value for shuffled rows beside it.

    **Raises** `ValueError` also if all features of one set are equal.

    >>> x = torch.eye(4)
    >>> round(metrics.cka(x, 3 * x.flip(1) + 1), 6)
    1.0
    """
    x, y = _pairs(x=x, y=y, same=False)
    x, y = (centred(z.double()) for z in (x, y))
    own = (x.T @ x).norm() * (y.T @ y).norm()
    require(bool(own > 0), "All features of x or of y are equal; their alignment is undefined.")
    return float((y.T @ x).square().sum() / own)


def _pairs(*, same: bool = True, **features: Tensor) -> list[Tensor]:
    """Both features in float32 or float64; raises `ValueError` unless row i of both can be image i."""
    (one, two), (x, y) = features, [promoted(finite(name, z, 2)) for name, z in features.items()]
    require(
        len(x) == len(y) and (not same or x.shape == y.shape),
        f"{one} and {two} have the shapes {tuple(x.shape)} and {tuple(y.shape)}; row i of both must be image i"
        + (", and D the same." if same else "."),
    )
    return [x, y]
