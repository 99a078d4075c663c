"""Laws of spectra, neighbours and probes."""

import math

import numpy as np
import pytest
import torch
from lightly.loss.hypersphere_loss import HypersphereLoss
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from sslbook import losses, metrics
from sslbook.metrics import neighbors, probes


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


def with_spectrum(values, rows=40, columns=30):
    values = torch.as_tensor(values, dtype=torch.float64)
    k = len(values)
    return orthonormal(rows, k) * values @ orthonormal(columns, k, seed=1).T


def test_singular_values_agree_with_numpy_raw_and_centred():
    matrix = (normal(20, 6) + 3).numpy().astype(np.float32)
    for centered, reference in ((False, matrix), (True, matrix - matrix.mean(0, dtype=np.float64))):
        expected = np.linalg.svd(reference.astype(np.float64), compute_uv=False)
        assert metrics.singular_values(matrix, centered=centered).numpy() == pytest.approx(expected, abs=1e-10)


def test_rank_counts_the_singular_values_at_or_above_the_threshold():
    spectrum = torch.tensor([0.25, 4.0, 1.0])
    assert [metrics.rank(spectrum, t) for t in (0, 0.25, 0.5, 1, 4, 5)] == [3, 3, 2, 2, 1, 0]
    assert [metrics.rank(spectrum, t, relative=True) for t in (0.0625, 0.25, 0.3, 1)] == [3, 2, 1, 1]
    assert metrics.rank(torch.zeros(5, 3), 0.1, relative=True) == 0
    assert metrics.rank(np.eye(3)[::-1], 0.5) == 3


def test_ranks_of_a_matrix_are_those_of_its_spectrum():
    values = [5.0, 3.0, 2.0, 0.5]
    matrix = with_spectrum(values)
    assert metrics.rank(matrix, 1.0) == metrics.rank(values, 1.0) == 3
    assert metrics.effective_rank(matrix) == pytest.approx(metrics.effective_rank(values), abs=1e-9)
    assert metrics.energy_rank(matrix, 0.9) == metrics.energy_rank(values, 0.9) == 3


def test_only_the_absolute_rank_depends_on_the_scale():
    matrix = with_spectrum([2.0, 1.0, 0.5])
    assert metrics.rank(matrix, 0.9) == 2 != metrics.rank(10 * matrix, 0.9)
    assert metrics.rank(matrix, 0.4, relative=True) == metrics.rank(10 * matrix, 0.4, relative=True) == 2
    assert metrics.effective_rank(10 * matrix) == pytest.approx(metrics.effective_rank(matrix))
    assert metrics.energy_rank(10 * matrix) == metrics.energy_rank(matrix)


@pytest.mark.parametrize("r", [1, 7, 30])
def test_equal_singular_values_have_effective_rank_equal_to_rank(r):
    matrix = with_spectrum([0.3] * r)
    assert metrics.effective_rank(matrix) == pytest.approx(r, rel=1e-9)
    assert metrics.effective_rank([1.0] * r + [0.0] * 5) == pytest.approx(r, rel=1e-12)


def test_effective_rank_of_a_known_spectrum():
    # p = 1/2, 1/4, 1/4 has the entropy 1.5 log 2.
    assert metrics.effective_rank([2.0, 1.0, 1.0]) == pytest.approx(2**1.5, rel=1e-12)
    assert metrics.effective_rank(torch.zeros(4, 3)) == 0


