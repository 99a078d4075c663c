"""The law of arguments: each public function refuses what it cannot compute with, in one sentence of its own.

The table says of every parameter what is good and what is not. Functions and parameters are listed from the modules, so
that a new one fails here until it stands in the table.
"""

import inspect
import math
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

import sslbook
from sslbook import lie, losses, metrics, models, views

ROOT = Path(sslbook.__file__).parent


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_entry(tensor, value):
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


class Argument(NamedTuple):
    """A value that is good, and values that are not, by their descriptions."""

    good: Any
    bad: dict[str, Any]


NOTHING = {"None": None, "a string": "other", "an object": object()}


def number(good, *beyond, whole=False, optional=False):
    bad = NOTHING | {"NaN": math.nan, "infinity": math.inf, "−infinity": -math.inf, "a truth value": True}
    bad |= {"a tensor": torch.tensor(float(good)), "a list": [good], "a complex number": 1j}
    bad |= {f"{value}": value for value in beyond} | ({"a half": good + 0.5} if whole else {})
    return Argument(good, {key: value for key, value in bad.items() if not (optional and value is None)})


def choice(good):
    return Argument(good, NOTHING | {"a number": 3, "a list": [good]})


def flag(good):
    return Argument(good, NOTHING | {"a number": 1})


def trained(good, **beyond):
    """A tensor whose values are not looked at."""
    bad = NOTHING | {"a list": good.tolist(), "integers": good.long(), "complex numbers": good.to(torch.complex64)}
    bad |= {"another number of axes": good.flatten(), "another device": good.to("meta")}
    return Argument(good, bad | beyond)


def paired(seed=0):
    z = normal(6, 4, seed=seed)
    return trained(z, **{"five rows": z[:5], "no rows": z[:0], "no columns": z[:, :0], "three columns": z[:, :3]})


def measured(good, **beyond):
    bad = NOTHING | {"complex numbers": good.to(torch.complex64), "nothing": good[:0], "more axes": good[None, None]}
    if good.is_floating_point():
        bad |= {"NaN": with_entry(good, math.nan), "infinity": with_entry(good, -math.inf)}
    return Argument(good, bad | beyond)


def labels(good, **beyond):
    bad = {"numbers with a point": good.double(), "truth values": good > 0, "a column": good[:, None], "a number": 3}
    return measured(good, **bad, **{"one too few": good[1:]}, **beyond)


def without(argument, *names):
    return Argument(argument.good, {what: value for what, value in argument.bad.items() if what not in names})


def other(*shape):
    """A tensor that goes with a pair of views."""
    z = normal(*shape, seed=2)
    return without(trained(z, **{"one column less": z[..., :-1]}), "another device")


EPSILON = {"epsilon": number(0.3, -0.1, 0), "tol": number(1e-3, -1), "max_iter": number(100, 0, whole=True)}
TEMPERATURE = number(0.5, 0, -1, 1e-40)
GROUP, LATENTS = normal(3, 6, 1, 2, 4), normal(3, 6, 4, seed=1)


def latents(seed=1, **beyond):
    z = normal(3, 6, 4, seed=seed)
    return without(trained(z, **{"other latents": z[..., :3], **beyond}), "another device")


def pictures(**beyond):
    return without(trained(GROUP, **{"other pixels": GROUP[..., :3], **beyond}), "another device")


TRAIN, TEST = normal(20, 3), normal(12, 3, seed=1)
TRAIN_LABELS, TEST_LABELS = torch.arange(20) % 3, torch.arange(12) % 3
TARGETS = normal(20, 2, seed=2)


def probe(*names):
    found = {}
    for name in names:
        x, y = (TRAIN, TRAIN_LABELS) if name == "train" else (TEST, TEST_LABELS)
        found |= {name: measured(x, **{"two columns": x[:, :2]}), f"{name}_labels": labels(y)}
    return found


