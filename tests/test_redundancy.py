"""Laws of VICReg and Barlow Twins."""

import pytest
import torch

from sslbook import losses
from sslbook.losses.redundancy import _energy_off_diagonal
from tests.test_losses import compute_in_float32, views

FUNCTIONS = {"vicreg": losses.vicreg, "barlow_twins": losses.barlow_twins}
SHAPES = [(12, 5), (5, 12), (7, 7)]  # the explicit product and the Gram matrices


def moments(z1, z2, correction):
    """Means of the products of centred coordinates, one number at a time."""
    n, d = z1.shape
    a, b = z1 - z1.mean(0), z2 - z2.mean(0)
    return [[sum(float(a[i, p] * b[i, q]) for i in range(n)) / (n - correction) for q in range(d)] for p in range(d)]


def naive_vicreg(z1, z2, invariance, variance, covariance):
    (n, d), total = z1.shape, 0.0
    total += invariance * sum(float(z1[i, p] - z2[i, p]) ** 2 for i in range(n) for p in range(d)) / (n * d)
    for z in (z1, z2):
        c = moments(z, z, 1)
        total += variance / 2 * sum(max(0.0, 1 - (c[p][p] + 1e-4) ** 0.5) for p in range(d)) / d
        total += covariance * sum(c[p][q] ** 2 for p in range(d) for q in range(d) if p != q) / d
    return total


def naive_barlow_twins(z1, z2, redundancy):
    c, v1, v2 = moments(z1, z2, 0), moments(z1, z1, 0), moments(z2, z2, 0)
    indices, total = range(len(c)), 0.0
    for p in indices:
        for q in indices:
            correlation = c[p][q] / ((v1[p][p] + 1e-5) * (v2[q][q] + 1e-5)) ** 0.5
            total += (1 - correlation) ** 2 if p == q else redundancy * correlation**2
    return total


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_both_are_the_double_loops_of_their_papers(n, d):
    z1, z2 = (0.7 * z for z in views(n, d))
    assert losses.vicreg(z1, z2).item() == pytest.approx(naive_vicreg(z1, z2, 25, 25, 1), rel=1e-12)
    found = losses.vicreg(z1, z2, invariance=2, variance=3, covariance=5).item()
    assert found == pytest.approx(naive_vicreg(z1, z2, 2, 3, 5), rel=1e-12)
    assert losses.barlow_twins(z1, z2).item() == pytest.approx(naive_barlow_twins(z1, z2, 5e-3), rel=1e-12)
    assert losses.barlow_twins(z1, z2, redundancy=2).item() == pytest.approx(naive_barlow_twins(z1, z2, 2), rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(64, 16), (32, 256)])
def test_both_agree_with_lightly(n, d):
    reference = pytest.importorskip("lightly.loss")
    for ours, theirs in (
        (losses.vicreg, reference.VICRegLoss()),
        (losses.barlow_twins, reference.BarlowTwinsLoss()),
    ):
        z1, z2 = (z.requires_grad_() for z in views(n, d, dtype=torch.float32))
        here, there = ours(z1, z2), theirs(z1, z2)
        assert here.item() == pytest.approx(there.item(), rel=1e-5)
        for a, b in zip(torch.autograd.grad(here, (z1, z2)), torch.autograd.grad(there, (z1, z2))):
            assert (a - b).norm() < 1e-5 * b.norm()


def whitened(n, d, seed=0):
    """Centred coordinates with biased variance 1 that are uncorrelated, (N, D), D < N."""
    z = views(n, d, seed=seed)[0]
    return torch.linalg.qr(z - z.mean(0))[0] * n**0.5


def test_collapse_and_whitened_views_have_the_closed_forms():
    z, constant = whitened(16, 6), torch.full((16, 6), 3.0, dtype=torch.float64)
    assert losses.vicreg(constant, constant).item() == pytest.approx(25 * (1 - 0.01), abs=1e-12)
    assert losses.vicreg(constant, constant + 2).item() == pytest.approx(25 * 4 + 25 * (1 - 0.01), abs=1e-12)
    assert losses.vicreg(z, z).item() == pytest.approx(0, abs=1e-12)
    assert losses.barlow_twins(constant, z).item() == pytest.approx(6, abs=1e-12)
    assert losses.barlow_twins(z, -z).item() == pytest.approx(6 * 4, rel=1e-4)
    assert losses.barlow_twins(z, z).item() == pytest.approx(0, abs=1e-8)
    # Six times one coordinate: all 30 correlations off the diagonal are 1.
    assert losses.barlow_twins(*[z[:, :1].repeat(1, 6)] * 2).item() == pytest.approx(30 * 5e-3, rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(256, 64), (64, 256)])
def test_identical_views_have_nothing_on_the_diagonal(n, d):
    z = views(n, d, dtype=torch.float32)[0]
    assert losses.barlow_twins(z, z, redundancy=0) < 1e-6
    assert losses.vicreg(z, z, variance=0, covariance=0) == 0


