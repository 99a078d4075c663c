"""The ledger: each checkable claim of a paper, with the rule that decides it, fixed before the runs that decide it.

A claim is decided by one or more tests. A test turns the measurements of runs into one number for each seed and asks
whether their mean exceeds a threshold: it *holds* if the 95 % confidence interval of the mean (Student's t over seeds)
lies above the threshold, *fails* if it lies below, and is *open* otherwise. A claim is reproduced if all its tests
hold, not reproduced if none holds and one fails, partly reproduced if some hold and not all, and not decided if all
are open or there are too few seeds. A claim about mathematics is decided by a counter-example: it is false as stated
if the counter-example's violation exceeds the threshold. A claim is never decided on `shapes` or at `smoke`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats

from sslbook import lie, losses, runs
from sslbook.config import require
from sslbook.papers import PROFILES, geometry
from sslbook.papers import geometry_theory as theory

REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
FALSE, UNDECIDED, UNTESTABLE = "false as stated", "not decided", "not testable here"


@dataclass(frozen=True)
class Test:
    """`statistic(frame)` gives a number for each seed, indexed by seed; the test asks whether it exceeds `threshold`.

    `frame` is `papers.geometry.scalars` of the runs. `says` describes the statistic.
    """

    says: str
    statistic: Callable[[pd.DataFrame], pd.Series]
    threshold: float = 0.0

    __test__ = False


@dataclass(frozen=True)
class Claim:
    """A statement of a paper in our words, where it stands, and what decides it: on which data, at which least scale.

    A `dataset` of None means that the tests need no runs. `counterexample` gives the size of the violation of a
    mathematical statement; `reason` says why a claim cannot be tested here. Exactly one of `tests`, `counterexample`
    and `reason` is given.
    """

    id: str
    where: str
    says: str
    figure: str
    tests: tuple[Test, ...] = ()
    counterexample: Callable[[], float] | None = None
    threshold: float = 1e-6
    reason: str | None = None
    seeds: int = 3
    dataset: str | None = "cifar100"
    profile: str = "laptop"


@dataclass(frozen=True)
class Outcome:
    """What a test found: mean, 95 % confidence interval and number of seeds."""

    test: Test
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def state(self) -> str:
        """ "holds", "fails" or "open"."""
        if self.low > self.test.threshold:
            return "holds"
        return "fails" if self.high < self.test.threshold else "open"


@dataclass(frozen=True)
class Verdict:
    """A claim with what decided it: the outcomes of its tests, or the violation by its counter-example."""

    claim: Claim
    status: str
    outcomes: tuple[Outcome, ...] = ()
    violation: float | None = None
    profile: str | None = None
    runs: tuple[str, ...] = ()


def judge(claim: Claim, found: list[runs.Run], profile: str, *, frame: pd.DataFrame | None = None) -> Verdict:
    """The verdict on `claim` from the declared runs of `profile`, all of them and no others; else nothing is decided.

    `frame` spares measuring again: it is `papers.geometry.scalars(found)`.
    """
    if claim.reason is not None:
        return Verdict(claim, UNTESTABLE)
    if claim.counterexample is not None:
        violation = claim.counterexample()
        return Verdict(claim, FALSE if violation > claim.threshold else UNDECIDED, violation=violation)
    if claim.dataset is None:
        outcomes = tuple(_outcome(test, pd.DataFrame()) for test in claim.tests)
        return Verdict(claim, _status(outcomes, claim.seeds), outcomes)
    if PROFILES.index(profile) < PROFILES.index(claim.profile) or not found:
        return Verdict(claim, UNDECIDED, profile=profile)
    declared = {config.id for config in geometry.configs("main", profile, claim.dataset)}
    if {run.config.id for run in found} != declared:  # to decide as soon as enough seeds agree is optional stopping
        return Verdict(claim, UNDECIDED, profile=profile)
    frame = geometry.scalars(found) if frame is None else frame
    outcomes = tuple(_outcome(test, frame) for test in claim.tests)
    return Verdict(
        claim, _status(outcomes, claim.seeds), outcomes, None, profile, tuple(run.config.id for run in found)
    )


def claim(id: str) -> Claim:
    """The claim of this id."""
    known = {claim.id: claim for claim in GEOMETRY}
    require(id in known, f"The claim {id!r} is unknown; known are {', '.join(known)}.")
    return known[id]


def verdicts(profile: str = "laptop", *ids: str) -> list[Verdict]:
    """The verdicts on the claims `ids` (all by default) from the finished runs of `profile`; nothing is trained."""
    chosen = [claim(id) for id in ids] or list(GEOMETRY)
    found = [run for config in geometry.configs("main", profile) if (run := runs.find(config)) is not None]
    measured = found and any(c.tests and c.dataset for c in chosen)
    frame = geometry.scalars(found) if measured else None
    return [judge(c, found, profile, frame=frame) for c in chosen]


def table(judged: list[Verdict]) -> pd.DataFrame:
    """A row for each test or counter-example of each verdict: what was measured, against which rule, what it says."""
    rows = []
    for verdict in judged:
        row = {"claim": verdict.claim.id, "where": verdict.claim.where, "verdict": verdict.status}
        if verdict.violation is not None:
            rows.append(row | {"test": "violation by the counter-example", "mean": verdict.violation})
        for o in verdict.outcomes:
            low, high = o.low, o.high
            rows.append(
                row
                | {"test": o.test.says, "mean": o.mean, "low": low, "high": high, "seeds": o.seeds}
                | {"must exceed": o.test.threshold, "test says": o.state}
            )
        if verdict.violation is None and not verdict.outcomes:
            rows.append(row | {"test": verdict.claim.reason or "no runs at this scale"})
    columns = ["claim", "where", "test", "mean", "low", "high", "seeds", "must exceed", "test says", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def with_thresholds(claim: Claim, *thresholds: float) -> Claim:
    """The same claim under other thresholds, one for each test: disagree with a rule and see the verdict change."""
    require(
        len(thresholds) == len(claim.tests),
        f"Claim {claim.id} has {len(claim.tests)} tests; {len(thresholds)} thresholds were given.",
    )
    tests = zip(claim.tests, thresholds, strict=True)
    return dataclasses.replace(claim, tests=tuple(dataclasses.replace(t, threshold=float(x)) for t, x in tests))


def interval(values) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval of the mean (Student's t); infinite for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return (float(values.mean()) if len(values) else math.nan), -math.inf, math.inf
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def _outcome(test: Test, frame: pd.DataFrame) -> Outcome:
    values = test.statistic(frame).dropna()
    return Outcome(test, *interval(values), len(values))


def _status(outcomes: tuple[Outcome, ...], seeds: int) -> str:
    if min(outcome.seeds for outcome in outcomes) < seeds:
        return UNDECIDED
    states = [outcome.state for outcome in outcomes]
    if all(state == "holds" for state in states):
        return REPRODUCED
    if "holds" in states:
        return PARTLY
    return NOT_REPRODUCED if "fails" in states else UNDECIDED


def _at(frame: pd.DataFrame, strength: str, name: str, when: str = "end") -> pd.Series:
    """The column `name` by seed, at "start", "half" or "end" of training under `strength`."""
    table = frame[frame.strength == strength].pivot(index="seed", columns="epoch", values=name)
    if table.empty:
        return pd.Series(dtype=float)
    epochs = table.columns
    chosen = {"start": epochs[0], "half": epochs[np.abs(epochs - epochs[-1] / 2).argmin()], "end": epochs[-1]}
    return table[chosen[when]]


def _change(strength: str, name: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda f: _at(f, strength, name) - _at(f, strength, name, "start")


def _relative_change(strength: str, name: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda f: _at(f, strength, name) / _at(f, strength, name, "start") - 1


def _difference(larger: str, smaller: str, name: str, when: str = "end") -> Callable[[pd.DataFrame], pd.Series]:
    """Paired by seed: the runs of a seed start from the same weights."""
    return lambda f: _at(f, larger, name, when) - _at(f, smaller, name, when)


def _ordered(name: str, what: str, *, falling: bool = False, when: str = "end") -> tuple[Test, Test]:
    """`name` rises (or falls) with strength, from small to moderate and from moderate to large."""
    pairs = [("large", "moderate"), ("moderate", "small")]
    return tuple(
        Test(
            f"{what}, {b} minus {a}" if falling else f"{what}, {a} minus {b}",
            _difference(b, a, name, when) if falling else _difference(a, b, name, when),
        )
        for a, b in pairs
    )


def _drop_in_rank(a: str, b: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda f: -_change(a, "effective_rank")(f) + _change(b, "effective_rank")(f)


def _correlation(strength: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Of the repulsion parts of loss and bound over kept epochs; the shared attraction is taken out of both."""

    def of_seed(group: pd.DataFrame) -> float:
        group = group.sort_values("epoch")
        pull = 2.0 * group.invariance
        return float(np.corrcoef(group.loss - pull, group.upper - pull)[0, 1])

    return lambda f: pd.Series({seed: of_seed(g) for seed, g in f[f.strength == strength].groupby("seed")}, dtype=float)


