"""Toward a Geometrical Understanding of Self-supervised Contrastive Learning (Cosentino et al. 2022, arXiv 2205.06926).

All figures on training come from the same main runs, SimCLR with a linear projector under three strengths of
augmentation.
"""

from sslbook.papers.geometry.claims import CLAIMS
from sslbook.papers.geometry.measure import VERSION, measure, row
from sslbook.papers.geometry.plan import COLOURS, DASHES, PLANS, STRENGTHS, SWEEP
from sslbook.papers.paper import Paper

__all__ = ["PAPER", "STRENGTHS", "measure", "row"]

PAPER = Paper(
    name="geometry",
    title="Toward a Geometrical Understanding of Self-supervised Contrastive Learning",
    plans=PLANS,
    measure=measure,
    row=row,
    claims=CLAIMS,
    version=VERSION,
    shown=("main", *SWEEP),
    sweep=SWEEP,
    colours=COLOURS,
    dashes=DASHES,
)
