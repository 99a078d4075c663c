import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sslbook import data, hardware, lie, metrics, papers, runs, training
from sslbook.optim import LARS
from sslbook.papers import check
from sslbook.papers.geometry import PAPER
from sslbook.papers.geometry.measure import _angles, _around, _rotation, _tangents, _turned, gradient_norms
from sslbook.papers.observe import calibrate, pairs
from sslbook.papers.paper import Finished
from sslbook.views import PerView, policy


def configs(*options, **changes):
    return [config for config, _ in PAPER.plan(*options, **changes)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(folder))
        found = runs.ensure(PAPER.plan("fig1", "smoke", seeds=[1])[2].config, device="cpu")
        PAPER.arrays(found)
        yield found


def test_paper_profile_is_the_papers_setting():
    planned = configs("main", "paper")
    assert len(planned) == 15 and len({c.id for c in planned}) == 15
    for c in planned:
        assert c.encoder.width == 64 and c.encoder.blocks == (2, 2, 2, 2) and c.method.widths == (128,)
        assert (
            (c.method.beta, c.method.loss) == (2.0, "info_nce") and c.data.name == "cifar100" and c.data.images is None
        )
        assert c.optim == LARS(learning_rate=4.0, weight_decay=1e-6, momentum=0.9, warmup=0.1)
        assert c.epochs == 500 and c.batch_size == 1024


def test_the_most_valuable_runs_come_first():
    """One seed of each strength, then the next: a batch that is cut short has whole comparisons."""
    order = [(config.seed, labels["strength"]) for config, labels in PAPER.plan("main", "laptop")]
    assert order[:4] == [(11, "small"), (11, "moderate"), (11, "large"), (12, "small")]
    assert len(order) % 3 == 0 and not {seed for seed, _ in order} & {0, 1, 2, 3, 4, 17}


def test_figures_share_their_runs_and_other_figures_vary_one_thing():
    assert configs("fig7", "laptop") == configs("main", "laptop")
    main = {(labels["strength"], c.seed): c for c, labels in PAPER.plan("main", "laptop")}
    assert {c.epochs for c in main.values()} == {64}
    changed = {"knobs": "views", "losses": "method", "optimisers": "optim", "fig8": "method"}
    for figure, field in changed.items():
        kinds = set()
        for c, labels in PAPER.plan(figure, "laptop"):
            beside = main["small" if figure == "knobs" else "large", c.seed]
            assert (c == beside) == (labels.get("hidden") == "linear")
            assert c.replace(**{field: getattr(beside, field)}) == beside
            kinds.add(tuple(labels.values()))
        assert len(kinds) == {"losses": 1, "fig8": 4}.get(figure, 2)
    assert len({type(c.optim) for c in configs("optimisers", "laptop")} | {LARS}) == 3
    small = policy("small")
    for c, labels in PAPER.plan("knobs", "laptop"):
        knobs = [f for f in ("crop", "flip", "jitter", "grayscale") if getattr(c.views, f) != getattr(small, f)]
        assert knobs == [labels["knob"]] and getattr(c.views, knobs[0]) == getattr(policy("large"), knobs[0])


