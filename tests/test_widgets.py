"""Laws of the explorers' Python side: what they answer is the library's, live, and light enough for a page."""

import inspect
import json
import math
import random

import ipywidgets.embed
import numpy as np
import pandas as pd
import pytest
import scipy.spatial
import scipy.stats
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st

from sslbook import data, lie, losses, metrics, views, widgets
from sslbook.papers import Planned
from sslbook.papers.geometry import PAPER, STRENGTHS
from sslbook.papers.simvae import PAPER as SIMVAE
from sslbook.widgets import (
    augmentation_strength,
    knobs,
    one_or_many,
    orbits,
    profiles,
    weights_on_negatives,
)
from sslbook.widgets.base import recorded

EXPLORERS = [thing for thing in vars(widgets).values() if inspect.isclass(thing) and thing is not widgets.Explorer]


GROUPS = {
    "semantic manifold": {"count": "number of neighbours", "diameter": "diameter", "affinity": "affinity"},
    "diameter of augmentation manifolds": {f"diameter_{name}": name for name in ("crop", "flip", "jitter", "blur")},
    "transfer": {
        f"linear_{name}": name for name in ("cifar10", "mnist", "usps", "gtsrb", "a set with a very long name")
    },
}


def zoo(models=9):
    """A drawn table of models, as `Profiles` takes it, in columns."""
    random, kinds = np.random.default_rng(7), ("contrastive", "non-contrastive", "cluster-based")
    columns = [column for rows in GROUPS.values() for column in rows]
    table = {"model": [f"method {k}, {('large', 'weak')[k % 2]} views" for k in range(models)]}
    table |= {
        "paradigm": [kinds[k % 3] for k in range(models)],
        "policy": [("large", "weak")[k % 2] for k in range(models)],
    }
    scales = zip(columns, 10.0 ** random.uniform(-2, 2, len(columns)), strict=True)
    return table | {column: (scale * (3 + random.standard_normal(models))).tolist() for column, scale in scales}


ARGUMENTS = {"Profiles": (zoo(), GROUPS)}
"""Of the explorers that draw nothing without a table."""


def made(cls, **values):
    return cls(*ARGUMENTS.get(cls.__name__, ()), **values)


each_explorer = pytest.mark.parametrize("cls", EXPLORERS, ids=lambda cls: cls.__name__)


def setting(control, rng):
    """A random value that the control can take."""
    if "options" in control:
        return rng.choice(control["options"])
    steps = round((control["max"] - control["min"]) / control["step"])
    return control["min"] + control["step"] * rng.randint(0, steps)


@each_explorer
def test_a_change_in_the_page_is_answered_for_these_parameters(cls):
    explorer, rng = made(cls), random.Random(0)
    for _ in range(3):
        moved = {control["name"]: setting(control, rng) for control in explorer.controls}
        explorer.set_state(moved)
        assert explorer.exact["at"] == moved
        fresh = made(cls, **moved).compute()
        assert {name: explorer.exact[name] for name in explorer.numbers} == pytest.approx(
            {name: fresh[name] for name in explorer.numbers}, abs=1e-12
        )


@each_explorer
def test_parameters_have_labels_and_stay_in_their_range(cls):
    explorer = made(cls)
    assert explorer.controls and all(control["label"].strip() for control in explorer.controls)
    for control in explorer.controls:
        low = control.get("min")
        with pytest.raises(traitlets.TraitError, match=control["name"]):
            setattr(explorer, control["name"], "none of these" if low is None else low - control["step"])


@each_explorer
def test_a_widget_takes_at_most_300_kb_of_its_page(cls):
    state = ipywidgets.embed.dependency_state(made(cls), drop_defaults=False)  # of this one, whatever else lives here
    assert len(json.dumps(state)) <= 300_000
    assert "</script" not in json.dumps(state)


@each_explorer
def test_the_explorer_comes_with_the_figure_that_stands_in_its_place(cls, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda thing, raw=False: shown.append(thing))
    explorer = made(cls)
    explorer.show(caption="A caption.", alt="What is seen.", made_by="profile smoke")
    assert shown[0] is explorer and explorer.alt == "What is seen."
    assert 'aria-label="What is seen."' in shown[1]["text/html"]


def test_what_no_slider_can_reach_is_refused():
    with pytest.raises(ValueError, match=r"reach is 27; it goes from 0 in steps of \d+\."):
        widgets.Orbits(reach=27)
    with pytest.raises(ValueError, match=f"epoch is 500; kept are {', '.join(map(str, range(0, 65, 4)))}[.]"):
        widgets.TrainingScrubbed(epoch=500)


