"""Laws at extreme scales and temperatures: what ignores the scale does so at any, and bounds hold in floating point."""

import math
import warnings

import pytest
import torch

from sslbook import lie, losses, metrics
from sslbook.tensors import unit
from tests.test_losses import views

SCALES = [(torch.float32, 10.0**power) for power in (-37, -30, -19, 19, 30, 37)]
SCALES += [(torch.float64, 10.0**power) for power in (-300, -160, 160, 300)]

SCALE_FREE = {
    "info_nce": lambda x, y: losses.info_nce(x, y, symmetric=True),
    "upper_bound": lambda x, y: losses.info_nce_upper_bound(x, y).total,
    "nt_xent": lambda x, y: losses.nt_xent(x, y, temperature=0.1),
    "cross_view_info_nce": lambda x, y: losses.cross_view_info_nce(x, y, temperature=0.1),
    "matching_gap": lambda x, y: losses.matching_gap(x, y, epsilon=0.1),
    "exact_gap": lambda x, y: losses.matching_gap(x, y, epsilon=0, cost="circular_variance"),
    "multi_matching_gap": lambda x, y: losses.multi_matching_gap(torch.stack([x, y, x + y]), epsilon=0.1),
}


def assert_free_of_scale(loss, dtype, scale, ordinary):
    """The value is that at an `ordinary` scale, and the gradient is inversely proportional to the scale."""
    found = []
    for factor in (ordinary, scale):
        x, y = ((factor * z).requires_grad_() for z in views(24, 8, 2.0, dtype=dtype))
        value = loss(x, y)
        found.append((value.item(), torch.autograd.grad(value, x)[0] * factor))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (found[1][1] - found[0][1]).norm() < 1e-4 * found[0][1].norm()


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
@pytest.mark.parametrize("name", SCALE_FREE)
def test_a_loss_of_directions_ignores_every_scale(name, dtype, scale):
    assert_free_of_scale(SCALE_FREE[name], dtype, scale, ordinary=1.0)


@pytest.mark.parametrize(("dtype", "scale"), [(dtype, scale) for dtype, scale in SCALES if scale > 1])
def test_barlow_twins_ignores_every_scale_at_which_its_1e_5_is_nothing(dtype, scale):
    assert_free_of_scale(losses.barlow_twins, dtype, scale, ordinary=1e4)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_powers_of_two_change_no_bit(name):
    x, y = views(24, 8, 2.0, dtype=torch.float32)
    assert all(SCALE_FREE[name](2.0**p * x, 2.0**p * y) == SCALE_FREE[name](x, y) for p in (-100, -20, 20, 100))


def test_a_row_of_its_own_scale_has_the_direction_it_has():
    z, scale = views(9, 4)[0].float(), torch.logspace(-38, 37, 9)[:, None]
    torch.testing.assert_close(unit(scale * z), unit(z), atol=1e-6, rtol=0)
    zero = torch.zeros(2, 4, requires_grad=True)
    assert torch.equal(unit(zero), zero) and torch.equal(
        torch.autograd.grad(unit(zero).sum(), zero)[0], torch.ones(2, 4)
    )


def test_a_large_constant_coordinate_counts_one_for_barlow_twins():
    z1, z2 = views(16, 6, dtype=torch.float32)
    expected = losses.barlow_twins(z1[:, 1:], z2[:, 1:]).item() + 1
    for constant in (0.3, 1e3, 1e7, 1e30):
        z1[:, 0], z2[:, 0] = constant, constant
        assert losses.barlow_twins(z1, z2).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
