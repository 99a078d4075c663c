"""Laws of the runs, measurements and frames of the chapter on SimVAE."""

import dataclasses
import math
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from sslbook import data, losses, papers, runs
from sslbook.ledger import FromRuns
from sslbook.pages import Page
from sslbook.papers.paper import Finished
from sslbook.papers.simvae import DISCRIMINATIVE, METHODS, PAPER, SETS, plan, theory
from sslbook.papers.simvae.measure import _factors, fresh_decoder, spread_ratio

KINDS = ("SimVAE", "SimCLR")


def test_a_data_set_that_is_not_planned_takes_the_place_of_one_planned_set_and_of_its_name():
    planned = PAPER.plan("main", "laptop", "gtsrb")
    assert {(c.data.name, labels["set"]) for c, labels in planned} == {("gtsrb", "gtsrb")}
    assert len({c.id for c, _ in planned}) == len(planned) == len(PAPER.plan("main", "laptop", "mnist"))


def by_label(figure, profile, name):
    return {(labels[name], config.seed): config for config, labels in PAPER.plan(figure, profile)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A generative and a discriminative run of seed 1 at smoke, measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        planned = [each for each in PAPER.plan("main", "smoke", seeds=[1]) if each.labels["method"] in KINDS]
        found = list(PAPER.obtain(planned, device="cpu"))
        for run, _ in found:
            PAPER.arrays(run)
        yield {labels["method"]: Finished(run, labels) for run, labels in found}


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_the_methods_meet_the_same_images_views_and_encoder(profile):
    planned = PAPER.plan("main", profile)
    assert len({config.id for config, _ in planned}) == len(planned)
    for name in SETS:
        part = [(config, labels) for config, labels in planned if labels["set"] == name]
        assert {labels["method"] for _, labels in part} == set(METHODS)
        one = part[0][0]
        for config, _ in part:
            assert config.replace(method=one.method, optim=one.optim, seed=one.seed).id == one.id


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_every_method_chooses_among_equally_many_candidates_on_a_seed_that_decides_nothing(profile):
    planned = PAPER.plan("grid", profile)
    counts = pd.Series([labels["method"] for _, labels in planned]).value_counts()
    assert set(counts.index) == set(METHODS) and set(counts) == {3}
    assert {config.seed for config, _ in planned}.isdisjoint(
        config.seed for figure in ("main", "knobs") for config, _ in PAPER.plan(figure, profile)
    )


def test_a_knob_changes_one_thing_and_the_number_of_steps_and_views_stays():
    cells = by_label("knobs", "laptop", "knob")
    main = cells["main", 1]
    assert main.id in {config.id for config, _ in PAPER.plan("main", "laptop")}
    for knob in plan.KNOBS:
        config = cells[knob, 1]
        changed = {
            f.name for part in ("method", "views") for f in dataclasses.fields(getattr(main, part))
            if getattr(getattr(config, part), f.name) != getattr(getattr(main, part), f.name)
        }  # fmt: skip
        expected = {"main": 0, "vertical flip": 2, "as released": 4}.get(knob, 1)  # a mirror is moved: off, and on
        assert len(changed) == expected, (knob, changed)
        assert abs(config.method.views * config.batch_size - 128) < config.method.views
        steps = config.epochs * (config.data.images // config.batch_size)
        assert steps == pytest.approx(main.epochs * (main.data.images // main.batch_size), rel=0.1)


def test_the_claims_find_their_columns_for_every_method_and_set(found):
    """Whatever the methods are called and the sets, all tests get a number for each seed."""
    frames = {kind: PAPER.frame([found[kind]]).assign(slant=0.5) for kind in KINDS}
    frame = pd.concat(
        frames[KINDS[method in DISCRIMINATIVE]].assign(method=method, set=name, seed=seed)
        for method in METHODS
        for name in SETS
        for seed in (1, 2, 3)
    )
    for claim in PAPER.claims:
        if isinstance(claim.evidence, FromRuns):
            for test in claim.evidence.tests:
                values = test.statistic(frame)
                assert len(values) == 3 and values.notna().all(), (claim.id, test.says)


def test_gray_images_have_a_slant_and_angles_are_two_numbers():
    image = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    for k in range(3):
        for row in range(4, 24):
            image[k, 0, row, 14 + (k - 1) * (14 - row) // 2 : 16 + (k - 1) * (14 - row) // 2] = 255
    gray = data.ImageSet(image, torch.zeros(3).long(), torch.zeros(3).long(), data.Names(("a",), ("a",)))
    factors = _factors(gray)
    assert {name: values.shape[1] for name, values in factors.items()} == {"slant": 1, "rotation": 2, "thickness": 1}
    assert factors["slant"].flatten().tolist() == pytest.approx([-0.5, 0, 0.5], abs=0.03)
    known = _factors(data.load("shapes", "validation"))
    assert {name for name, values in known.items() if values.shape[1] == 2} == {"rotation", "hue", "background"}
    torch.testing.assert_close(known["hue"].square().sum(1), torch.ones(500))


def test_a_row_has_what_each_kind_of_method_can_give(found):
    frame = PAPER.frame(found.values())
    assert sorted(frame.epoch.unique()) == [0, 2] and len(frame) == 2 * len(KINDS)
    every = {"linear", "knn", "mlp", "linear_before", "knn_before", "validation_linear", "validation_knn", "style"}
    every |= {"style_x", "style_y", "style_area", "style_hue", "style_before", "flip", "ratio", "ratio_before"}
    every |= {"rebuilt", *data.load("shapes", "validation").factors}
    heads, latent = {"linear_head", "knn_head", "style_head", "ratio_head"}, {"active", "q"}
    for method, part in frame.groupby("method"):
        numbers = set(part.dropna(axis=1).columns)
        discriminative = method in DISCRIMINATIVE
        assert every <= numbers
        assert heads <= numbers if discriminative else not heads & numbers
        assert latent.isdisjoint(numbers) if discriminative else latent <= numbers
    for name in ("linear", "knn", "mlp", "linear_before", "flip"):
        assert frame[name].between(0, 1).all()
    assert (frame["style"] <= 1).all() and frame.ratio.between(0, 1.2).all()
    starts = frame[frame.epoch == 0].set_index("method")
    assert starts.linear.nunique() == starts.knn_before.nunique() == 1  # one random encoder for all


def test_pictures_are_bytes_and_a_record_has_room_for_them(found):
    for method, (run, _) in found.items():
        arrays = PAPER.arrays(run)
        pictures = {name: values for name, values in arrays.items() if values.dtype == torch.uint8}
        assert {"views", "rebuilt_views"} <= set(pictures)
        assert ({"own_views", "samples", "groups", "between"} <= set(pictures)) == (method not in DISCRIMINATIVE)
        assert all(values.shape[-3:] == (3, 32, 32) and len(values) == 2 for values in pictures.values())
        assert sum(path.stat().st_size for path in run.path.iterdir() if "weights" not in path.name) < 300 * 1024
    views = [PAPER.arrays(run)["views"] for run, _ in found.values()]
    assert all(torch.equal(each, views[0]) for each in views)


def test_measuring_gives_the_same_again_and_leaves_chance_alone(found):
    run, _ = found["SimCLR"]
    state = torch.get_rng_state()
    start = next(PAPER.measure(run, "cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    for name, values in PAPER.arrays(run).items():
        if name != "epoch":
            torch.testing.assert_close(start[name].to(values), values[0], rtol=0, atol=0)


def test_the_own_pictures_are_those_of_the_decoder(found):
    run, _ = found["SimVAE"]
    arrays, method = PAPER.arrays(run), run.method()
    with torch.no_grad():
        drawn = method.reconstruct(arrays["views"][-1] / 255)
    assert (255 * drawn - arrays["own_views"][-1]).abs().max() < 4  # the views were rounded to bytes
    images, views = arrays["between"][-1].float()
    ends = arrays["own_views"][-1].float()
    assert (images[0] - ends[0]).abs().max() <= 1
    assert (images[-1] - ends[1]).abs().max() <= 1 and (views[0] - ends[1]).abs().max() <= 1


def test_the_ratio_is_the_share_of_the_variance_within():
    generator = torch.Generator().manual_seed(0)
    centres, noise = torch.randn(1, 4000, 8, generator=generator), torch.randn(4, 4000, 8, generator=generator)
    assert spread_ratio(centres.expand(4, -1, -1)) == 0 == spread_ratio(torch.ones(4, 10, 3))
    for spread in (0.5, 2.0, 1e4):
        expected = spread**2 / (1 + spread**2)
        assert spread_ratio(centres + spread * noise) == pytest.approx(expected, rel=0.03)


def test_a_fresh_decoder_draws_what_the_features_tell():
    """Images of one brightness: told it, the decoder finds it; told noise, it can do no better than the mean."""
    generator = torch.Generator().manual_seed(0)
    light, noise = torch.rand(2, 1000, 1, generator=generator)
    images = light[..., None, None].expand(-1, 1, 6, 6)
    state = torch.get_rng_state()
    told, untold = (fresh_decoder(z, images, passes=30)(z) for z in (light, noise))
    scaled = fresh_decoder(1e3 * light + 7, images, passes=30)(1e3 * light + 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert (told - images).square().mean() < 1e-3
    assert (untold - images).square().mean() == pytest.approx(1 / 12, rel=0.1)
    torch.testing.assert_close(scaled, told, rtol=0, atol=1e-2)


@pytest.mark.parametrize("knob", ["uniform prior", "as released"])
def test_a_prior_without_samples_and_the_released_cell_are_measured(knob, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))
    run = runs.ensure(by_label("knobs", "smoke", "knob")[knob, 1].replace(epochs=0), device="cpu")
    arrays = PAPER.arrays(run)
    assert ("samples" in arrays) == (knob != "uniform prior")
    assert {"flip", "q", "active"} <= set(arrays)


def test_a_model_of_binary_images_is_measured_by_its_likelihood(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr(sys.modules[fresh_decoder.__module__], "SAMPLES", 10)
    (planned,) = PAPER.plan("likelihood", "smoke")
    ((run, _),) = PAPER.obtain([planned], device="cpu")
    likelihood = PAPER.arrays(run)["likelihood"]
    pixels = 3 * 32 * 32
    assert -pixels * math.log(2) * 1.2 < likelihood[0] < likelihood[-1] < 0


@pytest.mark.parametrize("views", [2, 6, 10])
def test_the_joint_normal_of_a_group_is_the_marginal_prior(views):
    z = torch.randn(views, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = losses.group_log_prior(z, sigma2=0.15, prior="marginal")
    torch.testing.assert_close(theory.group_density(z, 0.15), expected)


def test_information_on_the_group_is_at_most_log_n_and_that_on_the_view_is_not():
    known, contrasted = zip(*(theory.instance_information(s, seed=3) for s in (0.05, 0.2, 0.5, 2.0)), strict=True)
    assert max(known + contrasted) <= math.log(64) and known[0] == pytest.approx(math.log(64), abs=1e-9)
    assert list(known) == sorted(known, reverse=True)
    assert all(lower <= upper + 0.02 for lower, upper in zip(contrasted, known, strict=True))
    assert theory.view_information(10.0, 0.01) > math.log(64)
    # Of two normal numbers the information is −½ log(1 − ρ²).
    rho2 = 0.3**2 / (0.3**2 + 0.1**2)
    assert theory.view_information(0.3, 0.1, dim=1) == pytest.approx(-math.log(1 - rho2) / 2)


def test_the_terms_of_the_kept_style_are_those_of_samples():
    generator = torch.Generator().manual_seed(0)
    e, n = torch.randn(2, 2, 200_000, generator=generator, dtype=torch.float64)
    for kept in (0.0, 0.4, 1.0):
        u, z = e, kept * e + 0.1 * n
        best = u - z * (u * z).mean() / z.square().mean()
        terms = theory.kept_style(torch.tensor(kept))
        assert terms["reconstruction"].item() == pytest.approx(-best.square().mean().item() / 0.2, rel=0.02)
        prior = losses.group_quadratic(z[..., None], sigma2=0.15, prior="uniform").mean() / 2
        assert terms["prior"].item() == pytest.approx(-0.5 * prior.item(), rel=0.02)
    shares = torch.linspace(0, 1, 101)
    assert theory.kept_style(shares)["both"].argmax() > 0 == theory.kept_style(shares)["prior"].argmax()


@pytest.mark.parametrize("sigma_x2", [0.1, 0.5, 2.0])
def test_with_its_noise_free_the_bound_keeps_the_share_of_style_that_the_page_states(sigma_x2):
    kept = torch.linspace(0, 1, 201)
    noises = torch.logspace(-2, 0, 201).tolist()
    bounds = torch.stack([theory.kept_style(kept, noise=n, sigma_x2=sigma_x2)["both"] + math.log(n) for n in noises])
    best = kept[bounds.max(0).values.argmax()].item()
    assert best == pytest.approx(math.sqrt(max(0.0, 1 - sigma_x2) * 0.15 / (1 - 1 / 2)), abs=0.02)


def test_the_line_under_a_figure_names_every_set_with_its_own_epochs():
    facts = {"hardware": "a processor", "precision": "float32", "commit": "abc", "seconds": 60.0}
    planned = PAPER.plan("main", "laptop")
    found = [Finished(SimpleNamespace(config=config, provenance=facts), labels) for config, labels in planned]
    line = papers.facts(found, "laptop")
    assert "fashion_mnist, 10000 images, 10 epochs; mnist, 10000 images, 10 epochs; shapes, 4000 images" in line.scale
    assert line.data == ", ".join(SETS) and line.seconds == 60 * len(planned)
    assert "20 SimVAE, 20 VAE" in line.line


def test_the_end_is_the_last_epoch_of_each_run():
    page = Page("simvae", None, profile="smoke")
    page.frame = pd.DataFrame({"run": list("aabbb"), "epoch": [0, 10, 0, 12, 25], "method": list("xxyyy")})
    assert page.at("end").epoch.tolist() == [10, 25] and page.at("start").epoch.tolist() == [0, 0]
