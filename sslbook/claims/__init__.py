"""The ledger of claims: the rules in `ledger`, and a module of claims for each paper."""

from sslbook import papers, runs
from sslbook.claims import geometry, matching_gap
from sslbook.claims.ledger import (
    FALSE,
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    UNDECIDED,
    UNTESTABLE,
    Claim,
    Outcome,
    Test,
    Verdict,
    interval,
    judge,
    styled,
    table,
    with_thresholds,
)
from sslbook.config import require

__all__ = [
    "FALSE",
    "NOT_REPRODUCED",
    "PARTLY",
    "REPRODUCED",
    "UNDECIDED",
    "UNTESTABLE",
    "Claim",
    "Outcome",
    "Test",
    "Verdict",
    "claim",
    "interval",
    "judge",
    "styled",
    "table",
    "verdicts",
    "with_thresholds",
]

CLAIMS = (*geometry.CLAIMS, *matching_gap.CLAIMS)
"""Every claim of every paper."""


def claim(id: str) -> Claim:
    """The claim of this id."""
    known = {claim.id: claim for claim in CLAIMS}
    require(id in known, f"The claim {id!r} is unknown; known are {', '.join(known)}.")
    return known[id]


def verdicts(profile: str = "laptop", *ids: str, dataset: str | None = None, seeds=None) -> list[Verdict]:
    """The verdicts on the claims `ids` (all by default) from the finished runs of `profile`; nothing is trained.

    Runs on another `dataset` or of other `seeds` than the declared ones decide nothing.
    """
    chosen = [claim(id) for id in ids] or list(CLAIMS)
    found, frames = {}, {}
    for key in {(c.paper, c.figure) for c in chosen if c.tests and c.dataset}:
        paper = papers.module(key[0])
        configs = paper.configs(key[1], profile, dataset, seeds)
        found[key] = [run for config in configs if (run := runs.find(config)) is not None]
        frames[key] = paper.scalars(found[key]) if found[key] else None
    keys = [(c.paper, c.figure) for c in chosen]
    return [judge(c, found.get(k, []), profile, frame=frames.get(k)) for c, k in zip(chosen, keys, strict=True)]
