"""The nearest neighbours of a feature, and what they say about its label and about the dimension around it.

Labels are integers of any type. Every function raises `ValueError` for a shape, type or value that its docstring does
not allow, and for features that are not finite.
"""

from collections.abc import Iterator

import torch
from scipy.stats import hypergeom
from torch import Tensor

from sslbook.config import require, require_number
from sslbook.tensors import finite, integers, promoted, unit

_CHUNK = 2**23
"""Similarities held in memory at once (64 MB in float64)."""


def label_agreement(labels: Tensor, nearest: Tensor) -> float:
    """Share of the N anchors, in [0, 1], whose nearest negative has the anchor's label.

    Source: Cosentino et al. 2022, Fig. 6. `labels` is (N,); `nearest` (N,) indexes the 2N views [z1; z2] of the same
    images, as `losses.info_nce_upper_bound` returns it.

    >>> metrics.label_agreement(torch.tensor([7, 7, 3]), torch.tensor([1, 3, 0]))
    0.6666666666666666
    """
    labels = integers("labels", labels)
    nearest = integers("nearest", nearest, least=0, most=2 * len(labels) - 1)
    require(
        labels.shape == nearest.shape,
        f"labels and nearest have the shapes {tuple(labels.shape)} and {tuple(nearest.shape)}; both must be (N,).",
    )
    return (labels[nearest % len(labels)] == labels).double().mean().item()


def agreement_limit(labels: Tensor, batch_size: int) -> float:
    """The most that `label_agreement` can be on average in batches of N = `batch_size` distinct images, in [0, 1].

    It is the probability that the other N − 1 images, drawn uniformly from all those with the given `labels` (M,),
    hold at least one with the anchor's label: Σ_c (n_c/M) [1 − C(M − n_c, N − 1)/C(M − 1, N − 1)]. N lies in 2 … M.

    >>> round(metrics.agreement_limit(torch.tensor([0, 0, 1, 1]), 2), 6)  # one of three others
    0.333333
    """
    labels = integers("labels", labels)
    total = len(labels)
    require_number("The batch size", batch_size, least=2, most=total, whole=True)
    counts = labels.unique(return_counts=True)[1].cpu().double().numpy()
    return min(1.0, float((counts / total * hypergeom.sf(0, total - 1, counts - 1, batch_size - 1)).sum()))


@torch.no_grad()
def knn_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, k: int = 20, temperature: float = 0.1
) -> float:
    """Share of test features, in [0, 1], whose label wins the vote of their k nearest training features.

    Nearest by cosine similarity s, a vote weighs exp(s/temperature). Source: Wu et al. 2018, Sec. 3.4.

    **Arguments**

    - `train` (M, D), `test` (N, D), with labels (M,) and (N,). A test label unknown to the training labels counts as an
      error.
    - `k` in 1 … M; among equal votes the smallest label wins.
    - `temperature` > 0.

    **Raises** `ValueError` if shapes do not match, k exceeds M or temperature ≤ 0.

    >>> x, y = torch.eye(3), torch.arange(3)
    >>> metrics.knn_accuracy(x, y, 2 * x, y, k=1)
    1.0
    """
    train, train_labels, test, test_labels = labelled(train=(train, train_labels), test=(test, test_labels))
    require_number("k", k, least=1, most=len(train), whole=True)
    require_number("The temperature", temperature, above=0)
    train, test = unit(train.double()), unit(test.double())  # float32 cannot tell 1 − 1e-8 from 1, as after collapse
    classes, train_labels = train_labels.unique(return_inverse=True)
    correct = 0
    for rows, similarity, index in nearest(test, train, k):
        # Relative to the nearest, whose vote is 1, so that at a low temperature not all of them vanish.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(weights), len(classes)).scatter_add_(1, train_labels[index], weights)
        votes = (votes / votes.amax(1, keepdim=True)).round(decimals=12)  # equal votes differ by rounding
        correct += int((classes[votes.argmax(1)] == test_labels[rows]).sum())
    return correct / len(test)


