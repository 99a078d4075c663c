"""A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schölkopf, Allen 2024, arXiv 2402.01399).

Only its abstracts, public reviews of an earlier version and the released code are known to us, not the body of any
version. What is here reconstructs the claims that these state.
"""

from sslbook.papers.paper import Paper
from sslbook.papers.simvae.claims import CLAIMS
from sslbook.papers.simvae.measure import VERSION, measure, row
from sslbook.papers.simvae.plan import COLOURS, DISCRIMINATIVE, GENERATIVE, KNOBS, METHODS, PLANS, SETS, SWEEP

__all__ = ["DISCRIMINATIVE", "GENERATIVE", "KNOBS", "METHODS", "PAPER", "SETS", "measure", "row"]

PAPER = Paper(
    name="simvae",
    title="A Probabilistic Model behind Self-Supervised Learning",
    plans=PLANS,
    measure=measure,
    row=row,
    claims=CLAIMS,
    version=VERSION,
    shown=("main", "grid", *SWEEP),
    sweep=SWEEP,
    colours=COLOURS,
)
