"""The matching gap: how far the pairing of the views is from their optimal matching.

C (N, N) holds the cost of matching image i of view 1 with image j of view 2, J = I/N is the true pairing, and P_ε
minimises ⟨P, C⟩ + ε Σ P log P among the P ≥ 0 whose rows and columns sum to 1/N. The gap

    MG_ε = ⟨J, C⟩ − ε log N − min_P [⟨P, C⟩ + ε Σ P log P] = ε KL(J ‖ P_ε) ≥ 0,   ∂MG_ε/∂C = J − P_ε,

is the same for C_ij + a_i + b_j. So −⟨x, y⟩ serves for 1 − cos, −2⟨x, y⟩ for ‖x − y‖², and the views are centred,
which keeps float32 accurate near collapse. Half precision is computed in float32 whatever autocast says, float64 stays.
"""

import itertools
import math
import warnings
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sslbook.config import require, require_choice, require_number
from sslbook.tensors import floating, paired, promoted, unit

_WEIGHT = {"cosine": 1.0, "sqeuclidean": 2.0, "circular_variance": 0.5}  # of −⟨x, y⟩ in the cost


class Plan(NamedTuple):
    """What `sinkhorn` found for each cost of a batch (...).

    `plan` (..., N, N); the potentials `f` and `g` (..., N), in units of the cost; `error` (...), the L1 distance of
    the plan's marginals from 1/N; `iterations`, a scalar.
    """

    plan: Tensor
    f: Tensor
    g: Tensor
    error: Tensor
    iterations: Tensor


def sinkhorn(cost: Tensor, epsilon: float, *, tol: float = 1e-3, max_iter: int = 1000) -> Plan:
    """The plan P_ε = exp((f ⊕ g − C)/ε) of each `cost` (..., N, N), without gradient.

    Source: Cuturi 2013; stabilised as in Schmitzer 2019.

    **Arguments**

    - `cost` (..., N, N): floating point; an infinite cost forbids a pair, NaN gives NaN.
    - `epsilon`, at least 1e-30: the regularisation, in units of the cost.
    - `tol` ≥ 0, `max_iter` ≥ 1: every ten iterations the error is looked at, and all stop when none of the batch is
      above `tol`, or at `max_iter`, with a warning.

    **Returns** a `Plan`. Its columns are exact up to rounding, so that mean f + mean g is a lower bound of
    min_P [⟨P, C⟩ + ε Σ P log P], off by second order.

    **Raises** `ValueError` if epsilon is below 1e-30 or C is not square.

    >>> losses.sinkhorn(torch.zeros(2, 2), 0.1).plan
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]])
    """
    require_number("epsilon", epsilon, least=1e-30)
    _require_limits(tol, max_iter)
    floating("The cost", cost)
    require(
        cost.ndim >= 2 and cost.shape[-1] == cost.shape[-2] > 0,
        f"The cost has the shape {tuple(cost.shape)}; it must be (..., N, N) with N of at least 1.",
    )
    cost = promoted(cost.detach())
    plan, potentials, error, iterations = _solve(cost.reshape(-1, *cost.shape[-2:]), epsilon, tol, max_iter)
    f, g = potentials.view(2, *cost.shape[:-1])
    return Plan(plan.view_as(cost), f, g, error.view(cost.shape[:-2]), iterations)


