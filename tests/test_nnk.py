"""Laws of NNK neighbourhoods and of the manifold graph metrics."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import subspace_angles
from scipy.optimize import nnls
from scipy.spatial.distance import pdist

from sslbook import metrics

module = importlib.import_module("sslbook.metrics.nnk")
manifold = importlib.import_module("sslbook.metrics.manifold")


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sphere(n, m, seed=0):
    return F.normalize(normal(n, m + 1, seed=seed))


def relu(n, d=40, latent=6, seed=0):
    """Features like an encoder's: a ReLU network on a few latent factors, with noise."""
    hidden = torch.relu(normal(n, latent, seed=seed) @ normal(latent, 64, seed=98))
    return torch.relu(hidden @ normal(64, d, seed=99) / 8 + 0.3 * normal(n, d, seed=seed + 1))


def selected(neighborhood):
    return [set(i[w > 0].tolist()) for i, w in zip(neighborhood.indices, neighborhood.weights)]


def kernel_matrix(x, y, kernel, width=None):
    if kernel == "gaussian":
        return torch.exp(-torch.cdist(x, y).square() / (2 * width**2))
    return x @ y.T if kernel == "linear" else (1 + F.normalize(x) @ F.normalize(y).T) / 2


@pytest.fixture
def fallbacks(monkeypatch):
    """The calls of `scipy.optimize.nnls` that `nnk` makes."""
    calls = []
    monkeypatch.setattr(module, "nnls", lambda *a, **b: calls.append(1) or nnls(*a, **b))
    return calls


@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("k", [20, 50])
def test_on_a_sphere_without_noise_the_count_is_its_dimension_plus_one(m, k):
    count = metrics.neighbor_count(metrics.nnk(sphere(200, m, 1), sphere(4000, m), k=k)).double()
    assert count.mean() == pytest.approx(m + 1, abs=1e-12 if m < 4 else 0.1) and count.max() <= m + 1


def test_noise_reverses_the_order_of_the_counts_of_spheres():
    """Noise of 5 % of the radius in 128 dimensions: the closer the points, the more it counts."""
    counts = []
    for m in (1, 2, 4):
        x = F.pad(sphere(2000, m), (0, 127 - m)) + 0.05 / 128**0.5 * normal(2000, 128, seed=1)
        counts.append(metrics.neighbor_count(metrics.nnk(x[:200], x[200:])).double().mean().item())
    assert counts[0] > counts[1] + 0.5 and counts[1] > counts[2] + 5 and counts[2] > 4 + 1


CASES = {
    "normal": (normal(600, 64), 50, False),
    "ReLU": (relu(600), 50, False),
    "concentrated": (1 + 1e-3 * normal(600, 64), 50, False),
    "single precision": (relu(600).float(), 30, False),
    "fewer dimensions than candidates": (normal(600, 8), 50, True),
    "nearly equal": (1 + 1e-5 * normal(600, 64), 50, True),
    "one candidate": (relu(100), 1, False),
}


@pytest.mark.parametrize("name", CASES)
def test_support_and_weights_are_those_of_nnls_on_x_and_one(name, fallbacks):
    x, k, rank_deficient = CASES[name]
    queries, candidates = x[:60], x[60:]
    found = metrics.nnk(queries, candidates, k=k)
    # Where the kernels determine the solution, the batched solver finds it and nnls is not asked.
    assert len(fallbacks) == (60 if rank_deficient else 0)
    lifted = [F.pad(F.normalize(z.double()), (0, 1), value=1).numpy() for z in (queries, candidates)]
    for i in range(60):
        theta, residual = nnls(lifted[1][found.indices[i].numpy()].T, lifted[0][i])
        theta[theta < 1e-6 * theta.max()] = 0
        assert ((theta > 0) == (found.weights[i].numpy() > 0)).all()
        assert found.weights[i].numpy() == pytest.approx(theta, abs=1e-7)
        assert found.error[i].item() == pytest.approx(residual**2 / 2, rel=1e-5, abs=1e-14)


