"""Laws of the losses and methods whose target is made by the method itself."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score

from sslbook import files, losses, training
from sslbook.config import Config
from sslbook.data import Data, Info, load_train
from sslbook.methods import BYOL, DINO, BarlowTwins, Batch, DeepCluster, MoCo, SimSiam, Supervised, SwAV
from sslbook.models import MLP
from sslbook.optim import Adam
from sslbook.views import policy
from tests.laws import weights

ABOUT = Info((1, 4, 6), 10, 10, {})
# Without batch norm, which sees the share of a process alone: one linear layer each.
PARTS = {
    "BYOL": BYOL(widths=(5,), predictor=()),
    "SimSiam": SimSiam(widths=(5,), predictor=()),
    "MoCo": MoCo(widths=(5,), queue=24),
    "SwAV": SwAV(widths=(5,), prototypes=6),
    "DeepCluster": DeepCluster(widths=(5,), prototypes=6, queue=50, refits=4),
    "DINO": DINO(widths=(), prototypes=6),
    "BarlowTwins": BarlowTwins(widths=(5,)),
    "Supervised": Supervised(),
}
each_method = pytest.mark.parametrize("name", PARTS)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return (a @ b / a.norm() / b.norm()).item()


def test_byol_is_two_less_twice_the_cosine():
    p, z = normal(2, 7, 4)
    expected = sum(2 - 2 * cosine(a, b) for a, b in zip(p, z, strict=True)) / 7
    assert losses.byol(p, z).item() == pytest.approx(expected, rel=1e-12)
    assert losses.byol(p, 3 * p).item() == pytest.approx(0, abs=1e-12)
    assert losses.byol(p, -p).item() == pytest.approx(4, rel=1e-12)


def test_moco_is_its_double_loop_and_ends_at_the_logarithm_of_the_choices():
    q, k = normal(2, 5, 4)
    queue, T = normal(9, 4, seed=1), 0.3
    total = 0.0
    for i in range(5):
        own = math.exp(cosine(q[i], k[i]) / T)
        total -= math.log(own / (own + sum(math.exp(cosine(q[i], u) / T) for u in queue))) / 5
    assert losses.moco(q, k, queue, temperature=T).item() == pytest.approx(total, rel=1e-12)
    same = torch.ones(5, 4)
    assert losses.moco(same, same, torch.ones(9, 4), temperature=T).item() == pytest.approx(math.log(10), rel=1e-6)


def test_moco_with_the_other_images_as_queue_is_the_cross_view_loss_of_one_side():
    x, y = normal(2, 6, 4)
    rows = [losses.moco(x[i : i + 1], y[i : i + 1], torch.cat([y[:i], y[i + 1 :]]), temperature=0.5) for i in range(6)]
    one = torch.stack(rows).mean()
    rows = [losses.moco(y[i : i + 1], x[i : i + 1], torch.cat([x[:i], x[i + 1 :]]), temperature=0.5) for i in range(6)]
    both = (one + torch.stack(rows).mean()) / 2
    cross = losses.cross_view_info_nce(x, y, temperature=0.5)
    assert any(cross.item() == pytest.approx(v.item(), rel=1e-9) for v in (one, both))


def test_dino_is_at_least_the_entropy_of_its_target():
    t, centre = normal(8, 5), normal(5, seed=1)
    target = ((t - centre) / 0.5).softmax(1)
    entropy = -(target * target.log()).sum(1).mean().item()
    own = losses.dino(0.1 * (t - centre) / 0.5, t, centre, student_temperature=0.1, teacher_temperature=0.5)
    assert own.item() == pytest.approx(entropy, rel=1e-9)
    for seed in range(5):
        other = losses.dino(normal(8, 5, seed=seed), t, centre, teacher_temperature=0.5)
        assert other.item() > entropy


def test_codes_use_all_prototypes_alike_and_are_the_plan_of_optimal_transport():
    scores = normal(12, 4).tanh()
    q = losses.codes(scores, epsilon=0.3, iterations=300)
    torch.testing.assert_close(q.sum(1), torch.ones(12).double())
    torch.testing.assert_close(q.sum(0), torch.full((4,), 3.0).double(), rtol=0, atol=1e-6)
    log = q.log() - scores / 0.3  # a plan with entropy is exp(scores/ε) but for factors of rows and columns
    residual = log - log.mean(0) - log.mean(1, keepdim=True) + log.mean()
    assert residual.abs().max() < 1e-9


def test_swav_is_the_swapped_cross_entropy_and_log_k_where_nothing_differs():
    s1, s2 = normal(2, 9, 4).tanh()
    q1, q2 = (losses.codes(s, epsilon=0.05) for s in (s1, s2))
    terms = [-(q * (s / 0.2).log_softmax(1)).sum(1).mean() for q, s in ((q2, s1), (q1, s2))]
    expected = (sum(terms) / 2).item()
    assert losses.swav(s1, s2, temperature=0.2).item() == pytest.approx(expected, rel=1e-12)
    flat = torch.zeros(9, 4)
    assert losses.swav(flat, flat).item() == pytest.approx(math.log(4), rel=1e-6)


def test_kmeans_is_its_double_loop():
    points, start = normal(40, 3), normal(5, 3, seed=1)
    expected = [c / c.norm() for c in start]
    for _ in range(4):
        groups = [[] for _ in expected]
        for x in points:
            groups[max(range(5), key=lambda k: cosine(x, expected[k]))].append(x / x.norm())
        expected = [sum(group) / sum(group).norm() for group in groups]
    found = losses.spherical_kmeans(points, start, iterations=4)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(losses.spherical_kmeans(3 * points.flip(0), 0.1 * start, iterations=4), found)
    turn = torch.linalg.qr(normal(3, 3, seed=2)).Q
    torch.testing.assert_close(losses.spherical_kmeans(points @ turn, start @ turn, iterations=4), found @ turn)


def test_kmeans_climbs_to_a_fixed_point_that_scikit_learn_keeps():
    """On the sphere the squared distance is 2 − 2 cos, and a centroid only differs in length from a mean of points."""
    points, centroids = F.normalize(normal(60, 4), dim=1), normal(6, 4, seed=1)
    values = []
    for _ in range(40):
        centroids = losses.spherical_kmeans(points, centroids, iterations=1)
        values.append((points @ centroids.T).amax(1).mean().item())
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values)) and values[-1] > values[0]
    torch.testing.assert_close(losses.spherical_kmeans(points, centroids, iterations=1), centroids)
    theirs = KMeans(6, init=centroids.numpy(), n_init=1, max_iter=1).fit(points.numpy())
    means = torch.from_numpy(theirs.cluster_centers_)
    torch.testing.assert_close(F.normalize(means, dim=1), centroids)


def test_an_empty_cluster_gets_the_point_that_is_represented_worst():
    angles = torch.tensor([0.0, 0.1, -0.1, 0.5, 2.0]).double()
    points = torch.stack([angles.cos(), angles.sin()], 1)
    start = points[[0, 0, 0]]
    found = losses.spherical_kmeans(points, start, iterations=1)
    torch.testing.assert_close(found, torch.stack([F.normalize(points.sum(0), dim=0), points[4], points[3]]))
    padded = torch.cat([torch.zeros(3, 2).double(), points])
    torch.testing.assert_close(losses.spherical_kmeans(padded, start, iterations=1), found)
    assert losses.spherical_kmeans(points, start).unique(dim=0).shape == (3, 2)


def test_deepcluster_is_its_double_loop_and_log_k_where_nothing_differs():
    (z1, z2), centroids, total = normal(2, 5, 4), normal(7, 4, seed=1), 0.0
    for a, b in [*zip(z1, z2, strict=True), *zip(z2, z1, strict=True)]:
        cluster = max(range(7), key=lambda k: cosine(b, centroids[k]))
        terms = [math.exp(cosine(a, c) / 0.2) for c in centroids]
        total -= math.log(terms[cluster] / sum(terms)) / 10
    assert losses.deepcluster(z1, z2, centroids, temperature=0.2).item() == pytest.approx(total, rel=1e-12)
    assert losses.deepcluster(z1, z2, torch.ones(7, 4)).item() == pytest.approx(math.log(7), rel=1e-12)


def test_the_losses_agree_with_lightly():
    lightly = pytest.importorskip("lightly.loss")
    p, z = normal(2, 8, 6).float()
    half = lightly.NegativeCosineSimilarity()(p, z).item()
    assert losses.byol(p, z).item() == pytest.approx(2 + 2 * half, rel=1e-5)
    scores = F.normalize(normal(2, 16, 5), dim=-1).float()
    theirs = lightly.SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)(list(scores), [])
    assert losses.swav(*scores).item() == pytest.approx(theirs.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["byol", "moco", "dino", "swav"])
def test_no_gradient_passes_through_a_target(name):
    a, b = (normal(6, 5, seed=seed).tanh().requires_grad_() for seed in range(2))
    calls = {
        "byol": lambda: losses.byol(a, b),
        "moco": lambda: losses.moco(a, b, normal(7, 5), temperature=0.2),
        "dino": lambda: losses.dino(a, b, normal(5)),
        "swav": lambda: losses.swav(a, b),
    }
    calls[name]().backward()
    assert a.grad.abs().sum() > 0
    if name == "swav":  # both sides are trained, each towards the codes of the other
        expected = torch.autograd.grad(F.cross_entropy(a / 0.1, losses.codes(b, epsilon=0.05)) / 2, a)[0]
        torch.testing.assert_close(a.grad, expected)
    else:
        assert b.grad is None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: losses.byol(normal(3, 2), normal(4, 2)), r"\(3, 2\).*\(4, 2\)"),
        (
            lambda: losses.moco(normal(3, 2), normal(3, 2), normal(5, 4), temperature=0.1),
            r"queue has the shape \(5, 4\)",
        ),
        (lambda: losses.moco(normal(3, 2), normal(3, 2), normal(5, 2), temperature=0), "temperature is 0"),
        (lambda: losses.dino(normal(3, 2), normal(3, 2), normal(3)), r"centre has the shape \(3,\)"),
        (lambda: losses.swav(normal(3, 2), normal(3, 2), epsilon=-1.0), "epsilon is -1.0"),
        (lambda: losses.codes(normal(3), epsilon=0.1), r"scores have the shape \(3,\)"),
        (lambda: losses.spherical_kmeans(normal(3, 2), normal(4, 2)), r"\(3, 2\).*\(4, 2\)"),
        (lambda: losses.deepcluster(*normal(2, 3, 2), normal(4, 3)), r"centroids have the shape \(4, 3\)"),
        (lambda: DeepCluster(prototypes=7, queue=6), "prototypes is 7; the queue of 6 must hold at least as many"),
        (lambda: DeepCluster(refits=0), "DeepCluster.refits is 0; it must be a finite number of at least 1"),
        (lambda: MoCo(queue=0), "MoCo.queue is 0; it must be a finite number of at least 1"),
        (lambda: BYOL(momentum=1.5), "BYOL.momentum is 1.5; it must be a finite number of at least 0 and of at most 1"),
        (lambda: SwAV(temperature=-1.0), "SwAV.temperature is -1.0; it must be a finite number of at least 1e-30"),
        (lambda: DINO(prototypes=0), "DINO.prototypes is 0"),
        (lambda: BarlowTwins(scale=0.0), "BarlowTwins.scale is 0.0"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def build(name):
    torch.manual_seed(0)
    return PARTS[name].build(MLP(5, (9,)).build(ABOUT, torch.full((1,), 0.3), torch.full((1,), 0.4)), ABOUT)


def batch(seed=0, n=8):
    views = torch.rand(2, n, *ABOUT.shape, generator=torch.Generator().manual_seed(seed))
    return Batch(views, torch.arange(n) % 10, (), torch.tensor(0.5))


@pytest.mark.parametrize("name", ["BYOL", "MoCo", "DINO"])
def test_the_momentum_encoder_follows_and_is_not_trained(name):
    method = build(name)
    start = [p.clone() for p in method.slow.parameters()]
    method.loss(batch())[0].backward()
    assert all(p.grad is None for p in method.slow.parameters())
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.after_step(0.25)
    share = 0.01 * ((1 + math.cos(math.pi / 4)) / 2 if name != "MoCo" else 1)
    moved = [(p - before).mean().item() for p, before in zip(method.slow[0].parameters(), start, strict=False)]
    assert moved == pytest.approx([share] * len(moved), rel=1e-3)


def test_the_queue_holds_the_newest_keys_first():
    method = build("MoCo")
    old = method.queue.clone()
    method.loss(batch())
    with torch.no_grad():
        newest = method.targets(batch().views)[:8]
    torch.testing.assert_close(method.queue[:8], newest)
    assert torch.equal(method.queue[8:], old[:-8])


def test_centroids_are_replaced_when_a_share_of_training_is_done():
    """Ten steps and four refits: in each of the first shares' steps, then with the steps 5, 8 and 10."""
    method = build("DeepCluster")
    changed = []
    for step in range(1, 11):
        before = method.centroids.clone()
        method.loss(batch(step))
        method.after_step(step / 10)
        changed.append(not torch.equal(method.centroids, before))
        assert torch.equal(method.centroids, method.next_centroids) == changed[-1]
    assert [step for step, c in enumerate(changed, 1) if c] == [1, 2, 3, 5, 8, 10]
    torch.testing.assert_close(method.queue[:8], method.project(batch(10).views)[:8])
    torch.testing.assert_close(method.queue[40:48], method.project(batch(5).views)[:8])


