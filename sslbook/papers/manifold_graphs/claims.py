"""Claims on manifold graph metrics, as the abstract and an author's note on his thesis state them; the rules are ours.

The first two need trained models. Their rules are to be written before the first run is looked at; so they have no
tests yet, and nothing is decided.
"""

import functools

import pandas as pd

from sslbook import metrics
from sslbook.ledger import Claim, FromDraws, FromRuns, Test
from sslbook.papers.manifold_graphs import theory
from sslbook.papers.manifold_graphs.measure import geometry

NOISE = 0.05
"""Root mean square of the noise in 128 dimensions, of points with root mean square 1."""

_count = functools.cache(theory.mean_count)


def _gap(noise: float, seed: int) -> float:
    return _count("4-sphere", noise=noise, seed=seed) - _count("circle", noise=noise, seed=seed)


@functools.cache
def _affinity(wave: float, noise: float, seed: int) -> float:
    x = theory.manifold("curved sheet", 300, wave=wave, noise=noise, seed=seed)
    return float(geometry(x, k=30)["affinity"].nanmean())


def _draws(of_seed) -> pd.Series:
    return pd.Series({seed: of_seed(seed) for seed in range(1, 6)})


def _subspaces(seed: int) -> float:
    """0.01 less |mean square − 5/30| of the affinity of subspaces of dimensions 2 and 5 in 30."""
    both = [theory.subspaces(dimension, seed=seed + 10 * dimension) for dimension in (2, 5)]
    return 0.01 - abs(float(metrics.affinity_random(*both, seed=seed).square().mean()) - 5 / 30)


def _flat(seed: int) -> float:
    """10⁻⁶ less the greatest distance from 1 where the tangent is the whole subspace."""
    affinity, dimension = theory.flat(seed=seed)
    return 1e-6 - float((1 - affinity[dimension == 3]).abs().max())


_neighbourhoods, _metrics = (functools.partial(Claim, page) for page in ("neighbourhoods", "three-metrics"))

CLAIMS = (
    _metrics(
        "mg-paradigm",
        "Abstract",
        "The paradigm of training (contrastive, non-contrastive, cluster-based) does not determine the geometry.",
        FromRuns(()),
    ),
    _metrics(
        "mg-transfer",
        "Abstract",
        "The geometry of semantic and augmentation manifolds predicts how well a model transfers.",
        FromRuns(()),
    ),
    _metrics(
        "mg-dimension",
        "Author's note",
        "The number of NNK neighbours tells which of two manifolds has the higher dimension.",
        FromDraws(
            tuple(
                Test(
                    f"number of neighbours, 4-sphere minus circle, {says}, five draws",
                    lambda noise=noise: _draws(functools.partial(_gap, noise)),
                )
                for noise, says in ((0.0, "no noise"), (NOISE, "noise of 5 % in 128 dimensions"))
            )
        ),
    ),
    _metrics(
        "mg-curvature",
        "Author's note",
        "The affinity of neighbouring tangents tells which of two sheets is more curved.",
        FromDraws(
            tuple(
                Test(
                    f"affinity, sheet of slope 0 minus sheet of slope up to 2, {says}, five draws",
                    lambda noise=noise: _draws(lambda seed: _affinity(0.0, noise, seed) - _affinity(2.0, noise, seed)),
                )
                for noise, says in ((0.0, "no noise"), (NOISE, "noise of 5 % in 128 dimensions"))
            )
        ),
    ),
    _neighbourhoods(
        "mg-sphere",
        "Ours",
        "On a sphere of dimension m without noise a point has m + 1 NNK neighbours.",
        FromDraws(
            tuple(
                Test(
                    f"0.1 less the distance of the mean number from {m + 1}, m = {m}, five draws",
                    lambda name=name, m=m: _draws(lambda seed: 0.1 - abs(_count(name, seed=seed) - m - 1)),
                )
                for name, m in (("circle", 1), ("sphere", 2), ("4-sphere", 4))
            )
        ),
    ),
    _metrics(
        "mg-subspaces",
        "Ours",
        "Affinity is 1 in a flat subspace, and in the mean square max(d, d')/D between independent ones.",
        FromDraws(
            (
                Test("10⁻⁶ less the distance from 1, flat, five draws", lambda: _draws(_flat)),
                Test("0.01 less the distance from 5/30, d = 2, d' = 5, D = 30, five draws", lambda: _draws(_subspaces)),
            )
        ),
    ),
)
