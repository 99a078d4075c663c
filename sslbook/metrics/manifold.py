"""Manifold graph metrics: number, diameter, dimension and affinity of NNK neighbourhoods.

They are of the kind of arXiv 2209.08622 (Cosentino, Shekkizhar et al. 2022), of which we know the abstract, and follow
the code of its companion arXiv 2210.17475 where nothing else is said. Lengths and directions are those of the features
given: with the cosine kernel give `F.normalize(features)`. After `nnk(queries)` the queries are the candidates.

Every function raises `ValueError` for features of another shape than the neighbourhoods ask for.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sslbook.config import require, require_number
from sslbook.metrics.neighbors import matched
from sslbook.metrics.nnk import Neighborhood
from sslbook.tensors import finite, measuring, promoted

SHARE = 0.1
"""Least eigenvalue of a neighbourhood that counts, as a share of its largest."""
_CHUNK = 2**20
"""Numbers gathered at once (8 MB in float64); 128 times as many on a GPU."""


class Tangents(NamedTuple):
    """Q subspaces of ℝ^D of dimensions d_i.

    `dimension` (Q,) holds the d_i; `first` is (Q,); `basis` (Σ d_i, D) has for subspace i the orthonormal rows
    first_i … first_i + d_i − 1.
    """

    basis: Tensor
    first: Tensor
    dimension: Tensor


def neighbor_count(neighborhood: Neighborhood) -> Tensor:
    """Number of NNK neighbours (Q,): without noise about the local dimension + 1; noise and k raise it."""
    return (neighborhood.weights > 0).sum(1)


@measuring
def diameter(neighborhood: Neighborhood, candidates: Tensor) -> Tensor:
    """max ‖x_j − x_l‖ over the NNK neighbours of each query (Q,), in [0, 2] for unit features; 0 for one or none.

    `candidates` (N, D) are those of which `neighborhood` holds the indices.

    >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> metrics.diameter(metrics.nnk(z, k=2), z)[1]  # of the neighbours on either side
    tensor(2.)
    """
    candidates = promoted(finite("candidates", candidates, 2))
    found = candidates.new_zeros(len(neighborhood.indices))
    for rows, index, inside in _chunks(neighborhood, len(candidates), candidates.shape[1]):
        # Around the first neighbour squares are small; the padding falls on it and adds no distance.
        x = candidates[index]
        x = (x - x[:, :1]) * inside[:, :, None]
        squared = x.square().sum(2)
        found[rows] = (squared[:, :, None] + squared[:, None] - 2 * x @ x.mT).amax((1, 2)).clamp(min=0).sqrt()
    return found


@measuring
def tangents(neighborhood: Neighborhood, queries: Tensor, candidates: Tensor | None = None) -> Tangents:
    """Eigenvectors of Σ_j (x_j − x_i)(x_j − x_i)ᵀ over the NNK neighbours j of query i, with λ_r ≥ SHARE · λ_1.

    Centred on the query, so that n neighbours give up to n directions; the companion code centres on their mean.

    `queries` are (Q, D) and `candidates` (N, D); `None` means that the queries are the candidates.

    **Returns** `Tangents`, of dimension 0 where there is no neighbour, or only a copy of the query.
    """
    candidates, queries = matched(candidates=queries if candidates is None else candidates, queries=queries)
    count = len(neighborhood.indices)
    require(len(queries) == count, f"There are {count} neighbourhoods for {len(queries)} queries.")
    basis, order, dimension = [], [], []
    for rows, index, inside in _chunks(neighborhood, len(candidates), queries.shape[1]):
        delta = (candidates[index] - queries[rows, None]) * inside[:, :, None]
        values, vectors = torch.linalg.eigh(delta @ delta.mT)
        kept = (values >= SHARE * values[:, -1:]) & (values > 0)
        basis.append((vectors.mT @ delta / values[:, :, None].sqrt())[kept])
        order.append(rows)
        dimension.append(kept.sum(1))
    back, dimension = torch.cat(order).argsort(), torch.cat(dimension)
    return Tangents(torch.cat(basis), (dimension.cumsum(0) - dimension)[back], dimension[back])


@measuring
def affinity(neighborhood: Neighborhood, own: Tangents, others: Tangents | None = None) -> Tensor:
    """Mean affinity (Q,) of the tangents of a query with those of all its NNK neighbours, in [0, 1]; 1 if all is flat.

    Two subspaces have the affinity ‖UᵀV‖_F / √min(d_U, d_V) = √(Σ cos²ϑ_r / min(d_U, d_V)), ϑ_r their principal angles.
    Source: Soltanolkotabi and Candès 2012. Drawn uniformly from ℝ^D, they have the mean square max(d_U, d_V)/D.

    `own` are the `tangents` of the queries, `others` those of the candidates (`None`: the same). A subspace of
    dimension 0 has no affinity and is left out; without any other the result is NaN.
    """
    others = others or own
    count, width = len(neighborhood.indices), int(others.dimension.max().clamp(min=1)) * others.basis.shape[1]
    require(len(own.dimension) == count, f"There are {count} neighbourhoods for {len(own.dimension)} tangents.")
    found = others.basis.new_zeros(count)
    for rows, index, inside in _chunks(neighborhood, len(others.dimension), width):
        u, v = _padded(own, rows), _padded(others, index)
        squared = (v.flatten(1, 2) @ u.mT).square().sum(2).view(*index.shape, -1).sum(2)
        least = own.dimension[rows, None].minimum(others.dimension[index])
        found[rows] = (squared / least).sqrt().clamp(max=1).where(inside, torch.nan).nanmean(1)
    return found


def affinity_nearest(neighborhood: Neighborhood, own: Tangents) -> Tensor:
    """`affinity` (Q,) with the nearest NNK neighbour alone, which the companion code compares."""
    nearest = (neighborhood.weights > 0).cumsum(1) == 1
    return affinity(neighborhood._replace(weights=neighborhood.weights * nearest), own)


def affinity_random(own: Tangents, others: Tangents | None = None, *, seed: int = 0) -> Tensor:
    """`affinity` (Q,) with one random candidate each, never itself: the baseline of the other two.

    `seed`, at least 0, decides the candidates. **Raises** `ValueError` if there is no other tangent.
    """
    count, most = len(own.dimension), len((others or own).dimension) - (others is None)
    require(most > 0, "There is one tangent; it needs another one.")
    require_number("seed", seed, least=0, whole=True)
    draws = torch.randint(most, (count, 1), generator=torch.Generator().manual_seed(seed))
    index = draws if others else (draws + 1 + torch.arange(count)[:, None]) % count
    index = index.to(own.dimension.device)
    return affinity(Neighborhood(index, torch.ones_like(index), index), own, others)


def _padded(tangents: Tangents, at: Tensor) -> Tensor:
    """Bases (*, d, D) of the subspaces `at` (*), d the largest dimension among them, filled up with zeros."""
    dimension = tangents.dimension[at]
    step = torch.arange(int(dimension.max()), device=at.device)
    inside = step < dimension[..., None]
    return tangents.basis[(tangents.first[at][..., None] + step) * inside] * inside[..., None]


def _chunks(neighborhood: Neighborhood, candidates: int, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some queries (C,), the indices (C, w) of their NNK neighbours, nearest first, and where these are not padding.

    Queries are sorted by count, the largest first: the first of a chunk bounds its width and so its memory.
    """
    inside, most = neighborhood.weights > 0, int(neighborhood.indices.max())
    require(most < candidates, f"The neighbourhood names candidate {most}; there are {candidates}.")
    count, queries = inside.sum(1).sort(descending=True)
    order = inside.byte().argsort(dim=1, descending=True, stable=True)
    start, budget = 0, (128 if inside.is_cuda else 1) * _CHUNK // width
    while start < len(queries):
        step = max(1, budget // max(1, int(count[start])))
        rows = queries[start : start + step]
        near = order[rows, : max(1, int(count[start]))]
        yield rows, neighborhood.indices[rows].gather(1, near), inside[rows].gather(1, near)
        start += step