def test_data_too_heavy_for_a_page_are_refused():
    explorer = widgets.WeightsOnNegatives()
    explorer.data = bytes(300_000)
    with pytest.raises(ValueError, match=r"WeightsOnNegatives are 300000 bytes; a page has room for 210000\."):
        explorer.show(caption="A caption.", alt="What is seen.")


def test_numbers_that_json_cannot_hold_are_refused(monkeypatch):
    monkeypatch.setattr(widgets.WeightsOnNegatives, "compute", lambda self: {"gap": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        widgets.WeightsOnNegatives()


@given(st.integers(0, 100).map(lambda k: k / 2), st.integers(0, 60), st.integers(2, 12), st.integers(-180, 180))
def test_gap_on_the_circle_lies_between_zero_and_its_limit(beta, spread, images, turn):
    exact = widgets.AttractionRepulsion(beta=beta, spread=spread, images=images, turn=turn).exact
    assert -1e-9 <= exact["gap"] <= exact["limit"] + 1e-9
    # A naive transcription of Eq. 1 on the angles.
    theta = widgets.AttractionRepulsion(spread=spread, images=images, turn=turn).angles().tolist()
    terms = []
    for i, (anchor, twin) in enumerate(theta):
        others = [math.cos(other - anchor) for j, pair in enumerate(theta) if j != i for other in pair]
        terms.append(-beta * math.cos(twin - anchor) + math.log(sum(math.exp(beta * s) for s in others)))
    assert exact["loss"] == pytest.approx(sum(terms) / images, abs=1e-9)


def test_three_images_without_spread_are_the_simplex():
    exact = widgets.AttractionRepulsion(beta=4, spread=0, images=3, turn=0).exact
    assert exact["loss"] == pytest.approx(-4 - 4 / 2 + math.log(4))
    assert exact["gap"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("batch", ["random, 16 outputs", "random, 128 outputs", "regular simplex"])
@pytest.mark.parametrize("beta", [0.0, 2.0, 50.0])
def test_weights_on_the_negatives_are_those_of_a_softmax(batch, beta):
    explorer = widgets.WeightsOnNegatives(beta=beta, batch=batch)
    row = list(weights_on_negatives.batches()).index(batch)
    s = torch.frombuffer(bytearray(explorer.data), dtype=torch.float32).view(3, -1)[row].double()
    p = (beta * s).exp() / (beta * s).exp().sum()
    entropy = float(-(p * p.log()).sum())
    expected = {"entropy": entropy, "effective": math.exp(entropy), "largest": float(p.max())}
    expected["gap"] = beta * float(s.max() - p @ s) + math.log(len(s)) - entropy
    assert {name: explorer.exact[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_weights_concentrate_as_beta_grows_except_at_the_simplex():
    counts = [widgets.WeightsOnNegatives(beta=beta).exact["effective"] for beta in (0, 1, 2, 5, 10, 50)]
    assert counts == sorted(counts, reverse=True) and counts[0] == pytest.approx(126)
    simplex = widgets.WeightsOnNegatives(beta=50, batch="regular simplex").exact
    assert simplex["effective"] == pytest.approx(126) and simplex["gap"] == pytest.approx(0, abs=1e-9)


def test_at_full_strength_the_views_are_those_of_the_policy_and_at_none_the_image():
    image = data.load("shapes", "test").images[39].expand(12, -1, -1, -1)
    for name in ("small", "moderate", "large"):
        seen = augmentation_strength.look(name, 100)[2]
        assert torch.equal(seen, views.policy(name)(image, torch.Generator().manual_seed(7)))
    for name in augmentation_strength.KNOBS:
        numbers, _, seen = augmentation_strength.look(name, 0)
        assert torch.allclose(seen, image / 255, atol=1e-6)
        assert numbers == {"kept": 100, "flipped": 0, "gray": 0, "apart": pytest.approx(0, abs=1e-6)}


@pytest.mark.parametrize("knob", ["crop", "jitter", "flip", "grayscale"])
def test_a_knob_turns_its_own_augmentation_only_and_more_with_strength(knob):
    rows = [widgets.AugmentationStrength(knob=knob, strength=strength).exact for strength in range(0, 101, 10)]
    number = {"crop": "kept", "flip": "flipped", "grayscale": "gray"}.get(knob)
    for other in {"kept", "flipped", "gray"} - {number}:
        assert len({row[other] for row in rows}) == 1
    grows = [-row["kept"] if knob == "crop" else row[number or "apart"] for row in rows]
    assert grows == sorted(grows) and grows[0] < grows[-1]


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 270.0, 7.3, 133.1])
def test_a_rotated_copy_is_that_of_the_library(degrees):
    picture = orbits.pictures()["a star"]
    turned = orbits.moved(picture, "rotation", torch.tensor([math.radians(degrees)]).double())
    assert torch.equal(turned, lie.rotate(picture[None, None], degrees)[:, 0])


def test_a_copy_moved_to_the_right_or_sheared_is_a_shift_of_rows():
    picture = orbits.pictures()["a star"]
    right = orbits.moved(picture, "translation", torch.tensor([5.0]).double())[0]
    assert torch.equal(right[:, 5:], picture[:, :-5]) and not right[:, :5].any()
    sheared = orbits.moved(picture, "shear", torch.tensor([0.9]).double())[0]
    for row, up in ((3, 12.5), (20, -4.5)):
        shift = math.floor(0.9 * up + 0.5)
        kept = slice(max(shift, 0), 32 + min(shift, 0))
        assert torch.equal(sheared[row, kept], picture[row].roll(shift)[kept])
    larger = orbits.moved(picture, "scaling", torch.tensor([math.log(2)]).double())[0]
    assert torch.equal(larger, picture[8:24, 8:24].repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize("reach", [0, 25, 60, 100])
def test_rank_of_a_turned_pixel_is_that_of_figure_10(reach):
    exact = widgets.Orbits(reach=reach).exact
    assert exact["rank"] == lie.orbit_rank(3.6 * reach, samples=200, seed=8)
    assert exact["energy"] <= exact["rank"]


@pytest.mark.parametrize(("changes", "kept"), [({}, (0, 2, 1)), ({"snapshots": 1, "early": (1,)}, (0, 2, 2))])
def test_the_epochs_of_the_slider_are_those_that_are_evenly_spaced(changes, kept):
    kinds = {labels["strength"]: config for config, labels in PAPER.plan("main", "smoke")}
    changed = [Planned(config.replace(**changes), {"strength": name}) for name, config in kinds.items()]
    explorer = widgets.TrainingScrubbed(list(PAPER.obtain(changed)), epoch=2)
    (slider,) = (control for control in explorer.controls if control["name"] == "epoch")
    assert (slider["min"], slider["max"], slider["step"]) == kept
    for run, labels in PAPER.find(changed):
        arrays = PAPER.arrays(run)
        spectrum = arrays["projector"][arrays["epoch"].tolist().index(2)]
        assert explorer.exact[labels["strength"]] == pytest.approx(metrics.effective_rank(spectrum))


def test_scrubbed_numbers_are_means_and_deviations_over_the_seeds_of_the_records():
    explorer = widgets.TrainingScrubbed(measure="20-NN accuracy (Fig. 1)", epoch=64)
    found = recorded("geometry", "main")
    for strength in STRENGTHS:
        values = [float(PAPER.arrays(run)["knn"][-1]) for run, labels in found if labels["strength"] == strength]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        assert explorer.exact[strength] == pytest.approx(mean, abs=1e-9)
        assert explorer.exact[f"{strength}_deviation"] == pytest.approx(deviation, abs=1e-9)
    with pytest.raises(ValueError, match=r"The runs are of large, small; all strengths are needed\."):
        widgets.TrainingScrubbed([each for each in found if each.labels["strength"] != "moderate"])


@settings(max_examples=30)
@given(
    st.integers(-30, 10).map(lambda k: k / 20),
    st.integers(0, 300),
    st.lists(st.integers(-180, 180), min_size=6, max_size=6),
)
def test_matching_gap_lies_between_that_of_the_best_assignment_and_infonce(log_epsilon, spread, turns):
    names = ("one", "two", "three", "four", "five", "six")
    explorer = widgets.Matching(log_epsilon=log_epsilon, spread=spread, **dict(zip(names, turns, strict=True)))
    exact = explorer.exact
    assert -1e-9 <= exact["exact"] <= exact["gap"] + 2e-4 and exact["gap"] <= exact["info_nce"] + 2e-4
    diagonal = explorer.plan().diagonal()
    by_plan = -exact["epsilon"] * float(diagonal.mul(6).log().mean())
    if diagonal.min() > math.exp(-79.9):
        assert exact["gap"] == pytest.approx(by_plan, abs=1e-6)
    else:  # entries below exp(−80) are kept at it, so that the plan shows less than the dual knows
        assert exact["gap"] >= by_plan - 1e-6


def test_matching_at_collapse_and_where_the_views_coincide():
    still = dict.fromkeys(("one", "two", "three", "four", "five", "six"), 0)
    collapsed = widgets.Matching(log_epsilon=0.0, spread=0, **still).exact
    assert collapsed["exact"] == pytest.approx(0, abs=1e-9) and collapsed["misplaced"] == pytest.approx(5 / 6)
    assert collapsed["gap"] == pytest.approx(math.log(6)) == collapsed["info_nce"]
    apart = widgets.Matching(log_epsilon=-1.5, spread=300, **still).exact
    assert apart["exact"] == pytest.approx(0, abs=1e-9) and apart["misplaced"] < 1e-5


@pytest.mark.parametrize("network", ["1 × 24", "2 × 24", "3 × 16"])
@pytest.mark.parametrize("weights", ["fitted", "random"])
def test_images_lie_in_the_regions_that_they_meet(network, weights):
    _, met, cells = one_or_many.pieces(network, weights)
    for image, region in zip(one_or_many.ARC.double(), met.tolist(), strict=True):
        corners = torch.tensor(cells[region], dtype=torch.float64)
        to, side = image - corners, corners.roll(-1, 0) - corners
        assert (side[:, 0] * to[:, 1] - side[:, 1] * to[:, 0]).min() > -1e-5


@pytest.mark.parametrize("arc", [10, 90, 180, 315])
def test_one_subspace_misses_what_the_integral_over_the_arc_says(arc):
    angle = math.radians(arc)
    exact = widgets.OneOrMany(arc=arc).exact
    assert exact["one"] == pytest.approx(1 / 2 - abs(math.sin(angle)) / (2 * angle), abs=0.005)
    assert exact["met"] <= exact["regions"]


@pytest.mark.parametrize("prior", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(("views", "decoder"), [(2, 1.0), (6, -1.0)])
def test_drawn_posteriors_are_where_the_bound_is_stationary(prior, views, decoder):
    explorer = widgets.LatentGroups(views=views, decoder=decoder, prior=prior)
    u, mean, variance = explorer.posterior()
    mean, log_variance = (t.clone().requires_grad_() for t in (mean, torch.full_like(mean, variance).log()))
    error = (u - mean).square().sum() + log_variance.exp().sum()
    rest = prior * losses.group_log_prior(mean, log_variance, sigma2=0.15, prior="plug_in").sum()
    bound = -(10**decoder) / 2 * error + losses.posterior_entropy(log_variance).sum() + rest
    for gradient in torch.autograd.grad(bound, (mean, log_variance)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_groups_collapse_where_the_decoder_counts_little_and_spread_where_it_counts_much():
    ratios = [widgets.LatentGroups(decoder=weight).exact["ratio"] for weight in (-2.0, 0.0, 1.0, 3.0)]
    free = widgets.LatentGroups(prior=0.0).exact["ratio"]
    assert ratios == sorted(ratios) and ratios[0] < 0.01 * free and ratios[-1] == pytest.approx(free, rel=0.05)


@pytest.mark.parametrize("points", ["cloud", "curve"])
@pytest.mark.parametrize("place", [(3.0, 2.0), (0.6, 5.4), (4.05, 3.1)])
def test_every_candidate_is_a_neighbour_or_rejected_and_of_directions_two_survive(points, place):
    for k in (1, 7, 40):
        for kernel in ("gaussian", "cosine"):
            exact = widgets.Polytope(x=place[0], y=place[1], k=k, kernel=kernel, points=points).exact
            assert exact["count"] + exact["cut"] + exact["others"] == k and exact["count"] >= 1
            assert 0 <= exact["error"] < 1 and (exact["diameter"] > 0) == (exact["count"] > 1)
            assert kernel == "gaussian" or (exact["count"] <= 2 and exact["others"] == 0)


@pytest.mark.parametrize("cell", [0, 4, 7])
def test_numbers_of_a_cell_are_means_over_the_seeds_of_its_runs(cell):
    exact = widgets.Knobs(cell=cell, content="20 nearest neighbours").exact
    found = [run for run, labels in recorded("simvae", "knobs") if labels["knob"] == list(knobs.KNOBS)[cell]]
    arrays = [SIMVAE.arrays(run) for run in found]
    assert len(found) == 3 and exact["active"] == pytest.approx(sum(float(a["active"][-1]) for a in arrays) / 3)
    assert exact["content"] == pytest.approx(sum(float(a["knn"][-1]) for a in arrays) / 3)
    style = [float(a[f"style_{name}"][-1]) for a in arrays for name in ("x", "y", "area")]
    assert exact["style"] == pytest.approx(sum(style) / 9)
    with pytest.raises(ValueError, match="The runs are of main; all cells are needed"):
        widgets.Knobs(recorded("simvae", "knobs")[:1])


@pytest.mark.parametrize("group", GROUPS)
def test_distances_and_medians_of_profiles_are_those_of_scipy(group):
    table = pd.DataFrame(zoo())
    names, z = table.model, scipy.stats.zscore(table[list(GROUPS[group])].to_numpy(), 0)
    pairs = scipy.spatial.distance.pdist(z) / z.shape[1] ** 0.5
    exact = widgets.Profiles(table, GROUPS, group=group, first=names[4], second=names[2]).exact
    assert exact["distance"] == pytest.approx(scipy.spatial.distance.squareform(pairs)[4, 2], rel=1e-5)
    assert exact["all"] == pytest.approx(np.median(pairs), rel=1e-5)
    for kind in ("paradigm", "policy"):
        alike = [a == b for i, a in enumerate(table[kind]) for b in table[kind][i + 1 :]]
        assert exact[kind] == pytest.approx(np.median(pairs[alike]), rel=1e-5)


@given(st.integers(3, 30), st.integers(1, 9), st.integers(0, 999))
def test_mean_square_distance_of_profiles_is_the_same_for_all_zoos_in_all_units(n, p, seed):
    random = np.random.default_rng(seed)
    values = random.standard_normal((n, p))
    found = profiles.distances(values)
    assert (found[np.triu_indices(n, 1)] ** 2).mean() == pytest.approx(2 * n / (n - 1))
    assert np.allclose(found, profiles.distances(random.uniform(-9, 9, p) * values + random.standard_normal(p)))


def test_one_model_among_equal_ones_stands_alone():
    n = 10
    table = {"model": list("abcdefghij"), "paradigm": ["one"] * 5 + ["two"] * 5, "policy": ["one"] * n}
    table |= {"spike": [0] * 9 + [1], "flat": [0.1] * n, "other": [0] + [5] * 9}
    spike = widgets.Profiles(table, {"all": {"flat": "Flat", "spike": "Spike"}}, first="b", second="j").exact
    assert spike["most"] == "Spike (by 3.3)"  # n/√(n − 1)
    assert spike["distance"] == pytest.approx(n / math.sqrt(2 * (n - 1))) and spike["all"] == spike["paradigm"] == 0
    both = {"both": {"spike": "Spike", "other": "Other", "flat": "Flat"}}
    most = widgets.Profiles(table, both, first="a", second="j").exact["most"]
    assert sorted(most.split(" and ")) == ["Other (by 3.3)", "Spike (by 3.3)"]
    itself = widgets.Profiles(table, both, first="c", second="c").exact
    assert itself["most"] == "nothing" and itself["distance"] == 0


def test_profiles_take_the_colours_of_paradigms_and_a_pair_has_no_order():
    colours = {"contrastive": "#0072b2"}
    one = made(widgets.Profiles, colours=colours)
    assert one.models[0] == ["method 0, large views", "contrastive", "large", "#0072b2"] and one.models[1][3] is None
    other = made(widgets.Profiles, first=one.second, second=one.first)
    assert {name: one.exact[name] for name in one.numbers} == {name: other.exact[name] for name in one.numbers}


@pytest.mark.parametrize(
    ("change", "groups", "sentence"),
    [
        ({}, {}, r"The groups are \{\}; there must be one, and columns in each\."),
        ({}, {"none": {}}, r"The groups are \{'none': \{\}\}; there must be one"),
        ({}, {"all": {"depth": "depth"}}, r"The table has no column depth; it has model, paradigm, policy, count, "),
        (
            {"model": list("abcdefgha")},
            GROUPS,
            r"The name a stands twice; each model, and each row of a group, has its",
        ),
        ({}, {"all": {"count": "n", "affinity": "n"}}, r"The name n stands twice; each model, and each row"),
        ({}, {"all": {"count": "n" * 33}}, r"The name n{33} has 33 letters; at most 32 fit a telephone\."),
        ({"policy": list("abcdefghi")}, GROUPS, r"No two of the 9 models share a policy; two must\."),
        ({"paradigm": ["one"] * 8 + [None]}, GROUPS, r"A paradigm is missing; every model has one"),
        ({"count": [1.0] * 8 + [math.nan]}, GROUPS, r"count of method 8, large views is nan; a profile needs a finite"),
    ],
)
def test_a_table_without_two_profiles_is_refused(change, groups, sentence):
    with pytest.raises(ValueError, match=sentence):
        widgets.Profiles(zoo() | change, groups)
    with pytest.raises(traitlets.TraitError, match="second is 'x'; it is one of method 0, large views, method 1"):
        made(widgets.Profiles, second="x")