def test_rankme_is_the_effective_rank_up_to_its_small_constant():
    for r, d in ((1, 2048), (32, 2048), (5, 40)):
        values = [0.7] * r + [0.0] * (d - r)
        p = np.array(values) / sum(values) + 1e-7
        assert metrics.rankme(values) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
        assert r < metrics.rankme(values) < 1.004 * r
    matrix = with_spectrum([3.0, 2.0, 1.0]) + 1  # uncentred
    assert metrics.rankme(matrix) == pytest.approx(metrics.effective_rank(matrix), rel=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
def test_alpha_req_is_the_exponent_of_a_power_law_and_a_weighted_fit_elsewhere(alpha):
    values = torch.arange(1, 201, dtype=torch.float64) ** (-alpha / 2)
    assert metrics.alpha_req(values) == pytest.approx(alpha, rel=1e-10)
    assert metrics.alpha_req(values, first=1, last=200) == pytest.approx(alpha, rel=1e-10)
    x = normal(400, 120) * values[:120] + 5
    j = np.arange(3, 61)
    spectrum = np.linalg.eigvalsh(np.cov(x.T.numpy()))[::-1][j - 1]
    slope = np.polyfit(np.log(j), np.log(spectrum), 1, w=j**-0.5)[0]
    assert metrics.alpha_req(x, first=3, last=60) == pytest.approx(-slope, rel=1e-9)
    assert metrics.alpha_req(7 * x, first=3, last=60) == pytest.approx(-slope, rel=1e-9)


def test_energy_rank_takes_squares_and_a_share_that_is_reached_exactly():
    assert [metrics.energy_rank([2.0, 1.0, 1.0, 0.0], share) for share in (0.5, 4 / 6, 0.7, 5 / 6, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
    ]
    assert [metrics.energy_rank([1.0] * n, 0.99) for n in (50, 100, 200)] == [50, 99, 198]
    assert [metrics.energy_rank([0.1] * 10, share) for share in (0.5, 0.8, 0.9)] == [5, 8, 9]
    assert metrics.energy_rank([0.0, 0.0]) == 0


def test_the_initial_projector_has_the_spectrum_of_the_marchenko_pastur_edges():
    torch.manual_seed(0)
    weight = torch.nn.Linear(512, 128, bias=False).weight
    values = metrics.singular_values(weight)
    edges = [(1 / math.sqrt(3 * 512)) * (math.sqrt(512) + sign * math.sqrt(128)) for sign in (1, -1)]
    assert [values[0].item(), values[-1].item()] == pytest.approx(edges, abs=0.02)
    assert [round(edge, 2) for edge in edges] == [0.87, 0.29]
    assert values.square().sum().sqrt().item() == pytest.approx(6.5, abs=0.05)


SPECTRA = {"flat": (lambda j: j**0, 0.75), "1/j": (lambda j: 1 / j, 0.2031), "1/j²": (lambda j: 1 / j**2, 0.003549)}


@pytest.mark.parametrize("name", SPECTRA)
def test_a_random_projector_leaves_three_quarters_unexplained_whatever_the_spectrum(name):
    eigenvalues, oracle = SPECTRA[name]
    scale = eigenvalues(torch.arange(1, 513, dtype=torch.float64)).sqrt()
    displacements = orthonormal(512, 512) * scale  # their uncentred covariance has exactly these eigenvalues
    values = [metrics.unexplained_variance(displacements, normal(512, 128, seed=seed)) for seed in range(4)]
    assert np.mean(values) == pytest.approx(0.75, abs=0.02)
    assert metrics.pca_unexplained(displacements, 128) == pytest.approx(oracle, rel=1e-3)
    best = torch.linalg.svd(displacements).Vh[:128].T
    assert metrics.unexplained_variance(displacements, best) == pytest.approx(
        metrics.pca_unexplained(displacements, 128)
    )


def test_unexplained_variance_is_the_mean_residual_of_least_squares():
    displacements, basis = normal(50, 12), normal(12, 5, seed=1)
    fit = np.linalg.lstsq(basis.numpy(), displacements.numpy().T, rcond=None)[1].sum()
    expected = fit / displacements.square().sum().item()
    assert metrics.unexplained_variance(displacements, basis) == pytest.approx(expected, rel=1e-12)
    mixed = basis @ (normal(5, 5, seed=2) * torch.tensor([1, 1, 1, 1, 1e-6]).double())
    assert metrics.unexplained_variance(displacements, 7 * mixed) == pytest.approx(expected, rel=1e-6)
    assert metrics.unexplained_variance(displacements, torch.cat([basis, basis], 1)) == pytest.approx(
        expected, rel=1e-12
    )


def test_unexplained_variance_of_the_whole_space_the_empty_one_and_a_truncation():
    displacements = normal(50, 12)
    basis = orthonormal(12, 4) * torch.tensor([2, 1, 0.5, 0.1]).double()
    assert metrics.unexplained_variance(displacements, normal(12, 12)) < 1e-20
    assert metrics.unexplained_variance(displacements, basis, threshold=3.0) == pytest.approx(1)
    truncated = metrics.unexplained_variance(displacements, basis, threshold=0.5)
    assert truncated == pytest.approx(metrics.unexplained_variance(displacements, basis[:, :3]), rel=1e-12)
    assert metrics.pca_unexplained(displacements, 3) <= truncated <= 1


def test_label_agreement_counts_images_not_views():
    labels = torch.tensor([0, 0, 1, 2])
    assert metrics.label_agreement(labels, torch.tensor([1, 4, 3, 6])) == 0.5
    z1 = normal(64, 3)
    labels = torch.arange(64) % 4
    nearest = losses.info_nce_upper_bound(z1, z1 + 0.1 * normal(64, 3, seed=1)).nearest
    expected = sum(labels[int(j) % 64] == labels[i] for i, j in enumerate(nearest)) / 64
    assert metrics.label_agreement(labels, nearest) == pytest.approx(float(expected))


@pytest.mark.parametrize(("n", "fine", "coarse"), [(64, 0.469, 0.9605), (128, 0.721, 0.9985), (256, 0.923, 0.999998)])
def test_the_limit_of_agreement_for_batches_of_cifar_100(n, fine, coarse):
    assert metrics.agreement_limit(torch.arange(50000) % 100, n) == pytest.approx(fine, abs=5e-4)
    assert metrics.agreement_limit(torch.arange(50000) % 20, n) == pytest.approx(coarse, abs=5e-5)


def test_the_limit_of_agreement_in_one_given_batch_is_the_share_of_shared_labels():
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    assert metrics.agreement_limit(labels, 7) == pytest.approx(5 / 7, abs=1e-12)
    draws = [torch.randperm(7, generator=torch.Generator().manual_seed(s))[:3] for s in range(4000)]
    shares = [np.mean([(labels[draw] == labels[i]).sum() > 1 for i in draw]) for draw in draws]
    assert np.mean(shares) == pytest.approx(metrics.agreement_limit(labels, 3), abs=0.02)


def clusters(n, d, classes, seed):
    centres = normal(classes, d, seed=99)
    labels = torch.arange(n) % classes
    return (centres[labels] + 1.5 * normal(n, d, seed=seed)).float(), labels


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.07), (20, 0.1), (200, 0.5)])
def test_knn_agrees_with_scikit_learn(k, temperature):
    train, train_labels = clusters(400, 8, 10, 1)
    test, test_labels = clusters(150, 8, 10, 2)
    weights = lambda distance: np.exp(-distance / temperature)  # noqa: E731
    reference = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(train.double(), train_labels)
    expected = reference.score(test.double(), test_labels)
    ours = metrics.knn_accuracy(train, train_labels, test, test_labels, k=k, temperature=temperature)
    assert ours == pytest.approx(expected, abs=1e-12)
    assert 0.3 < ours < 1


