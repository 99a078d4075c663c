"""Non-negative kernel regression (NNK): the neighbours of a feature that are not redundant beside one another.

The idea is that of Shekkizhar and Ortega 2020. Here the programme is solved exactly and each solution is checked.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from sslbook.config import require, require_choice, require_number
from sslbook.metrics.neighbors import matched, nearest
from sslbook.tensors import unit

KERNELS = ("cosine", "linear", "gaussian")
RELATIVE, ROUNDING = 1e-6, 1e-14
"""Tolerances of the certificate: a share of the query's error, and what float64 may add."""
THRESHOLD = 1e-6
"""A weight below this share of the query's largest one becomes 0."""
COPY = 1e-14
"""Candidates with ‖φ_j − φ_l‖² ≤ COPY are copies."""

_CHUNK, _PART = 2**19, 2**17
"""Numbers in the kernels solved together (4 MB) and in the features gathered together; 128 times as many on a GPU."""
_START, _ROUNDS = 24, 50
"""Of pivoting: how many of the nearest it first takes for neighbours, and when it gives up. They decide only time."""


class Neighborhood(NamedTuple):
    """The NNK neighbours of Q queries.

    `indices` (Q, k): the k nearest candidates, nearest first. `weights` (Q, k), float64: θ, 0 where a candidate is not
    an NNK neighbour. `error` (Q,), float64: ‖φ_i − Σ_j θ_j φ_j‖² ≥ 0.
    """

    indices: Tensor
    weights: Tensor
    error: Tensor