def test_metrics_that_ignore_the_scale_do_so_at_every_scale(dtype, scale):
    x, y = (z.to(dtype) for z in views(60, 5, 1.0))
    labels = (x[:, 0] > 0).long()
    basis = x[:5, :2]
    measures = [
        lambda s: metrics.knn_accuracy(s * x, labels, s * y, labels),
        lambda s: metrics.linear_probe(s * x, labels, s * y, labels),
        lambda s: metrics.mlp_probe(s * x, labels, s * y, labels, s * y, labels, epochs=3),
        lambda s: metrics.ridge_probe(s * x, s * y, s * y, s * x, s * y, s * x).sum().item(),
        lambda s: metrics.effective_rank(s * x),
        lambda s: metrics.energy_rank(s * x, 0.9),
        lambda s: metrics.rank(s * x, 0.8, relative=True),
        lambda s: metrics.unexplained_variance(s * x, s * basis),
        lambda s: metrics.pca_unexplained(s * x, 2),
        lambda s: lie.generator_norm(s * x[:4], s * lie.plane_generators([(0, 1)], 4).to(dtype)),
    ]
    for measure in measures:
        assert measure(scale) == pytest.approx(measure(1.0), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 1e-2, 1e-3, 1e-5, 1e-8, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bounds_of_the_contrastive_losses_hold_in_floating_point(dtype, temperature):
    beta = 1 / temperature
    for seed, (n, d, noise) in enumerate([(2, 1, 0.0), (5, 8, 0.0), (64, 16, 1e-3), (128, 16, 0.3), (96, 4, 3.0)]):
        x, y = views(n, d, noise, seed, dtype)
        least = torch.tensor(-beta * n / (n - 1) + math.log(2 * (n - 1)), dtype=dtype)
        for z1, z2 in ((x, y), (x, x), (x - x.mean(0), x - x.mean(0)), (0 * x + 1, 0 * x + 1)):
            assert losses.cross_view_info_nce(z1, z2, temperature=temperature) >= 0
            assert losses.nt_xent(z1, z2, temperature=temperature) >= 0
            assert losses.info_nce(z1, z2, beta=beta) >= least
            assert losses.info_nce(z1, z2, beta=beta, symmetric=True) >= least
            bound = losses.info_nce_upper_bound(z1, z2, beta=beta)
            assert bound.invariance >= -1 and bound.repulsion >= torch.tensor(-1 / (n - 1), dtype=dtype)
            assert losses.vicreg(z1, z2) >= 0 and losses.barlow_twins(z1, z2) >= 0


def test_cutting_off_rounding_takes_no_gradient_from_what_is_not_at_its_least():
    for n in (2, 8, 64):
        x, y = (z.requires_grad_() for z in views(n, 16, 0.1, dtype=torch.float32))
        assert torch.autograd.grad(losses.info_nce(x, y), x)[0].norm() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gap_is_never_below_zero(dtype):
    with warnings.catch_warnings(action="ignore"):
        for seed, (n, d, noise) in enumerate([(1, 3, 0.0), (2, 1, 0.0), (8, 4, 0.0), (32, 8, 1e-3), (64, 16, 0.3)]):
            x, y = views(n, d, noise, seed, dtype)
            for epsilon in (0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0):
                for cost in ("cosine", "sqeuclidean", "circular_variance"):
                    for scale in (1.0, 100.0):
                        assert losses.matching_gap(scale * x, scale * y, epsilon=epsilon, cost=cost, max_iter=50) >= 0
                if epsilon and n < 10:
                    assert losses.multi_matching_gap(torch.stack([x, y, x]), epsilon=epsilon, max_iter=50) >= 0


def test_votes_at_a_low_temperature_are_those_of_the_nearest():
    train, test = views(40, 6, 2.0)
    labels = torch.arange(40) % 5 + 1
    nearest = metrics.knn_accuracy(train, labels, test, labels, k=1)
    for temperature in (1e-4, 1e-8, 1e-300):
        assert metrics.knn_accuracy(train, labels, test, labels, k=10, temperature=temperature) == nearest


def test_shares_and_effective_numbers_keep_their_bounds():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(7, 5, generator=generator) @ torch.randn(5, 1 + seed % 5, generator=generator)
        values = metrics.singular_values(matrix)
        assert 1 <= metrics.effective_rank(values) <= int((values > 0).sum())
        assert 1 <= metrics.effective_rank([0.1] * (1 + seed)) <= 1 + seed
        assert 0 <= metrics.unexplained_variance(matrix, torch.randn(matrix.shape[1], 1, generator=generator)) <= 1
        assert 0 <= metrics.pca_unexplained(matrix, seed % 3) <= 1
        assert 0 <= metrics.agreement_limit(torch.arange(60) % (1 + seed), 2 + seed) <= 1
        w = torch.randn(4, 1, generator=generator)
        assert 0 <= lie.generator_norm(w, (w @ w.T)[None]) <= 2
