import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sslbook import claims, runs
from sslbook.claims import FALSE, NOT_REPRODUCED, PARTLY, REPRODUCED, UNDECIDED, UNTESTABLE, Claim, Test, ledger
from sslbook.papers import geometry


def values(*numbers):
    return lambda frame: pd.Series(numbers, index=range(1, len(numbers) + 1))


def judged(*tests, seeds=3):
    outcomes = tuple(ledger._outcome(test, pd.DataFrame()) for test in tests)
    return ledger._status(outcomes, seeds)


HOLDS, FAILS = Test("holds", values(1.0, 1.1, 0.9)), Test("fails", values(-1.0, -1.1, -0.9))
OPEN = Test("open", values(-3.0, 1.0, 3.0))


def test_the_interval_is_that_of_student():
    sample = np.random.default_rng(0).normal(size=5)
    mean, low, high = claims.interval(sample)
    expected = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert mean == pytest.approx(sample.mean()) and (low, high) == pytest.approx((expected.low, expected.high))
    assert claims.interval([2.0]) == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("tests", "status"),
    [
        ((HOLDS,), REPRODUCED),
        ((HOLDS, HOLDS), REPRODUCED),
        ((FAILS,), NOT_REPRODUCED),
        ((HOLDS, FAILS), PARTLY),
        ((HOLDS, OPEN), PARTLY),
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
    claim = Claim("geometry", "upper-bound", "some", "nowhere", "something", (HOLDS,), dataset=None)
    assert claims.judge(claim, [], "laptop").status == REPRODUCED
    stricter = claims.with_thresholds(claim, 2)
    assert claims.judge(stricter, [], "laptop").status == NOT_REPRODUCED and claim.tests[0].threshold == 0
    with pytest.raises(ValueError, match="has 1 tests; 2 thresholds"):
        claims.with_thresholds(claim, 1, 2)


def test_ids_are_unique_and_every_claim_has_one_way_to_be_decided():
    ledger = claims.CLAIMS
    assert len({claim.id for claim in ledger}) == len(ledger) >= 20
    for claim in ledger:
        assert (bool(claim.tests), claim.counterexample is not None, claim.reason is not None).count(True) == 1
        assert claim.seeds >= 3 and claim.profile != "smoke" and claim.dataset in ("cifar100", None)


def test_no_verdict_from_smoke_or_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))
    run = runs.ensure(geometry.configs("fig1", "smoke", seeds=[1])[0], device="cpu")
    claim = claims.claim("fig1-order")
    assert claims.judge(claim, [run], "smoke").status == UNDECIDED
    assert claims.judge(claim, [run], "laptop").status == UNDECIDED


def finished(configs):
    return [runs.Run(config, None) for config in configs]


def test_the_pilot_and_a_part_of_the_seeds_decide_nothing():
    claim, table = claims.claim("fig1-order"), frame(effective_rank=lambda i, e: 32 - i * e / 8)
    declared = finished(geometry.configs("main", "laptop"))
    assert claims.judge(claim, declared, "laptop", frame=table).status == REPRODUCED
    assert claims.judge(claim, declared[:-1], "laptop", frame=table).status == UNDECIDED
    pilot = finished(geometry.configs("main", "laptop", seeds=[0]))
    assert claims.judge(claim, [*declared, *pilot], "laptop", frame=table).status == UNDECIDED


def test_false_statements_are_false_by_a_counterexample():
    theory = [claim for claim in claims.CLAIMS if claim.counterexample]
    assert len(theory) >= 8
    for claim in theory:
        verdict = claims.judge(claim, [], "laptop")
        assert verdict.status == FALSE and verdict.violation > 1e-2
    kept = Claim("geometry", "upper-bound", "true", "nowhere", "something true", counterexample=lambda: 1e-12)
    assert claims.judge(kept, [], "laptop").status == UNDECIDED
    assert claims.judge(claims.claim("sec5-depth"), [], "laptop").status == UNTESTABLE


def frame(**columns):
    """A frame of three seeds, three strengths and three kept epochs; a column is a function of strength and epoch."""
    rows = [
        {"strength": s, "seed": seed, "epoch": e} | {n: f(i, e) + 1e-6 * seed for n, f in columns.items()}
        for i, s in enumerate(geometry.STRENGTHS)
        for seed in (1, 2, 3)
        for e in (0, 4, 8)
    ]
    return pd.DataFrame(rows)


def statistics(id, table):
    return [test.statistic(table).mean() for test in claims.claim(id).tests]


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
    pulls = frame(attraction_gradient=lambda i, e: i, repulsion_gradient=lambda i, e: 2 - i)
    assert statistics("fig2-weight", pulls) == pytest.approx([0.5, 0.5], abs=1e-5)
    kernel = frame(energy_displacement=lambda i, e: 1 - i * e / 16, energy_features=lambda i, e: 1.0)
    assert statistics("prop4.1-trend", kernel) == pytest.approx([1, 1], abs=1e-4)


def test_tracking_is_of_the_repulsion_parts():
    """With the shared attraction the curves below would correlate at 0.99; without it they oppose each other."""
    table = frame(
        invariance=lambda i, e: -e,
        loss=lambda i, e: 2 * -e + 0.1 * e,
        upper=lambda i, e: 2 * -e - 0.1 * e,
    )
    assert statistics("fig3-tracks", table) == pytest.approx([-1, -1, -1], abs=1e-3)


def test_the_table_has_a_row_for_each_test():
    table = claims.table(claims.verdicts("laptop", "fig10-rank", "prop4.1-iff", "sec5-depth"))
    assert table.verdict.tolist() == [REPRODUCED, FALSE, UNTESTABLE]
    assert table["mean"].iloc[0] > table["must exceed"].iloc[0] and "no experiment" in table.test.iloc[2]
