"""Losses that keep the coordinates of the features alive and different, where others push images apart.

Both arguments are (N, D) of one shape, N ≥ 2. Half precision is computed in float32 whatever autocast says, float64
stays. For N < D the energy off the diagonal of M = AᵀB, (D, D), comes from (N, N) Gram matrices, in time N²D not ND²:

    Σ_{d ≠ e} M_de² = ⟨AAᵀ, BBᵀ⟩ − Σ_d M_dd².

In float32 the difference is right to 2e-6 of the larger of itself and Σ_d M_dd². With A = B and equal variances nothing
cancels: M has rank N − 1 at most, so its energy is at least D/(N − 1) times that of its diagonal. The relative error
is large only if the covariance is nearly diagonal and fewer than N coordinates vary.

For N < D only first derivatives are right. A second derivative is wrong, and no error is raised.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook.config import require_number
from sslbook.tensors import paired, power_of_two


def vicreg(
    z1: Tensor, z2: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    """Variance–invariance–covariance loss of two views.

    With V and K the unbiased variances and covariances of a view it is

        invariance · mean_nd (z1 − z2)²
        + Σ_views [variance/2 · mean_d max(0, 1 − √(V_d + 1e-4)) + covariance/D · Σ_{d ≠ e} K_de²].

    Source: Bardes et al. 2022, section 4, with the conventions of the authors' code: the paper prints the hinge without
    its half, and the squared distance not divided by D.

    `z1` and `z2` are (N, D); the three weights are at least 0.

    **Returns** a scalar, at least 0. Collapsed views cost 0.99 · variance.

    **Raises** `ValueError` if a weight is negative, the shapes differ or N < 2.

    >>> z = torch.zeros(4, 8)
    >>> print(f"{losses.vicreg(z, z):.2f}")
    24.75
    """
    for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        require_number(name, weight, least=0)
    z1, z2 = paired(z1, z2)
    n, d = z1.shape
    total = invariance * F.mse_loss(z1, z2)
    for z in (z1, z2):
        z = (z - z.mean(0)) / (n - 1) ** 0.5
        hinge = F.relu(1 - (z.square().sum(0) + 1e-4).sqrt()).mean()
        total = total + variance / 2 * hinge + covariance / d * _energy_off_diagonal(z, z)
    return total


def barlow_twins(z1: Tensor, z2: Tensor, *, redundancy: float = 5e-3) -> Tensor:
    """Σ_d (1 − K_dd)² + redundancy · Σ_{d ≠ e} K_de², K (D, D) the correlations of the coordinates across the views.

    Coordinates are divided by √(V + 1e-5), V their biased variance, as in batch norm.
    Source: Zbontar et al. 2021, Eq. 1 and 2.

    `z1` and `z2` are (N, D); `redundancy` is at least 0.

    **Returns** a scalar, at least 0. For identical views K_dd is V/(V + 1e-5), and the first sum 0 up to that. A
    coordinate that is constant counts 1.

    **Raises** `ValueError` if the weight is negative, the shapes differ or N < 2.

    >>> z = torch.zeros(4, 8)
    >>> print(f"{losses.barlow_twins(z, z):.2f}")
    8.00
    """
    require_number("redundancy", redundancy, least=0)
    z1, z2 = map(_standardised, paired(z1, z2))
    return (1 - (z1 * z2).sum(0)).square().sum() + redundancy * _energy_off_diagonal(z1, z2)


def _standardised(z: Tensor) -> Tensor:
    """The columns of `z` (N, D) minus their means, divided by √(N (V + 1e-5))."""
    n = len(z)
    power = power_of_two(z.detach().abs().amax(0).clamp(min=1))
    z = z * power  # else the squares of large numbers overflow
    z = z - z.mean(0)
    # Of a large constant only the rounding of its mean is left, which must not become a coordinate.
    least = (1e-5 * n * power.square()).clamp(min=n * (64 * torch.finfo(z.dtype).eps) ** 2)
    return z / (z.square().sum(0) + least).sqrt()


def _energy_off_diagonal(a: Tensor, b: Tensor) -> Tensor:
    """Σ_{d ≠ e} (aᵀb)_de² of `a` and `b` (N, D)."""
    n, d = a.shape
    with torch.autocast(a.device.type, enabled=False):
        if n >= d:
            return (a.T @ b).masked_fill(torch.eye(d, dtype=torch.bool, device=a.device), 0).square().sum()
        # Symmetric matrices: half of the gradient comes through each factor, so one is detached and the other doubled.
        gram = a @ a.detach().T
        energy = (gram * (gram if a is b else b @ b.detach().T)).sum()
    return (2 * energy - energy.detach() - (a * b).sum(0).square().sum()).clamp(min=0)
