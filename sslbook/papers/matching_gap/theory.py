"""The matching gap on points: pairs with noise, its least value, and what becomes of points that descend it."""

import functools

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import losses
from sslbook.papers.matching_gap.plan import EPSILON


def noisy_pairs(seed: int, n: int = 32, dim: int = 16, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Unit vectors `x (n, dim)` in float64, and `y`, the same with normal `noise` in each coordinate."""
    generator = torch.Generator().manual_seed(seed)
    x, shift = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    x = F.normalize(x)
    return x, F.normalize(x + noise * shift)


def distance_at_zero(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm(dim=1).mean()) if losses.matching_gap(x, y, epsilon=0) < 1e-12 else -1.0


def gradient_error(x: Tensor, y: Tensor) -> float:
    """Of the gradient along a random direction, relative to a central difference."""
    direction, step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype), 1e-4
    loss = functools.partial(losses.matching_gap, y=y, epsilon=EPSILON, tol=1e-12)
    leaf = x.clone().requires_grad_()
    along = (torch.autograd.grad(loss(leaf), leaf)[0] * direction).sum()
    difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    return abs(float(along / difference) - 1)


def inverse_transport(x: Tensor, y: Tensor) -> float:
    """|MG − ε KL(J ‖ P)| with J = I/N."""
    plan = losses.sinkhorn(1 - x @ y.T, EPSILON, tol=1e-12).plan
    divergence = -(len(x) * plan.diagonal()).log().mean()
    return abs(float(losses.matching_gap(x, y, epsilon=EPSILON, tol=1e-12) - EPSILON * divergence))


def least_entropic_gap(n: int, epsilon: float) -> float:
    """The least matching gap of n pairs of unit vectors with cost 1 − cos: ε log(1 + (n − 1) exp(−n/((n − 1) ε))).

    By convexity the gap is least where all pairs, and all others, have one cost each; these differ by at most
    n/(n − 1), which a regular simplex with coinciding views reaches and nothing else.
    """
    margin = torch.tensor(-n / ((n - 1) * epsilon), dtype=torch.float64)
    return float(epsilon * torch.log1p((n - 1) * margin.exp()))


def collapse_beats_noise() -> float:
    """How much lower the exact gap of a collapsed encoder (0) lies than that of independent features."""
    x, y = noisy_pairs(1, noise=100.0)
    same = x[:1].expand_as(x)
    return float(losses.matching_gap(x, y, epsilon=0) - losses.matching_gap(same, same, epsilon=0))


def descend(x: Tensor, y: Tensor, *, epsilon: float, steps: int = 100) -> tuple[Tensor, Tensor, pd.DataFrame]:
    """Steepest descent of N·MG_ε (cost 1 − cos) over the views themselves, unit vectors `x` and `y` (N, D).

    No encoder ties them, so they end where the loss wants them. Returns both, and a row for each step: `step`, `gap`,
    `distance` (mean ‖x_i − y_i‖).
    """
    rows = []
    for step in range(steps + 1):
        x, y = (F.normalize(z).detach().requires_grad_() for z in (x, y))
        loss = losses.matching_gap(x, y, epsilon=epsilon)
        rows.append((step, loss.item(), (x - y).norm(dim=1).mean().item()))
        if step < steps:
            x, y = (z - 0.3 * len(z) * g for z, g in zip((x, y), torch.autograd.grad(loss, (x, y)), strict=True))
    return x.detach(), y.detach(), pd.DataFrame(rows, columns=["step", "gap", "distance"])
