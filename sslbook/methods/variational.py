"""Latent-variable models: SimVAE for groups of views, and the VAEs it is compared with.

They share an encoder that gives a Gaussian posterior, a decoder and the reconstruction; they differ in what they ask of
the latents. Each loss is the negative bound, summed over the images of the batch as in the released code of Bizeul et
al. (2024), so that Adam's ε is as small beside the gradients as it was there.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sslbook import losses
from sslbook.config import Part, require, require_number
from sslbook.data import Info
from sslbook.methods.method import Method
from sslbook.models import Encoder, GaussianEncoder, MLPDecoder

_DECODER = MLPDecoder()


class LatentVariable(Method):
    """Encoder, decoder, and the bound of `part`; features are posterior means.

    Images are (N, C, H, W) in [0, 1]; if `part.binarised`, a pixel counts as 1 from 0.5 on, else as 0, wherever images
    come in. Latents z are (…, L) with L = `encoder.dim`.
    """

    def __init__(self, part: "Variational", encoder: GaussianEncoder, about: Info):
        super().__init__()
        self.part, self.views = part, part.views
        self.encoder, self.decoder = encoder, part.decoder.build(encoder.dim, about)

    def draw(self, n, generator, device):
        """One sample of N(0, I) for each view of each image, (n, J, L)."""
        return (torch.randn(n, self.views, self.encoder.dim, generator=generator, device=device),)

    def loss(self, batch):
        """−Σ of all terms over images and views; the logs are the terms with their weights, for one view."""
        x = self.observed(batch.views)
        mean, log_variance = self._posterior(x)
        z = mean + (log_variance / 2).exp() * batch.noise[0].transpose(0, 1)
        terms = self.part.terms(x, self._output(z), mean, log_variance)
        rows = self.gather(torch.stack(list(terms.values()), dim=1))
        return -rows.sum(), dict(zip(terms, rows.mean(0) / self.views, strict=True))

    def _posterior(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.unflatten(0, x.shape[:2]).float() for t in self.encoder.posterior(x.flatten(0, 1)))

    def encode(self, images):
        return self.encoder(self.observed(images))

    def before(self, images: Tensor) -> Tensor:
        """The features (N, width) of which the posterior means are a linear function."""
        return self.encoder.before(self.observed(images))

    def observed(self, images: Tensor) -> Tensor:
        """What the model is a model of: the images, or their binarised form."""
        return (images >= 0.5).to(images.dtype) if self.part.binarised else images

    def decode(self, z: Tensor) -> Tensor:
        """The mean image in [0, 1] of latents z (…, L): (…, C, H, W)."""
        return self._logits(z).sigmoid()

    def reconstruct(self, images: Tensor) -> Tensor:
        """The mean images (N, C, H, W) at the posterior means of `images`."""
        return self.decode(self.encode(images))

    def log_likelihood(self, views: Tensor, *, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """log p(x^1 … x^J) of N images in J views (J, N, C, H, W), estimated from so many draws of the posterior: (N,).

        See `losses.importance_log_likelihood`. What the views share, and J, is that of the part.
        """
        x = self.observed(views)
        mean, log_variance = self._posterior(x)
        about = {"likelihood": self.part.likelihood, "sigma_x2": self.part.sigma_x2}

        def log_joint(z: Tensor) -> Tensor:
            output = self._output(z)
            fits = losses.reconstruction(x.expand_as(output), output, **about).sum(1)
            return fits + losses.group_log_prior(z, **self.part.group_prior)

        return losses.importance_log_likelihood(log_joint, mean, log_variance, samples=samples, generator=generator)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Mean images (n, C, H, W) at latents drawn from the model's p(z).

        **Raises** `ValueError` if p(z) is improper, as with SimVAE's prior "uniform".
        """
        return self.decode(self.part.prior_scale * self._normal(n, generator=generator))

    def sample_group(self, views: Tensor, n: int, *, sigma2: float, generator: torch.Generator | None = None) -> Tensor:
        """Mean images (n, N, C, H, W): further views of the same N images, as SimVAE with this σ² sees them.

        The latents are drawn from N(ψ, σ² I), with ψ the mean over the J `views` (J, N, C, H, W) of their posterior
        means.

        **Raises** `ValueError` if the views have another shape, or σ² is negative.
        """
        require(views.ndim == 5, f"The views have the shape {tuple(views.shape)}; it must be (J, N, C, H, W).")
        require_number("sigma2", sigma2, least=0)
        centre = self.encode(views.flatten(0, 1)).unflatten(0, views.shape[:2]).mean(0)
        return self.decode(centre + sigma2**0.5 * self._normal(n, len(centre), generator=generator))

    def _normal(self, *shape: int, generator) -> Tensor:
        device = next(self.parameters()).device
        return torch.randn(*shape, self.encoder.dim, generator=generator, device=device)

    def _logits(self, z: Tensor) -> Tensor:
        return self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1]).float()

    def _output(self, z: Tensor) -> Tensor:
        """What `losses.reconstruction` takes."""
        return self.decode(z) if self.part.likelihood == "gaussian" else self._logits(z)


