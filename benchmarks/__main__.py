"""`python -m benchmarks`: a table of ratios, ours beside what one would otherwise use; what bounds and grows; the book.

What is printed is kept in `benchmarks/results.md`, which a page of the book shows.
"""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from benchmarks import book, growth, losses, matching, nnk, step, variational, views
from sslbook import files, hardware, runs

RESULTS = Path(__file__).with_name("results.md")
PEERS = ("torchvision", "kornia", "lightly", "POT", "pythae")


def main():
    files.allow_all_characters()
    found = []
    for section in (header, ratios, bounds, growing, memory, book.section):
        found.append("\n".join(section()))
        print(found[-1] + "\n", flush=True)
    RESULTS.write_text("\n\n".join(found) + "\n")


def header() -> list[str]:
    """Day, machine with its load, and versions; times mean little where the load was near the number of cores."""
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: version(name) for name in PEERS}
    facts = [
        datetime.date.today().isoformat(),
        f"{hardware.name()}, {torch.get_num_threads()} used, load {os.getloadavg()[0]:.1f} before",
        f"commit {runs.commit()}",
        *(f"{name} {number}" for name, number in versions.items()),
    ]
    return [" · ".join(facts)]


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def ratios() -> list[str]:
    lines = ["## Beside others", "", "| What | Ours, ms | Beside | Theirs, ms | Ratio |", "|---|--:|---|--:|--:|"]
    for module in (views, losses, matching, nnk, variational, step):
        for r in module.rows():
            lines.append(
                f"| {r['what']} | {r['ours_ms']:.1f} | {r['theirs']} | {r['theirs_ms']:.1f} | {r['ratio']:.1f}× |"
            )
    return lines


def bounds() -> list[str]:
    shares, convolutions, product = step.bounds()
    lines = ["## What bounds a laptop step", "", "| Part | Share of the time |", "|---|--:|"]
    lines += [f"| {part} | {100 * share:.0f} % |" for part, share in shares.items()]
    return [
        *lines,
        "",
        f"The convolutions, in {runs.provenance('cpu')['precision']}, reach {convolutions:.0f} GFLOP/s; a product of "
        f"two 1024×1024 matrices reaches {product:.0f} GFLOP/s on the same cores.",
    ]


def growing() -> list[str]:
    lines = ["## How time grows", "", "| What | Sizes | Time, ms | Exponent |", "|---|---|---|--:|"]
    for r in growth.rows():
        sizes, taken = (", ".join(values) for values in ((f"{n:,}" for n in r["sizes"]), (f"{t:.1f}" for t in r["ms"])))
        lines.append(f"| {r['what']} | {sizes} | {taken} | {r['exponent']:.2f} |")
    return lines


def memory() -> list[str]:
    lines = [
        "## Memory of all neighbours",
        "",
        "| What, N×128 in themselves | N | Time, s | Peak, GB |",
        "|---|--:|--:|--:|",
    ]
    for what, name in (("knn", "20-NN"), ("nnk", "NNK of 50, with its metrics")):
        lines += [f"| {name} | {r['n']:,} | {r['seconds']:.1f} | {r['gigabytes']:.2f} |" for r in growth.memory(what)]
    return lines


if __name__ == "__main__":
    main()