def matching_gap(
    x: Tensor, y: Tensor, *, epsilon: float, cost: str = "cosine", tol: float = 1e-3, max_iter: int = 1000
) -> Tensor:
    """MG_ε of the views `x` and `y` (N, D), N ≥ 1: how much cheaper their optimal plan is than their pairing.

    Source: "Self-Supervised Learning with the Matching Gap" (2023), reconstructed from its abstract and reviews.

    **Arguments**

    - `epsilon`, 0 or at least 1e-30, in units of the cost. At 0 the pairing is compared with the best assignment, found
      on the CPU.
    - `cost`: "cosine" is 1 − cos, "circular_variance" (1 − cos)/2, "sqeuclidean" ‖x − y‖², which does not normalise.
    - `tol`, `max_iter`: as in `sinkhorn`.

    **Returns** a scalar in units of the cost, at least 0. It does not decrease in ε. If all outputs are equal it is
    ε log N: at ε = 0 collapse costs nothing. For "cosine" it is at most ε times either direction of
    `cross_view_info_nce` at temperature ε. NaN gives NaN.

    Value: the dual objective. Gradient: J − P, by Danskin's theorem, as accurate as the plan (`tol`). There are no
    second derivatives.

    **Raises** `ValueError` if ε is another number, the cost is unknown or the shapes differ.

    >>> z = torch.ones(4, 8)  # 0.5 log 4
    >>> print(f"{losses.matching_gap(z, z, epsilon=0.5):.4f}")
    0.6931
    """
    require_choice("cost", cost, _WEIGHT)
    require_number("epsilon", epsilon, least=0)
    require(epsilon == 0 or epsilon >= 1e-30, f"epsilon is {epsilon}; it must be 0 or at least 1e-30.")
    _require_limits(tol, max_iter)
    views = torch.stack(paired(x, y, least=1))
    return _gap(_cost(views if cost == "sqeuclidean" else unit(views), _WEIGHT[cost]), epsilon, tol, max_iter)


def multi_matching_gap(views: Tensor, *, epsilon: float, tol: float = 1e-3, max_iter: int = 1000) -> Tensor:
    """MG_ε of k ≥ 2 `views` (k, N, D): J, C and P have k axes, and C is the circular variance 1 − ‖Σ_a z_a/k‖².

    Source: Piran et al. 2024, with the constant that makes the minimum 0.

    `epsilon`, at least 1e-30, is in units of the cost; for `tol` and `max_iter` see `sinkhorn`.

    **Returns** a scalar: of two views that of `matching_gap(cost="circular_variance")`; at collapse (k − 1) ε log N.
    Time and memory are N^k.

    **Raises** `ValueError` if ε is below 1e-30, the shape is another one or N^k exceeds 2²⁸.
    """
    require_number("epsilon", epsilon, least=1e-30)
    _require_limits(tol, max_iter)
    floating("The tensor of views", views)
    require(
        views.ndim == 3 and len(views) >= 2 and views[0].numel() > 0,
        f"The views have the shape {tuple(views.shape)}; it must be (k, N, D), k at least 2, N and D at least 1.",
    )
    k, n = views.shape[:2]
    require(
        n**k <= 2**28,
        f"{k} views of {n} images need a cost tensor of {n**k:,} entries; at most {2**28:,} are allowed, so take a "
        f"smaller batch or fewer views.",
    )
    return _gap(_cost(unit(promoted(views)), 2 / k**2), epsilon, tol, max_iter)


def _require_limits(tol: float, max_iter: int) -> None:
    require_number("tol", tol, least=0)
    require_number("max_iter", max_iter, least=1, whole=True)


def _cost(views: Tensor, weight: float) -> Tensor:
    """−weight Σ_{a < b} ⟨z_a, z_b⟩ of the centred `views` (k, N, D), on k axes of length N."""
    k, n = views.shape[:2]
    views = views - views.mean(1, keepdim=True)
    with torch.autocast(views.device.type, enabled=False):
        terms = [
            (-weight * views[a] @ views[b].T).view([n if axis in (a, b) else 1 for axis in range(k)])
            for a, b in itertools.combinations(range(k), 2)
        ]
    return sum(terms[1:], terms[0])


def _gap(cost: Tensor, epsilon: float, tol: float, max_iter: int) -> Tensor:
    """MG_ε of a cost on k axes of length N: value of the dual, gradient J − P_ε."""
    n, k = len(cost), cost.ndim
    fixed, diagonal = cost.detach(), slice(None, None, sum(n**axis for axis in range(k)))
    plan, potentials, *_ = _solve(fixed[None], epsilon, tol, max_iter) if epsilon else (_assignment(fixed), None)
    direction = -plan.flatten()
    direction[diagonal] += 1 / n
    linear = torch.dot(direction, cost.flatten())
    value = linear.detach()
    if potentials is not None:
        value = fixed.flatten()[diagonal].mean() - epsilon * math.log(n) - potentials.mean(-1).sum()
    return value.clamp(min=0) + (linear - linear.detach())  # below 0 is rounding