def test_knn_does_not_depend_on_how_the_queries_are_cut(monkeypatch):
    train, train_labels = clusters(100, 8, 10, 1)
    test, test_labels = clusters(37, 8, 10, 2)
    whole = metrics.knn_accuracy(train, train_labels, test, test_labels)
    monkeypatch.setattr(neighbors, "_CHUNK", 500)
    assert metrics.knn_accuracy(train, train_labels, test, test_labels) == whole
    assert metrics.knn_accuracy(7 * train, train_labels, test / 3, test_labels) == whole


def test_knn_of_the_training_set_itself_with_ties_unknown_labels_and_a_low_temperature():
    train, labels = clusters(60, 8, 6, 1)
    assert metrics.knn_accuracy(train, labels, train, labels, k=1) == 1
    assert metrics.knn_accuracy(train, labels, train, labels, k=60, temperature=1e-3) == 1
    assert metrics.knn_accuracy(train, labels, train, labels + 6, k=1) == 0
    tie, query = torch.ones(4, 2), torch.ones(1, 2)
    for order in ([3, 3, 1, 1], [1, 3, 1, 3]):
        assert metrics.knn_accuracy(tie, torch.tensor(order), query, torch.tensor([1]), k=4) == 1
    for seed in range(50):  # of a row and the row backwards, which are as near to the query but for rounding
        row = torch.rand(1, 33, generator=torch.Generator().manual_seed(seed))
        pair, query = torch.cat([row, row.flip(1)]), torch.ones(1, 33)
        assert metrics.knn_accuracy(pair, torch.tensor([3, 1]), query, torch.tensor([1]), k=2) == 1


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_two_nn_agrees_with_a_plain_regression_and_ignores_units_rotation_and_shift(dimension):
    x = normal(1500, dimension) @ normal(dimension, 20, seed=1)
    distance = NearestNeighbors(n_neighbors=3).fit(x).kneighbors(x)[0]
    mu = np.sort(distance[:, 2] / distance[:, 1])[:1350]
    log_tail = -np.log(1 - np.arange(1, 1351) / 1500)
    slope = LinearRegression(fit_intercept=False).fit(np.log(mu)[:, None], log_tail).coef_[0]
    assert metrics.two_nn(x) == pytest.approx(slope, rel=1e-9)
    assert slope == pytest.approx(dimension, rel=0.1)
    moved = 1e-3 * x @ orthonormal(20, 20) + 2
    assert metrics.two_nn(moved) == pytest.approx(slope, rel=1e-6)
    assert metrics.two_nn(moved.float()) == pytest.approx(slope, rel=1e-2)
    # More copies than are discarded; they double the neighbours of some others, too.
    assert metrics.two_nn(torch.cat([x, x[:200]])) == pytest.approx(slope, rel=0.3)