@pytest.mark.parametrize("kernel", module.KERNELS)
@pytest.mark.parametrize("data", ["normal", "ReLU", "fewer dimensions than candidates"])
def test_every_solution_fulfils_the_karush_kuhn_tucker_conditions(kernel, data):
    x, width = CASES[data][0], 0.8 if kernel == "gaussian" else None
    queries, candidates = x[:60], 3 * x[60:]
    found = metrics.nnk(queries, candidates, k=30, kernel=kernel, bandwidth=width)
    for i in range(60):
        near, theta = candidates[found.indices[i]], found.weights[i]
        sigma = (near[-1] - queries[i]).norm() * width if width else None
        gram, b = (kernel_matrix(near, y, kernel, sigma) for y in (near, queries[i, None]))
        own = kernel_matrix(queries[i, None], queries[i, None], kernel, sigma)
        # The threshold on the weights moves g by its size.
        limit = 2e-6 * gram.diagonal().max().item()
        gradient = gram @ theta - b[:, 0]
        assert (theta >= 0).all() and gradient.min() > -limit and gradient[theta > 0].abs().max() < limit
        error = (own - 2 * theta @ b + theta @ gram @ theta).item()
        assert found.error[i].item() == pytest.approx(error, abs=limit)
        assert (theta > 0).sum() <= torch.linalg.matrix_rank(gram)


def test_a_solution_that_misses_the_conditions_has_no_certificate():
    x = F.normalize(relu(200))
    found = metrics.nnk(x[:20], x[20:], k=10)
    near = x[20:][found.indices]
    gram, b = (1 + near @ near.mT) / 2, (1 + (near @ x[:20, :, None])[:, :, 0]) / 2

    def optimal(theta):
        gradient = (gram @ theta[:, :, None])[:, :, 0] - b
        return module._optimal(theta, gradient, 1 + (theta * (gradient - b)).sum(1))

    assert optimal(found.weights).all()
    assert not optimal(1.0001 * found.weights).any()
    assert not optimal(found.weights.where(found.weights < found.weights.amax(1, keepdim=True), 0)).any()
    assert not optimal(torch.full_like(b, torch.nan)).any() and not optimal(1e18 * found.weights).any()


def test_a_failed_certificate_raises(monkeypatch):
    monkeypatch.setattr(module, "nnls", lambda a, b, maxiter: (np.ones(a.shape[1]), 0))
    with pytest.raises(ArithmeticError, match="fails the certificate"):
        metrics.nnk(sphere(100, 2), k=20)


def test_pivoting_that_gives_up_is_repaired(monkeypatch, fallbacks):
    x = relu(300)
    expected = metrics.nnk(x, k=30)
    monkeypatch.setattr(module, "_ROUNDS", 1)
    found = metrics.nnk(x, k=30)
    assert len(fallbacks) > 250 and selected(found) == selected(expected)
    assert torch.allclose(found.weights, expected.weights, atol=1e-10)


@pytest.mark.parametrize("kernel", ["gaussian", "cosine"])
def test_interval_programme_and_acute_angles_agree_on_two_candidates(kernel):
    """Both are selected iff K_jm < K_ij / K_im < 1 / K_jm; for a Gaussian iff the angles at j and m are acute."""
    both = 0
    for i, j, m in normal(300, 3, 3):
        pair = torch.stack([j, m])
        found = metrics.nnk(i[None], pair, k=2, kernel=kernel, bandwidth=1.0 if kernel == "gaussian" else None)
        sigma = (pair - i).norm(dim=1)[found.indices[0, -1]]
        k_ij, k_im = kernel_matrix(pair, i[None], kernel, sigma)[:, 0]
        k_jm = kernel_matrix(j[None], m[None], kernel, sigma).item()
        interval = bool(k_jm < k_ij / k_im < 1 / k_jm)
        assert interval == (metrics.neighbor_count(found).item() == 2)
        if kernel == "gaussian":
            assert interval == bool((i - j) @ (m - j) > 0 and (i - m) @ (j - m) > 0)
        both += interval
    assert 40 < both < 260


