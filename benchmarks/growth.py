"""How cost grows with the number of items N and the dimension D: exponents of time, and memory of all neighbours.

Claim: views and k-NN take time linear in N and in D, NT-Xent linear in D and, comparing all pairs, quadratic in N;
VICReg and Barlow Twins with D over N, by N×N Gram matrices, are linear in D. The neighbours of 50,000 features among
50,000, and their NNK neighbours with diameters, tangents and affinities, are found in less than 4 GB, a whole process
with PyTorch included.
"""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import milliseconds
from sslbook import losses, metrics, views

NEIGHBOURS = (12_500, 25_000, 50_000)


def rows() -> list[dict]:
    """For each quantity: sizes, times in milliseconds, and the slope of their logarithms."""
    policy, labels = views.policy("large"), torch.arange(40_000) % 100

    def gaussian(n, d):
        return torch.randn(n, d, generator=torch.Generator().manual_seed(0))

    def view(n):
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
        return lambda: policy(images)

    def loss(function, n, d):
        z1, z2 = gaussian(n, d).requires_grad_(), gaussian(n, d).roll(1, 0).requires_grad_()
        return lambda: function(z1, z2).backward()

    def knn(bank, queries, d=128):
        train, test = gaussian(bank, d), gaussian(queries, d)
        return lambda: metrics.knn_accuracy(train, labels[:bank], test, labels[:queries])

    def nt_xent(z1, z2):
        return losses.nt_xent(z1, z2, temperature=0.5)

    def regression(bank, queries, d=128):
        candidates, asked = gaussian(bank, d), gaussian(queries, d).flip(1)
        return lambda: metrics.nnk(asked, candidates)

    cases = [
        ("views, large policy, in N", (256, 512, 1024, 2048), view),
        ("NT-Xent with gradient, D = 128, in N", (256, 512, 1024), lambda n: loss(nt_xent, n, 128)),
        ("NT-Xent with gradient, N = 256, in D", (1024, 2048, 4096, 8192), lambda d: loss(nt_xent, 256, d)),
        ("20-NN in 10,000×128, in queries", (500, 1000, 2000), lambda n: knn(10_000, n)),
        ("20-NN of 500×128, in the bank", (10_000, 20_000, 40_000), lambda m: knn(m, 500)),
        ("20-NN of 500 in 10,000, in D", (256, 512, 1024), lambda d: knn(10_000, 500, d)),
        ("NNK in 10,000×128, in queries", (250, 500, 1000), lambda n: regression(10_000, n)),
        ("NNK of 250×128, in the bank", (10_000, 20_000, 40_000), lambda m: regression(m, 250)),
        ("VICReg with gradient, N = 256, in D", (1024, 2048, 4096, 8192), lambda d: loss(losses.vicreg, 256, d)),
        (
            "Barlow Twins with gradient, N = 256, in D",
            (1024, 2048, 4096, 8192),
            lambda d: loss(losses.barlow_twins, 256, d),
        ),
    ]
    return [grown(what, sizes, milliseconds(*map(make, sizes), repeats=5)) for what, sizes, make in cases]


def grown(what: str, sizes, taken: list[float]) -> dict:
    """One line of the table of growth; `exponent` is the slope of log time over log size."""
    exponent = float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])
    return {"what": what, "sizes": sizes, "ms": taken, "exponent": exponent}


def memory(what: str = "knn", sizes=NEIGHBOURS) -> list[dict]:
    """Seconds and peak memory in GB of a fresh process that does `WORK[what]` with N×128 features, for each N."""
    found = []
    for n in sizes:
        command = [sys.executable, "-m", "benchmarks.growth", what, str(n)]
        seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        found.append({"n": n, "seconds": float(seconds), "gigabytes": float(peak)})
    return found


def knn(features: torch.Tensor) -> None:
    labels = torch.arange(len(features)) % 100
    metrics.knn_accuracy(features, labels, features, labels)


def nnk(features: torch.Tensor) -> None:
    neighborhood = metrics.nnk(features)
    metrics.diameter(neighborhood, features)
    metrics.affinity(neighborhood, metrics.tangents(neighborhood, features))


WORK = {"knn": knn, "nnk": nnk}


def main():
    """After the name of the work, print for each size given: seconds, and the peak memory of this process in GB."""
    for n in map(int, sys.argv[2:]):
        features = torch.randn(n, 128)
        started = time.perf_counter()
        WORK[sys.argv[1]](features)
        print(time.perf_counter() - started, peak())


def peak() -> float:
    """Peak memory of this process in GB. On Linux `getrusage` would count the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # bytes on macOS


if __name__ == "__main__":
    main()
