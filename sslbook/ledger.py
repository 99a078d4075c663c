"""The ledger: each checkable claim of a paper, with the rule that decides it, fixed before the runs that decide it.

A test turns measurements into one number for each seed and asks whether their mean exceeds a threshold: it *holds* if
the 95 % confidence interval of the mean (Student's t over seeds) lies above the threshold, *fails* if it lies below,
and is *open* otherwise. A claim is reproduced if all its tests hold, partly reproduced if some hold and the rest are
open, mixed if some hold and some fail, not reproduced if none holds and one fails, and not decided if all are open or
there are too few seeds. A claim about mathematics can be decided by a counter-example: it is false as stated if the
violation exceeds the threshold.

Everything here is a pure function of claims and frames; `sslbook.papers` brings the two together.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from sslbook.config import require, require_number

REPRODUCED, PARTLY, MIXED, NOT_REPRODUCED = "reproduced", "partly", "mixed", "not reproduced"
FALSE, UNDECIDED, UNTESTABLE = "false as stated", "not decided", "not testable here"
STATUSES = (REPRODUCED, PARTLY, MIXED, NOT_REPRODUCED, FALSE, UNDECIDED, UNTESTABLE)

LEVEL = 0.025
"""How often a test holds by chance where the true mean is its threshold: one side of a 95 % confidence interval."""


@dataclass(frozen=True)
class Test:
    """`statistic` gives a number for each seed, indexed by seed; the test asks whether their mean exceeds `threshold`.

    In `FromRuns` it is called with the frame of the runs, in `FromDraws` with nothing. `says` describes it. Where the
    numbers are not those of seeds, `unit` says of what, as "methods".
    """

    says: str
    statistic: Callable[..., pd.Series]
    threshold: float = 0.0
    unit: str = "seeds"

    __test__ = False

    def __post_init__(self):
        require_number(f"The threshold of the test {self.says!r}", self.threshold)


@dataclass(frozen=True)
class FromRuns:
    """Evidence from the runs that the paper plans for `figure`: all of them and no others, at `profile` or larger."""

    tests: tuple[Test, ...]
    figure: str = "main"
    profile: str = "laptop"
    seeds: int = 3


@dataclass(frozen=True)
class FromDraws:
    """Evidence from random draws, made when the claim is judged; `scale` says in words how far it reaches."""

    tests: tuple[Test, ...]
    seeds: int = 5
    scale: str = "in a toy"


@dataclass(frozen=True)
class Counterexample:
    """Evidence against a mathematical statement: `violation()` is by how much the counter-example breaks it."""

    violation: Callable[[], float]
    threshold: float = 1e-6


@dataclass(frozen=True)
class Untestable:
    """No evidence here, for a reason."""

    reason: str


AFTERWARDS = "The rule was written after its runs had been seen."
MATHEMATICS = "A statement of mathematics: its test can only repeat the proof."


@dataclass(frozen=True)
class Claim:
    """A statement of a paper in our words, where it stands, the page that shows it, and what decides it.

    `where` begins with "Ours" if the statement is ours and not the paper's. `commit` is the first of the history that
    holds the claim with its rule, given if all runs that count are younger. `note` is a sentence that limits what the
    verdict says, as `AFTERWARDS` or `MATHEMATICS`.
    """

    page: str
    id: str
    where: str
    says: str
    evidence: FromRuns | FromDraws | Counterexample | Untestable
    commit: str = ""
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether the statement is ours: it is marked so, and counted apart from those of the paper."""
        return self.where.startswith("Ours")

    @property
    def age(self) -> str:
        """What is known of the age of the rule, in sentences, or nothing."""
        older = f"The rule is that of commit {self.commit}, older than the runs." if self.commit else ""
        return " ".join(filter(None, (older, self.note)))


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

    @property
    def p(self) -> float:
        """How likely a mean as large is by chance (Student's t, one-sided) if the true one is the threshold, in [0, 1].

        It is below `LEVEL` exactly if the test holds, above 1 − `LEVEL` if it fails; 1/2 for fewer than two seeds.
        """
        distance = self.mean - self.test.threshold
        if self.seeds < 2:
            return 0.5
        if self.high == self.low:
            return 0.5 - 0.5 * float(np.sign(distance))
        error = (self.high - self.low) / 2 / special.stdtrit(self.seeds - 1, 1 - LEVEL)
        return float(special.stdtr(self.seeds - 1, -distance / error))


