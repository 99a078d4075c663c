"""Timing side by side: everything in one process with the same threads, taking turns, medians of repeats."""

import statistics
import time

REPEATS = 9


def milliseconds(*functions, repeats: int = REPEATS) -> list[float]:
    """Median wall time of each, called in turn so that a busy moment of the machine meets all of them."""
    times = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, taken in zip(functions, times):
            start = time.perf_counter()
            function()
            if repeat:  # the first call warms up
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def row(what: str, ours: float, theirs: str, taken: float) -> dict:
    """One line of the table; times in milliseconds."""
    return {"what": what, "ours_ms": ours, "theirs": theirs, "theirs_ms": taken, "ratio": taken / ours}
