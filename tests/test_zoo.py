"""The zoo of the manifold graphs chapter: its plan, what is measured of a model, and the statistics of few models."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from sslbook import data, hardware, ledger
from sslbook.papers.manifold_graphs import (
    BINARY,
    FAMILIES,
    GEOMETRY,
    METHODS,
    PAPER,
    PARADIGMS,
    POLICIES,
    augmented,
    claims,
    geometry,
    statistics,
)
from sslbook.papers.manifold_graphs.measure import _parts, whitened_cosine
from sslbook.papers.observe import calibrate, encode, held_out

LABELS = np.repeat(["a", "b", "c"], (3, 4, 3))


def pixels(n, seed=0, shape=(3, 32, 32)):
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_the_zoo_differs_in_method_and_policy_and_in_nothing_else(profile):
    planned = PAPER.plan("main", profile)
    assert [p.labels for p in planned] == [
        {"policy": policy, "method": method} for policy in POLICIES for method in METHODS
    ]
    assert len({p.config.id for p in planned}) == len(planned)
    for part in ("data", "encoder", "optim", "epochs", "batch_size", "seed"):
        assert len({str(getattr(p.config, part)) for p in planned}) == 1
    heads = {getattr(p.config.method, "widths", None) for p in planned} - {None}
    assert len(heads) == 1
    seeds = PAPER.plan("seeds", profile)
    assert {p.config.replace(seed=1).id for p in seeds} == {p.config.id for p in planned[: len(METHODS)]}


def test_every_paradigm_has_at_least_three_methods_at_scale_and_two_at_smoke():
    for profile, least in (("laptop", 3), ("smoke", 2)):
        families = pd.Series([PARADIGMS[p.labels["method"]] for p in PAPER.plan("main", profile)[: len(METHODS)]])
        counts = families[families != "supervised"].value_counts()
        assert len(counts) == 3 and counts.min() >= least


def test_the_share_between_groups_is_one_for_points_zero_by_chance_and_the_adjusted_r2_of_a_linear_model():
    random = np.random.default_rng(0)
    x = np.eye(3)[np.repeat([0, 1, 2], (3, 4, 3))]
    assert statistics.share_between(x, LABELS) == pytest.approx(1)
    draws = [statistics.share_between(random.normal(size=(10, 6)), LABELS) for _ in range(400)]
    assert abs(np.mean(draws)) < 0.02
    y = random.normal(size=10)
    design = np.stack([name == LABELS for name in "abc"], 1).astype(float)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    r2 = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()
    assert statistics.share_between(y[:, None], LABELS) == pytest.approx(1 - (1 - r2) * 9 / 7)
    with pytest.raises(ValueError, match="There are 1 groups of 10 models"):
        statistics.share_between(x, ["a"] * 10)


def test_a_permutation_p_is_that_of_all_orders():
    x, labels = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1])

    def gap(labels):
        return x[labels == 1].mean() - x[labels == 0].mean()

    every = [gap(np.isin(range(6), chosen).astype(int)) for chosen in itertools.combinations(range(6), 3)]
    exact = np.mean(np.array(every) >= gap(labels) - 1e-12)
    assert statistics.permutation_p(gap, labels, draws=4000) == pytest.approx(exact, abs=0.01)
    with pytest.raises(ValueError, match="The statistic is nan"):
        statistics.permutation_p(lambda labels: np.nan, labels)


def test_pseudo_values_of_a_mean_are_the_values_and_those_of_a_variance_have_no_bias():
    random = np.random.default_rng(0)
    y = random.normal(size=12)
    assert statistics.jackknife(lambda i: y[i].mean(), 12) == pytest.approx(y)
    assert statistics.jackknife(lambda i: y[i].var(), 12).mean() == pytest.approx(y.var(ddof=1))


def test_the_adjusted_rand_index_against_counting_pairs():
    for seed in range(5):
        one, two = np.random.default_rng(seed).integers(0, 3, (2, 9))
        pairs = list(itertools.combinations(range(9), 2))
        a = np.array([one[i] == one[j] for i, j in pairs])
        b = np.array([two[i] == two[j] for i, j in pairs])
        expected = a.sum() * b.sum() / len(pairs)
        index = ((a & b).sum() - expected) / ((a.sum() + b.sum()) / 2 - expected)
        assert statistics.adjusted_rand(one, two) == pytest.approx(index)
    assert statistics.adjusted_rand(list("aabb"), [3, 3, 1, 1]) == 1


def test_a_prediction_never_sees_the_group_that_it_predicts():
    random = np.random.default_rng(0)
    x, y, groups = random.normal(size=(12, 3)), random.normal(size=12), np.repeat(np.arange(6), 2)
    found = statistics.predicted(x, y, groups)
    for group in range(6):
        changed = y.copy()
        changed[groups == group] += 100
        again = statistics.predicted(x, changed, groups)
        assert again[groups == group] == pytest.approx(found[groups == group])
        assert not np.allclose(again[groups != group], found[groups != group])


def test_what_is_linear_is_predicted_and_noise_is_not_though_it_fits_in_sample():
    random = np.random.default_rng(0)
    groups, x = np.arange(30), random.normal(size=(30, 4))
    y = x @ [1.0, -2.0, 0.5, 0.0]
    assert statistics.skill(statistics.predicted(x, y, groups), y, groups) > 0.99
    noise = random.normal(size=(30, 40))
    assert statistics.skill(statistics.predicted(noise, y, groups), y, groups) < 0.3
    assert statistics.in_sample(noise, y) > 0.95
    assert statistics.skill(statistics.predicted_mean(y, groups), y, groups) == 0
    with pytest.raises(ValueError, match="there is nothing to predict"):
        statistics.p_of_skill(x, np.ones(30), groups)
    for function in (statistics.predicted, statistics.p_of_skill):
        with pytest.raises(ValueError, match="fewer than three groups"):
            function(x[:4], y[:4], [0, 0, 1, 1])


def test_the_p_of_a_skill_is_that_of_predicting_each_permutation_by_itself():
    random = np.random.default_rng(0)
    groups, x = np.repeat(np.arange(5), 2), random.normal(size=(10, 3))
    y = x[:, 0] + random.normal(size=10)
    again = np.random.default_rng(0)
    targets = [y, *(statistics.permuted(y, groups, again) for _ in range(20))]
    skills = [statistics.skill(statistics.predicted(x, t, groups), t, groups) for t in targets]
    expected = np.mean(np.array(skills) >= skills[0] - 1e-12)
    assert statistics.p_of_skill(x, y, groups, draws=20) == expected and 0 < expected < 1


def test_the_mean_of_the_others_ranks_models_backwards():
    random = np.random.default_rng(0)
    y = random.normal(size=8)
    assert (statistics.predicted_mean(y, range(8)).argsort() == (-y).argsort()).all()


def test_a_permutation_over_groups_keeps_what_belongs_together():
    y, groups = np.arange(8.0), np.repeat(np.arange(4), 2)
    mixed = statistics.permuted(y, groups, np.random.default_rng(2))
    assert sorted(map(tuple, mixed.reshape(4, 2))) == sorted(map(tuple, y.reshape(4, 2))) and not (mixed == y).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_views_of_a_family_are_of_the_images_and_in_range(family):
    images = pixels(3)
    views = augmented(images, family, 6, seed=1)
    assert views.shape == (6, 3, 3, 32, 32) and views.min() >= 0 and views.max() <= 1
    assert (views == augmented(images, family, 6, seed=1)).all()
    original = images / 255
    if family in BINARY:
        assert (views[:3] == original).all() and (views[3] == views[4]).all() and not (views[3] == original).all()
    else:
        assert len({tuple(view.flatten().tolist()) for view in views}) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_views_have_the_shape_of_images_that_are_not_square(family):
    for size in ((36, 40), (40, 36)):
        views = augmented(torch.zeros(2, 3, *size, dtype=torch.uint8), family, 2)
        assert views.shape == (2, 2, 3, *size)


def test_another_family_is_refused():
    with pytest.raises(ValueError, match="The family is 'shear'; allowed are 'crop'"):
        augmented(pixels(1), "shear", 2)


def test_a_flip_mirrors_a_gray_view_has_one_value_and_a_translation_moves_by_whole_pixels():
    images = pixels(2)
    assert (augmented(images, "flip", 2)[1] == images.flip(3) / 255).all()
    gray = augmented(images, "grayscale", 2)[1]
    assert (gray[:, 0] == gray[:, 1]).all()
    moved = augmented(images, "translation", 40, seed=3)[:, 0]
    inner = images[0, :, 8:24, 8:24] / 255
    shifts = [(i, j) for i in range(4, 13) for j in range(4, 13)]
    found = [[(i, j) for i, j in shifts if (view[:, i : i + 16, j : j + 16] == inner).all()] for view in moved]
    assert [len(places) for places in found] == 40 * [1] and len({places[0] for places in found}) == 40
    with pytest.raises(ValueError, match="82 translations are asked for; there are 81"):
        augmented(images, "translation", 82)


def test_the_whitened_cosine_is_one_without_change_and_does_not_depend_on_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    views = clean[:20] + 0.5 * torch.randn(5, 20, 6, generator=generator, dtype=torch.float64)
    assert whitened_cosine(clean, clean[:20], clean[:20].expand(3, 20, 6)) == pytest.approx(1)
    found = whitened_cosine(clean, clean[:20], views)
    direct = torch.cosine_similarity(clean[:20].expand(5, 20, 6), views, dim=-1).mean(0)
    assert found == pytest.approx(direct.numpy(), abs=0.05)
    mixing = torch.diag(torch.tensor([3.0, 1, 2, 2, 1, 0.5], dtype=torch.float64))
    again = whitened_cosine(clean @ mixing, clean[:20] @ mixing, views @ mixing)
    assert again == pytest.approx(found.numpy(), abs=0.02)


def drawn_frame(effect: float, useful: bool) -> pd.DataFrame:
    """A frame of a zoo whose geometry depends on the paradigm by `effect`, and transfer on the geometry if `useful`."""
    random, rows = np.random.default_rng(4), []
    for policy in POLICIES:
        for method in METHODS:
            family = list(dict.fromkeys(PARADIGMS.values())).index(PARADIGMS[method])
            hidden = random.normal()
            values = {name: hidden + 2 * random.normal() for name in GEOMETRY}
            values = {name: value + effect * np.cos(family + i) for i, (name, value) in enumerate(values.items())}
            target = hidden if useful else random.normal()
            values |= {"knn": random.normal(), "linear_a": target, "linear_b": target + 0.1 * random.normal()}
            rows.append(
                {"policy": policy, "method": method, "seed": 1, "epoch": 8, "run": f"{policy}{method}"} | values
            )
    return pd.DataFrame(rows)


def status(id: str, frame: pd.DataFrame) -> str:
    return ledger.judge(PAPER.claim(id), frame, complete=True).status


def test_the_rules_decide_drawn_zoos_both_ways():
    assert status("graphs-paradigm", drawn_frame(0, True)) == "reproduced"
    assert status("graphs-paradigm", drawn_frame(30, True)) == "not reproduced"
    assert status("graphs-transfer", drawn_frame(0, True)) == "reproduced"
    assert status("graphs-beyond-accuracy", drawn_frame(0, True)) == "reproduced"
    assert status("graphs-transfer", drawn_frame(0, False)) != "reproduced"


def test_supervised_training_decides_nothing():
    frame = drawn_frame(0, True)
    changed = frame.copy()
    changed.loc[changed.method == "supervised", list(GEOMETRY)] = 1e6
    for id in ("graphs-paradigm", "graphs-transfer"):
        one, two = (test.statistic(f) for test in PAPER.claim(id).evidence.tests[:1] for f in (frame, changed))
        assert one.equals(two) and len(one) == len(METHODS) - 1
    assert "supervised" not in set(claims.models(frame).method)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("SSLBOOK_PRECISION", "bfloat16")
        (run, _), *_ = PAPER.obtain(PAPER.plan("main", "smoke")[:1], device="cpu")
        yield run, PAPER.arrays(run)


def test_a_run_is_measured_by_the_metrics_themselves(measured):
    run, arrays = measured
    at = {name: values[-1] for name, values in arrays.items() if name != "epoch"}
    row = PAPER.row(run.config, at)
    assert set(GEOMETRY) <= set(row) and not any(np.isnan(row[name]) for name in GEOMETRY)
    for family in BINARY:
        assert f"count_{family}" not in row and row[f"diameter_{family}"] > 0
    assert row["diameter_flip"] == pytest.approx(
        float(at["view_diameter"][FAMILIES.index("flip")].mean()) / float(at["diameter"].mean()), rel=1e-5
    )
    components = at["components"].double()
    gram = components.T @ components
    assert components.mean(0).abs().max() < 1e-4 and (gram.diagonal().diff() <= 1e-6).all()
    assert (gram - gram.diagonal().diag()).abs().max() < 1e-4 * gram.diagonal().max()
    near = at["near"].long()
    assert near.max() < len(near) and not (near == torch.arange(len(near))[:, None]).any()
    assert sum(values.numel() for values in arrays.values()) * 4 < 300_000
    at["affinity"][0] = torch.nan
    rest, row = at["affinity"][1:][~at["affinity"][1:].isnan()].double(), PAPER.row(run.config, at)
    assert (row["affinity"], row["affinity_deviation"]) == pytest.approx(
        (float(rest.mean()), float(rest.std(correction=0)))
    )


def test_features_are_in_float32_whatever_a_run_was_trained_in_and_batch_norm_has_statistics(measured):
    run, arrays = measured
    assert run.provenance["precision"] == "bfloat16"
    images, train = held_out(run.config).images, data.load_train(run.config.data).images
    for at, epoch in enumerate(run.snapshots):
        method = run.method(epoch)
        if epoch == 0:
            calibrate(method, train, precision="float32")
        seen = {p: geometry(encode(method, images, precision=p), k=len(images) // 2) for p in hardware.PRECISIONS}
        torch.testing.assert_close(seen["float32"]["diameter"], arrays["diameter"][at])
        assert not torch.allclose(seen["bfloat16"]["diameter"], arrays["diameter"][at], rtol=1e-4)


def test_images_of_transfer_sets_have_as_many_channels_as_those_a_run_trained_on():
    shapes = {}
    for name in ("mnist", "shapes"):
        config = PAPER.plan("main", "smoke", name)[0].config
        shapes[name] = {part.images.shape[1:] for part in _parts(config, "shapes", 28).values()}
    assert shapes == {"mnist": {(1, 28, 28)}, "shapes": {(3, 28, 28)}}
