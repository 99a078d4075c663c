"""What can be said of few models: shares of variance, permutations, the jackknife, and prediction out of sample.

The unit is the model: seeds of one model are no independent evidence about models.
"""

from collections.abc import Callable

import numpy as np

from sslbook.config import require

PENALTIES = tuple(10.0**k for k in range(-2, 4))
"""Those among which the ridge regression chooses, of standardised predictors."""


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of x (n, p) with mean 0 and standard deviation 1; a constant column becomes 0."""
    x = np.asarray(x, float)
    return (x - x.mean(0)) / _deviation(x, 0)


def _deviation(x: np.ndarray, axis: int) -> np.ndarray:
    """The standard deviation along an axis, which stays; infinite where only rounding is left."""
    deviation = x.std(axis, keepdims=True)
    return np.where(deviation > 1e-12 * np.abs(x).max(axis, keepdims=True, initial=0), deviation, np.inf)


def share_between(x: np.ndarray, groups) -> float:
    """Share of the variance of standardised x (n, p) that lies between groups (n,), less what chance alone gives.

    1 − (1 − R²)(n − 1)/(n − g), where R² is the sum of squares between the means of the g groups over the whole: the
    adjusted R² of a linear model. 1 if each group is a point; 0 in the mean if the groups mean nothing.

    **Raises** `ValueError` unless there are at least two groups and fewer than models.
    """
    z, groups = standardised(x), np.asarray(groups)
    names = list(dict.fromkeys(groups.tolist()))
    n, g = len(z), len(names)
    require(1 < g < n, f"There are {g} groups of {n} models; there must be at least 2, and fewer than models.")
    within = sum(((z[groups == name] - z[groups == name].mean(0)) ** 2).sum() for name in names)
    return float(1 - within / (z**2).sum() * (n - 1) / (n - g))


def permutation_p(statistic: Callable[[np.ndarray], float], labels, *, draws: int = 9_999, seed: int = 0) -> float:
    """Share of permutations, the given order among them, whose statistic is at least that of the `labels`.

    **Raises** `ValueError` if that is not finite.
    """
    labels, random = np.asarray(labels), np.random.default_rng(seed)
    found = statistic(labels)
    require(bool(np.isfinite(found)), f"The statistic is {found}; it must be finite.")
    more = sum(statistic(random.permutation(labels)) >= found - 1e-12 for _ in range(draws))
    return (1 + more) / (1 + draws)


def share_under_chance(x: np.ndarray, groups, *, level: float = 0.95, draws: int = 1_999, seed: int = 0) -> float:
    """The quantile of `share_between` under permutations of the groups: what chance alone exceeds as rarely."""
    random, groups = np.random.default_rng(seed), np.asarray(groups)
    return float(np.quantile([share_between(x, random.permutation(groups)) for _ in range(draws)], level))


def jackknife(statistic: Callable[[np.ndarray], float], n: int) -> np.ndarray:
    """Tukey's pseudo-values (n,) of a statistic of some of n units, given by their indices: nθ − (n − 1)θ₋ᵢ.

    Their mean is the estimate less its bias, and their interval that of the estimate. Of a mean they are the values.
    """
    every = np.arange(n)
    whole = statistic(every)
    return np.array([n * whole - (n - 1) * statistic(np.delete(every, i)) for i in every])


def adjusted_rand(one, two) -> float:
    """Agreement of two partitions of n units: 1 if they are the same, 0 in the mean if one is permuted.

    Source: Hubert and Arabie 1985.
    """
    table = np.array([[sum((a == i) & (b == j) for a, b in zip(one, two)) for j in set(two)] for i in set(one)])
    pairs = lambda x: float((x * (x - 1) / 2).sum())  # noqa: E731
    together, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(np.array([table.sum()]))
    most = (rows + columns) / 2
    return (together - expected) / (most - expected) if most > expected else 1.0


def predictions(x: np.ndarray, y: np.ndarray, groups) -> np.ndarray:
    """Predictions (B, n, T) of T targets y (B, n, T) of n models from x (B, n, p), out of sample, in B trials.

    The models of one of the `groups` (n,) are left out together. Ridge regression on standardised predictors; of
    `PENALTIES` each trial and target takes the one with the least squared error when groups are left out once more,
    within those that are left.

    **Raises** `ValueError` without predictors, and for fewer than three groups.
    """
    require(x.size > 0, "There are no predictors.")
    require(len(np.unique(groups)) > 2, "There are fewer than three groups; the inner choice needs two of them.")
    found, groups = np.empty_like(y), np.asarray(groups)
    for group in np.unique(groups):
        out, others = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        errors = 0
        for other in np.unique(groups[others]):
            left, kept = others[groups[others] == other], others[groups[others] != other]
            errors = errors + ((_ridge(x[:, kept], y[:, kept], x[:, left]) - y[:, left]) ** 2).sum(2)
        every = _ridge(x[:, others], y[:, others], x[:, out])
        found[:, out] = np.take_along_axis(every, errors.argmin(0)[None, :, None], 0)[0]
    return found


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predictions (penalties, B, m, T) at `new` (B, m, p) from x (B, n, p) and y (B, n, T), for each of `PENALTIES`."""
    mean, deviation, level = x.mean(1, keepdims=True), _deviation(x, 1), y.mean(1, keepdims=True)
    x, new = ((values - mean) / deviation for values in (x, new))
    # In the space of models, which are fewer than predictors may be: w = xᵀ(xxᵀ + penalty)⁻¹(y − ȳ).
    values, vectors = np.linalg.eigh(x @ x.mT)
    along, near = vectors.mT @ (y - level), new @ x.mT @ vectors
    # Constants are in the kernel of xxᵀ, so they may be taken out before.
    return np.stack([near / (values[:, None].clip(0) + penalty) @ along + level for penalty in PENALTIES])


