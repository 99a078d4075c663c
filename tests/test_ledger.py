import math
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sslbook import ledger, papers
from sslbook.ledger import (
    FALSE,
    MIXED,
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    UNDECIDED,
    UNTESTABLE,
    Claim,
    Counterexample,
    FromDraws,
    FromRuns,
    Test,
    Untestable,
)
from sslbook.papers.geometry import PAPER, STRENGTHS
from sslbook.papers.paper import Finished
from sslbook.runs import Run


def values(*numbers):
    return lambda frame=None: pd.Series(numbers, index=range(1, len(numbers) + 1))


def claim(evidence):
    return Claim("page", "some", "nowhere", "something", evidence)


def judged(*tests, seeds=3):
    return ledger.judge(claim(FromDraws(tests, seeds))).status


HOLDS, FAILS = Test("holds", values(1.0, 1.1, 0.9)), Test("fails", values(-1.0, -1.1, -0.9))
OPEN = Test("open", values(-3.0, 1.0, 3.0))


def test_the_interval_is_that_of_student():
    sample = np.random.default_rng(0).normal(size=5)
    mean, low, high = ledger.interval(sample)
    expected = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert mean == pytest.approx(sample.mean()) and (low, high) == pytest.approx((expected.low, expected.high))
    assert ledger.interval([2.0]) == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("tests", "status"),
    [
        ((HOLDS,), REPRODUCED),
        ((HOLDS, HOLDS), REPRODUCED),
        ((FAILS,), NOT_REPRODUCED),
        ((HOLDS, FAILS), MIXED),
        ((HOLDS, OPEN), PARTLY),
        ((HOLDS, OPEN, FAILS), MIXED),
        ((FAILS, OPEN), NOT_REPRODUCED),
        ((OPEN,), UNDECIDED),
    ],
)
def test_the_rules_of_decision(tests, status):
    assert judged(*tests) == status


def test_too_few_seeds_decide_nothing():
    assert judged(Test("holds", values(1.0, 1.1)), seeds=3) == UNDECIDED
    assert judged(Test("one lacks", values(1.0, 1.1, math.nan)), seeds=3) == UNDECIDED


def test_a_changed_threshold_changes_the_verdict():
    some = claim(FromDraws((HOLDS,), 3))
    assert ledger.judge(some).status == REPRODUCED
    stricter = ledger.with_thresholds(some, 2)
    assert ledger.judge(stricter).status == NOT_REPRODUCED and some.evidence.tests[0].threshold == 0
    with pytest.raises(ValueError, match="has 1 tests; 2 thresholds"):
        ledger.with_thresholds(some, 1, 2)


@pytest.mark.parametrize("tests", [1, 4])
def test_chance_alone_reproduces_one_claim_in_forty(tests):
    """Of values without any effect a test holds with probability 2.5 %, and all of several hold less often."""
    random = np.random.default_rng(0)
    found = [judged(*(Test("none", values(*random.normal(size=4))) for _ in range(tests))) for _ in range(2000)]
    share = found.count(REPRODUCED) / len(found)
    assert 0.018 < share < 0.033 if tests == 1 else share < 0.001


def test_the_probability_of_a_test_is_that_of_student_and_agrees_with_its_state():
    random = np.random.default_rng(1)
    for threshold in (0.0, 0.3, -1.0):
        sample = random.normal(size=4)
        outcome = ledger.Outcome(Test("some", None, threshold), *ledger.interval(sample), 4)
        assert outcome.p == pytest.approx(stats.ttest_1samp(sample, threshold, alternative="greater").pvalue)
        states = {"holds": outcome.p < ledger.LEVEL, "fails": outcome.p > 1 - ledger.LEVEL}
        assert [state for state, there in states.items() if there] in ([outcome.state], [])
    alike = [ledger.Outcome(Test("some", None, x), *ledger.interval([1.0, 1.0]), 2).p for x in (0, 1, 2)]
    assert alike == [0, 0.5, 1] and ledger.Outcome(HOLDS, *ledger.interval([5.0]), 1).p == 0.5