@torch.no_grad()
def nnk(
    queries: Tensor,
    candidates: Tensor | None = None,
    *,
    k: int = 50,
    kernel: str = "cosine",
    bandwidth: float | None = None,
) -> Neighborhood:
    """θ = argmin_{θ ≥ 0} ½ θᵀK_SS θ − K_Siᵀθ for each query i and its k nearest candidates S; neighbours have θ_j > 0.

    **Arguments**

    - `queries` (Q, D) and `candidates` (N, D), finite; `None` means leave-one-out: the other queries are candidates.
    - `k` in 1 … N (N − 1 in leave-one-out). The number of neighbours grows with k: compare only equal k.
    - `kernel`: "cosine" is ½(1 + cos) = ⟨[x̂; 1], [ŷ; 1]⟩/2, "linear" is x·y, "gaussian" is exp(−d²/2σ²).
    - `bandwidth` in 1e-30 … 1e30, for "gaussian" only: σ = `bandwidth` times the distance from the query to its k-th
      candidate, so that units do not matter. It has no default: the number of neighbours depends on it strongly.

    Nearest is by ‖φ_i − φ_j‖; a zero feature has cosine 0 with all. Of candidates that are copies for the kernel only
    the first listed can have weight. A copy of the query takes all the weight, with error 0: remove copies first where
    that is not wanted. Without noise and with k > D + 1, θ may not be unique; one is given.

    **Returns** a `Neighborhood`. Time is linear in Q and in N, memory in Q + N.

    Solved by block principal pivoting (Kim and Park 2011) in batch, and where that fails by `scipy.optimize.nnls`. Each
    solution passes a certificate: for K scaled to K_jj ≤ 1, g = K_SS θ − K_Si and τ = RELATIVE · error/(1 + Σθ) +
    ROUNDING, |g_j| ≤ τ where θ_j > 0 and g_j ≥ −τ elsewhere (Karush-Kuhn-Tucker). So no θ has a clearly smaller error.

    **Raises** `ValueError` for bad input, `ArithmeticError` if a solution fails the certificate.
    """
    alone = candidates is None
    queries, *rest = matched(queries=queries, **({} if alone else {"candidates": candidates}))
    features = torch.cat([*rest, queries]) if rest else queries
    count = len(rest[0] if rest else queries)
    require_number("k", k, least=1, most=count - alone, whole=True)
    require_choice("The kernel", kernel, KERNELS)
    if kernel == "gaussian":
        require_number("The bandwidth", bandwidth, least=1e-30, most=1e30)
    else:
        require(bandwidth is None, f"The bandwidth is {bandwidth!r}; only the kernel 'gaussian' takes one.")
    near = unit(features.double()) if kernel == "cosine" else features.double()
    near = near - near.mean(0)  # around their mean the search loses least
    own = torch.arange(len(features) - len(queries), len(features), device=features.device)[:, None]
    grow = 128 if features.is_cuda else 1
    step, part = (max(1, grow * size // n) for size, n in ((_CHUNK, k * k), (_PART, k * features.shape[1])))
    found = []
    for rows, _, index in nearest(near[own[0] :], near[:count], k, euclidean=True, others=alone):
        for block in torch.cat([index, own[rows]], 1).split(step):
            kernels = torch.cat([_kernel(features[each].double(), kernel, bandwidth) for each in block.split(part)])
            found.append((block[:, :-1], *_solve(kernels, lambda i, b=block: features[b[i]].double(), kernel)))
    return Neighborhood(*map(torch.cat, zip(*found)))


def _kernel(points: Tensor, kernel: str, bandwidth: float | None) -> Tensor:
    """The kernels (C, k + 1, k + 1) of the points (C, k + 1, D), the query the last of them."""
    if kernel == "cosine":
        points = unit(points)
    if kernel == "gaussian":
        points = points - points[:, -1:]
    inner = points @ points.mT
    if kernel == "linear":
        return inner
    if kernel == "cosine":
        return inner.add_(1).div_(2)
    squared = inner.diagonal(dim1=1, dim2=2)
    width = 2 * bandwidth**2 * squared[:, -2].clamp(min=torch.finfo(inner.dtype).tiny)
    distance = (squared[:, :, None] + squared[:, None] - 2 * inner).clamp(min=0)
    return (-distance / width[:, None, None]).exp()


def _solve(kernels: Tensor, points, kernel: str) -> tuple[Tensor, Tensor]:
    """Weights (C, k) and errors (C,) for kernels (C, k + 1, k + 1) of `points(i)`, the query the last of them."""
    norms = kernels.diagonal(dim1=1, dim2=2)
    scale = norms.amax(1).clamp(min=torch.finfo(norms.dtype).tiny)
    kernels = kernels / scale[:, None, None]
    norms, gram, b = kernels.diagonal(dim1=1, dim2=2)[:, :-1], kernels[:, :-1, :-1], kernels[:, :-1, -1]
    first = ~(norms[:, :, None] + norms[:, None] - 2 * gram <= COPY).tril(-1).any(2)
    weights = _pivot(gram, b, first)
    gradient = _product(gram, weights) - b
    error = kernels[:, -1, -1] + (weights * (gradient - b)).sum(1)
    # Where the error is as small as the rounding of K, K cannot tell what is optimal; the features can.
    sure = _optimal(weights, gradient.where(first, 0), error) & (RELATIVE * error > 2 * ROUNDING)
    for i in (~sure).nonzero()[:, 0].tolist():
        if kernel == "gaussian":
            phi = _factor(kernels[i])
        else:
            phi = points(i) if kernel == "linear" else F.pad(unit(points(i)), (0, 1), value=1) / 2**0.5
            phi = phi / scale[i].sqrt()
        phi, center = phi[:-1] * first[i][:, None], phi[-1]
        weights[i] = torch.from_numpy(nnls(phi.T.cpu().numpy(), center.cpu().numpy(), maxiter=99 * len(phi))[0])
        residual = weights[i] @ phi - center
        error[i] = residual.square().sum()
        if not _optimal(weights[i, None], (phi @ residual)[None], error[i, None]):
            raise ArithmeticError(f"The solution for a query, with error {error[i]:.3g}, fails the certificate.")
    return weights.where(weights > THRESHOLD * weights.amax(1, keepdim=True), 0), error * scale


def _factor(kernels: Tensor) -> Tensor:
    """Φ with ΦΦᵀ = K, from the eigenvectors."""
    values, vectors = np.linalg.eigh(kernels.cpu().numpy())
    return torch.from_numpy(vectors * np.sqrt(values.clip(min=0))).to(kernels)


def _optimal(weights: Tensor, gradient: Tensor, error: Tensor) -> Tensor:
    """Whether each solution fulfils the Karush-Kuhn-Tucker conditions; false for NaN."""
    limit = (RELATIVE * error / (1 + weights.sum(1)) + ROUNDING)[:, None]
    return torch.where(weights > 0, gradient.abs() <= limit, gradient >= -limit).all(1)


def _pivot(gram: Tensor, b: Tensor, allowed: Tensor) -> Tensor:
    """Block principal pivoting in batch, for gram (C, k, k) and b (C, k); where K is singular the result is wrong.

    A passive set P solves K_PP x = b_P. With y = Kx − b, all j of P with x_j < 0 and all others with y_j < 0 change
    sides. After three rounds without fewer of them only the last one does (Murty's rule), which ends cycles.
    """
    weights, live, k = torch.zeros_like(b), torch.arange(len(b), device=b.device), b.shape[1]
    passive = allowed & (torch.arange(k, device=b.device) < _START)
    least, patience = torch.full_like(live, k + 1), torch.full_like(live, 3)
    for _ in range(_ROUNDS):
        # The passive rows and columns are moved to the front and padded with the identity: a small system.
        order = passive.byte().topk(int(passive.sum(1).max()), 1).indices
        inside = passive.gather(1, order)
        both = inside[:, :, None] & inside[:, None]
        flat = (k * order[:, :, None] + order[:, None]).flatten(1)
        system = gram.flatten(1).gather(1, flat).view(both.shape).where(both, 0)
        system.diagonal(dim1=1, dim2=2).add_((~inside).to(b))
        factor, broken = torch.linalg.cholesky_ex(system)
        solution = torch.cholesky_solve((b.gather(1, order) * inside)[:, :, None], factor)[:, :, 0]
        x = torch.zeros_like(b).scatter_(1, order, solution * inside)
        weights[live] = x
        wrong = torch.where(passive, x < 0, (_product(gram, x) - b < -ROUNDING) & allowed)
        number = wrong.sum(1)
        left = (number > 0) & (broken == 0)
        if not left.any():
            break
        patience = torch.where(number < least, 3, patience - 1)
        last = torch.zeros_like(wrong).scatter_(1, k - 1 - wrong.flip(1).byte().argmax(1, keepdim=True), True)
        passive = passive ^ (wrong & (last | (patience >= 0)[:, None]))
        state = (live, passive, least.minimum(number), patience, gram, b, allowed)
        live, passive, least, patience, gram, b, allowed = (each[left] for each in state)
    return weights.clamp(min=0)


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[:, :, None])[:, :, 0]