def _share_by_half(strength: str, name: str) -> Callable[[pd.DataFrame], pd.Series]:
    def share(f):
        start, half, end = (_at(f, strength, name, when) for when in ("start", "half", "end"))
        return (half - start) / (end - start)

    return share


def _pull_share(frame: pd.DataFrame, strength: str) -> pd.Series:
    pull, push = (_at(frame, strength, f"{name}_gradient") for name in ("attraction", "repulsion"))
    return pull / (pull + push)


def _excess_energy(strength: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda f: _at(f, strength, "energy_displacement") / _at(f, strength, "energy_features")


def _sign_of_c1() -> float:
    z1, z2 = theory.random_features(64, 16, 0), theory.random_features(64, 16, 1)
    parts = theory.decomposition(z1, z2, beta=2.0)
    printed = parts.alignment - parts.expectation + parts.entropy
    return float((printed.mean() - losses.info_nce(z1, z2, beta=2.0)).abs())


def _invariant_outside_kernel() -> float:
    w, h1, h2 = theory.kernel_counterexample()
    return float(((h2 - h1) @ w).norm()) if theory.cosine(h1 @ w, h2 @ w) > 1 - 1e-12 else 0.0


def _generator_outside_kernel() -> float:
    w, generator = theory.generator_counterexample(dim=6, width=3)
    h = theory.random_features(100, 6)
    moved = h @ lie.exp(generator, 0.3).T
    return float((w.T @ generator).norm()) if theory.cosine(h @ w, moved @ w).min() > 1 - 1e-12 else 0.0


def _printed_repulsion_minimum() -> float:
    """How far the least possible repulsion of N = 128 images, −1/(N − 1), lies above the −1 that is printed."""
    return float(theory.repulsion(theory.simplex(128))[0]) + 1


def _not_a_projection() -> float:
    w = theory.random_features(64, 16)
    square = w @ w.T
    return float((square @ square - square).norm() / square.norm())


def _scale_of_equation_8() -> float:
    w, h, delta = (theory.random_features(*shape, seed=s) for s, shape in enumerate([(32, 8), (100, 32), (100, 32)]))
    return abs(float(theory.equation_8(2 * w, h, delta, 2.0) / theory.equation_8(w, h, delta, 2.0)) - 1)


def _bound_at_negative_beta() -> float:
    z1, z2 = theory.random_features(64, 16, 0), theory.random_features(64, 16, 1)
    return -float(theory.bound_gap(z1, z2, beta=-2.0)[0].min())


def _full_rank_despite_augmentations() -> float:
    """Rank kept by a 512→128 projector that is exactly invariant to 384 augmented directions, less 127."""
    v = theory.random_features(384, 512)
    return float(torch.linalg.matrix_rank(theory.invariant_projector(v, 128))) - 127


def _orbit(frame: pd.DataFrame) -> pd.Series:
    """Least growth of the rank over a grid of angles, for each seed of Fig. 10 (the frame of runs plays no part)."""
    angles = (0, 60, 120, 180, 240, 300, 360)
    return pd.Series({s: float(np.diff([lie.orbit_rank(a, seed=s) for a in angles]).min()) for s in range(5)})


GEOMETRY = (
    Claim(
        "fig1-order",
        "Fig. 1, Sec. 4",
        "The larger the augmentations, the more rank the linear projector loses in training.",
        "fig1",
        (
            Test("loss of effective rank, large minus moderate", _drop_in_rank("large", "moderate")),
            Test("loss of effective rank, moderate minus small", _drop_in_rank("moderate", "small")),
        ),
    ),
    Claim(
        "fig1-collapse",
        "Fig. 1",
        "Under large augmentations the projector suffers a substantial dimensional collapse.",
        "fig1",
        (
            Test("share of effective rank lost", lambda f: -_relative_change("large", "effective_rank")(f), 0.1),
            Test("share of singular values ≥ 0.25 lost", lambda f: -_relative_change("large", "rank_0.25")(f), 0.1),
            Test(
                "share of singular values ≥ σ_max/4 lost", lambda f: -_relative_change("large", "relative_0.25")(f), 0.1
            ),
        ),
    ),
    Claim(
        "fig1-small",
        "Fig. 1, Sec. 5",
        "Under small augmentations the rank of the projector is not modified.",
        "fig1",
        (
            Test(
                "2 % less the relative change of effective rank, either way",
                lambda f: 0.02 - _relative_change("small", "effective_rank")(f).abs(),
            ),
        ),
    ),
    Claim(
        "fig1-accuracy",
        "Fig. 1",
        "The larger the augmentations, the more accurate the encoder's representation.",
        "fig1",
        (*_ordered("knn", "20-NN accuracy"), *_ordered("linear", "linear-probe accuracy")),
    ),
    Claim(
        "fig2-weight",
        "Fig. 2, Sec. 4",
        "Strength acts as a weight on the invariance term: attraction gains on repulsion as augmentations grow.",
        "fig2",
        tuple(
            Test(
                f"attraction's share of the gradient, {a} minus {b}",
                lambda f, a=a, b=b: _pull_share(f, a) - _pull_share(f, b),
            )
            for a, b in (("large", "moderate"), ("moderate", "small"))
        ),
    ),
    Claim(
        "prop3.1-bound",
        "Prop. 3.1",
        "L_Upper is an upper bound of the InfoNCE loss of Eq. 1 (β ≥ 0, here 2).",
        "fig3",
        tuple(
            Test(
                f"least L_Upper − L over kept epochs, {s}",
                lambda f, s=s: f[f.strength == s].assign(gap=f.upper - f.loss).groupby("seed").gap.min(),
                -1e-5,
            )
            for s in geometry.STRENGTHS
        ),
    ),
    Claim(
        "prop3.1-condition",
        "Prop. 3.1",
        "The bound is stated without a condition on β; it needs β ≥ 0.",
        "fig3",
        counterexample=_bound_at_negative_beta,
    ),
    Claim(
        "fig3-tracks",
        "Fig. 3",
        "L_Upper tracks the loss through training.",
        "fig3",
        tuple(Test(f"correlation of the repulsion parts, {s}", _correlation(s), 0.9) for s in geometry.STRENGTHS),
    ),
    Claim(
        "fig4-rank",
        "Fig. 4",
        "The features of the original images span nearly all encoder directions throughout training.",
        "fig4",
        tuple(
            Test(
                f"share of directions with σ ≥ 10⁻³ σ_max, {w}", lambda f, w=w: _at(f, "large", "encoder_rank", w), 0.95
            )
            for w in ("start", "half", "end")
        ),
    ),
    Claim(
        "fig9-rank",
        "Fig. 9",
        "So do the features of the transformed images.",
        "fig9",
        tuple(
            Test(f"share of directions with σ ≥ 10⁻³ σ_max, {w}", lambda f, w=w: _at(f, "large", "views_rank", w), 0.95)
            for w in ("start", "half", "end")
        ),
    ),
    Claim(
        "fig5-distance",
        "Fig. 5, Sec. 4",
        "The smaller the augmentations, the farther an anchor is from its nearest negative in the encoder.",
        "fig5",
        (
            *_ordered("distance_unit_mean", "mean distance of unit features", falling=True),
            *_ordered("distance_relative_mean", "mean distance over that of random pairs", falling=True),
        ),
    ),
    Claim(
        "fig6-rises",
        "Fig. 6",
        "Under every strength, the nearest negative shares the anchor's label more often as training goes on.",
        "fig6",
        tuple(
            Test(f"rise of {level} agreement, {s}", _change(s, level))
            for level in ("fine", "coarse")
            for s in geometry.STRENGTHS
        ),
    ),
    Claim(
        "fig6-order",
        "Fig. 6, Sec. 5",
        "Label agreement at the end increases with the strength of augmentation.",
        "fig6",
        (*_ordered("fine", "fine agreement"), *_ordered("coarse", "coarse agreement")),
    ),
    Claim(
        "fig6-speed",
        "Fig. 6",
        "The larger the augmentations, the longer label agreement takes to converge.",
        "fig6",
        (
            Test(
                "share of the rise of coarse agreement done by half of training, moderate minus large",
                lambda f: _share_by_half("moderate", "coarse")(f) - _share_by_half("large", "coarse")(f),
            ),
        ),
    ),
    Claim(
        "sec5-start",
        "Sec. 5",
        "Before training, a second view is far from the nearest negative under large augmentations, near under small.",
        "fig6",
        _ordered("second_mean", "distance over that of random pairs", when="start"),
    ),
    Claim(
        "fig7-drop",
        "Fig. 7",
        "The variance of displacements that the projector leaves unexplained falls drastically in training.",
        "fig7",
        (
            Test(
                "unexplained share, start over end, large",
                lambda f: 1 / (1 + _relative_change("large", "unexplained")(f)),
                2.0,
            ),
            Test(
                "0.75, the value of a random W, less the share at the end",
                lambda f: 0.75 - _at(f, "large", "unexplained"),
            ),
        ),
    ),
    Claim(
        "fig7-rest",
        "Fig. 7, Sec. 5",
        "Part of the variance stays unexplained.",
        "fig7",
        (Test("unexplained share at the end, large", lambda f: _at(f, "large", "unexplained"), 0.01),),
    ),
    Claim(
        "intro-projector",
        "Abstract, Sec. 4",
        "It is the projector, rather than the encoder, that is driven to invariance as augmentations grow.",
        "fig2",
        (
            Test(
                "relative spread of views, encoder minus projector, large, end",
                lambda f: _at(f, "large", "spread_encoder") - _at(f, "large", "spread_projector"),
            ),
            Test(
                "that difference, large minus small",
                lambda f: (
                    (_at(f, "large", "spread_encoder") - _at(f, "large", "spread_projector"))
                    - (_at(f, "small", "spread_encoder") - _at(f, "small", "spread_projector"))
                ),
            ),
        ),
    ),
    Claim(
        "prop4.1-trend",
        "Prop. 4.1, Sec. 4",
        "Training moves the augmented directions v towards the kernel, the more so the larger the augmentations.",
        "props",
        (
            Test(
                "fall of (‖Wᵀv‖²/‖v‖²)/(‖Wᵀh‖²/‖h‖²), large",
                lambda f: (
                    _at(f, "large", "energy_displacement", "start") / _at(f, "large", "energy_features", "start")
                    - _excess_energy("large")(f)
                ),
            ),
            Test(
                "the ratio at the end, small minus large",
                lambda f: _excess_energy("small")(f) - _excess_energy("large")(f),
            ),
        ),
    ),
    Claim(
        "prop4.1-iff",
        "Prop. 4.1",
        "The invariance term is minimised if and only if the displacements lie in the kernel of W.",
        "props",
        counterexample=_invariant_outside_kernel,
    ),
    Claim(
        "prop4.2-rank",
        "Prop. 4.2, Sec. 4",
        "The rank of W falls as the rank of the augmented directions grows (here: 384 of them, W 512×128).",
        "props",
        counterexample=_full_rank_despite_augmentations,
    ),
    Claim(
        "prop4.3-iff",
        "Prop. 4.3",
        "The invariance term is minimised if and only if the generator lies in the kernel of W.",
        "props",
        counterexample=_generator_outside_kernel,
    ),
    Claim(
        "sec4-opposed",
        "Sec. 4",
        "The repulsion term is minimised by opposing each anchor to its nearest negative, Sim = −1.",
        "props",
        counterexample=_printed_repulsion_minimum,
    ),
    Claim(
        "propC.1-sign",
        "Prop. C.1, Eq. 13",
        "The loss equals −β⟨f¹, f²⟩ − β⟨f¹, E f⟩ + H.",
        "props",
        counterexample=_sign_of_c1,
    ),
    Claim(
        "eq8-scale",
        "Eq. 8",
        "L_Upper can be written without normalising the outputs.",
        "props",
        counterexample=_scale_of_equation_8,
    ),
    Claim(
        "eq9-projection",
        "Eq. 9",
        "WWᵀh is the projection of h onto the column space of W.",
        "props",
        counterexample=_not_a_projection,
    ),
    Claim(
        "fig10-rank",
        "Fig. 10, App. E",
        "The rank of a set of rotated images grows with the largest angle.",
        "fig10",
        (Test("least growth of rank for a further 60°, five pixels", _orbit),),
        seeds=5,
        dataset=None,
    ),
    Claim(
        "sec5-depth",
        "Sec. 5, Fig. 8",
        "Deeper and wider projectors constrain the encoder less and so serve it better.",
        "fig8",
        reason="The paper reports no experiment on depth or width, so there is nothing of it to reproduce.",
    ),
)
