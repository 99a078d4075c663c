"""The propositions of the geometry paper: what is false as printed fails, what replaces it holds."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sslbook import lie, losses, metrics, models
from sslbook.papers.geometry import theory


def views(n=64, d=16, noise=1.0, seed=0):
    z1 = theory.random_features(n, d, seed)
    return z1, z1 + noise * theory.random_features(n, d, seed + 1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 10.0, 50.0])
def test_proposition_3_1_holds_for_each_anchor_when_beta_is_not_negative(beta):
    z1, z2 = views()
    gap, limit = theory.bound_gap(z1, z2, beta)
    assert gap.min() >= -1e-12
    assert gap.max() <= math.log(126) + 1e-12
    assert (gap <= limit + 1e-12).all()
    difference = losses.info_nce_upper_bound(z1, z2, beta=beta).total - losses.info_nce(z1, z2, beta=beta)
    assert gap.mean().item() == pytest.approx(difference.item(), abs=1e-12)


def test_proposition_3_1_fails_for_negative_beta():
    assert theory.bound_gap(*views(), beta=-2.0)[0].max() < 0


@pytest.mark.parametrize(
    ("z", "violation"), [(theory.simplex(128), 0.0291), (torch.ones(128, 4, dtype=torch.float64), math.log(255 / 254))]
)
def test_the_bound_of_equation_1_is_no_bound_of_nt_xent(z, violation):
    nt_xent = losses.nt_xent(z, z, temperature=0.5)
    assert (nt_xent - losses.info_nce_upper_bound(z, z).total).item() == pytest.approx(violation, abs=5e-5)
    assert theory.nt_xent_bound(z, z, 2.0).item() == pytest.approx(nt_xent.item(), abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, 2.0, 20.0])
def test_the_bound_of_nt_xent_holds(beta):
    for noise in (0.0, 0.3, 3.0):
        z1, z2 = views(32, 8, noise)
        z = F.normalize(torch.cat([z1, z2]))
        logits = (beta * z @ z.T).fill_diagonal_(-math.inf)
        one_sided = F.cross_entropy(logits[:32], torch.arange(32, 64))
        assert 0 <= theory.nt_xent_bound(z1, z2, beta) - one_sided + 1e-12 <= math.log(62) + 1e-12


def test_the_negatives_are_the_similarities_to_all_other_images():
    z1, z2 = views(7, 3)
    rows = [[theory.cosine(z1[i], other[j]).item() for other in (z1, z2) for j in range(7) if j != i] for i in range(7)]
    assert torch.allclose(theory.negative_similarities(z1, z2), torch.tensor(rows, dtype=torch.float64), atol=1e-14)


def test_the_nearest_negative_by_similarity_is_not_that_of_table_1():
    z, by_similarity, by_product = theory.nearest_counterexample()
    assert by_similarity == losses.info_nce_upper_bound(z, z).nearest[0] % 3 != by_product


@pytest.mark.parametrize(("beta", "largest"), [(2.0, 0.8), (50.0, 77.0)])
def test_proposition_c_1_needs_a_plus(beta, largest):
    z1, z2 = views(noise=0.5)
    part = theory.decomposition(z1, z2, beta)
    terms = -beta * theory.cosine(z1, z2) + (beta * theory.negative_similarities(z1, z2)).logsumexp(1)
    assert terms.mean().item() == pytest.approx(losses.info_nce(z1, z2, beta=beta).item(), abs=1e-12)
    assert torch.allclose(part.alignment + part.expectation + part.entropy, terms, atol=1e-12)
    error = terms - (part.alignment - part.expectation + part.entropy)
    assert torch.allclose(error, 2 * part.expectation, atol=1e-12)
    assert error.abs().max().item() == pytest.approx(largest, rel=0.35)


@pytest.mark.parametrize("beta", [0.5, 2.0, 20.0])
def test_the_gap_of_the_bound_is_an_integral_over_beta_and_limits_the_entropy(beta):
    z1, z2 = views()
    grid = torch.linspace(0, beta, 201, dtype=torch.float64)
    s = theory.negative_similarities(z1, z2)
    expected = ((grid[:, None, None] * s).softmax(2) * s).sum(2)
    gap, _ = theory.bound_gap(z1, z2, beta)
    assert torch.allclose(torch.trapezoid(s.amax(1) - expected, grid, dim=0), gap, atol=1e-3)
    entropy = theory.decomposition(z1, z2, beta).entropy
    assert (entropy >= math.log(126) - gap - 1e-12).all()


def test_a_negative_is_pushed_by_its_weight_because_the_force_of_the_entropy_cancels():
    s = theory.negative_similarities(*views(8, 4)).requires_grad_()
    p = (2 * s).softmax(1)
    expectation, entropy = 2 * (p * s).sum(1), torch.special.entr(p).sum(1)
    (force,) = torch.autograd.grad((expectation + entropy).sum(), s, retain_graph=True)
    assert torch.allclose(force, 2 * p)
    (force,) = torch.autograd.grad(entropy.sum(), s)
    assert torch.allclose(force, -4 * p * (s - expectation[:, None] / 2))


def test_the_least_loss_has_the_greatest_entropy():
    z = theory.simplex(16)
    assert torch.allclose(theory.decomposition(z, z, 2.0).entropy, torch.tensor(30.0).log().double())


def test_the_limits_of_appendix_c_need_a_unique_nearest_negative():
    generic = theory.decomposition(*views(), beta=1e6)
    assert generic.entropy.max() < 1e-3
    assert torch.allclose(generic.expectation / 1e6, theory.negative_similarities(*views()).amax(1))
    z = torch.eye(5, dtype=torch.float64)  # the four other images, twice each, tie
    assert torch.allclose(theory.decomposition(z, z, 1e6).entropy, torch.tensor(8.0).log().double())


def test_proposition_4_1_fails_for_two_vectors_in_four_dimensions():
    w, h1, h2 = theory.kernel_counterexample()
    assert theory.cosine(h1 @ w, h2 @ w).item() == pytest.approx(1, abs=1e-15)
    assert torch.equal((h2 - h1) @ w, torch.ones(1, 2).double())
    assert metrics.rank(torch.cat([h1, h2]), 1e-9) == 2


def test_proposition_4_1_fails_for_unrelated_images_after_a_relu():
    w, h1, h2 = theory.rank_one_collapse(1000, 512)
    bound = losses.info_nce_upper_bound(h1 @ w, h2 @ w)
    assert metrics.rank(w, 1e-9, relative=True) == 1
    assert bound.invariance.item() == pytest.approx(-1, abs=1e-12)
    assert theory.cosine(h1, h2).max() < 0.8
    assert (((h2 - h1) @ w).norm(dim=1) > 0).all()
    # The repulsion term is what forbids the collapse.
    assert bound.repulsion.item() == pytest.approx(1, abs=1e-12)


def test_invariance_is_positive_proportionality_of_the_outputs():
    w, h1 = theory.random_features(20, 5, 1), theory.random_features(30, 20, 2)
    ratio = torch.linspace(0.2, 3, 30, dtype=torch.float64)
    h2 = theory.invariant_partners(w, h1, ratio)
    assert torch.allclose(theory.cosine(h1 @ w, h2 @ w), torch.ones(30).double(), atol=1e-12)
    assert torch.allclose((h2 - h1) @ w, (ratio - 1)[:, None] * (h1 @ w), atol=1e-10)
    assert torch.allclose(theory.cosine(h1 @ w, theory.invariant_partners(w, h1, -ratio) @ w), -torch.ones(30).double())
    span = metrics.rank(h2 - ratio[:, None] * h1, 1e-9)
    assert (span, metrics.rank(w, 1e-9)) == (15, 5)  # rank W ≤ d − span, here with equality


@pytest.mark.parametrize(("r", "expected"), [(100, 128), (384, 128), (385, 127), (450, 62), (512, 0)])
def test_proposition_4_2_bounds_the_rank_that_invariance_leaves(r, expected):
    displacements = theory.random_features(600, r, 1) @ theory.random_features(r, 512, 2)
    w = theory.invariant_projector(displacements, 128)
    assert w.shape == (512, 128)
    assert metrics.rank(w, 1e-6) == expected == min(128, 512 - r)
    assert (displacements @ w).abs().max() < 1e-9


@pytest.mark.parametrize("epsilon", [-1.0, 0.3, 2.0])
def test_proposition_4_3_fails_inside_and_outside_its_hypothesis(epsilon):
    w, generator = theory.generator_counterexample(10, 4)
    h = theory.random_features(50, 10)
    for group, collinear in ((generator, False), (torch.eye(10).double(), True)):
        moved = h @ lie.exp(group, epsilon).T
        assert torch.allclose(theory.cosine(h @ w, moved @ w), torch.ones(50).double(), atol=1e-12)
        assert torch.equal(group.T @ w, w)  # WᵀG = Wᵀ, so G is not in any kernel of W
        assert (theory.cosine(h, moved).min() > 1 - 1e-12) == collinear


def test_the_true_kernel_case_of_proposition_4_3_is_the_column_space_of_the_generator():
    w = theory.random_features(10, 4, 1)
    generator = theory.random_features(10, 10, 2)
    generator = generator - theory.projection(w) @ generator
    h = theory.random_features(50, 10, 3)
    assert torch.allclose(h @ lie.exp(generator, 0.7).T @ w, h @ w, atol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_repulsion_is_never_below_that_of_the_simplex(noise):
    for n, d in ((2, 3), (3, 2), (8, 16), (128, 128)):
        bound = losses.info_nce_upper_bound(*views(n, d, noise))
        assert bound.repulsion >= -1 / (n - 1) - 1e-12
    for n in (2, 3, 8, 128):
        z = theory.simplex(n)
        assert losses.info_nce_upper_bound(z, z).repulsion.item() == pytest.approx(-1 / (n - 1), abs=1e-12)
        assert (z.shape, metrics.rank(z, 1e-9)) == ((n, n - 1), n - 1)


def test_the_mean_of_the_maxima_escapes_the_bound_of_rankin():
    mean, largest = theory.repulsion(theory.repulsion_counterexample())
    assert [mean.item(), largest.item()] == pytest.approx([-0.0125, 1 / 64], abs=1e-12)
    z = theory.repulsion_counterexample()
    assert losses.info_nce_upper_bound(z, z).repulsion.item() == pytest.approx(mean.item(), abs=1e-14)


@pytest.mark.parametrize(
    ("n", "d", "value"), [(3, 2, -1 / 2), (5, 4, -1 / 4), (8, 16, -1 / 7), (8, 4, 0), (5, 3, -0.0125)]
)
def test_the_least_repulsion_is_found_by_search(n, d, value):
    mean, _ = theory.repulsion(theory.minimise_repulsion(n, d, starts=8, steps=500))
    assert mean.item() == pytest.approx(value, abs=1e-3)


def test_equation_8_is_no_function_of_direction():
    h1, h2 = views(40, 12)
    w = theory.random_features(12, 5, 9)
    nearest = losses.info_nce_upper_bound(h1 @ w, h2 @ w).nearest
    displacements = h2 - torch.cat([h1, h2])[nearest]
    for t in (0.1, 3.0):
        printed, scaled = (theory.equation_8(s * w, h1, displacements, 2.0).item() for s in (1, t))
        assert scaled == pytest.approx(t**2 * printed)
        true, same = (losses.info_nce_upper_bound(h1 @ (s * w), h2 @ (s * w)).total.item() for s in (1, t))
        assert same == pytest.approx(true, abs=1e-12)


def test_equation_8_is_the_bound_where_all_outputs_have_norm_one():
    f1, f2 = (F.normalize(z) for z in views(40, 6))
    bound = losses.info_nce_upper_bound(f1, f2)
    displacements = f2 - torch.cat([f1, f2])[bound.nearest]
    printed = theory.equation_8(torch.eye(6).double(), f1, displacements, 2.0) + math.log(78)
    assert printed.item() == pytest.approx(bound.total.item(), abs=1e-12)


def test_only_the_true_projection_is_idempotent():
    w = theory.random_features(512, 128)
    true, gram = theory.projection(w), w @ w.T
    assert (true @ true - true).norm() < 1e-9
    assert torch.allclose(true @ w, w, atol=1e-10)
    assert torch.trace(true).item() == pytest.approx(128)
    assert ((gram @ gram - gram).norm() / gram.norm()) > 100
    q = torch.linalg.qr(w).Q
    assert torch.allclose(theory.projection(q), q @ q.T, atol=1e-12)


def test_what_the_ledger_measures_of_equation_8_and_of_the_rank():
    assert max(theory.error_of_equation_8(seed) for seed in range(5)) < 1e-12
    for directions in (1, 8, 48, 56, 64):
        assert theory.kept_rank(directions, seed=directions) == min(16, 64 - directions)


def test_the_optimum_of_equation_8_does_not_lie_in_the_span_of_the_displacements():
    h = theory.random_features(200, 20, 1)
    basis = torch.linalg.qr(theory.random_features(20, 5, 2)).Q
    displacements = theory.random_features(200, 5, 3) @ basis.T
    mixed = h.T @ displacements
    w = torch.linalg.eigh(mixed + mixed.T).eigenvectors[:, -3:]
    assert 0.5 < (basis.T @ w).square().sum().item() / 3 < 0.9
    best = theory.equation_8(w, h, displacements, 2.0)
    others = [torch.linalg.qr(theory.random_features(20, 3, seed)).Q for seed in range(20)]
    inside = basis @ torch.linalg.qr(theory.random_features(5, 3, 4)).Q
    assert all(best < theory.equation_8(other, h, displacements, 2.0) for other in [*others, inside])


def test_a_collapsed_spectrum_does_not_show_in_equation_10():
    displacements = theory.random_features(200, 64, 1)
    w = theory.random_features(64, 16, 2)
    collapsed = w @ torch.logspace(0, -5, 16, dtype=torch.float64).diag()
    assert metrics.rank(collapsed, 0.1) < 8
    full = metrics.unexplained_variance(displacements, w)
    assert metrics.unexplained_variance(displacements, collapsed) == pytest.approx(full, rel=1e-9)
    kept = metrics.rank(collapsed, 0.1)
    truncated = metrics.unexplained_variance(displacements, collapsed, threshold=0.1)
    assert truncated == pytest.approx(1 - kept / 64, abs=0.05)
    assert np.mean([full]) == pytest.approx(1 - 16 / 64, abs=0.05)


def random_layers(widths, inputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = zip(widths, (inputs, *widths[:-1]), strict=True)
    return [
        (torch.randn(m, n, generator=generator).double(), torch.randn(m, generator=generator).double())
        for m, n in shapes
    ]


def square(r):
    return [(-r, -r), (r, -r), (r, r), (-r, r)]


@pytest.mark.parametrize("m", [1, 5, 12])
def test_one_layer_has_as_many_regions_as_lines_in_general_position(m):
    ((weight, bias),) = random_layers((m,))
    assert len(theory.cells([(weight, bias)], square(1e4))) == 1 + m + m * (m - 1) // 2
    assert len(theory.cells([(weight, 0 * bias)], square(1.0))) == 2 * m


def test_cells_tile_the_window_and_have_patterns_of_their_own():
    layers = random_layers((9, 7, 5))
    polygons = theory.cells(layers, square(2.0))
    centres = torch.tensor(np.stack([np.mean(polygon, 0) for polygon in polygons]))

    def area(polygon):
        x, y = np.array(polygon).T
        return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2

    def patterns(x):
        found = []
        for weight, bias in layers:
            x = (x @ weight.T + bias).relu()
            found.append(x > 0)
        return torch.cat(found, 1)

    assert sum(area(polygon) for polygon in polygons) == pytest.approx(16, abs=1e-9)
    assert min(area(polygon) for polygon in polygons) > 0
    own = {tuple(row) for row in patterns(centres).tolist()}
    assert len(own) == len(polygons)
    scattered = 4 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 2
    assert {tuple(row) for row in patterns(scattered).tolist()} <= own


def mlp(widths, dim=16):
    torch.manual_seed(0)
    head = models.projector(dim, widths).double()
    for layer in head:
        if isinstance(layer, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(layer.bias)
    return head.eval()


def test_local_maps_are_the_projector_near_each_point():
    head, h = mlp((24, 12, 4)), theory.random_features(20, 16)
    step = 1e-7 * theory.random_features(20, 16, seed=1)
    moved = torch.einsum("ndk,nd->nk", theory.local_maps(head, h), step)
    assert torch.allclose(head(h + step) - head(h), moved, rtol=1e-6, atol=1e-13)
    same = (theory.activation_patterns(head, h + step) == theory.activation_patterns(head, h)).all()
    assert same and theory.activation_patterns(head, h).shape == (20, 36)


def test_local_maps_stay_in_the_columns_of_the_first_layer_whatever_the_depth():
    h, delta = theory.random_features(50, 16), theory.random_features(50, 16, seed=1)
    for widths in ((6, 4), (6, 32, 4), (6, 32, 32, 4)):
        head = mlp(widths)
        maps, first = theory.local_maps(head, h), head[0].weight.T
        for w in maps:
            assert metrics.unexplained_variance(w.T, first) < 1e-24
        assert theory.local_unexplained(maps, delta) >= metrics.unexplained_variance(delta, first) - 1e-12


def test_local_unexplained_is_equation_10_for_a_linear_projector_and_its_random_value_for_random_maps():
    delta = theory.random_features(400, 16, seed=1)
    head = mlp((4,))
    maps = theory.local_maps(head, delta)
    expected = metrics.unexplained_variance(delta, head[0].weight.T)
    assert theory.local_unexplained(maps, delta) == pytest.approx(expected, abs=1e-12)
    independent = theory.random_features(400 * 16, 4, seed=2).view(400, 16, 4)
    assert theory.local_unexplained(independent, delta) == pytest.approx(0.75, abs=0.02)


def test_hidden_layers_cut_the_plane_where_the_projector_does():
    head, corners = mlp((9, 7, 4)), theory.random_features(3, 16)
    polygons = theory.cells(theory.hidden_layers(head, corners), [(0, 0), (1, 0), (0, 1)])
    inside = torch.tensor(np.stack([np.mean(polygon, 0) for polygon in polygons]))
    features = corners[0] + inside @ (corners[1:] - corners[0])
    assert len(theory.activation_patterns(head, features).unique(dim=0)) == len(polygons) > 10


def test_pieces_follow_an_arc_that_no_single_direction_follows():
    angle = torch.linspace(0, theory.ARC, 2001, dtype=torch.float64)
    arc, tangents = (torch.stack(pair, 1) for pair in ((angle.cos(), angle.sin()), (-angle.sin(), angle.cos())))
    least = 0.5 - abs(math.sin(theory.ARC)) / (2 * theory.ARC)
    assert metrics.pca_unexplained(tangents, 1) == pytest.approx(least, abs=1e-3)
    missed = [
        theory.local_unexplained(theory.local_maps(theory.position_reader(widths).double(), arc), tangents)
        for widths in ((), (24, 24))
    ]
    assert missed[0] > least > 2 * missed[1]