@torch.no_grad()
def two_nn(features: Tensor, *, discard: float = 0.1) -> float:
    """Intrinsic dimension by TwoNN: the slope through 0 of −ln(1 − F(μ)) against ln μ, μ = r₂/r₁.

    r₁ and r₂ are the Euclidean distances of a feature to its two nearest others, F(μ_(i)) = i/N the empirical
    distribution. Source: Facco et al. 2017.

    `features` is (N, D). A feature with a copy (r₁ = 0) is left out first, then the `discard` share, in (0, 1), of the
    largest μ.

    **Raises** `ValueError` if fewer than three features are distinct, or `discard` is not in (0, 1) or leaves none.
    """
    features = promoted(finite("features", features, 2))
    require_number("discard", discard, above=0)
    require(discard < 1, f"discard is {discard}; it must lie in (0, 1).")
    require(len(features) >= 3, f"There are {len(features)} features; two neighbours of each need at least 3.")
    # In float64, and distances from differences: |x|² − 2xy + |y|² would lose the small ones.
    ratios, centred = [], features.double()
    centred = centred - centred.mean(0)
    for rows, _, index in nearest(centred, centred, 2, euclidean=True, others=True):
        r = (centred[index] - centred[rows, None]).norm(dim=2).sort().values
        ratios.append((r[:, 1] / r[:, 0])[r[:, 0] > 0])
    logs = torch.cat(ratios).log().sort().values
    kept = logs[: int(len(logs) * (1 - discard) + 1e-9)]
    require(len(logs) == 0 or len(kept) > 0, f"discard is {discard}; it leaves none of {len(logs)} distinct features.")
    require(
        bool((kept > 0).any()),
        "Every feature has a copy, or two nearest neighbours equally far away; the dimension is undefined.",
    )
    tail = -torch.log1p(-torch.arange(1, len(kept) + 1, device=logs.device, dtype=logs.dtype) / len(logs))
    return float(kept @ tail / kept.square().sum())


def nearest(
    queries: Tensor, candidates: Tensor, k: int, *, euclidean: bool = False, others: bool = False
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunk by chunk: rows of the queries, their k largest `scores` in descending order, and whose these are."""
    for rows, score in scores(queries, candidates, euclidean=euclidean, others=others):
        yield rows, *score.topk(k)


def scores(
    queries: Tensor, candidates: Tensor, *, euclidean: bool = False, others: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Chunk by chunk: rows of the queries, and q·c, or with `euclidean` q·c − ½‖c‖², for every candidate c.

    The second is largest where the distance is least. `others` says that the queries are the candidates; the score of
    each with itself is then −∞.
    """
    offset = candidates.square().sum(1) / -2 if euclidean else None
    step = max(1, _CHUNK // len(candidates))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        score = torch.addmm(offset, part, candidates.T) if euclidean else part @ candidates.T
        if others:
            score.diagonal(start).fill_(-torch.inf)
        yield slice(start, start + len(score)), score


def matched(**features: Tensor) -> list[Tensor]:
    """The named features in turn, all in float32, or in float64 if one of them is.

    Raises `ValueError` unless all are finite, (N, D) with one D, not empty.
    """
    found = [promoted(finite(name, x, 2)) for name, x in features.items()]
    found = [x.to(max((x.dtype for x in found), key=lambda dtype: dtype.itemsize)) for x in found]
    for name, x in zip(features, found, strict=True):
        require(
            x.shape[1] == found[0].shape[1],
            f"{next(iter(features))} and {name} have the shapes {tuple(found[0].shape)} and {tuple(x.shape)}; they "
            "must be (M, D) and (N, D).",
        )
    return found


def labelled(**sets: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Features and labels of each of the named `sets`, in turn, as `matched` has them, and int64 on their device.

    Raises `ValueError` unless features are finite, (N, D) with one D, not empty, and each has one integer label.
    """
    found = []
    for name, features in zip(sets, matched(**{name: features for name, (features, _) in sets.items()}), strict=True):
        labels = integers(f"{name}_labels", sets[name][1])
        require(
            len(labels) == len(features),
            f"There are {len(labels)} labels for the {len(features)} features of {name}; each feature needs one.",
        )
        found += [features, labels.to(features.device)]
    return found