@dataclass(frozen=True)
class Verdict:
    """A claim with what decided it: the outcomes of its tests and the runs behind them, or the violation."""

    claim: Claim
    status: str
    outcomes: tuple[Outcome, ...] = ()
    violation: float | None = None
    runs: tuple[str, ...] = ()
    profile: str = ""

    @property
    def scale(self) -> str:
        """How far the evidence reaches, as "at laptop scale" or "in a toy"; empty where nothing was measured."""
        if isinstance(self.claim.evidence, FromDraws):
            return self.claim.evidence.scale
        return f"at {self.profile} scale" if self.runs and self.profile else ""


def judge(claim: Claim, frame: pd.DataFrame | None = None, complete: bool = False, profile: str = "") -> Verdict:
    """The verdict on `claim`.

    `frame` is the paper's frame of the runs at `profile`, needed for `FromRuns` alone; `complete` says that they are
    the runs that the evidence asks for, all and no others. Otherwise nothing is decided: to decide as soon as enough
    seeds agree would be optional stopping. Raises `ValueError` if they are and a test finds no number in them.
    """
    evidence = claim.evidence
    if isinstance(evidence, Untestable):
        return Verdict(claim, UNTESTABLE)
    if isinstance(evidence, Counterexample):
        violation = evidence.violation()
        return Verdict(claim, FALSE if violation > evidence.threshold else UNDECIDED, violation=violation)
    if isinstance(evidence, FromDraws):
        outcomes, runs = tuple(_outcome(test, test.statistic()) for test in evidence.tests), ()
    elif complete:
        outcomes, runs = measure(claim, frame), tuple(frame.run.unique())
        empty = "; ".join(outcome.test.says for outcome in outcomes if not outcome.seeds)
        require(not empty, f"These tests of the claim {claim.id!r} have no finite number for any seed: {empty}.")
    else:
        return Verdict(claim, UNDECIDED)
    states = [outcome.state for outcome in outcomes]
    return Verdict(claim, _status(evidence, outcomes, states), outcomes, runs=runs, profile=profile)


def measure(claim: Claim, frame: pd.DataFrame) -> tuple[Outcome, ...]:
    """What the tests of a claim find in a frame of runs, whichever runs were declared for it."""
    return tuple(_outcome(test, test.statistic(frame)) for test in claim.evidence.tests)


def holm(p: Iterable[float]) -> np.ndarray:
    """Holm's adjusted p-values, in the order given: those below α are significant together at the level α.

    The k-th smallest of m becomes max_{j ≤ k} min(1, (m − j + 1) p_(j)): the chance of even one error is at most α,
    however the tests depend on each other (Holm 1979).
    """
    p = np.asarray(list(p), dtype=float)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]).clip(max=1)
    return adjusted


def corrected(judged: Iterable[Verdict]) -> list[Verdict]:
    """The same verdicts with the statuses that Holm's correction leaves, all their tests taken as one family.

    A test then holds if its adjusted p is below `LEVEL`, and fails if that of 1 − p is.
    """
    judged = list(judged)
    p = np.array([outcome.p for v in judged for outcome in v.outcomes])
    holds, fails = iter(holm(p) < LEVEL), iter(holm(1 - p) < LEVEL)
    found = []
    for v in judged:
        states = ["holds" if next(holds) else "open" for _ in v.outcomes]
        states = ["fails" if next(fails) else state for state in states]
        changed = _status(v.claim.evidence, v.outcomes, states) if v.outcomes else v.status
        found.append(dataclasses.replace(v, status=changed))
    return found


