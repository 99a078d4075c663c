"""Variational bounds for groups of views: the terms of SimVAE, of the plain VAE and of CR-VAE.

The J views x^1 … x^J of an image have latents z^1 … z^J around an unknown mean ψ, z^j ~ N(ψ, σ² I). With a posterior
q = Π_j N(μ^j, diag v^j) the log-likelihood of the group has the lower bound, in nats,

    log p(x^1 … x^J) ≥ Σ_j E_q log p(x^j | z^j)  +  Σ_j H[q(z^j | x^j)]  +  E_q log p(z^1 … z^J).
                       reconstruction               entropy                prior

Shapes: `mean` = μ and `log_variance` = log v are (J, N, L), that is views, images, latent dimensions; images are
(J, N, C, H, W). Half precision is computed in float32 whatever autocast says, float64 stays. Numbers such as σ² are
checked always; that pixels are 0 or 1 is checked on a processor only, where it makes no device wait. Every function
raises `ValueError` for shapes, types, names and numbers that its docstring does not allow.

Source: Bizeul et al. 2024, as far as the released code and public reviews tell; the closed forms are derived here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook.config import require, require_choice, require_number
from sslbook.tensors import floating, promoted, require_generator

LIKELIHOODS = ("gaussian", "bernoulli", "scaled_bernoulli")
PRIORS = ("plug_in", "marginal", "uniform", "standard")
_LOG_2PI = math.log(2 * math.pi)


class Bound(NamedTuple):
    """The terms of a bound in nats; the bound is their sum."""

    reconstruction: Tensor
    entropy: Tensor
    prior: Tensor


def elbo_ssl(
    x: Tensor,
    x_hat: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    *,
    likelihood: str,
    sigma_x2: float,
    sigma2: float,
    prior: str,
    entropy_weight: float = 1.0,
    reduction: str = "sum",
) -> Bound:
    """The terms of the bound for N groups of J views: scalars, sums over the groups, or (N,) for `reduction="none"`.

    `x_hat` is the decoder's output for a sample of the posterior, what `reconstruction` takes. The prior term is the
    expectation over the posterior. `entropy_weight` is 1 in the bound, and 2π in the last release of the code, by a
    slip. With `prior="standard"` the terms of each view are those of a plain VAE, and
    entropy + prior = −Σ_j KL(q(z^j | x^j) ‖ N(0, I)).

    The released code sums over the batch too. A mean would not be the same with Adam's ε of 1e-4.

    **Raises** `ValueError` for an unknown name, a variance that is not positive and finite, or shapes that do not
    match.
    """
    require_choice("reduction", reduction, ("sum", "none"))
    _require_floating(x=x, x_hat=x_hat, mean=mean, log_variance=log_variance)
    require(
        x.shape == x_hat.shape and x.ndim == 5 and mean.ndim == 3 and x.shape[:2] == mean.shape[:2],
        f"The views, their reconstructions and the posterior means have the shapes {tuple(x.shape)}, "
        f"{tuple(x_hat.shape)} and {tuple(mean.shape)}; they must be (J, N, C, H, W) twice and (J, N, L).",
    )
    fits = reconstruction(x, x_hat, likelihood=likelihood, sigma_x2=sigma_x2).sum(0)
    entropy = posterior_entropy(log_variance, entropy_weight).sum(0)
    terms = Bound(fits, entropy, group_log_prior(mean, log_variance, sigma2=sigma2, prior=prior))
    return terms if reduction == "none" else Bound(*(term.sum() for term in terms))


def reconstruction(x: Tensor, x_hat: Tensor, *, likelihood: str, sigma_x2: float) -> Tensor:
    """log p(x | z) of images (…, C, H, W), summed over pixels: (…).

    "gaussian": N(x; x_hat, σ_x² I). "bernoulli": x in {0, 1} and `x_hat` the logits; σ_x² plays no part.
    "scaled_bernoulli": the cross-entropy divided by σ_x², which no likelihood is and the released code uses for MNIST
    and Fashion-MNIST, also with grey x in [0, 1]; it acts as a β-VAE with β = σ_x².
    """
    require_choice("likelihood", likelihood, LIKELIHOODS)
    if likelihood == "gaussian":
        return gaussian_log_likelihood(x, x_hat, sigma_x2)
    if likelihood == "bernoulli":
        return bernoulli_log_likelihood(x, x_hat)
    require_number("sigma_x2", sigma_x2, above=0)
    return _cross_entropy(x, x_hat) / -sigma_x2


def gaussian_log_likelihood(x: Tensor, x_hat: Tensor, sigma_x2: float) -> Tensor:
    """log N(x; x_hat, σ_x² I) = −½ Σ [(x − x_hat)²/σ_x² + log 2πσ_x²] of images (…, C, H, W): (…)."""
    require_number("sigma_x2", sigma_x2, above=0)
    _require_images(x, x_hat)
    error = (promoted(x) - promoted(x_hat)).square().sum((-3, -2, -1))
    return -0.5 * (error / sigma_x2 + x.shape[-3:].numel() * (_LOG_2PI + math.log(sigma_x2)))


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Σ [x log s + (1 − x) log(1 − s)], s = sigmoid(logits), of binary images (…, C, H, W): (…).

    **Raises** `ValueError`, on a processor, if a pixel is neither 0 nor 1.
    """
    _require_images(x, logits)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        grey = x[(x != 0) & (x != 1)]
        require(
            len(grey) == 0,
            f"{len(grey)} pixels are neither 0 nor 1, one of them {grey[:1].tolist()}; the likelihood 'bernoulli' "
            "needs binarised images, and 'scaled_bernoulli' takes grey ones.",
        )
    return -_cross_entropy(x, logits)


