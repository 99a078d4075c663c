"""Self-Supervised Learning with the Matching Gap (submitted to ICLR 2024).

The body of the paper is not public: only its abstract, its reviews and the successor (arXiv 2405.19532). What is here
reconstructs the claims that these state.
"""

from sslbook.papers.matching_gap.claims import CLAIMS
from sslbook.papers.matching_gap.measure import VERSION, measure, row
from sslbook.papers.matching_gap.plan import LOSSES, PLANS, POLICIES, SWEEP
from sslbook.papers.paper import Paper

__all__ = ["LOSSES", "PAPER", "POLICIES", "measure", "row"]

PAPER = Paper(
    name="matching_gap",
    title="Self-Supervised Learning with the Matching Gap",
    plans=PLANS,
    measure=measure,
    row=row,
    claims=CLAIMS,
    version=VERSION,
    shown=("main", "grid", *SWEEP),
    sweep=SWEEP,
)
