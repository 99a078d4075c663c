"""The runs of the chapter: none yet. The zoo of models that its two claims need is still to be planned."""

from sslbook.papers.paper import Planned


def main(profile: str) -> list[Planned]:
    """The zoo of models at `profile`: no run is planned yet, so the claims that need it are not decided."""
    return []


PLANS = {"main": main}