def regression(name, seed):
    x, y = normal(20, 3, seed=seed), normal(20, 2, seed=seed + 1)
    constant = {"a constant": torch.ones(20, 2)} if name != "validation" else {}
    return {
        name: measured(x, **{"two columns": x[:, :2], "fewer rows": x[1:]}),
        f"{name}_targets": measured(y, **{"one column": y[:, :1], "fewer rows": y[1:]}, **constant),
    }


SPECTRUM = measured(normal(6, 4), **{"negative singular values": [-1.0, 1.0]})
GENERATORS = lie.plane_generators([(0, 1), (2, 3)], 4)
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PIXELS = (255 * IMAGES).byte()
POLICY = views.policy("large").replace(blur=0.5)
TWO = views.PerView((POLICY, views.policy("weak")))
DRAWS = POLICY.draw(4, (8, 8), torch.Generator().manual_seed(0))
SIZE = Argument((8, 8), NOTHING | {"one side": (8,), "no height": (0, 8), "a half": (8.5, 8), "a number": 8})
GENERATOR = Argument(torch.Generator(), {"a string": "other", "a seed": 3})
DEVICE = Argument(None, {})  # PyTorch's own sentence says it


def floating_images(good=IMAGES, **beyond):
    bad = {"bytes": PIXELS, "two channels": good[:, :2], "no pixels": good[..., :0]}
    return without(trained(good, **bad, **beyond), "integers", "another device")


def each(good):
    return without(
        trained(good, **{"one too few": good[1:], "a column": good[:, None]}),
        "another number of axes",
        "another device",
    )


def pixels(good=PIXELS[:4], **beyond):
    bad = NOTHING | {"numbers with a point": good.float(), "two channels": good[:, :2], "one image": good[0]}
    return Argument(good, bad | {"no pixels": good[..., :0], "a list": good.tolist()} | beyond)


def draws(of=DRAWS):
    return Argument(of, NOTHING | {"those of others": views.Draws(*(d[1:] for d in of)), "a tuple": tuple(of)})


FACTOR = torch.linspace(0.1, 0.5, 5)
BOX = torch.tensor([[0, 0, 8, 8]]).repeat(5, 1)