def test_the_hinge_is_half_of_the_printed_one():
    z1, z2 = (0.3 * z for z in views(12, 5))
    printed = sum((1 - (z.var(0) + 1e-4).sqrt()).clamp(min=0).mean() for z in (z1, z2)).item()
    assert losses.vicreg(z1, z2, invariance=0, variance=1, covariance=0).item() == pytest.approx(printed / 2, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_what_does_not_matter_to_both(n, d):
    z1, z2 = views(n, d)
    generator = torch.Generator().manual_seed(1)
    images, coordinates = torch.randperm(n, generator=generator), torch.randperm(d, generator=generator)
    signs = torch.randn(d, generator=generator).sign()
    for loss in FUNCTIONS.values():
        value = loss(z1, z2).item()
        assert loss(z2, z1).item() == pytest.approx(value, rel=1e-12)
        assert loss(z1[images], z2[images]).item() == pytest.approx(value, rel=1e-12)
        assert loss(signs * z1[:, coordinates] + 4, signs * z2[:, coordinates] + 4).item() == pytest.approx(value)
    scale = 1 + torch.rand(d, generator=generator)
    # Only the 1e-5 beside the variance feels the scale.
    assert losses.barlow_twins(scale * z1, z2 + 7).item() == pytest.approx(losses.barlow_twins(z1, z2).item(), rel=1e-3)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("n", "d"), [(6, 3), (3, 6)])
def test_gradients_are_those_of_finite_differences(name, n, d):
    z1, z2 = ((0.5 * z).requires_grad_() for z in views(n, d))
    assert torch.autograd.gradcheck(FUNCTIONS[name], (z1, z2))


def energies(a, b):
    """The Gram identity in float32 beside the explicit form in float64: value, gradient; and Σ_d of the diagonal²."""
    explicit = a.double().requires_grad_()
    product = explicit.T @ b.double()
    exact = (product - product.diagonal().diag()).square().sum()
    a = a.clone().requires_grad_()
    gram = _energy_off_diagonal(a, b)
    gradients = torch.autograd.grad(gram, a)[0], torch.autograd.grad(exact, explicit)[0]
    return gram.item(), exact.item(), *gradients, product.diagonal().square().sum().item()


@pytest.mark.parametrize(("n", "d"), [(32, 64), (64, 512), (128, 160)])
def test_equal_variances_leave_the_gram_identity_nothing_to_cancel(n, d):
    a, b = views(n, d, dtype=torch.float32)
    a, b = ((z - z.mean(0)) / z.std(0) for z in (a, b))
    gram, exact, *gradients, _ = energies(a, b)
    assert gram == pytest.approx(exact, rel=1e-5)
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()
    product = a.double().T @ a.double()
    off = product.square().sum() - product.diagonal().square().sum()
    assert off / product.diagonal().square().sum() >= d / (n - 1) - 1


@pytest.mark.parametrize("noise", [1e-1, 1e-2, 1e-3, 1e-4, 0.0])
@pytest.mark.parametrize("n", [64, 128])
def test_where_the_gram_identity_cancels_it_is_still_exact_to_a_millionth_of_the_diagonal(noise, n):
    # All variance in n/2 uncorrelated coordinates of 4n: down to 1e-8 of the energy, then none, lies off the diagonal.
    a = torch.cat([whitened(n, n // 2).float(), torch.zeros(n, 7 * n // 2)], 1)
    a += noise * views(n, 4 * n, dtype=torch.float32)[0]
    for b in (a, a + noise * views(n, 4 * n, seed=1, dtype=torch.float32)[0]):
        gram, exact, *_, diagonal = energies(a, b)
        assert gram >= 0
        assert abs(gram - exact) < 2e-6 * diagonal


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "d"), [(32, 16), (16, 32)])
def test_half_precision_is_computed_in_float32(name, dtype, n, d):
    compute_in_float32(FUNCTIONS[name], *(z.to(dtype) for z in views(n, d)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_loss_compiles_to_one_graph_of_the_same_value(name):
    z1, z2 = views(4, 8, dtype=torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    assert compiled(z1, z2).item() == pytest.approx(FUNCTIONS[name](z1, z2).item(), rel=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dead_coordinates_and_not_a_number(name):
    z1, z2 = views(6, 9, dtype=torch.float32)
    z1[:, 2] = 0
    z1.requires_grad_()
    assert torch.autograd.grad(FUNCTIONS[name](z1, z2), z1)[0].isfinite().all()
    assert FUNCTIONS[name](z1 * torch.nan, z2).isnan()


def test_bad_input_is_refused_with_a_sentence():
    z1, z2 = views(4, 3)
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(3, 3\)"):
        losses.vicreg(z1, z2[:3])
    with pytest.raises(ValueError, match="holds 1 image"):
        losses.barlow_twins(z1[:1], z2[:1])