@each_method
def test_a_step_lowers_the_loss(name):
    method = build(name)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    first = method.loss(batch())[0]
    first.backward()
    trained = {key: value.clone() for key, value in method.state_dict().items()}
    optimizer.step()
    for key, buffer in method.named_buffers():
        buffer.copy_(state[key])
    assert method.loss(batch())[0] < first and trained.keys() == state.keys()


def test_deepcluster_learns_what_two_views_share_and_keeps_its_clusters(tmp_path):
    """The clusters of two views tell more of each other than in the untrained network, where k-means is as free.

    Mutual information is 0 where all images share a cluster, and also where clusters say nothing of the image.
    """
    part = DeepCluster(widths=(16,), prototypes=12, queue=400, refits=10)
    parts = {"views": policy("moderate"), "encoder": MLP(16, (64,)), "method": part, "optim": Adam()}
    config = Config(data=Data("shapes", 400), epochs=10, batch_size=50, snapshots=1, **parts)
    images = load_train(config.data)
    training.train(config, images, tmp_path)
    views = config.views(images.images.repeat(2, 1, 1, 1), torch.Generator().manual_seed(0)).unflatten(0, (2, -1))
    information = {}
    for epoch in (0, config.epochs):
        method = training.build(config)
        method.load_state_dict(weights(files.snapshot_path(tmp_path, epoch)))
        z = F.normalize(method.project(views).detach(), dim=1)
        centroids = F.normalize(method.centroids, dim=1) if epoch else losses.spherical_kmeans(z, z[:12], iterations=20)
        clusters = (z @ centroids.T).argmax(1)
        assert len(clusters.unique()) == 12
        information[epoch] = mutual_info_score(*clusters.chunk(2))
    assert information[config.epochs] > 1.7 * information[0]