# Custom operators: `torch.compile` cannot trace a loop whose length depends on the data, nor scipy. So the step stays
# one graph.
@torch.library.custom_op("sslbook::assignment", mutates_args=())
def _assignment(cost: Tensor) -> Tensor:
    """1/N at the entries of the cheapest assignment, (N, N); NaN if a cost is not finite."""
    if not cost.isfinite().all():
        return torch.full_like(cost, math.nan)
    plan = torch.zeros_like(cost)
    plan[linear_sum_assignment(cost.cpu().numpy())] = 1 / len(cost)
    return plan


@_assignment.register_fake
def _(cost):
    return torch.empty_like(cost)


@torch.library.custom_op("sslbook::sinkhorn", mutates_args=())
def _solve(cost: Tensor, epsilon: float, tol: float, max_iter: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plans, potentials (k, B, N), errors (B,) and iterations for `cost` (B, N, …, N) with k axes of length N.

    Between two checks exp((⊕ potentials − C)/ε) is scaled by one vector for each axis, with products of matrix and
    vector where a log-sum-exp would take all entries. Every row and column starts with 1 as maximum, as for ε → 0, and
    later sums to at least 1/N², so that none underflows.
    """
    (batch, n), k = cost.shape[:2], cost.ndim - 1
    others = [[a + 1 for a in range(k) if a != axis] for axis in range(k)]
    logits, potentials = cost / -epsilon, []
    for axes in others:
        potentials.append(-logits.amax(axes, keepdim=True))
        logits += potentials[-1]
    for iterations in (*range(0, max_iter, 10), max_iter):  # a check costs several iterations, and a GPU waits for it
        plan = logits.clamp(min=-80).exp_()  # below, float32 sums feel nothing and exp is ten times slower
        error = sum((plan.sum(axes) - 1 / n).abs().sum(1) for axes in others)
        late = bool((error > tol).any())
        if not late or iterations >= max_iter:
            break
        scalings = [cost.new_ones(batch, n)] * k
        for _, axis in itertools.product(range(min(10, max_iter - iterations)), range(k)):
            scalings[axis] = 1 / n / _marginal(plan, scalings, axis)
        for potential, scaling in zip(potentials, scalings):
            change = scaling.log().view_as(potential)
            potential += change
            logits += change
    if late:
        warnings.warn(
            f"Sinkhorn stopped after {iterations} iterations with a marginal error of {error.max().item():.1e}, above "
            f"the tolerance of {tol:g}; a larger epsilon than {epsilon:g} or a larger max_iter helps.",
            stacklevel=2,
        )
    potentials = epsilon * torch.stack([potential.view(batch, n) for potential in potentials])
    return plan, potentials, error, torch.tensor(iterations)


@_solve.register_fake
def _(cost, epsilon, tol, max_iter):
    (batch, n), k = cost.shape[:2], cost.ndim - 1
    return torch.empty_like(cost), cost.new_empty(k, batch, n), cost.new_empty(batch), torch.empty((), dtype=torch.long)


def _marginal(plan: Tensor, scalings: list[Tensor], axis: int) -> Tensor:
    """The plan (B, N, …, N) times the `scalings` (B, N) of all axes but one, summed over these: (B, N)."""
    batch, n = scalings[axis].shape
    with torch.autocast(plan.device.type, enabled=False):
        for scaling in reversed(scalings[axis + 1 :]):  # the vector on the left: batched, the other way is slow
            plan = scaling[:, None] @ plan.reshape(batch, -1, n).mT
        for scaling in scalings[:axis]:
            plan = scaling[:, None] @ plan.reshape(batch, n, -1)
    return plan.reshape(batch, n)
