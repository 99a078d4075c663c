"""Ranks and spectra, computed in float64.

Wherever a spectrum is enough, an argument named `matrix` may be the matrix (2-d) or its singular values (1-d), so that
ranks can be derived later from stored spectra. Tensors and arrays are both accepted; the results are Python numbers.
Every function raises `ValueError` for a shape or value that its docstring does not allow, and for what is not finite.
"""

import torch
from torch import Tensor

from sslbook.config import require, require_choice, require_number
from sslbook.tensors import centred, finite


def singular_values(matrix, *, centered: bool = False) -> Tensor:
    """Singular values in descending order, (min(N, D),).

    `matrix` is (N, D); `centered` first subtracts the mean of the rows. A 1-d argument is taken to be the singular
    values themselves.

    **Raises** `ValueError` for other shapes, negative singular values, or a spectrum that is to be centred.
    """
    matrix = finite("The matrix", matrix, 1, 2, dtype=torch.float64).detach()
    require_choice("centered", centered, (False, True))
    if matrix.ndim == 2:
        return torch.linalg.svdvals(centred(matrix) if centered else matrix)
    require(not centered, "Singular values cannot be centred; give the matrix itself.")
    require(bool((matrix >= 0).all()), f"The smallest singular value is {matrix.min()}; it must be at least 0.")
    return matrix.sort(descending=True).values


def rank(matrix, threshold: float, *, relative: bool = False) -> int:
    """Number of singular values σ ≥ threshold, or with `relative` σ ≥ threshold · σ_max > 0.

    Source: Cosentino et al. 2022, Eq. 2. The paper gives no threshold, and its loss ignores the scale of the projector
    while an absolute threshold does not: report several. `threshold` is at least 0.

    >>> metrics.rank(torch.tensor([4.0, 2.0, 1.0]), 0.5, relative=True)
    2
    """
    require_number("The threshold", threshold, least=0)
    require_choice("relative", relative, (False, True))
    values = singular_values(matrix)
    if relative:
        return int(((values >= threshold * values[0]) & (values[0] > 0)).sum())
    return int((values >= threshold).sum())


def effective_rank(matrix, *, epsilon: float = 0.0) -> float:
    """exp(−Σ p_j log p_j) with p_j = σ_j / Σ σ + ε, the exponential of the entropy of the spectrum.

    Of the singular values, not of their squares, and by default without a small constant.
    Source: Roy and Vetterli 2007; with ε ≥ 0 see `rankme`.

    **Returns** for ε = 0 a number between 1 and the rank: r if r equal singular values are all that is not 0. The zero
    matrix has 0.

    >>> round(metrics.effective_rank(torch.eye(5)), 6)
    5.0
    """
    require_number("epsilon", epsilon, least=0)
    values = singular_values(matrix)
    if values[0] == 0:
        return 0.0
    values = values / values[0]  # else the sum of very large ones overflows
    number = float(torch.special.entr(values / values.sum() + epsilon).sum().exp())
    return number if epsilon else min(max(number, 1.0), float(values.count_nonzero()))


def rankme(features) -> float:
    """RankMe of features (N, D), or of their singular values: `effective_rank`, uncentred, with ε = 1e-7.

    Source: Garrido et al. 2023, Eq. 1. The ε adds up to min(N, D) ε ln(1/ε) to the entropy: 0.3 % at D = 2048.
    """
    return effective_rank(features, epsilon=1e-7)


