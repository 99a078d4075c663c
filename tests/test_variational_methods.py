"""Laws of SimVAE and of the VAEs beside it."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from sslbook import losses
from sslbook.config import Config
from sslbook.data import Data, Info
from sslbook.methods import CRVAE, VAE, Batch, BetaVAE, SimVAE
from sslbook.models import MLP, ConvDecoder, GaussianResNet, MLPDecoder, ResNet
from tests.test_config import example

ABOUT = Info((1, 4, 6), 10, 10, {})
DECODER = MLPDecoder((7,))
KINDS = [SimVAE, VAE, BetaVAE, CRVAE]


def build(part, seed=0, dim=3):
    torch.manual_seed(seed)
    mean, std = torch.full((1,), 0.3), torch.full((1,), 0.4)
    return part.build(MLP(dim, (9,)).build(ABOUT, mean, std), ABOUT)


def batch(method, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    views = torch.rand(method.views, n, *ABOUT.shape, generator=generator)
    return Batch(views, torch.zeros(n), method.draw(n, generator, "cpu"), torch.tensor(1.0))


def posterior(mean, log_variance):
    return Independent(Normal(mean, (log_variance / 2).exp()), 1)


def naive_bound(method, data, part):
    """The bound of one image and one view at a time, with torch's distributions."""
    total, unit = 0.0, Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    for i in range(data.views.shape[1]):
        images = data.views[:, i] if not part.binarised else (data.views[:, i] >= 0.5).float()
        qs = [posterior(*(t[0] for t in method.encoder.posterior(image[None]))) for image in images]
        for j, (image, q) in enumerate(zip(images, qs, strict=True)):
            logits = method.decoder((q.mean + q.stddev * data.noise[0][i, j])[None])[0]
            if part.likelihood == "gaussian":
                total += Normal(logits.sigmoid(), part.sigma_x2**0.5).log_prob(image).sum()
            else:
                total += Bernoulli(logits=logits).log_prob(image).sum()
        if isinstance(part, SimVAE):
            total += sum(q.entropy() for q in qs)
            group = torch.stack([q.mean for q in qs])[:, None], torch.stack([q.variance.log() for q in qs])[:, None]
            total += losses.group_log_prior(*group, sigma2=part.sigma2, prior=part.prior).sum()
        else:
            beta = part.beta if isinstance(part, BetaVAE) else 1.0
            total -= sum(beta * kl_divergence(q, unit) for q in qs)
        if isinstance(part, CRVAE):
            pairs = [(p, q) for p in qs for q in qs if p is not q]
            total -= part.consistency * sum(kl_divergence(p, q) for p, q in pairs) / len(qs)
    return total


