"""NNK neighbourhoods and their metrics beside plain loops: of `scipy.optimize.nnls`, and of the pruning heuristic.

The heuristic stands here as published code of the time does it (STAC-USC/PyNNK_graph_construction), written anew: a
candidate once dropped never returns, so its count is too small; the name of its row says by how much. All three get
the same search, and the tangents of the candidates, which the affinity compares with, are known beforehand.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls
from scipy.spatial.distance import pdist

from benchmarks.timing import milliseconds, row
from sslbook import metrics
from sslbook.metrics.manifold import SHARE
from sslbook.metrics.neighbors import nearest

K, QUERIES, CANDIDATES, LATENT = 50, 2_000, 10_000, 8
DIMENSIONS = (128, 512)


def rows() -> list[dict]:
    """Neighbourhoods alone, then with count, diameter, local dimension and affinity; both beside both loops."""
    found = []
    for d in DIMENSIONS:
        x = features(QUERIES + CANDIDATES, d)
        queries, candidates = x[:QUERIES], x[QUERIES:]
        known = metrics.tangents(metrics.nnk(candidates, k=K), candidates)
        bases = [basis.double().numpy() for basis in known.basis.split(known.dimension.tolist())]
        counts, taken = {}, []
        for whole in (False, True):
            calls = [lambda whole=whole: ours(queries, candidates, known if whole else None)]
            for solver in (exact, pruned):
                calls.append(
                    lambda s=solver, whole=whole: counts.update({s: loop(s, queries, candidates, bases, whole)})
                )
            taken.append(milliseconds(*calls, repeats=3))
        mine = metrics.neighbor_count(metrics.nnk(queries, candidates, k=K)).double().mean().item()
        assert abs(counts[exact] - mine) < 0.01, f"The counts {counts[exact]} and {mine} differ: times do not compare."
        error = 100 * (counts[pruned] / mine - 1)
        for name, times in zip(("NNK", "NNK metrics"), taken):
            what = f"{name}, {QUERIES:,} queries in {CANDIDATES:,}×{d}"
            found.append(row(what, times[0], "loop of nnls", times[1]))
            found.append(row(what, times[0], f"loop of pruning, count {error:+.0f} %", times[2]))
    return found


def features(n: int, d: int) -> torch.Tensor:
    """Unit features of a ReLU network on a few latent factors, with noise."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.relu(torch.randn(n, LATENT, generator=generator) @ torch.randn(LATENT, 256, generator=generator))
    noise = torch.randn(n, d, generator=generator)
    return F.normalize(torch.relu(hidden @ torch.randn(256, d, generator=generator) / 45 + noise / 10))


def ours(queries, candidates, known):
    neighborhood = metrics.nnk(queries, candidates, k=K)
    if known:
        metrics.neighbor_count(neighborhood)
        metrics.diameter(neighborhood, candidates)
        metrics.affinity(neighborhood, metrics.tangents(neighborhood, queries, candidates), known)


def loop(solver, queries, candidates, bases, whole) -> float:
    """The same, query by query, in NumPy and SciPy; returns the mean count."""
    near = torch.cat([index for *_, index in nearest(queries, candidates, K)]).numpy()
    queries, candidates = queries.double().numpy(), candidates.double().numpy()
    count = []
    for center, index in zip(queries, near):
        weights = solver(center, candidates[index])
        index = index[weights > 1e-6 * weights.max()]
        count.append(len(index))
        if whole:
            x = candidates[index]
            pdist(x).max(initial=0)
            _, values, directions = np.linalg.svd(x - center, full_matrices=False)
            basis = directions[values**2 >= SHARE * values[0] ** 2]
            np.mean([np.linalg.norm(basis @ bases[j].T) / min(len(basis), len(bases[j])) ** 0.5 for j in index])
    return float(np.mean(count))


def exact(center, x):
    return nnls(np.append(x, np.ones((K, 1)), 1).T, np.append(center, 1))[0]


def pruned(center, x, tolerance=1e-10):
    """Start from θ = b; solve on the active set, drop the entries below the tolerance, and repeat until none is."""
    gram, b = (1 + x @ x.T) / 2, (1 + x @ center) / 2
    active, theta, weights = np.arange(K), b, np.zeros(K)
    while True:
        kept = theta > tolerance
        active = active[kept]
        theta = cho_solve(cho_factor(gram[np.ix_(active, active)]), b[active])
        if (theta > tolerance).all():
            weights[active] = theta
            return weights