def alpha_req(features, *, first: int = 11, last: int = 100) -> float:
    """α of the power law λ_j ∝ j^(−α): the least-squares slope of log λ_j against −log j with the weights 1/j.

    λ_j are the eigenvalues of the covariance of `features` (N, D), or the squares of given singular values.
    Source: Agrawal et al. 2022.

    `first` and `last` bound j. The value depends on this range: compare only values of one range.

    **Raises** `ValueError` unless 1 ≤ first < last and λ_last is positive.

    >>> sigma = torch.arange(1, 200).double() ** -0.75  # λ_j = j^(−3/2)
    >>> round(metrics.alpha_req(sigma), 6)
    1.5
    """
    for name, value in (("first", first), ("last", last)):
        require_number(name, value, least=1, whole=True)
    features = finite("The matrix", features, 1, 2, dtype=torch.float64)
    values = singular_values(features, centered=features.ndim == 2)
    floor = values[0] * len(values) * torch.finfo(values.dtype).eps
    most = int((values > floor).sum())
    require(
        first < last <= most,
        f"The range is {first} … {last}; it must lie in 1 … {most}, the eigenvalues that are not 0.",
    )
    j = torch.arange(first, last + 1, dtype=torch.float64, device=values.device)
    x, y = -j.log(), 2 * values[first - 1 : last].log()
    x, y = (v - (v / j).sum() / (1 / j).sum() for v in (x, y))
    return float((x * y / j).sum() / (x * x / j).sum())


def energy_rank(matrix, share: float = 0.99) -> int:
    """Smallest number of leading directions that hold `share`, in (0, 1], of the energy Σ σ²; 0 for the zero matrix.

    >>> metrics.energy_rank(torch.tensor([3.0, 1.0, 0.1]), share=0.9)
    2
    """
    require_number("The share", share, above=0, most=1)
    values = singular_values(matrix)
    if values[0] == 0:
        return 0
    energy = (values / values[0]).square().cumsum(0)
    # A share that is reached exactly must not be missed by rounding.
    return int((energy < share * energy[-1] * (1 - 1e-12)).sum()) + 1


def unexplained_variance(displacements, basis, *, threshold: float | None = None) -> float:
    """Σ_i ‖(I − UUᵀ) δ_i‖² / Σ_i ‖δ_i‖² with U an orthonormal basis of the columns of `basis`.

    Source: Cosentino et al. 2022, Eq. 10.

    **Arguments**

    - `displacements` (N, D), uncentred, with the rows δ_i.
    - `basis` (D, K). Its scale does not matter: every direction counts, however small its singular value.
    - `threshold` ≥ 0: keep only the left singular vectors of `basis` with σ ≥ threshold.

    **Returns** a share in [0, 1]. A random basis gives 1 − K/D on average; `pca_unexplained` is the least value that K
    directions can reach.

    **Raises** `ValueError` if the shapes do not match or all displacements are 0.

    >>> metrics.unexplained_variance(torch.eye(4), torch.eye(4)[:, :3])
    0.25
    """
    delta = _scaled(finite("The matrix of displacements", displacements, 2, dtype=torch.float64).detach())
    basis = finite("The basis", basis, 2, dtype=torch.float64).detach()
    require(
        delta.shape[1] == basis.shape[0],
        f"The displacements have shape {tuple(delta.shape)} and the basis {tuple(basis.shape)}; they must be (N, D) "
        "and (D, K).",
    )
    left, values, _ = torch.linalg.svd(basis, full_matrices=False)
    if threshold is not None:
        require_number("The threshold", threshold, least=0)
    else:
        threshold = values[0] * max(basis.shape) * torch.finfo(values.dtype).eps
    kept = left[:, (values >= threshold) & (values > 0)]
    return min(1.0, float((delta - delta @ kept @ kept.T).square().sum() / delta.square().sum()))


def pca_unexplained(displacements, k: int) -> float:
    """The part of Σ_i ‖δ_i‖² outside the best k directions, Σ_{j > k} σ_j² / Σ σ_j² (uncentred), in [0, 1].

    `displacements` is (N, D) or the spectrum. The least value of `unexplained_variance` over all bases (D, k).

    **Raises** `ValueError` if k < 0 or all displacements are 0.
    """
    require_number("k", k, least=0, whole=True)
    energy = _scaled(singular_values(displacements)).square()
    return float(energy[k:].sum() / energy.sum())


def _scaled(displacements: Tensor) -> Tensor:
    """Divided by the largest of their numbers, so that no square overflows or vanishes."""
    largest = displacements.abs().max()
    require(bool(largest > 0), "All displacements are 0; the share of their variance is undefined.")
    return displacements / largest
