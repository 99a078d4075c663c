"""Laws behind the pages on manifold graphs: manifolds with a known truth, and what neighbourhoods on them fulfil."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from sslbook import ledger, metrics
from sslbook.ledger import FromRuns
from sslbook.papers.manifold_graphs import PAPER, claims, geometry, theory
from sslbook.tensors import unit


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", theory.MANIFOLDS)
def test_points_lie_on_a_manifold_of_the_stated_dimension(name):
    """In a small neighbourhood as many directions hold all but a little of the variance, and no fewer do."""
    x = theory.manifold(name, 20_000, ambient=20)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(20_000).double())
    m = theory.MANIFOLDS[name]
    near = x[(x - x[0]).norm(dim=1).argsort()[: 20 + 20 * m]]
    values = torch.linalg.svdvals(near - near.mean(0)).square()
    shares = values.cumsum(0) / values.sum()
    assert shares[m - 1] > (0.97 if m < 8 else 0.9) and (m == 1 or shares[m - 2] < 0.97 - 0.02 * (m == 8))


def test_noise_has_the_stated_size_and_the_points_a_mean_square_of_one():
    for name in ("torus", "sphere", "4-cube"):
        clean, noisy = (theory.manifold(name, 4000, noise=noise) for noise in (0.0, 0.3))
        clean, noisy = (x[:, :-1] / x[:, -1:] for x in (clean, noisy))
        assert clean.square().sum(1).mean() == pytest.approx(1, rel=0.05)
        assert (noisy - clean).square().sum(1).mean().sqrt() == pytest.approx(0.3, rel=0.02)
    with pytest.raises(ValueError, match="manifold is 'cone'; allowed are 'circle'"):
        theory.manifold("cone")


def test_neighbours_on_a_sphere_are_vertices_of_one_facet_of_the_hull_and_those_of_a_threshold_are_not():
    x = unit(normal(1200, 3))
    queries, candidates = x[:200], x[200:]
    found = metrics.nnk(queries, candidates, k=50)
    assert theory.on_one_facet(candidates, found).all()
    first = found._replace(weights=(torch.arange(50) < 3).double().expand(200, 50))
    assert not theory.on_one_facet(candidates, first).all()


def test_the_cap_beyond_the_neighbours_holds_the_query_and_no_candidate():
    x = unit(normal(600, 4))
    queries, candidates = x[:50], x[50:]
    found = metrics.nnk(queries, candidates, k=100)
    lifted = torch.nn.functional.pad(x, (0, 1), value=1)
    residual = lifted[:50] - (found.weights[:, :, None] * lifted[50:][found.indices]).sum(1)
    heights = residual @ lifted.T
    assert heights[:, 50:].max() < 1e-12 and (heights.diagonal() > 0).all()
    assert heights.diagonal() == pytest.approx((2 * found.error).numpy(), rel=1e-6)


def test_on_a_circle_exactly_the_two_points_around_the_query_are_neighbours():
    angles = normal(200, seed=3).remainder(2 * math.pi).sort().values
    x = torch.stack([angles.cos(), angles.sin()], 1)
    found = metrics.nnk(x, k=20)
    for i, (index, weights) in enumerate(zip(found.indices, found.weights, strict=True)):
        assert set(index[weights > 0].tolist()) == {(i - 1) % 200, (i + 1) % 200}


def test_the_certificate_accepts_solutions_and_nothing_else():
    x = normal(300, 16)
    found = metrics.nnk(x[:50], x[50:], k=30)
    at, elsewhere = theory.certificate(x[:50], x[50:], found)
    assert at < 1e-9 and elsewhere > -1e-9
    heavier = found._replace(weights=1.01 * found.weights)
    assert theory.certificate(x[:50], x[50:], heavier)[0] > 1e-3
    dropped = found._replace(weights=found.weights.where(found.weights < found.weights.amax(1, keepdim=True), 0))
    assert theory.certificate(x[:50], x[50:], dropped)[1] < -1e-3


def test_three_tests_of_two_candidates_agree_and_both_answers_occur():
    table = theory.two_candidates(200, seed=5)
    assert (table.nunique(axis=1) == 1).all() and 40 < table.programme.sum() < 160


def test_of_one_neighbour_the_half_plane_is_the_programme():
    """Exact for one candidate beside one neighbour; for several both kinds of mistake are rare."""
    query, points = torch.zeros(2).double(), normal(300, 2, seed=2)
    for a, b in zip(points[:150], points[150:], strict=True):
        near, far = sorted((a, b), key=lambda p: float(p.norm()))
        found = metrics.nnk(query[None], torch.stack([near, far]), k=2, kernel="gaussian", bandwidth=0.5)
        alone = int(metrics.neighbor_count(found)) == 1
        assert alone == bool(theory.beyond(query, near[None], far[None]))
    outside, inside = theory.half_planes(0.4)
    assert 0.9 < outside < 1 and 0 < inside < 0.15


def test_one_more_candidate_becomes_a_neighbour_where_there_is_room_and_nowhere_else():
    x = normal(60, 2, seed=4)
    query, near = x[:1], x[1:21]
    width = float((near - query).norm(dim=1).max()) * 0.4
    found = metrics.nnk(query, near, k=20, kernel="gaussian", bandwidth=0.4)
    order, weights = near[found.indices[0]], found.weights[0]
    seen = set()
    for place in x[21:]:
        if (place - query).norm() > (order[-1] - query).norm():
            continue  # it would change the width
        room = theory.kernels(place[None], query, width) - theory.kernels(place[None], order, width) @ weights[:, None]
        more = metrics.nnk(query, torch.cat([near, place[None]]), k=21, kernel="gaussian", bandwidth=0.4)
        chosen = 20 in more.indices[0][more.weights[0] > 0].tolist()
        assert chosen == bool(room > 0)
        seen.add(chosen)
    assert seen == {True, False}


@pytest.mark.parametrize("m", [1, 2, 5])
def test_true_tangents_of_a_sphere_have_the_affinity_of_their_angle(m):
    for x, y in unit(normal(5, 2, m + 1).flatten(0, 1)).view(5, 2, m + 1):
        tangents = [np.linalg.svd(point[None].numpy())[2][1:].T for point in (x, y)]
        expected = np.sqrt(np.mean(np.cos(subspace_angles(*tangents)) ** 2))
        assert theory.arc_affinity((x @ y).acos(), m).item() == pytest.approx(expected, abs=1e-9)


def test_true_affinity_measures_the_angle_from_the_centre_of_the_sphere():
    x = theory.manifold("circle", 100)
    found = metrics.nnk(x, k=10)
    angles = torch.atan2(x[:, 1], x[:, 0])
    cosines = [
        (angles[i] - angles[j]).cos().abs().item()
        for i, (index, weights) in enumerate(zip(found.indices, found.weights, strict=True))
        for j in index[weights > 0]
    ]
    assert theory.true_affinity("circle", x, found) == pytest.approx(np.mean(cosines), abs=1e-9)


def test_independent_subspaces_are_orthonormal_and_a_flat_one_has_affinity_one():
    drawn = theory.subspaces(3, n=50)
    bases = drawn.basis.view(50, 3, 30)
    torch.testing.assert_close(bases @ bases.mT, torch.eye(3).double().expand(50, 3, 3))
    affinity, dimension = theory.flat(200)
    assert (dimension == 3).sum() > 50 and affinity[dimension == 3].min() > 1 - 1e-6
    with pytest.raises(ValueError, match="dimension is 31; it must be at most 30"):
        theory.subspaces(31)


def test_the_diameter_shrinks_as_a_dimension_says():
    for name in ("circle", "sphere"):
        small, large = (theory.mean_diameter(name, n=n) for n in (250, 4000))
        assert math.log(large / small) / math.log(16) == pytest.approx(-1 / theory.MANIFOLDS[name], abs=0.08)


def test_the_geometry_of_features_is_that_of_their_directions():
    x = normal(150, 12)
    values, scaled = geometry(x, k=20), geometry(3 * x * (1 + torch.rand(150, 1)), k=20)
    for name, of_x in values.items():
        torch.testing.assert_close(scaled[name].double(), of_x.double(), atol=1e-6, rtol=0)
    assert all(of_x.shape == (150,) for of_x in values.values())
    with pytest.raises(ValueError, match="k is 150"):
        geometry(x, k=150)


def test_claims_on_models_have_a_number_for_each_method_and_those_on_toys_for_five_draws():
    for verdict in PAPER.verdicts("laptop"):
        of_models = isinstance(verdict.claim.evidence, FromRuns)
        assert {outcome.test.unit for outcome in verdict.outcomes} == {"methods" if of_models else "seeds"}
        assert {outcome.seeds for outcome in verdict.outcomes} == {10 if of_models else 5}
        assert of_models or verdict.status != ledger.UNDECIDED


def test_noise_of_the_claim_is_the_one_that_reverses_the_order():
    clean, noisy = PAPER.verdicts("laptop", "graphs-dimension")[0].outcomes
    assert (clean.state, noisy.state) == ("holds", "fails") and claims.NOISE == 0.05