def test_holms_correction_in_closed_form():
    """Holm 1979: multiply the smallest by m, the next by m − 1, …, never let them fall, nor exceed 1."""
    assert ledger.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ledger.holm([0.2]) == pytest.approx([0.2]) and len(ledger.holm([])) == 0
    assert ledger.holm([0.6, 0.6]) == pytest.approx([1, 1])


def test_holms_correction_agrees_with_stepping_down_and_keeps_the_order():
    """The definition: reject from the smallest on while p ≤ α/(m − k), and stop at the first that is not."""
    random = np.random.default_rng(2)
    for _ in range(50):
        p = random.uniform(size=12) ** 4
        adjusted = ledger.holm(p)
        assert (np.diff(adjusted[p.argsort()]) >= 0).all() and (adjusted >= p).all()
        for level in (0.025, 0.2):
            rejected = set()
            for k, index in enumerate(p.argsort()):
                if p[index] > level / (len(p) - k):
                    break
                rejected.add(index)
            assert set(np.flatnonzero(adjusted <= level)) == rejected


def test_holms_correction_of_one_test_changes_nothing_and_of_many_by_chance_leaves_none():
    def verdict(*tests):
        return ledger.judge(claim(FromDraws(tests, 3)))

    for test, status in ((HOLDS, REPRODUCED), (FAILS, NOT_REPRODUCED), (OPEN, UNDECIDED)):
        assert [v.status for v in ledger.corrected([verdict(test)])] == [status]
    random = np.random.default_rng(3)
    many = [verdict(Test("none", values(*random.normal(size=4)))) for _ in range(200)]
    assert REPRODUCED in {v.status for v in many} and {v.status for v in ledger.corrected(many)} == {UNDECIDED}
    sure = verdict(Test("sure", values(1.0, 1.0 + 1e-9, 1.0)), Test("wrong", values(-1.0, -1.0 - 1e-9, -1.0)))
    assert ledger.corrected([*many, sure])[-1].status == MIXED
    false = ledger.judge(claim(Counterexample(lambda: 1.0)))
    assert ledger.corrected([false, *many])[0] == false


def test_a_verdict_says_its_scale_and_a_statement_of_ours_that_it_is_ours():
    runs = pd.DataFrame({"run": ["a"]})
    assert ledger.judge(claim(FromRuns((HOLDS,))), runs, True, "laptop").scale == "at laptop scale"
    assert ledger.judge(claim(FromDraws((HOLDS,), 3))).scale == "in a toy"
    assert ledger.judge(claim(FromRuns((HOLDS,)))).scale == ledger.judge(claim(Counterexample(lambda: 1.0))).scale == ""
    ours = {c.id for name in ("geometry", "matching_gap") for c in papers.paper(name).claims if c.ours}
    assert ours == {"accuracy-without-collapse", "upper-constant", "fig7-transient", "prop3.1-condition"} | {
        "mg-zero-entropic",
        "mg-trivial",
        "mg-rank",
        "mg-scale",
        "mg-temperature",
        "mg-views",
    }


