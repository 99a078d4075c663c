"""NNK neighbourhoods and their metrics beside plain loops: of `scipy.optimize.nnls`, and of the pruning heuristic.

The heuristic is that of code of the time (STAC-USC/PyNNK_graph_construction), written anew: a candidate once dropped
never returns, so its count is too small, and its rows say by how much. Its affinity calls `subspace_angles`, as that
code's companion does; the loop of nnls takes the fewest calls of NumPy that we know. The loops get our search, and take
the tangents of the candidates as known, as ours does. They use one core, so all get one thread.
"""

import json
import os
import subprocess
import sys

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import cho_factor, cho_solve, subspace_angles
from scipy.optimize import nnls
from scipy.spatial.distance import pdist

from benchmarks.timing import milliseconds, row
from sslbook import metrics
from sslbook.metrics.manifold import SHARE
from sslbook.metrics.neighbors import nearest

K, QUERIES, CANDIDATES, D, LATENT = 50, 2_000, 10_000, 512, 8


def rows() -> list[dict]:
    """What `main` prints in a process with one thread."""
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, "-m", "benchmarks.nnk"]
    return json.loads(subprocess.run(command, capture_output=True, check=True, env=os.environ | one).stdout)


def main():
    """Print rows for neighbourhoods alone, then with count, diameter, local dimension and affinity, beside both."""
    queries, candidates = features(QUERIES + CANDIDATES).split([QUERIES, CANDIDATES])
    known = metrics.tangents(metrics.nnk(candidates, k=K), candidates)
    bases = [known.basis[a : a + n].double().numpy() for a, n in zip(known.first, known.dimension)]
    mine = metrics.neighbor_count(metrics.nnk(queries, candidates, k=K)).double().mean().item()
    found, count = [], {}
    for name, whole in (("NNK", False), ("NNK and its metrics", True)):

        def theirs(solver, affinity, bases=bases if whole else None):
            count[solver] = loop(solver, affinity, queries, candidates, bases)

        taken = milliseconds(
            lambda known=known if whole else None: ours(queries, candidates, known),
            lambda theirs=theirs: theirs(exact, by_norm),
            lambda theirs=theirs: theirs(pruned, by_angles),
            repeats=3,
        )
        assert abs(count[exact] - mine) < 0.01, f"The counts {count[exact]} and {mine} differ: times do not compare."
        what = f"{name}, {QUERIES:,} queries in {CANDIDATES:,}×{D}, one thread"
        found.append(row(what, taken[0], "loop of nnls", taken[1]))
        found.append(row(what, taken[0], f"loop of pruning, count {100 * (count[pruned] / mine - 1):+.0f} %", taken[2]))
    print(json.dumps(found))


def features(n: int) -> torch.Tensor:
    """Unit features of a ReLU network on a few latent factors, with noise."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.relu(torch.randn(n, LATENT, generator=generator) @ torch.randn(LATENT, 256, generator=generator))
    noise = torch.randn(n, D, generator=generator)
    return F.normalize(torch.relu(hidden @ torch.randn(256, D, generator=generator) / 45 + noise / 10))


def ours(queries, candidates, known):
    neighborhood = metrics.nnk(queries, candidates, k=K)
    if known:
        metrics.neighbor_count(neighborhood)
        metrics.diameter(neighborhood, candidates)
        metrics.affinity(neighborhood, metrics.tangents(neighborhood, queries, candidates), known)


def loop(solver, affinity, queries, candidates, bases) -> float:
    """The same, query by query, in NumPy and SciPy; returns the mean count."""
    near = torch.cat([index for *_, index in nearest(queries, candidates, K)]).numpy()
    queries, candidates = queries.double().numpy(), candidates.double().numpy()
    count = []
    for center, index in zip(queries, near):
        weights = solver(center, candidates[index])
        index = index[weights > 1e-6 * weights.max()]
        count.append(len(index))
        if bases:
            x = candidates[index]
            pdist(x).max(initial=0)
            _, values, directions = np.linalg.svd(x - center, full_matrices=False)
            basis = directions[values**2 >= SHARE * values[0] ** 2]
            np.mean([affinity(basis, bases[j]) for j in index])
    return float(np.mean(count))


def by_norm(u, v):
    return np.linalg.norm(u @ v.T) / min(len(u), len(v)) ** 0.5


def by_angles(u, v):
    return np.sqrt((np.cos(subspace_angles(u.T, v.T)) ** 2).mean())


def exact(center, x):
    return nnls(np.append(x, np.ones((K, 1)), 1).T, np.append(center, 1))[0]


def pruned(center, x, tolerance=1e-10):
    """Start from θ = b; solve on the active set, drop the entries below the tolerance, and repeat until none is."""
    gram, b = (1 + x @ x.T) / 2, (1 + x @ center) / 2
    active, theta, weights = np.arange(K), b, np.zeros(K)
    while (theta <= tolerance).any() or theta is b:
        active = active[theta > tolerance]
        theta = cho_solve(cho_factor(gram[np.ix_(active, active)]), b[active])
    weights[active] = theta
    return weights


if __name__ == "__main__":
    main()
