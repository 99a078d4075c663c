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
from scipy import stats

from sslbook import papers, runs
from sslbook.config import require
from sslbook.papers import PROFILES

REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
FALSE, UNDECIDED, UNTESTABLE = "false as stated", "not decided", "not testable here"


@dataclass(frozen=True)
class Test:
    """`statistic(frame)` gives a number for each seed, indexed by seed; the test asks whether it exceeds `threshold`.

    `frame` is what the paper's module makes of the runs: its `scalars`. `says` describes the statistic.
    """

    says: str
    statistic: Callable[[pd.DataFrame], pd.Series]
    threshold: float = 0.0

    __test__ = False


@dataclass(frozen=True)
class Claim:
    """A statement of a paper in our words, where it stands, and what decides it: on which data, at which least scale.

    `paper` is a module of `sslbook.papers`, `page` the notebook that shows the claim's figure; the runs of `figure`
    decide it. A `dataset` of None means that the tests need no runs. `counterexample` gives the size of the violation
    of a mathematical statement; `reason` says why a claim cannot be tested here. Exactly one of `tests`,
    `counterexample` and `reason` is given.
    """

    paper: str
    page: str
    id: str
    where: str
    says: str
    tests: tuple[Test, ...] = ()
    counterexample: Callable[[], float] | None = None
    threshold: float = 1e-6
    reason: str | None = None
    seeds: int = 3
    dataset: str | None = "cifar100"
    profile: str = "laptop"
    figure: str = "main"


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
    runs: tuple[str, ...] = ()


def judge(claim: Claim, found: list[runs.Run], profile: str, *, frame: pd.DataFrame | None = None) -> Verdict:
    """The verdict on `claim` from the declared runs of `profile`, all of them and no others; else nothing is decided.

    The declared runs are those of the claim's figure. `frame` spares measuring again: it is the paper's
    `scalars(found)`.
    """
    if claim.reason is not None:
        return Verdict(claim, UNTESTABLE)
    if claim.counterexample is not None:
        violation = claim.counterexample()
        return Verdict(claim, FALSE if violation > claim.threshold else UNDECIDED, violation=violation)
    if claim.dataset is None:
        outcomes = tuple(_outcome(test, pd.DataFrame()) for test in claim.tests)
        return Verdict(claim, _status(outcomes, claim.seeds), outcomes)
    paper = papers.module(claim.paper)
    if PROFILES.index(profile) < PROFILES.index(claim.profile) or not found:
        return Verdict(claim, UNDECIDED)
    declared = {config.id for config in paper.configs(claim.figure, profile, claim.dataset)}
    if {run.config.id for run in found} != declared:  # to decide as soon as enough seeds agree is optional stopping
        return Verdict(claim, UNDECIDED)
    frame = paper.scalars(found) if frame is None else frame
    outcomes = tuple(_outcome(test, frame) for test in claim.tests)
    return Verdict(claim, _status(outcomes, claim.seeds), outcomes, runs=tuple(run.config.id for run in found))


def table(judged: list[Verdict]) -> pd.DataFrame:
    """A row for each test or counter-example of each verdict."""
    rows = []
    for verdict in judged:
        row = {"claim": verdict.claim.id, "where": verdict.claim.where, "verdict": verdict.status}
        if verdict.violation is not None:
            rows.append(row | {"test": "violation by the counter-example", "mean": verdict.violation})
        for o in verdict.outcomes:
            rows.append(
                row
                | {"test": o.test.says, "mean": o.mean, "low": o.low, "high": o.high, "seeds": o.seeds}
                | {"must exceed": o.test.threshold, "test says": o.state}
            )
        if verdict.violation is None and not verdict.outcomes:
            rows.append(row | {"test": verdict.claim.reason or "no runs at this scale"})
    columns = ["claim", "where", "test", "mean", "low", "high", "seeds", "must exceed", "test says", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def styled(judged: list[Verdict]):
    """`table` as a page shows it: narrow, numbers with three digits, without places and columns that are empty."""

    def digits(value) -> str:
        return "" if pd.isna(value) else f"{value:.3g}".replace("-", "−")

    frame = table(judged)
    intervals = zip(frame["low"].map(digits), frame["high"].map(digits), strict=True)
    bounds = pd.Series([f" ({low} to {high})" if low else "" for low, high in intervals], dtype=object)
    frame["mean (95 %)"] = (frame["mean"].map(digits) + bounds).replace("", None)
    frame = frame[["claim", "test", "mean (95 %)", "seeds", "must exceed", "test says", "verdict"]]
    shown = frame.dropna(axis=1, how="all").style.hide(axis="index")
    shown = shown.format(lambda value: value if isinstance(value, str) else digits(value))
    return shown.set_table_attributes('class="dataframe verdicts"')


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