@pytest.mark.parametrize("spread", [1e-3, 1e-4, 3e-5])
def test_knn_tells_the_classes_of_nearly_collapsed_features(spread):
    """Cosines that differ by 1e-8 are one number in float32."""
    labels = torch.arange(400) % 10
    x = (normal(1, 64) + spread * (normal(10, 64, seed=1)[labels] + 0.1 * normal(400, 64, seed=2))).float()
    for train, test in ((x, x.double()), (x.double(), x), (x, x)):
        assert metrics.knn_accuracy(train[:200], labels[:200], test[200:], labels[200:], k=5) == 1


@pytest.mark.parametrize("gap", [0, 300, 1000])
def test_two_nn_of_two_squares_does_not_depend_on_their_distance(gap):
    squares = torch.rand(600, 2, generator=torch.Generator().manual_seed(0)).mul(4096).round() / 4096
    squares[300:] += 10 + gap
    assert metrics.two_nn(squares) == pytest.approx(metrics.two_nn(squares.double()), rel=1e-9)
    assert metrics.two_nn(squares) == pytest.approx(2, abs=0.25)


def test_two_nn_says_when_all_is_discarded():
    with pytest.raises(ValueError, match=r"discard is 0\.99; it leaves none of 50 distinct features\."):
        metrics.two_nn(normal(50, 4), discard=0.99)


def test_two_nn_has_the_value_of_scikit_dimension():
    x = np.random.default_rng(0).standard_normal((500, 6)) @ np.random.default_rng(1).standard_normal((6, 15))
    for discard, golden in {
        0.1: 4.9865575030451454,
        0.3: 5.170881058346048,
    }.items():  # skdim.id.TwoNN(discard_fraction=discard), version 0.5.0
        assert metrics.two_nn(torch.from_numpy(x), discard=discard) == pytest.approx(golden, rel=1e-9)