def value(frame: pd.DataFrame, name: str, when: str = "end", **where) -> pd.Series:
    """The column `name` by seed at the "start", "half" or "end" of the runs whose labels are as in `where`.

    See `moments`. Raises `ValueError` for a column or label that the frame has not, and if a seed has several such
    runs.
    """
    missing = ", ".join(repr(column) for column in (name, *where) if column not in frame)
    require(not missing or frame.empty, f"The runs have no column {missing}; they have {', '.join(map(str, frame))}.")
    for label, wanted in where.items():
        frame = frame[frame[label] == wanted]
    if frame.empty:
        return pd.Series(dtype=float)
    require(
        not frame.duplicated(["seed", "epoch"]).any(),
        f"{name!r} has several values for a seed and an epoch where {where or 'nothing is said'}; name more labels.",
    )
    table = frame.pivot(index="seed", columns="epoch", values=name)
    return table[moments(table.columns)[when]]


def moments(epochs: Iterable[int]) -> dict[str, int]:
    """The epochs at the "start", the "half" and the "end" of training; the half is the one nearest to half of the last.

    Of two as near it is the earlier one.
    """
    epochs = sorted(set(epochs))
    return {"start": epochs[0], "half": min(epochs, key=lambda e: abs(e - epochs[-1] / 2)), "end": epochs[-1]}


class Row(NamedTuple):
    """One line of evidence: a test, a counter-example, or the reason why there is none. What has no value is None."""

    claim: Claim
    status: str
    test: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    seeds: int | None = None
    state: str | None = None
    p: float | None = None
    scale: str = ""
    unit: str = "seeds"

    def value(self, digits: int = 3) -> str:
        """Mean and interval with so many significant digits, or nothing."""
        if self.mean is None:
            return ""
        bounded = self.low is not None and math.isfinite(self.low)
        interval = f" ({self.low:.{digits}g} to {self.high:.{digits}g})" if bounded else ""
        return f"{self.mean:.{digits}g}{interval}"

    def limit(self, digits: int = 3) -> str:
        """The threshold, or nothing."""
        return "" if self.threshold is None else f"{self.threshold:.{digits}g}"


def rows(judged: Iterable[Verdict]) -> list[Row]:
    """What terminal, page and notebook show of verdicts: a row for each test, or one for a claim without tests."""
    found = []
    for v in judged:
        evidence = v.claim.evidence
        found += [
            Row(v.claim, v.status, t.says, o.mean, o.low, o.high, t.threshold, o.seeds, o.state, o.p, v.scale, t.unit)
            for o, t in ((outcome, outcome.test) for outcome in v.outcomes)
        ]
        if isinstance(evidence, Counterexample):
            about = "violation by the counter-example"
            found.append(Row(v.claim, v.status, about, v.violation, threshold=evidence.threshold))
        elif not v.outcomes:
            about = evidence.reason if isinstance(evidence, Untestable) else "no runs that decide at this scale"
            found.append(Row(v.claim, v.status, about))
    return found


def with_thresholds(claim: Claim, *thresholds: float) -> Claim:
    """The same claim under other thresholds, one for each test: disagree with a rule and see the verdict change.

    Raises `ValueError` for another number of them.
    """
    tests = getattr(claim.evidence, "tests", ())
    require(
        len(thresholds) == len(tests),
        f"Claim {claim.id} has {len(tests)} tests; {len(thresholds)} thresholds were given.",
    )
    changed = tuple(dataclasses.replace(t, threshold=float(x)) for t, x in zip(tests, thresholds, strict=True))
    return dataclasses.replace(claim, evidence=dataclasses.replace(claim.evidence, tests=changed))


def interval(values) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval of the mean (Student's t); infinite for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return (float(values.mean()) if len(values) else math.nan), -math.inf, math.inf
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, 1 - LEVEL)) * error
    return mean, mean - half, mean + half


def _outcome(test: Test, values: pd.Series) -> Outcome:
    values = values.dropna()
    return Outcome(test, *interval(values), len(values))


def _status(evidence: FromRuns | FromDraws, outcomes: tuple[Outcome, ...], states: list[str]) -> str:
    """The status of a claim whose tests are in these states, "holds", "fails" or "open"."""
    if min(outcome.seeds for outcome in outcomes) < evidence.seeds:
        return UNDECIDED
    if all(state == "holds" for state in states):
        return REPRODUCED
    if "holds" in states:
        return MIXED if "fails" in states else PARTLY
    return NOT_REPRODUCED if "fails" in states else UNDECIDED