@pytest.mark.parametrize(
    "part",
    [
        SimVAE(decoder=DECODER),
        SimVAE(decoder=DECODER, views=3, prior="uniform", likelihood="bernoulli", binarised=True),
        SimVAE(decoder=DECODER, views=6, prior="marginal", sigma2=0.3, sigma_x2=1.0),
        VAE(decoder=DECODER, views=1),
        BetaVAE(decoder=DECODER, beta=2.5),
        CRVAE(decoder=DECODER, views=3, consistency=0.7),
    ],
)
def test_the_loss_is_minus_the_bound_of_one_image_after_the_other(part):
    method = build(part)
    data = batch(method)
    loss, logs = method.loss(data)
    assert loss.item() == pytest.approx(-naive_bound(method, data, part).item(), rel=1e-5)
    assert sum(logs.values()).item() * 5 * part.views == pytest.approx(-loss.item(), rel=1e-5)
    assert {"reconstruction", "entropy", "prior"} <= set(logs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_the_sum_of_those_of_its_parts(kind):
    """So several processes may share a batch, and the images are independent."""
    method = build(kind(decoder=DECODER))
    data = batch(method)
    parts = [
        Batch(data.views[:, s], data.labels[s], (data.noise[0][s],), data.progress) for s in (slice(0, 2), slice(2, 5))
    ]
    assert sum(method.loss(part)[0] for part in parts).item() == pytest.approx(method.loss(data)[0].item(), rel=1e-5)
    first, _ = method.loss(parts[0])
    method.gather = lambda rows: rows.repeat(2, 1)
    assert method.loss(parts[0])[0].item() == pytest.approx(2 * first.item(), rel=1e-5)


def test_a_vae_sees_each_view_alone():
    both, one = build(VAE(decoder=DECODER)), build(VAE(decoder=DECODER, views=1))
    data = batch(both)
    alone = [
        one.loss(data._replace(views=data.views[j : j + 1], noise=(data.noise[0][:, j : j + 1],)))[0] for j in (0, 1)
    ]
    assert both.loss(data)[0].item() == pytest.approx(sum(alone).item(), rel=1e-5)


def test_the_weights_of_the_others_lead_back_to_the_vae():
    data = batch(build(VAE(decoder=DECODER)))
    vae, beta, consistent = (
        build(part).loss(data)[0].item()
        for part in (VAE(decoder=DECODER), BetaVAE(decoder=DECODER, beta=1), CRVAE(decoder=DECODER, consistency=1e-9))
    )
    assert beta == pytest.approx(vae, rel=1e-6) and consistent == pytest.approx(vae, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_all_chance_is_drawn_one_row_for_each_image(kind):
    method = build(kind(decoder=DECODER, views=4))
    (noise,) = method.draw(6, torch.Generator().manual_seed(3), "cpu")
    assert noise.shape == (6, 4, 3)
    assert torch.equal(noise, method.draw(6, torch.Generator().manual_seed(3), "cpu")[0])
    data, before = batch(method), torch.get_rng_state()
    assert method.loss(data)[0] == method.loss(data)[0] and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "part",
    [
        VAE(decoder=DECODER, views=1, likelihood="bernoulli", binarised=True),
        SimVAE(decoder=DECODER, prior="marginal", sigma2=0.5, likelihood="bernoulli", binarised=True),
        VAE(decoder=DECODER, views=1, sigma_x2=0.5),
    ],
)
def test_the_likelihood_of_one_latent_dimension_is_its_integral(part):
    """By the trapezoidal rule over the latents of all views, on a grid of its own."""
    method = build(part, dim=1)
    views = batch(method, n=3).views
    line = torch.linspace(-7, 7, 141, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * part.views).reshape(-1, part.views)
    x = method.observed(views).double()
    logits = method.decoder(z.float().reshape(-1, 1)).double().unflatten(0, z.shape)
    seen = Bernoulli(logits=logits) if part.binarised else Normal(logits.sigmoid(), part.sigma_x2**0.5)
    fits = torch.stack([seen.log_prob(x[:, i]).sum((1, 2, 3, 4)) for i in range(3)])
    covariance = torch.eye(part.views) * getattr(part, "sigma2", 0.0) + 1 if part.views > 1 else torch.eye(1)
    prior = torch.distributions.MultivariateNormal(torch.zeros(part.views).double(), covariance.double())
    exact = (fits + prior.log_prob(z)).logsumexp(1) + part.views * math.log(14 / 140)
    with torch.no_grad():
        found = method.log_likelihood(views, samples=20_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.03)


def test_binarised_models_know_nothing_of_grey():
    part = SimVAE(decoder=DECODER, likelihood="bernoulli", binarised=True)
    method = build(part)
    data = batch(method)
    darker = data._replace(views=data.views / 2 + (data.views >= 0.5) / 4)  # on the same side of 0.5
    assert torch.equal((darker.views >= 0.5), (data.views >= 0.5)) and not torch.equal(darker.views, data.views)
    assert method.loss(darker)[0] == method.loss(data)[0]
    for function in (method.encode, method.before, method.reconstruct):
        assert torch.equal(function(darker.views[0]), function(data.views[0]))


@pytest.mark.parametrize(("kind", "prior"), [(SimVAE, "plug_in"), (VAE, "standard")])
def test_latents_that_nothing_depends_on_come_to_the_optimal_variance(kind, prior):
    """Images without information: the decoder learns to ignore all latents."""
    method = build(kind(decoder=DECODER, sigma_x2=1.0))
    optimiser = torch.optim.Adam(method.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    views = torch.full((2, 16, *ABOUT.shape), 0.5)
    for _ in range(400):
        noise = method.draw(16, generator, "cpu")
        loss, _ = method.loss(Batch(views, torch.zeros(16), noise, torch.tensor(1.0)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mean, log_variance = method.encoder.posterior(views[0])
    expected = losses.optimal_variance(0.0, views=2, sigma2=0.15, prior=prior)
    torch.testing.assert_close(log_variance.exp(), torch.full_like(mean, expected), rtol=0.03, atol=0)
    assert mean.abs().max() < 0.05


def test_a_network_that_became_not_a_number_shows_in_its_own_term():
    method = build(SimVAE(decoder=DECODER))
    data = batch(method)
    with torch.no_grad():
        method.decoder[0].weight.fill_(math.nan)
    _, logs = method.loss(data)
    assert [name for name, value in logs.items() if not value.isfinite()] == ["reconstruction"]


def test_samples_of_the_model_and_of_a_group_have_the_spread_of_their_priors():
    for part, scale in ((SimVAE(decoder=DECODER, sigma2=0.5), 1.5**0.5), (VAE(decoder=DECODER), 1.0)):
        method = build(part)
        images = method.sample(4, torch.Generator().manual_seed(0))
        assert images.shape == (4, *ABOUT.shape) and images.min() >= 0 and images.max() <= 1
        method.decode = lambda z: z
        z = method.sample(20_000, torch.Generator().manual_seed(0))
        torch.testing.assert_close(z.std(0), torch.full((3,), scale), rtol=0.02, atol=0)
    views = torch.rand(2, 4, *ABOUT.shape)
    z = method.sample_group(views, 20_000, sigma2=0.25, generator=torch.Generator().manual_seed(0))
    assert z.shape == (20_000, 4, 3)
    torch.testing.assert_close(z.std(0), torch.full((4, 3), 0.5), rtol=0.02, atol=0)
    torch.testing.assert_close(z.mean(0), (method.encode(views[0]) + method.encode(views[1])) / 2, rtol=0, atol=0.02)


def test_features_are_posterior_means_and_reconstructions_their_mean_images():
    method, images = build(SimVAE(decoder=DECODER)), torch.rand(4, *ABOUT.shape)
    mean, _ = method.encoder.posterior(images)
    torch.testing.assert_close(method.encode(images), mean)
    torch.testing.assert_close(method.reconstruct(images), method.decoder(mean).sigmoid())
    head = method.encoder.head
    torch.testing.assert_close(method.before(images) @ head.weight[:3].T + head.bias[:3], mean)


def test_colour_images_pass_through_the_convolutional_networks():
    about = Info((3, 16, 16), 10, 10, {})
    encoder = GaussianResNet(4, 8, (8, 8)).build(about, torch.zeros(3), torch.ones(3))
    method = SimVAE(decoder=ConvDecoder(8, (8, 8))).build(encoder, about)
    views = torch.rand(2, 5, 3, 16, 16)
    loss, _ = method.loss(Batch(views, torch.zeros(5), method.draw(5, None, "cpu"), torch.tensor(1.0)))
    loss.backward()
    assert all(p.grad.any() for p in method.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_changes_the_loss_little_and_the_compiled_loss_is_the_same(kind):
    method = build(kind(decoder=DECODER))
    data = batch(method)
    expected = method.loss(data)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = method.loss(data)[0]
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected.item(), rel=0.02)
    torch.compiler.reset()
    compiled = torch.compile(method.loss, fullgraph=True, backend="aot_eager")
    assert compiled(data)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_decoder_is_part_of_the_identity_and_of_the_json():
    config = example(data=Data("mnist"), encoder=MLP(), method=SimVAE(decoder=MLPDecoder((30,))))
    assert Config.from_dict(config.to_dict()) == config
    assert config.to_dict()["method"] == {"kind": "SimVAE", "decoder": {"kind": "MLPDecoder", "widths": [30]}}
    assert config.id != example(data=Data("mnist"), encoder=MLP(), method=SimVAE()).id


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SimVAE(views=1), "SimVAE.views is 1; it must be a finite number of at least 2"),
        (lambda: CRVAE(views=1), "CRVAE.views is 1; it must be a finite number of at least 2"),
        (lambda: VAE(views=0), "VAE.views is 0; it must be a finite number of at least 1"),
        (lambda: SimVAE(sigma2=0), "SimVAE.sigma2 is 0.0; it must be a finite number above 0"),
        (lambda: VAE(sigma_x2=-1), "VAE.sigma_x2 is -1.0; it must be a finite number above 0"),
        (lambda: VAE(entropy_weight=0), "VAE.entropy_weight is 0.0; it must be a finite number above 0"),
        (lambda: BetaVAE(beta=0), "BetaVAE.beta is 0.0; it must be a finite number above 0"),
        (lambda: CRVAE(consistency=-2), "CRVAE.consistency is -2.0; it must be a finite number above 0"),
        (lambda: SimVAE(prior="flat"), "SimVAE.prior is 'flat'; allowed are 'plug_in', 'marginal', 'uniform'"),
        (lambda: VAE(likelihood="bernoulli"), "binarise them or take 'scaled_bernoulli'"),
        (lambda: VAE(decoder=MLP()), "VAE.decoder is MLP.*allowed kinds are .*ConvDecoder, MLPDecoder"),
        (lambda: SimVAE().build(ResNet(8, (1,)).build(ABOUT, torch.zeros(1), torch.ones(1)), ABOUT), "gives features"),
        (lambda: build(SimVAE(decoder=DECODER, prior="uniform")).sample(2), "no image can be drawn from it"),
        (lambda: build(VAE(decoder=DECODER)).sample_group(torch.rand(2, 1, 4, 6), 2, sigma2=1.0), r"\(2, 1, 4, 6\)"),
    ],
)
def test_what_makes_no_model_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