@pytest.mark.parametrize("kernel", module.KERNELS)
def test_scale_rotation_and_order_change_nothing(kernel):
    x, options = relu(300), dict(k=25, kernel=kernel, bandwidth=0.7 if kernel == "gaussian" else None)
    expected = metrics.nnk(x, **options)
    rotation, order = torch.linalg.qr(normal(40, 40)).Q, torch.randperm(300)
    far = (1e-170 * x, 1e150 * x) if kernel == "cosine" else ()
    for moved in (1e3 * x, 1e-3 * x, x @ rotation, *far):
        found = metrics.nnk(moved, **options)
        assert selected(found) == selected(expected) and torch.allclose(found.weights, expected.weights, atol=1e-8)
    shuffled = selected(metrics.nnk(x[order], **options))
    assert [{int(order[j]) for j in shuffled[i]} for i in order.argsort()] == selected(expected)


@pytest.mark.parametrize("gap", [300, 1000])
def test_candidates_are_the_nearest_however_far_apart_clusters_lie(gap):
    x = (torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) * 4096).round() / 4096
    x[200:] += gap
    found = metrics.nnk(x.float(), k=20, kernel="gaussian", bandwidth=0.7).indices
    distances = (x[:, None] - x).double().norm(dim=2).fill_diagonal_(torch.inf)
    assert torch.equal(distances.gather(1, found), distances.topk(20, largest=False).values)


def test_leave_one_out_is_asking_each_feature_about_all_others():
    x = relu(80)
    found = metrics.nnk(x, k=20)
    for i in range(0, 80, 9):
        rest = torch.arange(80)[torch.arange(80) != i]
        one = metrics.nnk(x[i, None], x[rest], k=20)
        assert (rest[one.indices[0]] == found.indices[i]).all() and i not in found.indices[i]
        assert torch.allclose(one.weights[0], found.weights[i], atol=1e-10)
        assert one.error.item() == pytest.approx(found.error[i].item())


def test_of_copies_the_first_counts_and_a_copy_of_the_query_takes_all(fallbacks):
    queries, candidates = relu(20, 100, seed=5), relu(60, 100)
    once = metrics.nnk(queries, candidates, k=60)
    twice = metrics.nnk(queries, torch.cat([candidates, 3 * candidates]), k=120)
    assert [{j % 60 for j in chosen} for chosen in selected(twice)] == selected(once)
    assert (metrics.neighbor_count(twice) == metrics.neighbor_count(once)).all()
    place = twice.indices.argsort(dim=1)
    copies = place.roll(60, 1)  # where the other copy of candidate j stands
    assert all((place[i, list(c)] < copies[i, list(c)]).all() for i, c in enumerate(selected(twice)))
    assert not fallbacks  # copies do not make the problem singular
    itself = metrics.nnk(candidates, torch.cat([candidates, 2 * candidates]), k=20)
    assert (metrics.neighbor_count(itself) == 1).all() and itself.error.max() < 1e-14
    assert (
        torch.allclose(itself.weights.sum(1), torch.ones(60).double())
        and (itself.indices[:, 0] % 60 == torch.arange(60)).all()
    )
    assert (metrics.diameter(itself, torch.cat([candidates, candidates])) == 0).all()
    assert (metrics.tangents(itself, candidates, torch.cat([candidates, candidates])).dimension == 0).all()
    zeros = metrics.nnk(torch.zeros(5, 3), k=4)
    assert (metrics.neighbor_count(zeros) == 1).all()


def test_nothing_depends_on_how_the_queries_are_cut(monkeypatch):
    x = relu(150).float()
    whole = metrics.nnk(x, k=20)
    expected = metrics.diameter(whole, x), metrics.tangents(whole, x)
    expected += (metrics.affinity(whole, expected[1]),)
    monkeypatch.setattr(module, "_CHUNK", 20**2 * 7)
    monkeypatch.setattr(module, "_PART", 20 * 40 * 3)
    monkeypatch.setattr(manifold, "_CHUNK", 5000)
    cut = metrics.nnk(x, k=20)
    assert (cut.indices == whole.indices).all() and torch.allclose(cut.weights, whole.weights, atol=1e-12)
    assert torch.allclose(metrics.diameter(cut, x), expected[0])
    assert (metrics.tangents(cut, x).dimension == expected[1].dimension).all()
    assert torch.allclose(metrics.affinity(cut, metrics.tangents(cut, x)), expected[2], atol=1e-5)