def posterior_entropy(log_variance: Tensor, weight: float = 1.0) -> Tensor:
    """weight · H[N(μ, diag v)] = weight/2 · Σ_d (log v_d + 1 + log 2π), (…, L) to (…)."""
    require_number("The weight of the entropy", weight, least=0)
    floating("log_variance", log_variance)
    return weight / 2 * (promoted(log_variance) + (1 + _LOG_2PI)).sum(-1)


def group_log_prior(mean: Tensor, log_variance: Tensor | None = None, *, sigma2: float, prior: str) -> Tensor:
    """log p(z^1 … z^J) at z = `mean` (…, J, N, L), or its expectation under N(μ, diag v): (…, N).

    It is −½ Σ_d Q_d + L c, with Q of `group_quadratic`. The mean ψ of the group has the prior

        "marginal"  ψ ~ N(0, I), integrated out: c = −½ [(J − 1) log σ² + log(σ² + J) + J log 2π];
        "plug_in"   log p(z | ψ = z̄) + log p(ψ = z̄), the released code: c = −½ [J log 2πσ² + log 2π];
        "uniform"   density 1 for every ψ, integrated out: c = −½ [(J − 1) log 2πσ² + log J];
        "standard"  no group: each z^j ~ N(0, I), the plain VAE; c = −½ J log 2π.

    **Raises** `ValueError` for an unknown prior, σ² not positive and finite, and J = 1 where a group is needed.
    """
    *_, constant = _weights(prior, sigma2, _views(mean))
    return -0.5 * group_quadratic(mean, log_variance, sigma2=sigma2, prior=prior).sum(-1) + mean.shape[-1] * constant


def group_quadratic(mean: Tensor, log_variance: Tensor | None = None, *, sigma2: float, prior: str) -> Tensor:
    """Q = a Σ_j (z^j − z̄)² + b z̄² of each latent dimension at z = `mean` (…, J, N, L), or its expectation: (…, N, L).

        E_q Q = a Σ_j (μ^j − μ̄)² + b μ̄² + (a (1 − 1/J) + b/J²) Σ_j v^j

    a = 1/σ²; b = 1/(1 + σ²/J) for "marginal", 1 for "plug_in", 0 for "uniform"; a = 1 and b = J for "standard". The
    prior of the mean counts once for each group. Where the encoder and the decoder can rescale z, E Q = J times the
    weight of the entropy at each stationary point of the bound.
    """
    within, between, _ = _weights(prior, sigma2, views := _views(mean))
    if log_variance is not None:
        _require_alike(mean, log_variance)
    mean = promoted(mean)
    centre = mean.mean(-3, keepdim=True)
    q = within * (mean - centre).square().sum(-3) + between * centre.squeeze(-3).square()
    if log_variance is None:
        return q
    return q + (within * (1 - 1 / views) + between / views**2) * promoted(log_variance).exp().sum(-3)


def optimal_variance(
    curvature: Tensor | float, *, views: int, sigma2: float, prior: str, entropy_weight: float = 1.0
) -> Tensor | float:
    """The posterior variance v* = w / (H + a (1 − 1/J) + b/J²) at which the bound is stationary.

    H = `curvature` ≥ 0 is that of −E log p(x | z) along a latent dimension, 0 for one the decoder ignores; w is
    `entropy_weight`, J is `views`, and a, b are the weights of `group_quadratic`.
    """
    if not isinstance(curvature, Tensor):
        require_number("curvature", curvature, least=0)
    require_number("views", views, least=1, whole=True)
    require_number("entropy_weight", entropy_weight, least=0)
    within, between, _ = _weights(prior, sigma2, views)
    return entropy_weight / (curvature + within * (1 - 1 / views) + between / views**2)


