"""The shipped records: each is what it says, small, planned by a paper, and enough for the figures and verdicts."""

import json

import pytest

from sslbook import papers, runs
from sslbook.config import Config
from sslbook.ledger import UNDECIDED, FromRuns

RECORDS = sorted(path for path in runs.RECORDS.iterdir() if path.is_dir())
PAPERS = {name: papers.paper(name) for name in papers.names()}
PLANNED = {
    planned.config.id: (paper, planned)
    for paper in PAPERS.values()
    for figure in paper.plans
    for profile in ("laptop", "paper")
    for planned in paper.plan(figure, profile)
}
"""The runs that the papers plan beyond smoke, by identity."""


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_a_record_is_its_configuration_small_planned_and_measured(record, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))  # no local run stands in for it
    values = json.loads((record / "config.json").read_text())
    config = Config.from_dict(values)
    assert config.id == record.name and json.loads(json.dumps(config.to_dict())) == values
    assert sum(path.stat().st_size for path in record.iterdir()) <= 300 * 1024
    paper, planned = PLANNED[record.name]
    assert planned.config == config
    run = runs.find(config)
    assert run.path == record and len(run.history) == config.epochs and run.history.loss.notna().all()
    arrays = paper.arrays(run)
    assert arrays["epoch"].tolist() == list(config.snapshot_epochs)
    assert {"hardware", "precision", "commit", "seconds", "torch"} <= set(run.provenance)
    frame = paper.frame([papers.Finished(run, planned.labels)])
    assert frame.select_dtypes("number").notna().all().all()


@pytest.mark.parametrize("name", PAPERS)
def test_a_figure_that_the_book_shows_has_all_its_records_or_none(name):
    """Seeds that are missing would make another figure of it, and other verdicts."""
    for figure in PAPERS[name].shown:
        planned = PAPERS[name].plan(figure, "laptop")
        shipped = [config.id for config, _ in planned if (runs.RECORDS / config.id).is_dir()]
        assert len(shipped) in (0, len(planned)), f"{figure} has {len(shipped)} of {len(planned)} records."


@pytest.mark.parametrize("name", PAPERS)
def test_claims_on_complete_records_are_judged_by_all_their_tests(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))
    paper = PAPERS[name]
    claims = [claim.id for claim in paper.claims if isinstance(claim.evidence, FromRuns)]
    for verdict in paper.verdicts("laptop", *claims) if claims else ():
        evidence = verdict.claim.evidence
        planned = {config.id for config, _ in paper.plan(evidence.figure, "laptop")}
        if all((runs.RECORDS / id).is_dir() for id in planned):
            assert set(verdict.runs) == planned and len(verdict.outcomes) == len(evidence.tests)
        else:
            assert verdict.status == UNDECIDED