CALLS = {
    "losses.info_nce": {"z1": paired(), "z2": paired(1), "beta": number(2.0, 1e31, -1e31), "symmetric": flag(True)},
    "losses.info_nce_upper_bound": {"z1": paired(), "z2": paired(1), "beta": number(2.0, -1, 1e31)},
    "losses.nt_xent": {"z1": paired(), "z2": paired(1), "temperature": TEMPERATURE},
    "losses.cross_view_info_nce": {"x": paired(), "y": paired(1), "temperature": TEMPERATURE},
    "losses.vicreg": {
        "z1": paired(),
        "z2": paired(1),
        "invariance": number(25, -1),
        "variance": number(25, -1),
        "covariance": number(1, -1),
    },
    "losses.barlow_twins": {"z1": paired(), "z2": paired(1), "redundancy": number(5e-3, -1)},
    "losses.byol": {"p": paired(), "z": paired(1)},
    "losses.moco": {"query": paired(), "key": paired(1), "queue": other(9, 4), "temperature": TEMPERATURE},
    "losses.dino": {
        "student": paired(),
        "teacher": paired(1),
        "centre": without(other(4), "another number of axes"),
        "student_temperature": TEMPERATURE,
        "teacher_temperature": TEMPERATURE,
    },
    "losses.codes": {
        "scores": without(trained(normal(6, 4), **{"no rows": normal(0, 4)}), "another device"),
        "epsilon": TEMPERATURE,
        "iterations": number(3, 0, whole=True),
    },
    "losses.swav": {
        "scores1": paired(),
        "scores2": paired(1),
        "temperature": TEMPERATURE,
        "epsilon": TEMPERATURE,
    },
    "losses.spherical_kmeans": {
        "points": without(trained(normal(6, 4), **{"fewer than centroids": normal(2, 4)}), "another device"),
        "centroids": other(3, 4),
        "iterations": number(3, 0, whole=True),
    },
    "losses.deepcluster": {
        "z1": paired(),
        "z2": paired(1),
        "centroids": other(3, 4),
        "temperature": TEMPERATURE,
    },
    "losses.sinkhorn": {
        "cost": without(trained(normal(6, 6), **{"five rows": normal(5, 6), "nothing": normal(0, 0)}), "another device")
    }
    | EPSILON,
    "losses.matching_gap": EPSILON
    | {"x": paired(), "y": paired(1), "epsilon": number(0.3, -0.1), "cost": choice("cosine")},
    "losses.multi_matching_gap": EPSILON
    | {
        "views": without(
            trained(
                normal(3, 6, 4),
                **{"one view": normal(1, 6, 4), "too many": normal(4, 256, 1), "no images": normal(3, 0, 4)},
            ),
            "another device",
        )
    },
    "losses.elbo_ssl": {
        "x": pictures(),
        "x_hat": pictures(),
        "mean": latents(),
        "log_variance": latents(2),
        "likelihood": choice("gaussian"),
        "sigma_x2": number(0.3, 0, -1),
        "sigma2": number(0.2, 0, -1),
        "prior": choice("marginal"),
        "entropy_weight": number(1.0, -1),
        "reduction": choice("none"),
    },
    "losses.reconstruction": {
        "x": pictures(),
        "x_hat": pictures(),
        "likelihood": choice("scaled_bernoulli"),
        "sigma_x2": number(0.3, 0, -1),
    },
    "losses.gaussian_log_likelihood": {"x": pictures(), "x_hat": pictures(), "sigma_x2": number(0.3, 0, -1)},
    "losses.bernoulli_log_likelihood": {
        "x": without(
            Argument((GROUP > 0).float(), pictures().bad | {"grey pixels": GROUP.abs()}),
            "integers",
        ),
        "logits": pictures(),
    },
    "losses.posterior_entropy": {
        "log_variance": without(latents(), "other latents", "another number of axes"),
        "weight": number(1.0, -1),
    },
    "losses.group_log_prior": {
        "mean": latents(),
        "log_variance": without(latents(2), "None"),
        "sigma2": number(0.2, 0, -1),
        "prior": choice("plug_in"),
    },
    "losses.group_quadratic": {
        "mean": latents(),
        "log_variance": without(latents(2), "None"),
        "sigma2": number(0.2, 0, -1),
        "prior": choice("uniform"),
    },
    "losses.optimal_variance": {
        "curvature": without(number(1.0, -1), "a tensor"),
        "views": number(3, 0, 1, whole=True),
        "sigma2": number(0.2, 0, -1),
        "prior": choice("marginal"),
        "entropy_weight": number(1.0, -1),
    },
    "losses.consistency": {"mean": latents(), "log_variance": latents(2)},
    "losses.importance_log_likelihood": {
        "log_joint": Argument(lambda z: -z.square().sum((1, 3)), NOTHING | {"a number": 3}),
        "mean": latents(),
        "log_variance": latents(2),
        "samples": number(4, 0, whole=True),
        "generator": GENERATOR,
    },
    "metrics.singular_values": {"matrix": SPECTRUM, "centered": flag(True)},
    "metrics.rank": {"matrix": SPECTRUM, "threshold": number(0.5, -1), "relative": flag(True)},
    "metrics.effective_rank": {"matrix": SPECTRUM, "epsilon": number(1e-7, -1)},
    "metrics.rankme": {"features": SPECTRUM},
    "metrics.energy_rank": {"matrix": SPECTRUM, "share": number(0.9, 0, 1.1)},
    "metrics.unexplained_variance": {
        "displacements": measured(normal(6, 4), **{"zeros": torch.zeros(6, 4), "three columns": normal(6, 3)}),
        "basis": measured(normal(4, 2), **{"three rows": normal(3, 2)}),
        "threshold": number(0.1, -1, optional=True),
    },
    "metrics.pca_unexplained": {
        "displacements": measured(normal(6, 4), zeros=torch.zeros(6, 4)),
        "k": number(2, -1, whole=True),
    },
    "metrics.label_agreement": {
        "labels": labels(TEST_LABELS),
        "nearest": labels(
            torch.arange(12), **{"beyond both views": torch.arange(12) * 3, "negative": -torch.arange(12)}
        ),
    },
    "metrics.agreement_limit": {
        "labels": without(labels(TRAIN_LABELS), "one too few"),
        "batch_size": number(6, 1, 21, whole=True),
    },
    "metrics.knn_accuracy": probe("train", "test")
    | {"k": number(3, 0, 21, whole=True), "temperature": number(0.1, 0, -1)},
    "metrics.linear_probe": probe("train", "test") | {"penalty": number(1e-3, -1e-9)},
    "metrics.mlp_probe": probe("train", "validation", "test")
    | {
        "hidden": number(4, 0, whole=True, optional=True),
        "epochs": number(2, 0, whole=True),
        "seed": number(0, -1, whole=True),
    },
    "metrics.ridge_probe": regression("train", 2)
    | regression("validation", 4)
    | regression("test", 6)
    | {"quadratic": flag(True)},
    "metrics.augmentation_factors": {"draws": Argument(DRAWS, NOTHING | {"a tuple": tuple(DRAWS)}), "size": SIZE},
    "metrics.stroke_factors": {
        "images": measured(IMAGES[:, :1], colour=IMAGES, black=0 * IMAGES[:, :1], negative=-IMAGES[:, :1])
    },
    "lie.plane_generator": {"name": choice("shear")},
    "lie.shift_generator": {"size": number(5, 0, whole=True)},
    "lie.exp": {
        "generator": measured(normal(3, 3), **{"a rectangle": normal(2, 3), "integers": torch.eye(3).long()}),
        "epsilon": without(measured(torch.linspace(0, 1, 4)), "more axes"),
    },
    "lie.fit": {
        "x": measured(normal(6, 4), **{"five rows": normal(5, 4)}),
        "moved": measured(normal(6, 4, seed=1), **{"three columns": normal(6, 3)}),
        "epsilon": number(0.3, 0, -1),
        "penalty": number(1e-3, 0, -1),
    },
    "lie.rotate": {
        "images": measured(IMAGES, bytes=PIXELS),
        "degrees": measured(torch.arange(5.0), **{"four angles": torch.arange(4.0)}),
        "interpolation": choice("bilinear"),
    },
    "lie.orbit_rank": {
        "max_degrees": number(30, -5),
        "samples": number(10, 1, whole=True),
        "size": number(8, 0, whole=True),
        "seed": number(0, -1, whole=True),
        "interpolation": choice("nearest"),
        "threshold": number(1e-10, -1),
    },
    "lie.arc_length": {
        "max_degrees": number(30, -5),
        "size": number(8, 0, whole=True),
        "seed": number(0, -1, whole=True),
    },
    "lie.plane_generators": {
        "planes": Argument(
            [(0, 1)],
            NOTHING | {"none": [], "one axis": [(1, 1)], "beyond": [(0, 4)], "halves": [(0, 0.5)], "numbers": [1]},
        ),
        "dim": number(4, 1, whole=True),
        "name": choice("shear"),
    },
    "lie.move": {
        "h": measured(normal(6, 4), **{"integers": normal(6, 4).long(), "three columns": normal(6, 3)}),
        "generators": measured(GENERATORS.float(), **{"three axes": GENERATORS[:, :3, :3].float()}),
        "amounts": measured(normal(6, 2), **{"one too few": normal(5, 2)}),
    },
    "lie.generator_norm": {
        "w": measured(normal(4, 3), **{"integers": normal(4, 3).long(), "three rows": normal(3, 3)}),
        "generators": measured(GENERATORS),
    },
    "lie.optimal_energies": {
        "costs": measured(torch.linspace(0, 0.5, 4)),
        "width": number(2, 0, whole=True),
        "beta": number(2.0, 0, -1),
    },
    "lie.train_projector": {
        "generators": measured(GENERATORS, **{"a rectangle": normal(2, 4, 3)}),
        "reach": number(0.3, -1),
        "width": number(2, 0, whole=True),
        "n": number(8, 1, whole=True),
        "beta": number(2.0),
        "steps": number(1, -1, whole=True),
        "seed": number(0, -1, whole=True),
    },
    "models.projector": {
        "dim": number(8, 0, whole=True),
        "widths": Argument((16, 4), NOTHING | {"no units": (16, 0), "a half": (16, 4.5), "a number": 16}),
    },
    "views.policy": {"name": choice("small")},
    "views.crop": {
        "x": floating_images(),
        "box": Argument(BOX, NOTHING | {"three columns": BOX[:, :3], "a list": BOX.tolist(), "complex": BOX + 0j}),
        "flip": Argument(
            FACTOR > 0.2, NOTHING | {"numbers": FACTOR, "one too few": FACTOR[1:] > 0, "a list": [True] * 5}
        ),
    },
    "views.gray": {"x": floating_images()},
    "views.brightness": {"x": floating_images(), "factor": each(FACTOR)},
    "views.contrast": {"x": floating_images(), "factor": each(FACTOR)},
    "views.saturation": {"x": floating_images(), "factor": each(FACTOR)},
    "views.hue": {"x": floating_images(), "shift": each(FACTOR)},
    "views.blur": {"x": floating_images(**{"one row": IMAGES[:, :, :1]}), "sigma": each(FACTOR)},
    "views.Policy.draw": {"n": number(4, -1, whole=True), "size": SIZE, "generator": GENERATOR, "device": DEVICE},
    "views.Policy.apply": {"images": pixels(), "draws": draws()},
    "views.Policy.__call__": {"images": pixels(), "generator": GENERATOR},
    "views.PerView.draw": {"n": number(4, -1, 3, whole=True), "size": SIZE, "generator": GENERATOR, "device": DEVICE},
    "views.PerView.apply": {"images": pixels(**{"three images": PIXELS[:3]}), "draws": draws()},
}
OBJECTS = {
    "losses": losses,
    "metrics": metrics,
    "lie": lie,
    "models": models,
    "views": views,
    "Policy": POLICY,
    "PerView": TWO,
}