def test_alignment_and_uniformity_are_those_of_lightly_and_have_their_extremes():
    z1, z2 = normal(50, 8), normal(50, 8, seed=1)
    for t in (1.0, 2.0):
        expected = HypersphereLoss(t=t, lam=1.0, alpha=2.0)(z1, z2).item()
        ours = metrics.alignment(z1, z2) + (metrics.uniformity(z1, t=t) + metrics.uniformity(z2, t=t)) / 2
        assert ours == pytest.approx(expected, rel=1e-9)
    assert metrics.alignment(z1, 3 * z1) == pytest.approx(0, abs=1e-12)
    assert metrics.alignment(z1, -z1) == pytest.approx(4)
    assert metrics.uniformity(z1[:1].repeat(9, 1)) == pytest.approx(0, abs=1e-9)
    assert metrics.uniformity(torch.tensor([[1.0, 0], [-2, 0]])) == pytest.approx(-8)
    assert metrics.uniformity(torch.eye(20), t=500.0) == pytest.approx(-1000)


def test_the_alignment_of_kernels_ignores_rotation_scale_and_shift_and_is_that_of_centred_kernels():
    x, y = normal(60, 12), normal(60, 7, seed=1)
    assert metrics.cka(x, 3 * x @ orthonormal(12, 12) - 5) == pytest.approx(1, abs=1e-12)
    center = torch.eye(60).double() - 1 / 60
    kernels = [center @ z @ z.T @ center for z in (x, y)]
    expected = ((kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())).item()
    assert metrics.cka(x, y) == pytest.approx(expected, rel=1e-10) and 0 < expected < 0.5
    assert metrics.cka(y, x) == pytest.approx(expected, rel=1e-10)
    apart = torch.linalg.svd(center).U[:, :8]  # centred and orthogonal to each other
    assert metrics.cka(apart[:, :4], apart[:, 4:]) < 1e-20
    for n in (3, 6, 7, 10, 1000):  # the mean of equal numbers need not be that number
        same = torch.full((n, 3), 0.1, dtype=torch.float64)
        assert metrics.effective_rank(metrics.singular_values(same, centered=True)) == 0
        with pytest.raises(ValueError, match="are equal; their alignment is undefined"):
            metrics.cka(same, normal(n, 2))
    # Of d equal directions one alone has the share 1/√d.
    assert metrics.cka(apart[:, :1], apart) == pytest.approx(8**-0.5)


def test_uniformity_does_not_depend_on_how_the_pairs_are_cut(monkeypatch):
    x = normal(400, 6)
    monkeypatch.setattr(neighbors, "_CHUNK", 3000)
    assert metrics.uniformity(x) == pytest.approx(HypersphereLoss(t=2.0, lam=1.0)(x, x).item(), rel=1e-9)


def test_the_probe_agrees_with_scikit_learn_on_the_same_objective():
    train, train_labels = clusters(1500, 20, 15, 1)
    test, test_labels = clusters(1500, 20, 15, 2)
    mean, deviation = train.mean(0), train.std(0, correction=0)
    reference = LogisticRegression(C=1 / (len(train) * probes.L2), max_iter=1000, tol=1e-8)
    reference.fit(((train - mean) / deviation).double(), train_labels)
    expected = reference.score(((test - mean) / deviation).double(), test_labels)
    ours = metrics.linear_probe(train, train_labels, test, test_labels)
    assert ours == pytest.approx(expected, abs=0.01)
    weight, bias = probes._fit((train - mean) / deviation, train_labels, probes.L2)
    assert weight.T.numpy() == pytest.approx(reference.coef_, abs=0.02)
    assert (bias - bias.mean()).numpy() == pytest.approx(reference.intercept_ - reference.intercept_.mean(), abs=0.02)


