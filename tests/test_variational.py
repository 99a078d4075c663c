"""Laws of the variational bounds for groups of views."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from sslbook import losses
from sslbook.losses.variational import PRIORS
from sslbook.papers.simvae import theory
from tests.test_losses import compute_in_float32

SIGMA2 = 0.15
SETTINGS = {"likelihood": "gaussian", "sigma_x2": 0.3, "sigma2": SIGMA2, "prior": "marginal"}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def posterior(j=3, n=4, latent=5, dtype=torch.float64):
    return normal(j, n, latent, dtype=dtype), normal(j, n, latent, seed=1, dtype=dtype) - 1


def group(j=3, n=4, latent=5, dtype=torch.float64):
    """Views, reconstructions, posterior means and log-variances."""
    x, x_hat = (normal(j, n, 1, 2, 3, seed=seed, dtype=dtype) for seed in (2, 3))
    return x, x_hat, *posterior(j, n, latent, dtype)


def log_density(z, covariance):
    """Of each group: the J numbers of a latent dimension are jointly normal, dimensions independent."""
    j, n, latent = z.shape
    rows = multivariate_normal(np.zeros(j), covariance).logpdf(z.permute(1, 2, 0).reshape(-1, j).numpy())
    return torch.from_numpy(rows).view(n, latent).sum(1)


@pytest.mark.parametrize("j", [2, 6, 10])
def test_the_marginal_prior_is_the_normal_density_of_the_group(j):
    z = posterior(j)[0]
    expected = log_density(z, SIGMA2 * np.eye(j) + 1)
    torch.testing.assert_close(losses.group_log_prior(z, sigma2=SIGMA2, prior="marginal"), expected)


def test_the_uniform_prior_is_the_limit_of_wide_normal_ones():
    z, wide = posterior()[0], 1e6
    density = log_density(z, SIGMA2 * np.eye(3) + wide) + 5 / 2 * math.log(2 * math.pi * wide)
    found = losses.group_log_prior(z, sigma2=SIGMA2, prior="uniform")
    torch.testing.assert_close(found, density, rtol=0, atol=1e-5)


def test_the_plug_in_prior_is_that_of_the_views_around_their_mean_and_of_the_mean():
    z = posterior()[0]
    centre, unit = z.mean(0), torch.distributions.Normal(0.0, 1.0)
    around = torch.distributions.Normal(centre, SIGMA2**0.5).log_prob(z).sum((0, 2))
    found = losses.group_log_prior(z, sigma2=SIGMA2, prior="plug_in")
    torch.testing.assert_close(found, around + unit.log_prob(centre).sum(1))
    found = losses.group_log_prior(z, sigma2=SIGMA2, prior="standard")
    torch.testing.assert_close(found, unit.log_prob(z).sum((0, 2)))


@pytest.mark.parametrize(("j", "weight"), [(2, 0.930), (6, 0.976), (10, 0.985)])
def test_the_mean_of_a_group_is_counted_once_for_the_group(j, weight):
    z = normal(1, 4, 5).repeat(j, 1, 1)
    for prior, expected in {"plug_in": 1, "marginal": weight, "uniform": 0, "standard": j}.items():
        q = losses.group_quadratic(z, sigma2=SIGMA2, prior=prior)
        torch.testing.assert_close(q, expected * z[0].square(), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_expected_prior_agrees_with_samples(prior):
    mean, log_variance = posterior()
    z = mean + (log_variance / 2).exp() * normal(20_000, *mean.shape, seed=7)
    values = losses.group_log_prior(z, sigma2=SIGMA2, prior=prior)
    expected = losses.group_log_prior(mean, log_variance, sigma2=SIGMA2, prior=prior)
    assert ((values.mean(0) - expected).abs() < 4 * values.std(0) / len(z) ** 0.5).all()
    sharp = torch.full_like(mean, -math.inf)
    torch.testing.assert_close(
        losses.group_log_prior(mean, sharp, sigma2=SIGMA2, prior=prior),
        losses.group_log_prior(mean, sigma2=SIGMA2, prior=prior),
    )


@pytest.mark.parametrize(
    ("weight", "variances"),
    [(1.0, {2: 0.279, 6: 0.179, 10: 0.166, 1: 1.0}), (2 * math.pi, {2: 1.75, 6: 1.13, 10: 1.05, 1: 6.28})],
)
def test_unused_dimensions_have_the_tabulated_variance(weight, variances):
    for j, expected in variances.items():
        prior = "standard" if j == 1 else "plug_in"
        found = losses.optimal_variance(0.0, views=j, sigma2=SIGMA2, prior=prior, entropy_weight=weight)
        assert found == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_is_stationary_at_the_optimal_variance(prior):
    curvature, (mean, _) = normal(5, seed=4).square(), posterior()
    v = losses.optimal_variance(curvature, views=3, sigma2=SIGMA2, prior=prior, entropy_weight=1.7)
    log_variance = v.log().expand_as(mean).clone().requires_grad_()
    bound = losses.posterior_entropy(log_variance, 1.7).sum() - (curvature * log_variance.exp()).sum() / 2
    bound = bound + losses.group_log_prior(mean, log_variance, sigma2=SIGMA2, prior=prior).sum()
    assert torch.autograd.grad(bound, log_variance)[0].abs().max() < 1e-12


@pytest.mark.parametrize(("prior", "j", "weight"), [("plug_in", 2, 1), ("uniform", 3, 1), ("marginal", 2, 2 * math.pi)])
def test_at_convergence_the_quadratic_form_is_the_number_of_views_times_the_weight(prior, j, weight):
    """The scale identity, on a linear encoder and decoder whose bound needs no sampling."""
    found = theory.scale_of_linear_toy(j, prior, weight, SIGMA2)
    torch.testing.assert_close(found, torch.full((3,), weight, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_prior_of_two_views_is_vicreg_s_invariance():
    z1, z2 = z = normal(2, 7, 5)
    found = -losses.group_quadratic(z, sigma2=SIGMA2, prior="uniform").sum() / 2
    assert found.item() == pytest.approx(-(z1 - z2).square().sum().item() / (4 * SIGMA2), rel=1e-12)
    invariance = losses.vicreg(z1, z2, invariance=1, variance=0, covariance=0)
    assert found.item() == pytest.approx(-7 * 5 / (4 * SIGMA2) * invariance.item(), rel=1e-12)


def test_likelihoods_are_those_of_their_distributions():
    x, x_hat, *_ = group()
    pixels = torch.distributions.Normal(x_hat, 0.3**0.5).log_prob(x)
    torch.testing.assert_close(
        losses.reconstruction(x, x_hat, likelihood="gaussian", sigma_x2=0.3), pixels.sum((-3, -2, -1))
    )
    binary = (x > 0).double()
    pixels = torch.distributions.Bernoulli(logits=x_hat).log_prob(binary)
    found = losses.reconstruction(binary, x_hat, likelihood="bernoulli", sigma_x2=0.3)
    torch.testing.assert_close(found, pixels.sum((-3, -2, -1)))
    scaled = losses.reconstruction(binary, x_hat, likelihood="scaled_bernoulli", sigma_x2=0.3)
    torch.testing.assert_close(scaled, found / 0.3)


def test_a_scaled_cross_entropy_of_grey_images_is_greatest_at_the_images():
    x, x_hat, *_ = group()
    grey, settings = x.sigmoid(), {"likelihood": "scaled_bernoulli", "sigma_x2": 0.01}
    best = losses.reconstruction(grey, x, **settings)
    assert (best > losses.reconstruction(grey, x_hat, **settings)).all() and (best < 0).all()


def test_logits_far_from_the_image_still_have_a_gradient():
    logits = torch.full((1, 1, 1), 200.0, requires_grad=True)
    value = losses.bernoulli_log_likelihood(torch.zeros(1, 1, 1), logits)
    value.backward()
    assert value.item() == -200 and logits.grad.item() == -1


def divergence(mean, log_variance, other_mean, other_log_variance):
    """KL of two normal distributions with diagonal covariance, as PyTorch has it."""
    own = torch.distributions.Normal(mean, (log_variance / 2).exp())
    other = torch.distributions.Normal(other_mean, (other_log_variance / 2).exp())
    return torch.distributions.kl_divergence(own, other).sum(-1)


def test_entropy_and_standard_prior_are_minus_the_divergence_from_the_prior():
    mean, log_variance = posterior()
    kl = divergence(mean, log_variance, torch.zeros_like(mean), torch.zeros_like(mean))
    terms = losses.elbo_ssl(*group(), **SETTINGS | {"prior": "standard"}, reduction="none")
    torch.testing.assert_close(terms.entropy + terms.prior, -kl.sum(0))


def test_consistency_of_two_views_is_the_mean_of_both_directions():
    mean, log_variance = posterior(2)
    (m1, m2), (l1, l2) = mean, log_variance
    both = divergence(m1, l1, m2, l2) + divergence(m2, l2, m1, l1)
    torch.testing.assert_close(losses.consistency(mean, log_variance), both / 2)


def test_consistency_is_zero_for_equal_posteriors_and_knows_no_order_of_views():
    mean, log_variance = posterior(4)
    value = losses.consistency(mean, log_variance)
    torch.testing.assert_close(losses.consistency(mean.flip(0), log_variance.flip(0)), value)
    same = losses.consistency(mean[:1].expand(4, -1, -1), log_variance[:1].expand(4, -1, -1))
    assert (value > 0).all() and same.abs().max() < 1e-14


def test_the_bound_is_a_sum_over_the_batch():
    once = losses.elbo_ssl(*group(), **SETTINGS)
    twice = losses.elbo_ssl(*(torch.cat([t, t], 1) for t in group()), **SETTINGS)
    each = losses.elbo_ssl(*group(), **SETTINGS, reduction="none")
    for one, two, rows in zip(once, twice, each, strict=True):
        assert two.item() == pytest.approx(2 * one.item(), rel=1e-12)
        assert rows.shape == (4,) and rows.sum().item() == pytest.approx(one.item(), rel=1e-12)


def test_the_slip_of_the_release_weighs_the_entropy_and_nothing_else():
    right, slip = (losses.elbo_ssl(*group(), **SETTINGS, entropy_weight=w) for w in (1.0, 2 * math.pi))
    assert slip.entropy.item() == pytest.approx(2 * math.pi * right.entropy.item(), rel=1e-12)
    assert slip.reconstruction == right.reconstruction and slip.prior == right.prior


# A linear model with a known likelihood: x = W z + noise, so that a group is jointly normal.
NOISE, J, N, P, L = 0.3, 2, 3, 4, 2


class Linear:
    """x^j = W z^j + N(0, NOISE I) with the latents of `prior`, and groups drawn from a wider distribution."""

    def __init__(self, prior):
        self.prior, self.w = prior, torch.linalg.qr(normal(P, L))[0] * torch.tensor([1.5, 0.7])
        self.x = normal(J, N, P, seed=3)

    def log_likelihood(self):
        shared = np.ones((J, J)) if self.prior == "marginal" else np.eye(J)
        latents = shared + (SIGMA2 * np.eye(J) if self.prior == "marginal" else 0)
        covariance = np.kron(latents, (self.w @ self.w.T).numpy()) + NOISE * np.eye(J * P)
        rows = self.x.transpose(0, 1).reshape(N, J * P).numpy()
        return torch.from_numpy(multivariate_normal(np.zeros(J * P), covariance).logpdf(rows))

    def posterior(self):
        """That of each view alone with the prior N(0, I): exact for "standard", as the columns of W are orthogonal."""
        precision = 1 + self.w.square().sum(0) / NOISE
        return self.x @ self.w / NOISE / precision, -precision.log().expand(J, N, L)

    def images(self, z):
        return (z @ self.w.T)[..., None, None, :]

    def log_joint(self, z):
        fit = losses.gaussian_log_likelihood(self.x[..., None, None, :], self.images(z), NOISE)
        return fit.sum(-2) + losses.group_log_prior(z, sigma2=SIGMA2, prior=self.prior)

    def estimate(self, samples, seed=0, shift=0.0, **settings):
        mean, log_variance = self.posterior()
        generator = torch.Generator().manual_seed(seed)
        return losses.importance_log_likelihood(
            self.log_joint, mean + shift, log_variance + shift, samples=samples, generator=generator, **settings
        )


@pytest.mark.parametrize("samples", [1, 3, 40])
def test_with_the_true_posterior_one_sample_gives_the_likelihood(samples):
    model = Linear("standard")
    torch.testing.assert_close(model.estimate(samples), model.log_likelihood(), rtol=1e-12, atol=0)


def test_importance_samples_find_the_likelihood_of_a_group():
    model = Linear("marginal")
    estimates = torch.stack([model.estimate(4000, seed=seed, shift=0.1) for seed in range(8)])
    error = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - model.log_likelihood()).abs() < 4 * error + 1e-3).all() and (error < 0.05).all()


def test_more_samples_give_a_higher_estimate_below_the_likelihood():
    model = Linear("marginal")
    means = [
        torch.stack([model.estimate(k, seed=seed, shift=0.3) for seed in range(300)]).mean().item() for k in (1, 4, 16)
    ]
    assert means[0] < means[1] < means[2] < model.log_likelihood().mean()


@pytest.mark.parametrize("prior", ["standard", "marginal"])
def test_the_bound_is_below_the_likelihood_by_the_divergence_from_the_true_posterior(prior):
    model = Linear(prior)
    mean, log_variance = model.posterior()
    mean, log_variance = mean.repeat(1, 4000, 1), log_variance.repeat(1, 4000, 1)  # each group with 4000 samples
    z = mean + (log_variance / 2).exp() * normal(*mean.shape, seed=4)
    x, settings = model.x.repeat(1, 4000, 1)[..., None, None, :], SETTINGS | {"sigma_x2": NOISE, "prior": prior}
    terms = losses.elbo_ssl(x, model.images(z), mean, log_variance, **settings, reduction="none")
    if prior == "marginal":  # its value at the samples, in the place of its expectation
        terms = terms._replace(prior=losses.group_log_prior(z, sigma2=SETTINGS["sigma2"], prior=prior))
    bounds = sum(terms).view(4000, N).sum(1)
    gap = model.log_likelihood().sum() - bounds.mean()
    error = bounds.std() / len(bounds) ** 0.5
    if prior == "standard":
        assert gap.abs() < 4 * error and error < 0.1
    else:
        # q = Π q_j misses the dependence of the views: KL(q ‖ p) of two normal distributions, exactly.
        precision = torch.from_numpy(np.kron(np.linalg.inv(SIGMA2 * np.eye(J) + 1), np.eye(L)))
        precision = precision + torch.block_diag(*[model.w.T @ model.w / NOISE] * J)
        rows = model.x.transpose(0, 1) @ model.w / NOISE
        centre = torch.linalg.solve(precision, rows.reshape(N, J * L).T).T
        true = torch.distributions.MultivariateNormal(centre, precision_matrix=precision)
        flat = [t.transpose(0, 1).reshape(N, J * L) for t in model.posterior()]
        q = torch.distributions.MultivariateNormal(flat[0], flat[1].exp().diag_embed())
        assert (gap - torch.distributions.kl_divergence(q, true).sum()).abs() < 4 * error and error < 0.2


def objective(x, x_hat, mean, log_variance):
    terms = losses.elbo_ssl(x, x_hat, mean, log_variance, **SETTINGS)
    return sum(terms) + losses.consistency(mean, log_variance).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    compute_in_float32(objective, *(t.to(dtype) for t in group()))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_terms_compile_to_one_graph_of_the_same_value(likelihood):
    x, *rest = group(dtype=torch.float32)
    arguments, settings = ((x > 0).float(), *rest), SETTINGS | {"likelihood": likelihood}
    torch.compiler.reset()
    compiled = torch.compile(losses.elbo_ssl, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*arguments, **settings), losses.elbo_ssl(*arguments, **settings), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sigma2": 0.0}, "sigma2 is 0.0; it must be a finite number above 0"),
        ({"sigma2": math.nan}, "sigma2 is nan"),
        ({"sigma_x2": -1.0}, "sigma_x2 is -1.0"),
        ({"sigma_x2": math.inf}, "sigma_x2 is inf"),
        ({"entropy_weight": math.inf}, "weight of the entropy is inf"),
        ({"prior": "flat"}, "prior is 'flat'; allowed are 'plug_in'"),
        ({"likelihood": "laplace"}, "likelihood is 'laplace'; allowed are 'gaussian'"),
        ({"likelihood": "bernoulli"}, "neither 0 nor 1"),
        ({"reduction": "mean"}, "reduction is 'mean'; allowed are 'sum', 'none'"),
    ],
)
def test_settings_that_make_no_bound_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        losses.elbo_ssl(*group(), **SETTINGS | changes)


@pytest.mark.parametrize("prior", ["plug_in", "marginal", "uniform"])
def test_one_view_is_no_group(prior):
    with pytest.raises(ValueError, match=f"1 view in a group; the prior '{prior}' needs at least 2"):
        losses.elbo_ssl(*group(1), **SETTINGS | {"prior": prior})
    assert sum(losses.elbo_ssl(*group(1), **SETTINGS | {"prior": "standard"})).isfinite()


def test_shapes_that_do_not_match_are_refused_with_a_sentence():
    x, x_hat, mean, log_variance = group()
    with pytest.raises(ValueError, match=r"\(3, 4, 1, 2, 3\), \(3, 3, 1, 2, 3\) and \(3, 4, 5\)"):
        losses.elbo_ssl(x, x_hat[:, :3], mean, log_variance, **SETTINGS)
    with pytest.raises(ValueError, match=r"means and what goes with them have the shapes \(3, 4, 5\) and \(3, 4, 4\)"):
        losses.elbo_ssl(x, x_hat, mean, log_variance[..., :4], **SETTINGS)
    with pytest.raises(ValueError, match=r"\(3, 4, 5, 1\); they must be \(J, N, C, H, W\) twice and \(J, N, L\)"):
        losses.elbo_ssl(x, x_hat, mean[..., None], log_variance[..., None], **SETTINGS)
    with pytest.raises(ValueError, match=r"latents have the shape \(4, 5\)"):
        losses.group_log_prior(mean[0], sigma2=SIGMA2, prior="marginal")
    with pytest.raises(ValueError, match="1 view in a group; its consistency"):
        losses.consistency(mean[:1], log_variance[:1])
    with pytest.raises(ValueError, match="samples is 0"):
        losses.importance_log_likelihood(lambda z: z, mean, log_variance, samples=0)
