"""Groups of views in a plane of latents, drawn together by the prior of SimVAE and held apart by a decoder."""

import functools
from typing import ClassVar

import torch
from torch import Tensor

from sslbook import losses, plotting
from sslbook.papers.simvae.measure import spread_ratio
from sslbook.widgets.base import Explorer, slider

GROUPS, MOST = 6, 10
REACH = 3.2


@functools.cache
def drawn() -> Tensor:
    """What is to be told of each view, (MOST, GROUPS, 2): places in the plane around a mean for each image."""
    generator = torch.Generator().manual_seed(201)
    centres, spread = torch.randn(1, GROUPS, 2, generator=generator), torch.randn(MOST, GROUPS, 2, generator=generator)
    places = 1.3 * centres + 0.45 * spread
    return places - places.mean((0, 1))


class LatentGroups(Explorer):
    """The posteriors that the bound of SimVAE asks for where a decoder draws latents as they are: x̂ = z in the plane.

    With λ = 1/σ_x² = 10^`decoder`, p = `prior` and the plug-in prior of the group's mean, the best posterior has

        μ^j − μ̄ = λ/(λ + p/σ²) · (u^j − ū),  μ̄ = Jλ/(Jλ + p) · ū,  v = 1/(λ + p (1 − 1/J)/σ² + p/J²),

    for views u^j. The terms are those of the bound, the prior's without p, in nats for one image.
    """

    views = slider(4, 2, MOST, 1, "Views of an image, J")
    sigma2 = slider(0.15, 0.05, 2.0, 0.05, "Variance within a group, σ²")
    prior = slider(1.0, 0.0, 4.0, 0.1, "Weight of the prior")
    decoder = slider(1.0, -2.0, 3.0, 0.1, "Weight of the decoder, log₁₀ 1/σₓ²")
    numbers: ClassVar = {
        "reconstruction": "Reconstruction",
        "entropy": "Entropy",
        "log_prior": "Prior",
        "ratio": "Variance within groups, over all",
    }

    def __init__(self, **values):
        super().__init__(data=drawn().numpy().tobytes(), **values)

    def posterior(self) -> tuple[Tensor, Tensor, float]:
        """The views and the means μ, both (J, GROUPS, 2), and the variance v of each latent."""
        views, weight = drawn()[: self.views].double(), 10.0**self.decoder
        centre = views.mean(0)
        within = weight / (weight + self.prior / self.sigma2)
        between = self.views * weight / (self.views * weight + self.prior)
        pull = 1 / losses.optimal_variance(0.0, views=self.views, sigma2=self.sigma2, prior="plug_in")
        return views, between * centre + within * (views - centre), 1 / (weight + self.prior * pull)

    def compute(self) -> dict:
        views, mean, variance = self.posterior()
        log_variance = torch.full_like(mean, variance).log()
        x, x_hat = views[..., None, None, :], mean[..., None, None, :]
        fit = losses.gaussian_log_likelihood(x, x_hat, 10.0**-self.decoder) - variance * 10.0**self.decoder
        prior = losses.group_log_prior(mean, log_variance, sigma2=self.sigma2, prior="plug_in")
        return {
            "reconstruction": float(fit.sum(0).mean()),
            "entropy": float(losses.posterior_entropy(log_variance).sum(0).mean()),
            "log_prior": float(prior.mean()),
            "ratio": spread_ratio(mean),
        }

    def still(self):
        from matplotlib.patches import Circle

        views, mean, variance = self.posterior()
        ax = plotting.axes(figsize=(4.4, 4.4))
        for k, colour in enumerate(plotting.PALETTE):
            ax.plot(*torch.stack([views[:, k], mean[:, k]]).unbind(2), color=colour, linewidth=0.8, alpha=0.6)
            ax.scatter(*views[:, k].T, s=14, facecolor="none", edgecolor=colour)
            ax.scatter(*mean[:, k].T, s=14, color=colour)
            for place in mean[:, k].tolist():
                ax.add_patch(Circle(place, variance**0.5, color=colour, alpha=0.12, linewidth=0))
        ax.set(
            aspect="equal", xlim=(-REACH, REACH), ylim=(-REACH, REACH), xlabel="first latent", ylabel="second latent"
        )
        return ax.figure