def test_diameter_dimension_and_affinity_are_those_of_a_plain_loop():
    x = F.normalize(relu(200))
    found = metrics.nnk(x, k=30)
    own = metrics.tangents(found, x)
    bases = [own.basis[a : a + d] for a, d in zip(own.first, own.dimension)]
    for i in range(0, 200, 10):
        chosen = found.indices[i][found.weights[i] > 0]
        assert metrics.diameter(found, x)[i].item() == pytest.approx(pdist(x[chosen]).max(), rel=1e-9)
        smallest = (x[chosen] @ x[chosen].T).min().item()
        assert metrics.diameter(found, x)[i].item() == pytest.approx((2 - 2 * smallest) ** 0.5, rel=1e-9)
        values = np.linalg.svd((x[chosen] - x[i]).numpy(), compute_uv=False) ** 2
        assert own.dimension[i] == (values >= 0.1 * values[0]).sum()
        assert torch.allclose(bases[i] @ bases[i].T, torch.eye(len(bases[i])).double(), atol=1e-10)
        cosines = [np.cos(subspace_angles(bases[i].T.numpy(), bases[j].T.numpy())) for j in chosen]
        each = [np.sqrt((c**2).mean()) for c in cosines]
        assert metrics.affinity(found, own)[i].item() == pytest.approx(np.mean(each), abs=1e-9)
        assert metrics.affinity_nearest(found, own)[i].item() == pytest.approx(each[0], abs=1e-9)


def test_queries_among_other_candidates_have_the_affinity_of_the_joint_tangents():
    x = F.normalize(relu(200))
    found = metrics.nnk(x, k=30)
    tangents = metrics.tangents(found, x)
    some = metrics.Neighborhood(*(part[:50] for part in found))
    own = metrics.tangents(some, x[:50], x)
    assert (own.dimension == tangents.dimension[:50]).all()
    assert torch.allclose(metrics.affinity(some, own, tangents), metrics.affinity(found, tangents)[:50])


def test_a_flat_manifold_has_affinity_one_and_its_dimension():
    flat = normal(300, 3) @ torch.linalg.qr(normal(20, 3)).Q.T
    found = metrics.nnk(flat, k=40, kernel="gaussian", bandwidth=0.5)
    own = metrics.tangents(found, flat)
    full = own.dimension == 3
    assert full.double().mean() > 0.4 and own.dimension.max() == 3
    for values in (metrics.affinity(found, own), metrics.affinity_nearest(found, own), metrics.affinity_random(own)):
        # Affinity is 1 with a subspace that holds the other; planes in three dimensions share only a line.
        assert values[full] == pytest.approx(1, abs=1e-6) and values.min() > 0.5


def test_independent_subspaces_have_the_mean_square_affinity_of_the_larger_dimension_over_all():
    def drawn(dimension, seed):
        bases = torch.linalg.qr(normal(4000, 30, dimension, seed=seed)).Q.mT
        return metrics.Tangents(bases.flatten(0, 1), dimension * torch.arange(4000), torch.full((4000,), dimension))

    for first, second in ((2, 5), (5, 2), (4, 4), (1, 1)):
        square = metrics.affinity_random(drawn(first, 1), drawn(second, 2)).square()
        assert square.mean() == pytest.approx(max(first, second) / 30, abs=4 * square.std().item() / 4000**0.5)
        assert square.std() > 0


def test_the_random_partner_is_never_the_query_and_repeats_with_its_seed():
    axes = metrics.Tangents(torch.eye(6).double(), torch.arange(6), torch.ones(6).long())
    assert all((metrics.affinity_random(axes, seed=seed) == 0).all() for seed in range(20))
    own = metrics.Tangents(F.normalize(normal(40, 3)), torch.arange(40), torch.ones(40).long())
    first = metrics.affinity_random(own)
    assert (first == metrics.affinity_random(own)).all() and (first != metrics.affinity_random(own, seed=1)).any()


