"""Laws of the runs, measurements and frames of the chapter on the matching gap."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from sslbook import data, losses, metrics, pages, papers, runs
from sslbook.optim import Adam
from sslbook.papers.geometry.theory import simplex
from sslbook.papers.matching_gap import PAPER, claims, figures, plan
from sslbook.papers.matching_gap.theory import descend, least_entropic_gap, noisy_pairs
from sslbook.papers.paper import Finished


def configs(*options, **changes):
    return [config for config, _ in PAPER.plan(*options, **changes)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        found = runs.ensure(configs("main", "smoke", seeds=[1])[0], device="cpu")
        PAPER.arrays(found)
        yield found


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_main_runs_are_four_losses_under_two_policies_and_differ_in_nothing_else(profile):
    planned = configs("main", profile)
    assert len({c.id for c in planned}) == len(planned) == 24
    assert {labels["loss"] for _, labels in PAPER.plan("main", profile)} == set(plan.LOSSES)
    one = planned[0]
    for c in planned:
        assert c.replace(method=one.method, views=one.views, seed=one.seed).id == one.id
        assert c.method.widths == one.method.widths
        temperature = getattr(c.method, "epsilon", None) or 1 / getattr(c.method, "beta", 1 / plan.EPSILON)
        assert temperature == pytest.approx(plan.EPSILON)


def test_a_seed_is_complete_before_the_next_begins():
    order = [(config.seed, labels["policy"]) for config, labels in PAPER.plan("main", "laptop")]
    assert order == [(seed, name) for seed in (11, 12, 13) for name in ("weak", "large") for _ in range(4)]


def test_weak_augmentation_is_crop_and_flip_alone():
    weak, large = (configs("main", "paper")[k].views for k in (0, 4))
    assert (weak.crop, weak.flip) == (large.crop, large.flip) and weak.flip == 0.5
    assert set(weak.jitter) == {0.0} and weak.grayscale == 0 < large.grayscale


def test_paper_profile_is_as_declared():
    for c in configs("main", "paper"):
        assert (c.encoder.width, c.encoder.blocks, c.method.widths) == (64, (2, 2, 2, 2), (512, 128))
        assert (c.data.name, c.data.images, c.epochs, c.batch_size) == ("cifar100", None, 200, 512)
        assert len(c.snapshot_epochs) == 21


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_each_sweep_varies_one_thing_and_shares_a_run_with_the_main_ones(profile):
    main = {c.id for c in configs("main", profile)}
    sweep = PAPER.plan("epsilon", profile)
    for config, labels in sweep:
        temperature = getattr(config.method, "epsilon", None) or 1 / config.method.beta
        assert temperature == pytest.approx(labels["epsilon"])
    cells = {(c.seed, labels["loss"], labels["epsilon"]) for c, labels in sweep}
    assert len(cells) == len(sweep) == 30 and {epsilon for *_, epsilon in cells} == {0.05, 0.1, 0.2, 0.5, 1.0}
    assert len({c.replace(method=sweep[0].config.method, seed=1).id for c, _ in sweep}) == 1
    batch = configs("batch", profile)
    assert [c.batch_size for c in batch] == [n for n in plan.BATCH_SIZES[profile] for _ in range(2)]
    assert len({c.replace(method=batch[0].method, batch_size=64).id for c in batch}) == 1
    assert [sum(c.id in main for c in figure) for figure in ([c for c, _ in sweep], batch)] == [6, 2]
    counts = configs("views", profile)
    assert {(c.method.views, c.batch_size) for c in counts} == {(2, 32), (4, 32)}
    assert len({c.replace(method=counts[0].method, seed=1).id for c in counts}) == 1
    same = {(c.seed, c.method): c for c in configs("epsilon", profile)}
    with_adam = configs("scale", profile)
    assert len({c.id for c in with_adam}) == len(with_adam) == 12 and {type(c.optim) for c in with_adam} == {Adam}
    assert all(c == same[c.seed, c.method].replace(optim=c.optim) for c in with_adam)


def test_candidates_for_vicreg_are_on_a_seed_of_their_own_and_judged_on_validation_images(run):
    candidates = configs("grid", "laptop")
    assert {c.seed for c in candidates} == {0} and len({c.method for c in candidates}) == len(plan.GRID) == 4
    arrays, train = PAPER.arrays(run), data.load_train(run.config.data)
    validation = data.load("shapes", "validation")
    validation = validation.subset(data.balanced_order(validation.fine, seed=3)[: len(papers.held_out(run.config))])
    *_, (_, _, h) = papers.observe(run, {"bank": train.images, "queries": validation.images}, "cpu")
    reached = metrics.knn_accuracy(h["bank"], train.fine, h["queries"], validation.fine)
    assert arrays["validation_knn"][-1].item() == pytest.approx(float(reached))


def test_an_unknown_figure_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="figure is 'fig1'; allowed are 'main', 'epsilon', 'batch'"):
        configs("fig1", "laptop")


def test_other_data_and_seeds():
    planned = configs("main", "laptop", dataset="shapes", seeds=[7])
    assert {(c.data.name, c.seed) for c in planned} == {("shapes", 7)} and len(planned) == 8


def test_measured_gaps_keep_their_order(run):
    """least value ≤ gap ≤ ε InfoNCE, and exact gap ≤ gap, which does not decrease in ε."""
    arrays = PAPER.arrays(run)
    assert arrays["epoch"].tolist() == [0, 1, 2]
    gap, exact = arrays["gap"], arrays["exact"][:, None]
    least = torch.tensor([least_entropic_gap(papers.BATCH, epsilon) for epsilon in plan.EPSILONS])
    assert (gap <= arrays["info_nce"] + 1e-6).all() and (gap >= least).all()
    assert (torch.cat([exact, gap], 1).diff(dim=1) >= -1e-6).all() and (exact >= 0).all()
    assert ((arrays["misplaced"] >= 0) & (arrays["misplaced"] <= 1)).all()


def test_measured_gradient_and_info_nce_agree_with_autograd_and_cross_entropy(run):
    _, first, second = papers.pairs(run.config, data.load_train(run.config.data))
    _, method, h = list(papers.observe(run, {"first": first, "second": second}, "cpu"))[-1]
    h1, h2 = h.values()
    with torch.no_grad():
        z1, z2 = (F.normalize(method.projector(h)).double() for h in (h1, h2))
    arrays, squares, values = PAPER.arrays(run), [], []
    for a, b in zip(z1.split(128), z2.split(128), strict=True):
        a = a.clone().requires_grad_()  # the loss normalises, so its gradient lies along the sphere
        losses.matching_gap(a, b, epsilon=0.2).backward()
        squares.append((128 * a.grad).square().sum(1).mean().sqrt().item())
        logits, pairing = (a @ b.T).detach() / 0.2, torch.arange(128)
        values.append(0.1 * (F.cross_entropy(logits, pairing) + F.cross_entropy(logits.T, pairing)).item())
    assert arrays["gradient"][-1, 2].item() == pytest.approx(np.mean(squares), rel=1e-3)
    assert arrays["info_nce"][-1, 2].item() == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("name", ["encoder_positive", "projector_negative"])
def test_histograms_have_the_measured_means(run, name):
    table, arrays = PAPER.entries([Finished(run, {})], name), PAPER.arrays(run)
    for epoch, part in table.groupby("epoch"):
        middle = (part["index"] - 0.5) * 2 / 50
        mean = (part.value * middle).sum() / part.value.sum()
        assert mean == pytest.approx(arrays[f"{name}_mean"][epoch].item(), abs=0.02)  # half a bin


def test_the_frame_has_a_row_for_each_epoch_at_the_epsilon_of_the_run(run):
    scalars = PAPER.frame([Finished(run, {"policy": "weak", "loss": "matching gap"})])
    names = {"loss", "policy", "seed", "epoch", "run", "knn", "linear", "exact", "gap", "misplaced", "gradient"}
    names |= {f"{x}_{y}" for x in ("encoder", "projector") for y in ("rank", "typical", "positive_relative")}
    assert names <= set(scalars) and scalars.epoch.tolist() == [0, 1, 2]
    assert scalars["encoder_rank"].between(1, 16).all()
    gaps = PAPER.arrays(run)["gap"][:, plan.EPSILONS.index(0.2)]
    assert scalars.gap.tolist() == pytest.approx(gaps.tolist())


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_descent_ends_where_both_views_are_one_simplex(epsilon):
    x, y = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, history = descend(x, y, epsilon=epsilon, steps=150)
    assert (history.gap.diff()[1:] < 1e-9).all() and len(history) == 151
    assert history.gap.iloc[-1] == pytest.approx(least_entropic_gap(4, epsilon), rel=1e-3)
    assert torch.allclose(x @ y.T, simplex(4) @ simplex(4).T, atol=0.03)
    assert history.distance.iloc[-1] == (x - y).norm(dim=1).mean().item() < 0.03


def test_descent_without_entropy_stops_where_the_pairing_is_a_best_matching():
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    history = descend(x, y, epsilon=0, steps=30)[2]
    assert history.gap.iloc[0] > 0.01 and history.gap.iloc[-1] == 0
    assert history.distance.iloc[-1] == history.distance.iloc[-2] > 0.3


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_no_pairs_fall_below_the_least_gap_and_the_simplex_attains_it(epsilon):
    least = least_entropic_gap(16, epsilon)
    for seed, noise in [(1, 0.0), (2, 0.1), (3, 1.0)]:
        x, y = noisy_pairs(seed, n=16, noise=noise)
        assert losses.matching_gap(x, y, epsilon=epsilon) > least
    z = simplex(16)
    assert losses.matching_gap(z, z, epsilon=epsilon, tol=1e-12).item() == pytest.approx(least, abs=1e-12)


def test_the_curves_of_every_policy_are_whole():
    page = pages.Page("matching_gap", None)
    rows = [(policy, "matching gap", epoch, seed) for policy in plan.POLICIES for epoch in (0, 6) for seed in (1, 2)]
    page.frame = pd.DataFrame(rows, columns=["policy", "loss", "epoch", "seed"])
    page.frame["knn"] = page.frame.policy.map(dict(zip(plan.POLICIES, (0.1, 0.9), strict=True))) * (
        page.frame.epoch > 0
    )
    for ax in figures.by_policy(page, "knn", "accuracy", 0, "best").axes:
        assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 0.9


def test_the_rule_on_temperature_splits_the_variance_of_the_ten_kinds_of_runs():
    """Equal losses leave what ε does; a constant difference of 2c leaves −c; the squares add to the whole variance."""

    def frame(gap, contrast):
        rows = [
            {"policy": "weak", "loss": loss, "epsilon": e, "seed": 1, "epoch": 6, "knn": value}
            for loss, values in zip(plan.LOSSES[:2], (gap, contrast), strict=True)
            for e, value in zip(plan.EPSILONS, values, strict=True)
        ]
        return pd.DataFrame(rows)

    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5))
    assert claims._temperature_over_loss(frame(a, a), "knn")[1] == pytest.approx(a.std())
    assert claims._temperature_over_loss(frame([1 + 0.3] * 5, [1 - 0.3] * 5), "knn")[1] == pytest.approx(-0.3)
    between, within = ((a + b) / 2).std(), (((a - b) / 2) ** 2).mean() ** 0.5
    assert claims._temperature_over_loss(frame(a, b), "knn")[1] == pytest.approx(between - within)
    assert between**2 + within**2 == pytest.approx(np.concatenate([a, b]).var())


def test_the_weights_of_vicreg_are_those_that_the_rule_takes():
    end = PAPER.frame(PAPER.find(PAPER.plan("grid", "laptop"))).query("epoch == 6")
    assert len(end) == 2 * len(plan.GRID)
    by = end.assign(total=end.validation_knn + end.validation_linear).groupby("candidate")
    eligible = by.projector_rank.min()[lambda rank: rank >= 64 / 2].index
    invariance, variance, covariance = map(float, by.total.sum()[eligible].idxmax().split(", "))
    chosen = plan._METHODS["VICReg"]
    assert (chosen.invariance, chosen.variance, chosen.covariance) == (invariance, variance, covariance)
