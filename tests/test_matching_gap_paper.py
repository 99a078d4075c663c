"""Laws of the runs, measurements and frames of the chapter on the matching gap."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from sslbook import losses, papers, runs
from sslbook.claims.matching_gap import least_entropic_gap, noisy_pairs
from sslbook.papers import matching_gap
from sslbook.papers.geometry_theory import simplex


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        found = runs.ensure(matching_gap.configs("main", "smoke", seeds=[1])[0], device="cpu")
        matching_gap.measure(found)
        yield found


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_main_runs_are_four_losses_under_two_policies_and_differ_in_nothing_else(profile):
    configs = matching_gap.configs("main", profile)
    assert len({c.id for c in configs}) == len(configs) == 24
    assert len({c.method.name for c in configs}) == 4
    one = configs[0]
    for c in configs:
        assert c.replace(method=one.method, views=one.views, seed=one.seed).id == one.id
        assert c.method.widths == one.method.widths
        temperature = getattr(c.method, "epsilon", None) or 1 / getattr(c.method, "beta", 1 / matching_gap.EPSILON)
        assert temperature == pytest.approx(matching_gap.EPSILON)


def test_a_seed_is_complete_before_the_next_begins():
    order = [(c.seed, c.views.name) for c in matching_gap.configs("main", "laptop")]
    assert order == [(seed, name) for seed in (1, 2, 3) for name in ("weak", "large") for _ in range(4)]


def test_weak_augmentation_is_crop_and_flip_alone():
    weak, large = (matching_gap.configs("main", "paper")[k].views for k in (0, 4))
    assert (weak.crop, weak.flip) == (large.crop, large.flip) and weak.flip == 0.5
    assert set(weak.jitter) == {0.0} and weak.grayscale == 0 < large.grayscale


def test_paper_profile_is_as_declared():
    for c in matching_gap.configs("main", "paper"):
        assert (c.encoder.width, c.encoder.blocks, c.method.widths) == (64, (2, 2, 2, 2), (512, 128))
        assert (c.data.name, c.data.images, c.epochs, c.batch_size) == ("cifar100", None, 200, 512)
        assert len(c.snapshot_epochs) == 21


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_each_sweep_varies_one_thing_and_shares_a_run_with_the_main_ones(profile):
    main = {c.id for c in matching_gap.configs("main", profile)}
    sweep = matching_gap.configs("epsilon", profile)
    assert [c.method.epsilon for c in sweep] == [0.05, 0.1, 0.2, 0.5, 1.0]
    assert len({c.replace(method=sweep[0].method).id for c in sweep}) == 1
    batch = matching_gap.configs("batch", profile)
    assert [c.batch_size for c in batch] == [n for n in matching_gap.BATCH_SIZES[profile] for _ in range(2)]
    assert len({c.replace(method=batch[0].method, batch_size=64).id for c in batch}) == 1
    assert [sum(c.id in main for c in figure) for figure in (sweep, batch)] == [1, 2]


def test_an_unknown_figure_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="figure is 'fig1'; allowed are 'main', 'epsilon', 'batch'"):
        matching_gap.configs("fig1", "laptop")


def test_other_data_and_seeds():
    configs = matching_gap.configs("main", "laptop", dataset="shapes", seeds=[7])
    assert {(c.data.name, c.seed) for c in configs} == {("shapes", 7)} and len(configs) == 8


def test_measured_gaps_keep_their_order(run):
    """least value ≤ gap ≤ ε InfoNCE, and exact gap ≤ gap, which does not decrease in ε."""
    arrays = matching_gap.measure(run)
    assert arrays["epoch"].tolist() == [0, 1, 2]
    gap, exact = arrays["gap"], arrays["exact"][:, None]
    least = torch.tensor([least_entropic_gap(papers.BATCH, epsilon) for epsilon in matching_gap.EPSILONS])
    assert (gap <= arrays["info_nce"] + 1e-6).all() and (gap >= least).all()
    assert (torch.cat([exact, gap], 1).diff(dim=1) >= -1e-6).all() and (exact >= 0).all()
    assert ((arrays["misplaced"] >= 0) & (arrays["misplaced"] <= 1)).all()


def test_measured_gradient_and_info_nce_agree_with_autograd_and_cross_entropy(run):
    *_, observations = papers.observe(run, "cpu")
    method, _, _, h1, h2 = list(observations)[-1]
    with torch.no_grad():
        z1, z2 = (F.normalize(method.projector(h)).double() for h in (h1, h2))
    arrays, squares, values = matching_gap.measure(run), [], []
    for a, b in zip(z1.split(128), z2.split(128), strict=True):
        a = a.clone().requires_grad_()  # the loss normalises, so its gradient lies along the sphere
        losses.matching_gap(a, b, epsilon=0.2).backward()
        squares.append((128 * a.grad).square().sum(1).mean().sqrt().item())
        logits, pairing = (a @ b.T).detach() / 0.2, torch.arange(128)
        values.append(0.1 * (F.cross_entropy(logits, pairing) + F.cross_entropy(logits.T, pairing)).item())
    assert arrays["gradient"][-1, 2].item() == pytest.approx(np.mean(squares), rel=1e-3)
    assert arrays["info_nce"][-1, 2].item() == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("space", ["encoder", "projector"])
def test_histograms_are_shares_with_the_measured_means(run, space):
    frame, arrays = matching_gap.distances([run], space), matching_gap.measure(run)
    for (epoch, pair), part in frame.groupby(["epoch", "pair"]):
        assert part.share.sum() == pytest.approx(1, abs=1e-6) and part.distance.between(0, 2).all()
        mean = arrays[f"{space}_{pair}_mean"][epoch].item()
        assert (part.share * part.distance).sum() == pytest.approx(mean, abs=0.02)  # half a bin


def test_scalars_have_a_row_for_each_epoch_and_gaps_one_for_each_epsilon(run):
    scalars, gaps = matching_gap.scalars([run]), matching_gap.gaps([run])
    names = {"loss", "policy", "epsilon", "batch_size", "seed", "epoch", "knn", "linear", "exact"}
    names |= {f"{x}_{y}" for x in ("encoder", "projector") for y in ("rank", "typical", "positive_relative")}
    names |= {"gap", "info_nce", "misplaced", "gradient"}
    assert names <= set(scalars) and set(gaps) == set(scalars) | {"at"}
    assert scalars.epoch.tolist() == [0, 1, 2] and len(gaps) == 3 * len(matching_gap.EPSILONS)
    assert set(scalars.loss) == {"matching gap"} and scalars["encoder_rank"].between(1, 16).all()
    at_own = gaps[gaps["at"] == scalars.epsilon[0]].drop(columns="at")
    pd.testing.assert_frame_equal(at_own[scalars.columns].reset_index(drop=True), scalars, check_dtype=False)


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_descent_ends_where_both_views_are_one_simplex(epsilon):
    x, y = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, history = matching_gap.descend(x, y, epsilon=epsilon, steps=150)
    assert (history.gap.diff()[1:] < 1e-9).all() and len(history) == 151
    assert history.gap.iloc[-1] == pytest.approx(least_entropic_gap(4, epsilon), rel=1e-3)
    assert torch.allclose(x @ y.T, simplex(4) @ simplex(4).T, atol=0.03)
    assert history.distance.iloc[-1] == (x - y).norm(dim=1).mean().item() < 0.03


def test_descent_without_entropy_stops_where_the_pairing_is_a_best_matching():
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    history = matching_gap.descend(x, y, epsilon=0, steps=30)[2]
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
