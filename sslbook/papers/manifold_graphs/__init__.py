"""The Geometry of Self-supervised Learning Models and its Impact on Transfer Learning (arXiv 2209.08622, 2022).

By Cosentino, Shekkizhar, Soltanolkotabi, Avestimehr and Ortega. Only its abstract and its first lines are known to us,
and the public code of a companion paper. What is here reconstructs the claims that these state.
"""

from sslbook.papers.manifold_graphs.claims import CLAIMS, GEOMETRY, models, transferred
from sslbook.papers.manifold_graphs.measure import (
    BINARY,
    FAMILIES,
    VERSION,
    VIEWS,
    K,
    augmented,
    geometry,
    measure,
    row,
)
from sslbook.papers.manifold_graphs.plan import COLOURS, LEARNED, METHODS, PARADIGMS, PLANS, POLICIES
from sslbook.papers.paper import Paper

__all__ = [
    "BINARY",
    "FAMILIES",
    "GEOMETRY",
    "LEARNED",
    "METHODS",
    "PAPER",
    "PARADIGMS",
    "POLICIES",
    "VIEWS",
    "K",
    "augmented",
    "geometry",
    "measure",
    "models",
    "row",
    "transferred",
]

PAPER = Paper(
    name="manifold_graphs",
    title="The Geometry of Self-supervised Learning Models and its Impact on Transfer Learning",
    plans=PLANS,
    measure=measure,
    row=row,
    claims=CLAIMS,
    version=VERSION,
    colours=COLOURS,
    shown=("main", "seeds"),
    sweep=("seeds",),
)