def predicted(x: np.ndarray, y: np.ndarray, groups) -> np.ndarray:
    """The `predictions` (n,) of one target y (n,) from x (n, p), or (n,), in one trial. Raises as they do."""
    x, y = _columns(x, y)
    return predictions(x[None], y[None, :, None], groups)[0, :, 0]


def _columns(x, y) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(x, float).reshape(len(y), -1), np.asarray(y, float)


def predicted_mean(y: np.ndarray, groups) -> np.ndarray:
    """For each model the mean of y (n,) over the models of other groups."""
    y, groups = np.asarray(y, float), np.asarray(groups)
    return np.array([y[groups != group].mean() for group in groups])


def skill(predicted: np.ndarray, y: np.ndarray, groups) -> float:
    """R² out of sample: 1 − squared error over that of `predicted_mean`; negative where the mean does better.

    **Raises** `ValueError` if the means of other groups predict y without error.
    """
    y = np.asarray(y, float)
    base = ((predicted_mean(y, groups) - y) ** 2).sum()
    require(base > 0, f"All of y are {y[0]}, so there is nothing to predict.")
    return float(1 - ((predicted - y) ** 2).sum() / base)


def in_sample(x: np.ndarray, y: np.ndarray) -> float:
    """R² of the ridge regression with the least of `PENALTIES` on the models to which it is fitted."""
    x, y = _columns(x, y)
    fitted = _ridge(x[None], y[None, :, None], x[None])[0, 0, :, 0]
    return float(1 - ((fitted - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def p_of_skill(x: np.ndarray, y: np.ndarray, groups, *, draws: int = 200) -> float:
    """As `permutation_p` for the `skill` of predictions from x (n, p), where whole groups of y (n,) are permuted.

    All permutations are predicted at once, as so many targets. Raises as `predictions` and `skill` do.
    """
    (x, y), random = _columns(x, y), np.random.default_rng(0)
    targets = np.stack([y, *(permuted(y, groups, random) for _ in range(draws))], 1)
    found = predictions(x[None], targets[None], groups)[0]
    skills = np.array([skill(*pair, groups) for pair in zip(found.T, targets.T, strict=True)])
    return float((skills >= skills[0] - 1e-12).mean())


def permuted(y: np.ndarray, groups, random: np.random.Generator) -> np.ndarray:
    """y (n,) with whole groups changed for each other; groups of other sizes than most stay where they are."""
    y, groups = np.asarray(y, float), np.asarray(groups)
    places = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    sizes = [len(place) for place in places]
    usual = [place for place in places if len(place) == max(set(sizes), key=sizes.count)]
    mixed = y.copy()
    for place, source in zip(usual, random.permutation(len(usual)), strict=True):
        mixed[place] = y[usual[source]]
    return mixed
