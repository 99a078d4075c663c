"""Laws of the published target: what is predicted of models that were left out, and how far chance alone goes."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslbook.models import CHECKPOINTS
from sslbook.papers.manifold_graphs.published import FINE_TUNED, by_chance, left_out
from sslbook.papers.manifold_graphs.statistics import PENALTIES


def trials(b=3, n=8, p=3, t=2, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((b, n, p)), random.standard_normal((b, n, t))


@pytest.mark.parametrize("p", [1, 3, 12])
def test_models_are_predicted_as_by_nested_cross_validation_of_scikit_learn(p):
    x, y = trials(b=2, n=6, p=p, t=1)
    x, found = x * 3 + 1, left_out(x * 3 + 1, y)
    ridge = make_pipeline(StandardScaler(), Ridge())
    search = GridSearchCV(ridge, {"ridge__alpha": PENALTIES}, scoring="neg_mean_squared_error", cv=LeaveOneOut())
    for trial in range(2):
        target = y[trial, :, 0]
        predicted = cross_val_predict(search, x[trial], target, cv=LeaveOneOut())
        base = (target.sum() - target) / (len(target) - 1)
        expected = 1 - ((target - predicted) ** 2).sum() / ((target - base) ** 2).sum()
        assert found[trial, 0] == pytest.approx(expected, abs=1e-9)


def test_what_is_linear_is_predicted_in_any_unit_and_what_is_not_is_not():
    x, noise = trials(b=1, n=12)
    exact = x @ np.array([[1.0, 0.0], [-2.0, 1.0], [0.5, 3.0]])
    assert (left_out(x, exact) > 0.999).all()
    assert left_out(10 * x - 3, 5 - 2 * exact) == pytest.approx(left_out(x, exact), abs=1e-9)
    assert (left_out(x, noise) < 0.7).all()
    constant = np.concatenate([x, np.ones((1, 12, 1))], 2)
    assert left_out(constant, exact) == pytest.approx(left_out(x, exact), abs=1e-9)


def test_chance_permutes_the_models_as_a_whole_and_is_no_better_than_the_mean():
    twice = FINE_TUNED[["food"]].assign(again=2 * FINE_TUNED.food)
    found = by_chance(twice, 2, trials=60, seed=3)
    assert found[:, 0] == pytest.approx(found[:, 1], abs=1e-9)
    assert np.median(found) < 0 < np.quantile(found, 0.97)
    assert np.array_equal(found, by_chance(twice, 2, trials=60, seed=3))
    assert not np.array_equal(found, by_chance(twice, 2, trials=60, seed=4))


def test_the_scores_are_those_of_twelve_checkpoints_on_eleven_tasks():
    assert FINE_TUNED.shape == (12, 11) and set(CHECKPOINTS) - set(FINE_TUNED.index) == {"pirl", "supervised"}
    assert FINE_TUNED.loc["deepcluster-v2", "cifar10"] == 97.17 and FINE_TUNED.loc["swav", "voc2007"] == 85.06
    assert FINE_TUNED.to_numpy().sum() == pytest.approx(10951.03)


@pytest.mark.parametrize(
    ("x", "y"), [((3, 8), (3, 8, 1)), ((3, 8, 2), (3, 7, 1)), ((2, 8, 2), (3, 8, 1)), ((1, 3, 1), (1, 3, 1))]
)
def test_shapes_that_do_not_match_are_refused(x, y):
    with pytest.raises(ValueError, match=r"must be \(B, n, p\) and \(B, n, T\), n ≥ 4"):
        left_out(np.zeros(x), np.zeros(y))
    with pytest.raises(ValueError, match=r"number of metrics is 0; it must be a whole number of at least 1"):
        by_chance(FINE_TUNED, 0)