def test_a_claim_that_asks_for_what_no_run_has_is_refused():
    runs = pd.DataFrame({"run": ["a", "b"], "seed": [1, 2], "epoch": [1, 1], "strength": "large", "knn": [0.1, 0.2]})
    for statistic, sentence in (
        (lambda f: ledger.value(f, "knnn"), "no column 'knnn'; they have run, seed, epoch, strength, knn"),
        (lambda f: ledger.value(f, "knn", strenght="large"), "no column 'strenght'"),
        (lambda f: ledger.value(f, "knn", strength="medium"), "have no finite number for any seed: its accuracy"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ledger.judge(claim(FromRuns((Test("its accuracy", statistic),))), runs, True)
    with pytest.raises(
        ValueError, match=r"threshold of the test 'its accuracy' is '0\.05'; it must be a finite number"
    ):
        Test("its accuracy", lambda f: 0, "0.05")


def test_a_rule_that_names_a_commit_is_older_than_the_runs_it_decides():
    """By the history: the commit is an ancestor of those that the runs name, and holds the claim."""
    root = Path(__file__).parents[1]

    def git(*arguments):
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)

    checked = 0
    for paper in map(papers.paper, papers.names()):
        for some in paper.claims:
            if isinstance(some.evidence, FromRuns) and some.commit:
                if git("cat-file", "-e", some.commit).returncode:
                    pytest.skip("the history is not here")
                assert f'"{some.id}"' in git("grep", "-h", f'"{some.id}"', some.commit, "--", "sslbook").stdout
                found = paper.find(paper.plan(some.evidence.figure, "laptop"))
                commits = {run.run.provenance["commit"].rstrip("+") for run in found}
                checked += len(commits)
                assert not any(git("merge-base", "--is-ancestor", some.commit, c).returncode for c in commits), some.id
                assert commits and some.commit in some.age
    assert checked >= 30


def test_ids_are_unique_over_all_papers():
    ids = [claim.id for name in papers.names() for claim in papers.paper(name).claims]
    assert len(set(ids)) == len(ids) >= 40
    for id in ids:
        paper, claim = papers.claim(id)
        evidence = claim.evidence
        assert isinstance(evidence, (FromRuns, FromDraws, Counterexample, Untestable))
        if isinstance(evidence, FromRuns):
            assert evidence.seeds >= 3 and evidence.profile != "smoke" and evidence.figure in paper.plans


def finished(planned, **changes):
    return [Finished(Run(config.replace(**changes), None), labels) for config, labels in planned]


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr(Run, "provenance", {"precision": "float32"})


def test_runs_in_two_precisions_are_refused(in_float32):
    half = type("Half", (Run,), {"provenance": {"precision": "bfloat16"}})
    found = finished(PAPER.plan("main", "laptop"))
    found[1] = Finished(half(found[1].run.config, None), found[1].labels)
    continued = {"precision": "float32", "earlier": [{"precision": "bfloat16"}]}
    mixed = type("Mixed", (Run,), {"provenance": continued})
    twice = finished(PAPER.plan("main", "laptop"))
    twice[2] = Finished(mixed(found[2].run.config, None), found[2].labels)
    with pytest.raises(ValueError, match="1 in bfloat16 and float32"):
        PAPER.judge(PAPER.claim("fig1-order"), twice, "laptop", frame(effective_rank=lambda i, e: i))
    with pytest.raises(
        ValueError, match=r"The claim 'fig1-order' .* there are 14 in float32, 1 in bfloat16\. .* --prec"
    ):
        PAPER.judge(PAPER.claim("fig1-order"), found, "laptop", frame(effective_rank=lambda i, e: i))
    assert PAPER.judge(PAPER.claim("fig1-order"), found[:2], "laptop").status == UNDECIDED


def test_runs_at_smoke_on_other_data_of_other_seeds_or_not_all_decide_nothing(in_float32):
    claim = PAPER.claim("fig1-order")
    table = frame(effective_rank=lambda i, e: 32 - i * e / 8)
    declared = finished(PAPER.plan("main", "laptop"))

    def status(found, profile="laptop"):
        return PAPER.judge(claim, found, profile, table).status

    assert status(declared) == REPRODUCED
    assert status(declared[:-1]) == status([]) == UNDECIDED
    assert status([*declared, *finished(PAPER.plan("main", "laptop", seeds=[0]))]) == UNDECIDED
    assert status(finished(PAPER.plan("main", "laptop", dataset="shapes"))) == UNDECIDED
    assert status(finished(PAPER.plan("main", "smoke")), "smoke") == UNDECIDED
    assert status(finished(PAPER.plan("main", "smoke")), "laptop") == UNDECIDED


def test_without_complete_runs_nothing_is_decided():
    some = claim(FromRuns((HOLDS,)))
    assert ledger.judge(some, pd.DataFrame({"run": ["a"]}), complete=False).status == UNDECIDED
    verdict = ledger.judge(some, pd.DataFrame({"run": ["a", "b", "a"]}), complete=True)
    assert verdict.status == REPRODUCED and verdict.runs == ("a", "b")


def test_the_tests_of_a_claim_can_be_measured_on_other_runs_without_a_verdict():
    table = frame(effective_rank=lambda i, e: 32 - i * e / 8)
    found = ledger.measure(PAPER.claim("fig1-order"), table)
    assert [o.mean for o in found] == pytest.approx([1, 1]) and {o.seeds for o in found} == {3}
    single = ledger.measure(PAPER.claim("fig1-order"), table[table.seed == 1])
    assert {o.state for o in single} == {"open"}


def test_false_statements_are_false_by_a_counterexample():
    theory = [
        claim
        for name in papers.names()
        for claim in papers.paper(name).claims
        if isinstance(claim.evidence, Counterexample)
    ]
    assert len(theory) >= 8
    for each in theory:
        verdict = ledger.judge(each)
        assert verdict.status == FALSE and verdict.violation > 1e-2
    assert ledger.judge(claim(Counterexample(lambda: 1e-12))).status == UNDECIDED
    assert ledger.judge(claim(Untestable("no experiment"))).status == UNTESTABLE


def frame(**columns):
    """A frame of three seeds, three strengths and three kept epochs; a column is a function of strength and epoch."""
    rows = [
        {"strength": s, "seed": seed, "epoch": e, "run": f"{s}{seed}"}
        | {n: f(i, e) + 1e-6 * seed for n, f in columns.items()}
        for i, s in enumerate(STRENGTHS)
        for seed in (1, 2, 3)
        for e in (0, 4, 8)
    ]
    return pd.DataFrame(rows)


def statistics(id, table):
    return [test.statistic(table).mean() for test in PAPER.claim(id).evidence.tests]


def test_statistics_measure_what_they_say():
    """Each on a frame with a known answer; i is the strength (0 small, 1 moderate, 2 large), e the epoch."""
    falling = frame(effective_rank=lambda i, e: 32 - i * e / 8)
    assert statistics("fig1-order", falling) == pytest.approx([1, 1])
    assert statistics("fig1-small", frame(effective_rank=lambda i, e: 100 + e / 8)) == pytest.approx([0.01], abs=1e-6)
    accurate = frame(knn=lambda i, e: 0.1 * i, linear=lambda i, e: 0.2 * i)
    assert statistics("fig1-accuracy", accurate) == pytest.approx([0.1, 0.1, 0.2, 0.2])
    near = frame(distance_unit_mean=lambda i, e: -i, distance_relative_mean=lambda i, e: -3 * i)
    assert statistics("fig5-distance", near) == pytest.approx([1, 1, 3, 3])
    bound = frame(loss=lambda i, e: 1.0, upper=lambda i, e: 1.0 + (e + 1) / 10)
    assert statistics("prop3.1-bound", bound) == pytest.approx([0.1] * 3)
    agreement = frame(fine=lambda i, e: i * e / 8, coarse=lambda i, e: (i + 1) * (e / 8) ** i)
    assert statistics("fig6-order", agreement) == pytest.approx([1, 1, 1, 1])
    assert statistics("fig6-speed", agreement) == pytest.approx([0.25], abs=1e-4)
    assert statistics("fig7-drop", frame(unexplained=lambda i, e: 0.6 / (1 + e / 4))) == pytest.approx(
        [3, 0.55], abs=1e-4
    )
    pulls = frame(attraction_share=lambda i, e: i / 2)
    assert statistics("fig2-weight", pulls) == pytest.approx([0.5, 0.5], abs=1e-5)
    spread = frame(spread_encoder=lambda i, e: 0.5, spread_projector=lambda i, e: 0.5 - i * e / 64)
    assert statistics("prop4.1-trend", spread) == pytest.approx([0.5, 0.5], abs=1e-4)
    moved = frame(second_mean=lambda i, e: 1 - i * e / 16, distance_relative_mean=lambda i, e: 1 + e / 16)
    assert statistics("sec5-dynamics", moved) == pytest.approx([1, 0.5], abs=1e-4)
    spans = frame(displacement_effective_rank=lambda i, e: -i, displacement_count=lambda i, e: 3 * i)
    assert statistics("sec4-span", spans) == pytest.approx([-1, -1, 3, 3])
    curves = frame(loss=lambda i, e: -e, upper=lambda i, e: e if i == 2 else -e)
    assert statistics("fig3-curves", curves) == pytest.approx([1, 1, -1])
    assert statistics("upper-constant", frame(upper=lambda i, e: np.log(254) + i * e / 8)) == pytest.approx(
        [2], abs=1e-4
    )
    easy = frame(effective_rank=lambda i, e: 32 - e / 8 * (i == 1), knn=lambda i, e: 0.1 + i * e / 8)
    assert statistics("accuracy-without-collapse", easy) == pytest.approx([31 / 32, 0.5], abs=1e-4)
    better = {name: lambda i, e: 1.0 for name in ("knn", "linear")}
    better |= {f"{name}_projector": lambda i, e, by=by: 1 - by * i for name, by in (("knn", 0.1), ("linear", 0.2))}
    assert statistics("intro-accuracy", frame(**better)) == pytest.approx([0.2, 0.2, 0.4, 0.4], abs=1e-4)
    assert statistics("sec4-directions", frame(views_by_direction=lambda i, e: -i / 4)) == pytest.approx(
        [0.5], abs=1e-4
    )
    back = frame(unexplained=lambda i, e: 0.5 + (e - 4) ** 2 / 64, unexplained_pairs=lambda i, e: 1.0)
    assert statistics("fig7-transient", back) == pytest.approx([0.25], abs=1e-4)
    assert statistics("sec5-alignment", back) == pytest.approx([0.25], abs=1e-4)
    turned = frame(generator_1=lambda i, e: i / 4, generator_3=lambda i, e: i / 8)
    assert statistics("appB-model", turned) == pytest.approx([0.5, 0.25], abs=1e-4)


def test_tracking_is_of_the_repulsion_parts():
    """With the shared attraction the curves below would correlate at 0.99; without it they oppose each other."""
    table = frame(
        invariance=lambda i, e: -e,
        loss=lambda i, e: 2 * -e + 0.1 * e,
        upper=lambda i, e: 2 * -e - 0.1 * e,
    )
    assert statistics("fig3-tracks", table) == pytest.approx([-1, -1, -1], abs=1e-3)


def test_the_value_of_a_label_is_by_seed_at_start_half_and_end():
    table = frame(knn=lambda i, e: 10 * i + e)
    assert [
        ledger.value(table, "knn", when, strength="large").round(3).tolist() for when in ("start", "half", "end")
    ] == [
        [20, 20, 20],
        [24, 24, 24],
        [28, 28, 28],
    ]
    assert ledger.value(table, "knn", strength="huge").empty
    with pytest.raises(ValueError, match="'knn' has several values for a seed and an epoch where nothing is said"):
        ledger.value(table, "knn")


def test_rows_say_what_every_test_measured_and_why_there_is_none():
    judged = PAPER.verdicts("laptop", "fig10-rank", "prop4.1-iff", "sec5-depth")
    draws, counter, none = ledger.rows(judged)
    assert [row.status for row in (draws, counter, none)] == [REPRODUCED, FALSE, UNTESTABLE]
    assert draws.mean > draws.threshold and draws.value() == f"{draws.mean:.3g} ({draws.low:.3g} to {draws.high:.3g})"
    assert (
        counter.value() == "1.41" and counter.limit() == "1e-06" and "no experiment" in none.test and not none.value()
    )
    (undecided,) = ledger.rows(PAPER.verdicts("smoke", "fig1-order"))
    assert undecided.test == "no runs that decide at this scale"
