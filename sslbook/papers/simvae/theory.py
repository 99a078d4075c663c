"""SimVAE on points: the density of a group, a linear model at convergence, what losses on instances see of a group."""

import math

import torch
from torch import Tensor

from sslbook import losses


def group_density(z: Tensor, sigma2: float) -> Tensor:
    """log p of groups z (J, N, L) with z^j = ψ + σ ε^j and ψ, ε^j ~ N(0, I): (N,), of one joint normal of J·L numbers.

    Computed from its covariance, 11ᵀ + σ² I in each dimension, and from no formula for groups.
    """
    views = len(z)
    covariance = torch.ones(views, views, dtype=z.dtype) + sigma2 * torch.eye(views, dtype=z.dtype)
    joint = torch.distributions.MultivariateNormal(torch.zeros(views, dtype=z.dtype), covariance)
    return joint.log_prob(z.permute(1, 2, 0)).sum(1)


def scale_of_linear_toy(views: int, prior: str, weight: float = 1.0, sigma2: float = 0.15) -> Tensor:
    """E[Q]/J of each of 3 latent dimensions, averaged over 40 groups, of a linear model trained to convergence.

    Encoder, decoder and one log-variance for each dimension are free; the data have 6 dimensions, σ_x² is 0.2, and all
    expectations are exact, so nothing is sampled. `weight` is that of the entropy; `prior` as in `losses`.
    """
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    data = normal(1, 40, 6) + 0.4 * normal(views, 40, 6)
    encoder, decoder, log_v = weights = [0.5 * normal(3, 6), 0.5 * normal(6, 3), normal(3) - 2]
    optimizer = torch.optim.LBFGS(
        [w.requires_grad_() for w in weights],
        max_iter=3000,
        tolerance_grad=1e-9,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        mean, log_variance = data @ encoder.T, log_v.expand(views, 40, 3)
        error = (data - mean @ decoder.T).square().sum() + (log_variance.exp() * decoder.square().sum(0)).sum()
        entropy = losses.posterior_entropy(log_variance, weight).sum()
        log_prior = losses.group_log_prior(mean, log_variance, sigma2=sigma2, prior=prior).sum()
        loss = error / (2 * 0.2) - entropy - log_prior
        loss.backward()
        return loss

    optimizer.step(closure)
    mean, log_variance = data @ encoder.detach().T, log_v.detach().expand(views, 40, 3)
    return losses.group_quadratic(mean, log_variance, sigma2=sigma2, prior=prior).mean(0) / views


def points(spread: float, *, groups: int = 64, dim: int = 8, views: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Means ψ (N, D) ~ N(0, I) of groups, and views z (J, N, D) ~ N(ψ, `spread`² I), both from `seed` in float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(views + 1, groups, dim, generator=generator, dtype=torch.float64)
    return noise[0], noise[0] + spread * noise[1:]


def instance_information(spread: float, **about) -> tuple[float, float]:
    """Nats that z tells of its group: log N + E log p(y | z) with the true means, and log N − InfoNCE of two views.

    The score of InfoNCE is −‖z − z'‖²/(4 s²), s = `spread`: the logarithm of the density of z' − z within a group.
    `about` is that of `points`.
    """
    centres, (first, second) = points(spread, views=2, **about)
    scores = torch.cdist(first, centres).square() / (-2 * spread**2)
    paired = torch.cdist(first, second).square() / (-4 * spread**2)
    known, contrasted = (s.log_softmax(1).diagonal().mean() for s in (scores, paired))
    return math.log(len(centres)) + float(known), math.log(len(centres)) + float(contrasted)


def view_information(spread: float, noise: float, dim: int = 8) -> float:
    """Nats that z = u + `noise` · n tells of the view u ~ N(ψ, `spread`² I) once its group is known, n ~ N(0, I):
    D/2 · log(1 + spread²/noise²)."""
    return dim / 2 * math.log1p((spread / noise) ** 2)


def kept_style(
    kept: Tensor, *, style: float = 1.0, noise: float = 0.1, sigma2: float = 0.15, sigma_x2: float = 0.1, views: int = 2
) -> dict[str, Tensor]:
    """Terms of the bound against the share of style that an encoder keeps, in nats for a view and a dimension.

    A view is u = ψ + `style` · e and its latent z = ψ + `kept` · `style` · e + `noise` · n, with e, n ~ N(0, 1) and ψ
    known. "reconstruction" is −E(u − û)²/(2 σ_x²) of the best decoder, with error s²τ²/(k²s² + τ²); "prior" is that of
    a uniform ψ, −(1 − 1/J)(k²s² + τ²)/(2σ²). Constants and the entropy, the same for every k, are left out.
    """
    variance = (kept * style) ** 2 + noise**2
    reconstruction = -((style * noise) ** 2) / variance / (2 * sigma_x2)
    prior = -(1 - 1 / views) * variance / (2 * sigma2)
    return {"reconstruction": reconstruction, "prior": prior, "both": reconstruction + prior}