@dataclass(frozen=True)
class Variational(Part):
    """Base of the parts whose method is a `LatentVariable`.

    For `likelihood` and `sigma_x2` > 0 see `losses.reconstruction`. `views` is J, the views of each image in a step.
    `entropy_weight` > 0 is 1 in the bound; 2π is the slip in the last release of SimVAE's code. `binarised` sets pixels
    to 0 or 1, at a threshold of 0.5.

    **Raises** `ValueError` for a value out of range, and for "bernoulli" without `binarised`.
    """

    decoder: Part = _DECODER
    views: int = 2
    likelihood: Literal["gaussian", "bernoulli", "scaled_bernoulli"] = "gaussian"
    sigma_x2: float = 0.01
    entropy_weight: float = 1.0
    binarised: bool = False

    least_views: ClassVar[int] = 1

    def validate(self):
        name = type(self).__name__
        self.limit("views", least=self.least_views)
        self.limit("sigma_x2", "entropy_weight", above=0)
        require(
            self.binarised or self.likelihood != "bernoulli",
            f"{name}.likelihood is 'bernoulli' and {name}.binarised is False; grey pixels have no such likelihood, so "
            "binarise them or take 'scaled_bernoulli'.",
        )

    def build(self, encoder: Encoder, about: Info) -> LatentVariable:
        """The model with PyTorch's default initialisation.

        **Raises** `ValueError` for an encoder without a posterior.
        """
        require(
            isinstance(encoder, GaussianEncoder),
            f"{type(self).__name__} needs an encoder that gives a posterior, such as MLP or GaussianResNet; this one "
            "gives features only.",
        )
        return LatentVariable(self, encoder, about)

    @property
    def prior_scale(self) -> float:
        """The standard deviation of each dimension of a latent under p(z)."""
        return 1.0

    @property
    def group_prior(self) -> dict[str, str | float]:
        """`prior` and `sigma2` of the latents of an image's views, as `losses.group_log_prior` takes them."""
        return {"prior": "standard", "sigma2": 1.0}

    def terms(self, x: Tensor, x_hat: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
        """The terms (N,) whose sum is maximised, by name; arguments as for `losses.elbo_ssl`."""
        bound = losses.elbo_ssl(
            *(x, x_hat, mean, log_variance),
            likelihood=self.likelihood,
            sigma_x2=self.sigma_x2,
            entropy_weight=self.entropy_weight,
            reduction="none",
            **self.group_prior,
        )
        return bound._asdict()


@dataclass(frozen=True)
class VAE(Variational, slot="method"):
    """The variational autoencoder on the same views: each has its own latent from N(0, I).

    Source: Kingma and Welling 2014.
    """


@dataclass(frozen=True)
class BetaVAE(Variational, slot="method"):
    """The VAE whose divergence from the prior, −(entropy + prior), counts `beta` > 0 times.

    Source: Higgins et al. 2017. The `beta` of 4 is our choice.
    """

    beta: float = 4.0

    def validate(self):
        super().validate()
        self.limit("beta", above=0)

    def terms(self, x, x_hat, mean, log_variance):
        terms = super().terms(x, x_hat, mean, log_variance)
        return terms | {name: self.beta * terms[name] for name in ("entropy", "prior")}


@dataclass(frozen=True)
class CRVAE(Variational, slot="method"):
    """The VAE with `consistency` > 0 times the disagreement of the posteriors of J ≥ 2 views; see `losses.consistency`.

    Source: Sinha and Dieng 2021. The weight of 1 is our choice.
    """

    consistency: float = 1.0

    least_views: ClassVar[int] = 2

    def validate(self):
        super().validate()
        self.limit("consistency", above=0)

    def terms(self, x, x_hat, mean, log_variance):
        terms = super().terms(x, x_hat, mean, log_variance)
        return terms | {"consistency": -self.consistency * losses.consistency(mean, log_variance)}


@dataclass(frozen=True)
class SimVAE(Variational, slot="method"):
    """SimVAE: the latents of an image's J ≥ 2 views lie around a mean of their own, N(ψ, σ² I).

    Source: Bizeul et al. 2024.

    `sigma2` > 0 is σ². `prior` says what becomes of ψ, as in `losses.group_log_prior`: "plug_in" is the released
    Gaussian prior, "uniform" the released uniform one, "marginal" the exact integral of the former.

    >>> round(methods.SimVAE(sigma2=0.21).prior_scale, 6)  # √(1 + σ²)
    1.1
    """

    sigma2: float = 0.15
    prior: Literal["plug_in", "marginal", "uniform"] = "plug_in"

    least_views: ClassVar[int] = 2

    def validate(self):
        super().validate()
        self.limit("sigma2", above=0)

    @property
    def prior_scale(self):
        require(self.prior != "uniform", "SimVAE.prior is 'uniform'; no image can be drawn from it, only from a group.")
        return (1 + self.sigma2) ** 0.5

    @property
    def group_prior(self):
        return {"prior": self.prior, "sigma2": self.sigma2}