def test_a_curved_manifold_has_an_affinity_between_a_flat_and_a_random_one():
    x = (
        torch.stack([f(normal(400, 1)[:, 0] * 3) for f in (torch.cos, torch.sin)], 1)
        @ torch.linalg.qr(normal(10, 2)).Q.T
    )
    found = metrics.nnk(x, k=20)
    own = metrics.tangents(found, x)
    near, far = metrics.affinity(found, own), metrics.affinity_random(own)
    assert (own.dimension == 1).all() and near.mean() > 0.99 and far.mean() == pytest.approx(2 / np.pi, abs=0.05)


def test_metrics_of_neighbourhoods_leave_the_gradient_mode_and_their_input_alone():
    x = relu(60).float().requires_grad_()
    before = x.detach().clone()
    found = metrics.nnk(x, k=10)
    own = metrics.tangents(found, x)
    assert not any(part.requires_grad for part in (*found, *own, metrics.diameter(found, x)))
    assert not metrics.affinity(found, own).requires_grad and torch.is_grad_enabled() and (x == before).all()
    with torch.autocast("cpu", torch.bfloat16):
        inside = metrics.tangents(found, x)
        assert torch.equal(metrics.affinity(found, inside), metrics.affinity(found, own))
        assert torch.equal(metrics.diameter(found, x), metrics.diameter(found, x.detach()))
    half = metrics.nnk(before.half(), k=10)
    assert half.weights.dtype == torch.float64 and metrics.tangents(half, before.half()).basis.dtype == torch.float32


def test_bad_input_is_refused_with_a_sentence():
    x = relu(12, 4)
    found = metrics.nnk(x, k=5)
    own, broken = metrics.tangents(found, x), x.clone()
    broken[3, 1] = torch.nan
    for sentence, call in {
        "k is 12; it must be a whole number of at least 1 and of at most 11": lambda: metrics.nnk(x, k=12),
        "k is 50; it must be a whole number of at least 1 and of at most 12": lambda: metrics.nnk(x, x),
        "k is 0": lambda: metrics.nnk(x, k=0),
        "queries holds 1 values that are infinite": lambda: metrics.nnk(broken, x, k=2),
        "candidates holds 1 values that are infinite": lambda: metrics.nnk(x, broken, k=2),
        "candidates holds 48 values": lambda: metrics.diameter(found, broken / 0),
        r"queries has the shape \(4,\)": lambda: metrics.nnk(x[0], x, k=2),
        r"queries and candidates have the shapes \(12, 4\) and \(12, 3\)": lambda: metrics.nnk(x, x[:, :3], k=2),
        "kernel is 'rbf'; allowed are 'cosine', 'linear', 'gaussian'": lambda: metrics.nnk(x, k=2, kernel="rbf"),
        "bandwidth is None": lambda: metrics.nnk(x, k=2, kernel="gaussian"),
        "bandwidth is 1.0; only": lambda: metrics.nnk(x, k=2, bandwidth=1.0),
        "12 neighbourhoods for 5 queries": lambda: metrics.tangents(found, x[:5], x),
        "there are 5": lambda: metrics.diameter(found, x[:5]),
        "12 neighbourhoods for 3 tangents": lambda: metrics.affinity(
            found, metrics.Tangents(own.basis, own.first[:3], own.dimension[:3])
        ),
        "needs another one": lambda: metrics.affinity_random(
            metrics.Tangents(x[:1], torch.tensor([0]), torch.tensor([1]))
        ),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("few", [1, 39])
def test_no_part_of_the_queries_takes_more_than_its_share_of_memory(monkeypatch, few):
    """Whether one of forty has few neighbours or one has many."""
    monkeypatch.setattr(manifold, "_CHUNK", 3000)
    weights = torch.ones(40, 50)
    weights[:few, 1:] = 0
    neighborhood = metrics.nnk(relu(60), k=50)._replace(weights=weights, indices=torch.arange(50).expand(40, 50))
    parts = [index.shape for _, index, _ in manifold._chunks(neighborhood, 50, 10)]
    assert sum(rows for rows, _ in parts) == 40 and all(rows * width * 10 <= 3000 for rows, width in parts)