def consistency(mean: Tensor, log_variance: Tensor) -> Tensor:
    """How far the posteriors (J, N, L) of J ≥ 2 views disagree: (1/J) Σ_{j ≠ k} KL(q(z | x^j) ‖ q(z | x^k)), (N,).

        KL(N(μ, diag v) ‖ N(μ', diag v')) = ½ Σ_d [v/v' + (μ − μ')²/v' − 1 − log v/v']

    For two views it is the mean of both directions. CR-VAE takes the direction from the transformed image to the
    original; of two views none is the original, so the symmetric form is ours.

    Source: Sinha and Dieng 2021, whose abstract we have read.

    **Raises** `ValueError` if J = 1.
    """
    require(_views(mean) >= 2, "There is 1 view in a group; its consistency needs at least 2.")
    _require_alike(mean, log_variance)
    mean, log_variance = promoted(mean), promoted(log_variance)
    ratio = log_variance[:, None] - log_variance
    distance = (mean[:, None] - mean).square() * log_variance.neg().exp()
    return 0.5 * (ratio.exp() + distance - 1 - ratio).sum(-1).sum((0, 1)) / len(mean)


@torch.no_grad()
def importance_log_likelihood(
    log_joint: Callable[[Tensor], Tensor],
    mean: Tensor,
    log_variance: Tensor,
    *,
    samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x) of N groups, (N,), estimated as log (1/K) Σ_k p(x, z_k)/q(z_k | x) with K = `samples` draws z_k of q.

    `log_joint` maps z (k, J, N, L) to log p(x, z) (k, N), for k up to 16, which bounds the memory. The mean
    of the estimate does not decrease in K and never exceeds log p(x); with q = p(z | x) it is exact for every K.

    Source: Burda et al. 2016, Theorem 1.

    **Raises** `ValueError` unless `samples` is at least 1.
    """
    require(callable(log_joint), f"log_joint is of type {type(log_joint).__name__}; it must be a function of z.")
    require_number("samples", samples, least=1, whole=True)
    require_generator(generator)
    _views(mean)
    _require_alike(mean, log_variance)
    mean, log_variance = promoted(mean), promoted(log_variance)
    total = mean.new_full(mean.shape[1:2], -math.inf)
    for start in range(0, samples, 16):
        shape = (min(16, samples - start), *mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        log_q = -0.5 * (noise.square() + log_variance + _LOG_2PI).sum((1, 3))
        weights = log_joint(mean + (log_variance / 2).exp() * noise) - log_q
        total = torch.logaddexp(total, weights.logsumexp(0))
    return total - math.log(samples)


def _weights(prior: str, sigma2: float, views: int) -> tuple[float, float, float]:
    """a, b and c of log p(z^1 … z^J) = −½ Σ_d [a Σ_j (z^j − z̄)² + b z̄²] + L c."""
    require_choice("prior", prior, PRIORS)
    if prior == "standard":  # Σ_j z² = Σ_j (z − z̄)² + J z̄²
        return 1.0, float(views), -0.5 * views * _LOG_2PI
    require_number("sigma2", sigma2, above=0)
    require(views >= 2, f"There is {views} view in a group; the prior {prior!r} needs at least 2.")
    log_s = math.log(sigma2)
    between, constant = {
        "plug_in": (1.0, views * (_LOG_2PI + log_s) + _LOG_2PI),
        "marginal": (
            1 / (1 + sigma2 / views),
            (views - 1) * log_s + math.log(sigma2 + views) + views * _LOG_2PI,
        ),
        "uniform": (0.0, (views - 1) * (_LOG_2PI + log_s) + math.log(views)),
    }[prior]
    return 1 / sigma2, between, -0.5 * constant


def _views(mean: Tensor) -> int:
    floating("mean", mean)
    require(mean.ndim >= 3, f"The latents have the shape {tuple(mean.shape)}; it must be (J, N, L).")
    return mean.shape[-3]


def _cross_entropy(x: Tensor, logits: Tensor) -> Tensor:
    _require_images(x, logits)
    logits = promoted(logits)
    x = x.expand_as(logits).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((-3, -2, -1))


def _require_floating(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        floating(name, tensor)


def _require_alike(mean: Tensor, other: Tensor) -> None:
    floating("mean", mean)
    floating("What goes with mean", other)
    require(
        mean.ndim > 0 and other.shape == mean.shape,
        f"The means and what goes with them have the shapes {tuple(mean.shape)} and {tuple(other.shape)}; both must be "
        "the same, (…, L).",
    )


def _require_images(x: Tensor, x_hat: Tensor) -> None:
    _require_floating(x=x, x_hat=x_hat)
    require(
        x.ndim >= 3 and x.shape[-3:] == x_hat.shape[-3:],
        f"The images and reconstructions have the shapes {tuple(x.shape)} and {tuple(x_hat.shape)}; both must be "
        "(…, C, H, W).",
    )