def function(name):
    return getattr(OBJECTS[name.split(".")[-2]], name.split(".")[-1])


# What neighbourhoods refuse is tested beside their laws, in `test_nnk.py` and `test_metrics.py`.
ELSEWHERE = {"nnk", "manifold", "similarity", "pretrained"}, {"two_nn", "alpha_req"}


def public():
    """The names of all public functions, and of the methods of the policies."""
    for module in (losses, metrics, lie, models, views):
        room = module.__name__.removeprefix("sslbook.")
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__.startswith(module.__name__)
            elsewhere = own and (value.__module__.split(".")[-1] in ELSEWHERE[0] or name in ELSEWHERE[1])
            if own and not elsewhere and not name.startswith("_"):
                yield f"{room}.{name}"
    for policy in (views.Policy, views.PerView):
        methods = set(vars(policy)) & {"draw", "apply", "__call__"}
        yield from (f"views.{policy.__name__}.{name}" for name in methods)


def test_the_table_holds_every_public_function_with_all_its_parameters():
    assert set(public()) == set(CALLS)
    for name, arguments in CALLS.items():
        assert set(inspect.signature(function(name)).parameters) == set(arguments), name


def call(name, /, **changes):
    return function(name)(**{key: argument.good for key, argument in CALLS[name].items()} | changes)


