"""The papers, a folder each: plan of runs, measurements, theory, claims.

A folder is found by being here, or in one of the folders that `SSLBOOK_PAPERS` names (several are separated as in
`PATH`). It is a package whose `__init__` makes a `Paper` and calls it `PAPER`.
"""

import importlib
import os
import pkgutil
from collections.abc import Callable

from sslbook.config import require, require_choice, require_known
from sslbook.files import Damaged, absolute
from sslbook.ledger import Claim, Verdict
from sslbook.papers.cost import CORE, FAST, gpu_hours
from sslbook.papers.observe import BATCH, Observation, calibrate, encode, held_out, observe, pairs
from sslbook.papers.paper import PROFILES, Finished, Paper, Planned, check
from sslbook.papers.provenance import Facts, describe, facts

__all__ = [
    "BATCH",
    "CORE",
    "FAST",
    "PROFILES",
    "Facts",
    "Finished",
    "Observation",
    "Paper",
    "Planned",
    "calibrate",
    "check",
    "claim",
    "describe",
    "encode",
    "facts",
    "gpu_hours",
    "held_out",
    "names",
    "observe",
    "pairs",
    "paper",
    "verdicts",
]

__path__ += [str(absolute(f)) for f in os.environ.get("SSLBOOK_PAPERS", "").split(os.pathsep) if f]


def names() -> list[str]:
    """The names of the papers: those of their folders."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def paper(name: str) -> Paper:
    """The paper in the folder of this name. Raises `ValueError` if there is none."""
    require_choice("The paper", name, names())
    found = importlib.import_module(f"{__name__}.{name}").PAPER
    require(found.name == name, f"The paper in the folder {name!r} calls itself {found.name!r}; the names must agree.")
    return found


def claim(id: str) -> tuple[Paper, Claim]:
    """The claim of this id, and its paper."""
    known = {claim.id: (found, claim) for found in map(paper, names()) for claim in found.claims}
    require_known("claim", id, known)
    return known[id]


def verdicts(
    profile: str = "laptop", *ids: str, damaged: Callable[[Damaged], None] | None = None
) -> dict[str, list[Verdict]]:
    """The verdicts on the claims `ids` (all by default), by paper; see `Paper.verdicts`."""
    wanted = {id: claim(id)[0].name for id in ids}
    chosen = dict.fromkeys(wanted.values()) if ids else names()
    return {
        name: paper(name).verdicts(profile, *(id for id in ids if wanted[id] == name), damaged=damaged)
        for name in chosen
    }