def test_the_probe_ignores_units_constant_features_and_the_order_of_the_images():
    train, train_labels = clusters(600, 10, 5, 1)
    test, test_labels = clusters(400, 10, 5, 2)
    accuracy = metrics.linear_probe(train, train_labels, test, test_labels)
    scale = torch.logspace(-3, 3, 10)
    assert metrics.linear_probe(scale * train + 1, train_labels, scale * test + 1, test_labels) == pytest.approx(
        accuracy, abs=0.005
    )
    constant = [torch.cat([x, torch.full((len(x), 2), 0.1)], 1) for x in (train, test)]
    assert metrics.linear_probe(constant[0], train_labels, constant[1], test_labels) == pytest.approx(
        accuracy, abs=0.005
    )
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    shuffled = metrics.linear_probe(train[order], train_labels[order], test, test_labels)
    assert shuffled == pytest.approx(accuracy, abs=0.005)


def test_metrics_work_without_gradients_and_leave_the_mode_alone():
    train, labels = clusters(100, 5, 3, 1)
    expected = metrics.linear_probe(train, labels, train, labels), metrics.knn_accuracy(train, labels, train, labels)
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        features = train.clone()
        assert metrics.linear_probe(features, labels, features, labels) == expected[0]
        assert metrics.knn_accuracy(features, labels, features, labels) == expected[1]
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        network = metrics.mlp_probe(*3 * (train, labels), epochs=2)
    learned = train.clone().requires_grad_()
    assert metrics.linear_probe(learned, labels, learned, labels) == expected[0]
    assert metrics.mlp_probe(*3 * (learned, labels), epochs=2) == network
    with torch.autocast("cpu", torch.bfloat16):
        assert metrics.linear_probe(train, labels, train, labels) == expected[0]
        assert metrics.mlp_probe(*3 * (train, labels), epochs=2) == network
    assert metrics.effective_rank(learned) == metrics.effective_rank(train)


def test_bad_input_is_refused_with_a_sentence():
    train, labels = clusters(10, 4, 2, 1)
    for sentence, call in {
        "k is 11": lambda: metrics.knn_accuracy(train, labels, train, labels, k=11),
        "temperature is 0": lambda: metrics.knn_accuracy(train, labels, train, labels, k=1, temperature=0),
        "each feature needs one": lambda: metrics.linear_probe(train, labels[:9], train, labels),
        r"must be \(M, D\) and \(N, D\)": lambda: metrics.linear_probe(train, labels, train[:, :3], labels),
        r"must be \(N, D\) and \(D, K\)": lambda: metrics.unexplained_variance(train, train),
        "displacements are 0": lambda: metrics.pca_unexplained(torch.zeros(3, 2), 1),
        "share is 2": lambda: metrics.energy_rank(train, 2),
        "threshold is -1": lambda: metrics.rank(train, -1),
        "range is 11 … 100; it must lie in 1 … 4": lambda: metrics.alpha_req(train),
        "discard is 1": lambda: metrics.two_nn(train, discard=1),
        "There are 2 features": lambda: metrics.two_nn(train[:2]),
        "has a copy": lambda: metrics.two_nn(torch.ones(5, 2)),
        "features holds 40 values": lambda: metrics.two_nn(train / 0),
        "z1 and z2 have the shapes": lambda: metrics.alignment(train, train[:, :3]),
        "z2 holds 40 values": lambda: metrics.alignment(train, train * torch.inf),
        "t is 0": lambda: metrics.uniformity(train, t=0),
        "x and y have the shapes": lambda: metrics.cka(train, train[:4]),
        "features of x or of y are equal": lambda: metrics.cka(train, torch.ones(10, 3)),
        "smallest singular value is -1": lambda: metrics.rank([1.0, -1.0], 0),
        "batch size is 11": lambda: metrics.agreement_limit(labels, 11),
        r"must be \(N,\)": lambda: metrics.label_agreement(labels, labels[:5]),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()