def leaves(found):
    """Tensors and numbers of a result; of a tuple, a table, a module, a policy or a dictionary those inside."""
    if isinstance(found, torch.nn.Module):
        found = found.parameters()
    if isinstance(found, views.Policy):
        found = vars(found)
    if isinstance(found, (torch.Tensor, float, int)):
        yield found
    elif isinstance(found, pd.DataFrame):
        yield torch.from_numpy(found.select_dtypes("number").to_numpy(float))
    else:
        for each in found.values() if isinstance(found, dict) else found:
            yield from leaves(each)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_good_is_taken(name):
    found = list(leaves(call(name)))
    assert found and all(bool(torch.as_tensor(leaf).isfinite().all()) for leaf in found)


CASES = [(name, key, what) for name, table in CALLS.items() for key, argument in table.items() for what in argument.bad]


@pytest.mark.parametrize(("name", "key", "what"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_what_is_not_is_refused_with_a_sentence_of_our_own(name, key, what):
    with pytest.raises(ValueError) as caught:
        call(name, **{key: CALLS[name][key].bad[what]})
    assert type(caught.value) is ValueError
    assert ROOT in Path(traceback.extract_tb(caught.tb)[-1].filename).parents, str(caught.value)
    sentence = str(caught.value)
    assert sentence.endswith(".") and ("; " in sentence or " needs " in sentence) and len(sentence) < 300


MEANINGFUL = {  # what is not finite and still says something
    ("losses.sinkhorn", "cost", math.inf): "a pair that is forbidden",
    ("losses.group_log_prior", "log_variance", -math.inf): "a variance of 0",
    ("losses.group_quadratic", "log_variance", -math.inf): "a variance of 0",
    ("losses.dino", "teacher", -math.inf): "an output of probability 0",
    ("losses.dino", "centre", math.inf): "an output of probability 0",
    ("losses.codes", "scores", -math.inf): "a prototype that is closed to an image",
} | {("losses.elbo_ssl", "mean", value): "the sample z stands for it" for value in (math.nan, math.inf, -math.inf)}
UNCHECKED = [
    (name, key, value)
    for name, table in CALLS.items()
    for key, argument in table.items()
    if name.startswith("losses.") and torch.is_tensor(argument.good) and argument.good.is_floating_point()
    if (name, key) != ("losses.bernoulli_log_likelihood", "x")  # there 0 and 1 are all that is allowed
    for value in (math.nan, math.inf, -math.inf)
    if (name, key, value) not in MEANINGFUL
]


def numbers(result):
    """All numbers in what a function returns."""
    if torch.is_tensor(result):
        return result.double().flatten()
    return torch.cat([numbers(part) for part in result])


@pytest.mark.parametrize(("name", "key", "value"), UNCHECKED)
def test_a_loss_shows_a_value_that_is_not_finite_without_looking_for_it(name, key, value):
    assert numbers(call(name)).isfinite().all()
    assert not numbers(call(name, **{key: with_entry(CALLS[name][key].good, value)})).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_labels_of_any_integer_type_are_the_same_labels(dtype):
    for name in ("knn_accuracy", "linear_probe", "mlp_probe", "label_agreement", "agreement_limit"):
        table = CALLS[f"metrics.{name}"]
        cast = {
            key: a.good.to(dtype)
            for key, a in table.items()
            if torch.is_tensor(a.good) and not a.good.is_floating_point()
        }
        assert call(f"metrics.{name}", **cast) == call(f"metrics.{name}")


def test_labels_are_names_whose_size_does_not_matter():
    far = {key: 10**12 - 7 * a.good for key, a in CALLS["metrics.knn_accuracy"].items() if key.endswith("_labels")}
    for name in ("knn_accuracy", "linear_probe"):
        assert call(f"metrics.{name}", **far) == pytest.approx(call(f"metrics.{name}"), abs=0.1)