def test_other_data_and_seeds():
    planned = configs("fig1", "laptop", dataset="shapes", seeds=[7])
    assert {(c.data.name, c.data.images, c.seed) for c in planned} == {("shapes", None, 7)} and len(planned) == 3
    for name, images in (("cifar10", 10_000), ("usps", None)):
        assert {c.data.images for c in configs("fig1", "laptop", dataset=name)} == {images}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("huge",), "profile is 'huge'; allowed are 'smoke', 'laptop', 'paper'"),
        (("smoke", "cifar"), "dataset is 'cifar'; allowed are None, 'cifar100'"),
        (("smoke", None, []), r"seeds is \[\]; allowed are None or a list"),
        (("smoke", None, [1, 1]), r"seeds is \[1, 1\]; allowed are None or a list of different integers"),
        (("smoke", None, 5), r"seeds is 5; allowed are None or a list"),
        (("smoke", None, None, "tpu"), "device is 'tpu'; allowed here are None, cpu"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_allowed(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(*arguments)


def test_pairs_have_the_policy_of_each_view():
    config, small, large = configs("main", "smoke")[0], policy("small"), policy("large")
    kinds = {"each its own": PerView((small, large)), "small": small}
    train = data.load_train(config.data)
    own, alike = (pairs(config.replace(views=views), train)[1:] for views in kinds.values())
    assert torch.equal(own[0], alike[0]) and not torch.equal(own[1], alike[1])


def test_measurements_agree_with_what_they_are_of(run):
    arrays, last = PAPER.arrays(run), run.method()
    assert arrays["epoch"].tolist() == [0, 1, 2]
    sigma = torch.linalg.svdvals(last.projector[-1].weight)
    torch.testing.assert_close(arrays["projector"][-1], sigma.detach(), rtol=1e-5, atol=1e-6)
    train, test = data.load_train(run.config.data), data.load("shapes", "test")
    test = test.subset(data.balanced_order(test.fine, seed=3)[: len(train) // 5])
    with torch.no_grad(), hardware.autocast("cpu"):
        bank, queries = (last.encode(s.images.float() / 255).float() for s in (train, test))
    assert arrays["knn"][-1] == pytest.approx(metrics.knn_accuracy(bank, train.fine, queries, test.fine), abs=0.02)
    torch.testing.assert_close(arrays["encoder"][-1], metrics.singular_values(bank).float(), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        outputs = last.projector(bank), last.projector(queries)
    expected = metrics.knn_accuracy(outputs[0], train.fine, outputs[1], test.fine)
    assert arrays["knn_projector"][-1] == pytest.approx(expected, abs=0.02)
    assert (arrays["upper"] >= arrays["loss"] - 1e-5).all()
    gap = float(np.log(2 * (papers.BATCH - 1)))
    torch.testing.assert_close(arrays["upper"], 2 * (arrays["invariance"] + arrays["repulsion"]) + gap)
    counts = arrays["distance_unit"].sum(1)
    assert (counts == len(train) // papers.BATCH * papers.BATCH).all()
    assert (arrays["unexplained"] >= arrays["unexplained_oracle"] - 1e-6).all()
    assert (arrays["unexplained_half"] >= arrays["unexplained"] - 1e-6).all()


def test_each_direction_of_the_projector_has_its_variances(run):
    """Over its directions those of views add up to what the columns of W hold of the displacements."""
    arrays, width = PAPER.arrays(run), run.config.method.widths[-1]
    views, images = arrays["view_variance"], arrays["image_variance"]
    assert views.shape == images.shape == (3, width) and (views > 0).all() and (images > 0).all()
    energy = arrays["displacement"].square().sum(1) / (2 * arrays["distance_unit"].sum(1))
    torch.testing.assert_close(views.sum(1), energy * (1 - arrays["unexplained_views"]), rtol=1e-3, atol=1e-5)
    centered = arrays["views_centered"].square().sum(1) / arrays["distance_unit"].sum(1)
    assert (images.sum(1) < centered).all()


def test_batch_norm_has_statistics_at_the_start(run):
    """Those of the training images. Without them features have fewer directions."""
    method, train = run.method(0), data.load_train(run.config.data)
    blank = papers.encode(method, train.images)
    calibrate(method, train.images)
    assert not any(module.training for module in method.modules())
    seen, kept = papers.encode(method, train.images), PAPER.arrays(run)["encoder"][0]
    torch.testing.assert_close(metrics.singular_values(seen).float(), kept, rtol=1e-3, atol=1e-3)
    assert metrics.effective_rank(seen - seen.mean(0)) > metrics.effective_rank(blank - blank.mean(0)) + 1


def test_one_generator_explains_features_that_a_group_moves_and_no_others():
    generator = torch.Generator().manual_seed(0)
    x, G = torch.randn(400, 6, generator=generator), torch.randn(6, 6, generator=generator, dtype=torch.float64)
    orbit = [x @ lie.exp(G - G.T, k * math.radians(10)).T.float() for k in range(4)]
    projector = torch.nn.Sequential(torch.nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        moved = _rotation(projector, x, orbit)
        unmoved = _rotation(projector, x, [x, *(x + torch.randn(400, 6, generator=generator) for _ in range(3))])
    assert all(moved[f"generator_{k}"] > 0.999 for k in (1, 2, 3)) and moved["generator_passes"] > 0
    assert all(unmoved[f"generator_{k}"] < 0.05 for k in (1, 2, 3))


def test_images_are_turned_inside_a_disk_that_no_angle_leaves():
    images = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    turned = list(_turned(images).values())
    assert len(turned) == 4 and all(torch.equal(each, turned[0]) for each in turned[1:])
    assert turned[0].mean() == pytest.approx(math.pi / 4, abs=0.01)


def test_one_matrix_is_one_region_whose_local_map_is_the_matrix(run):
    arrays = PAPER.arrays(run)
    assert (arrays["regions"] == 1).all()
    torch.testing.assert_close(arrays["unexplained_local"], arrays["unexplained"], rtol=1e-4, atol=1e-4)


def test_measuring_is_pure(run):
    again = PAPER._stack(run, "cpu")
    for name, values in PAPER.arrays(run).items():
        torch.testing.assert_close(again[name], values, msg=name)


def test_a_record_fits_its_limit(run):
    assert sum(p.stat().st_size for p in run.path.iterdir() if p.is_file()) < 300_000


def test_frames_are_tidy(run):
    found = [Finished(run, {"strength": "large"})]
    frame = PAPER.frame(found)
    assert len(frame) == 3 and not frame.isna().any().any() and frame.strength.unique().tolist() == ["large"]
    assert frame.run.unique().tolist() == [run.config.id] and frame.epoch.tolist() == [0, 1, 2]
    first = frame.iloc[0]
    assert first["norm"] == pytest.approx(float(run.method(0).projector[-1].weight.detach().norm()), rel=1e-5)
    assert first["relative_0.5"] <= first["relative_0.25"] <= 8
    spectrum = PAPER.entries(found, "projector")
    assert len(spectrum) == 3 * 8 and spectrum.groupby("epoch").value.apply(lambda s: s.is_monotonic_decreasing).all()
    assert spectrum["index"].tolist() == [*range(1, 9)] * 3 and set(spectrum.strength) == {"large"}
    with pytest.raises(ValueError, match=r"has no array 'w'; it has .*, projector"):
        PAPER.entries(found, "w")


def test_gradient_norms_are_those_of_the_two_terms():
    """Against automatic differentiation of each term by the unit output, with its radial part removed."""
    torch.manual_seed(0)
    (z1, z2), beta = torch.randn(2, 6, 4, dtype=torch.float64), 1.5
    f2 = F.normalize(z2)
    pull, push = gradient_norms(z1, z2, beta=beta)
    for i in range(6):
        f = F.normalize(z1[i], dim=0).requires_grad_()
        others = torch.cat([F.normalize(z1), f2])[[j for j in range(12) if j % 6 != i]]
        for term, norm in ((-beta * f @ f2[i], pull[i]), ((beta * others @ f).logsumexp(0), push[i])):
            (g,) = torch.autograd.grad(term, f)
            torch.testing.assert_close((g - (g @ f) * f).norm(), norm)


def test_tangents_of_shapes_are_taken_at_the_second_view_and_have_no_angle_to_their_own_span():
    config = configs("tangents", "smoke")[-1]
    anchors, _, second = papers.pairs(config, data.load_train(config.data))
    around = _around(anchors, config)
    assert around.shape == (7 * 2 * len(anchors), 3, 32, 32)
    up, down = around.unflatten(0, (7, 2, -1)).unbind(1)
    middle = (up + down) / 2
    assert (middle - second).abs().mean() < 0.004  # pixels are whole numbers of 255
    network = training.build(config).eval()
    tangents = _tangents(network, around, "cpu")
    assert tangents.shape == (len(anchors), 7, network.encoder.dim)
    generator = torch.Generator().manual_seed(0)
    inside = (tangents * torch.rand(7, 1, generator=generator)).sum(1)
    assert _angles(tangents, inside) < 1
    assert _angles(tangents, torch.randn(inside.shape, generator=generator)) > 30
