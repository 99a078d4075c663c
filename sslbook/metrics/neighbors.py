"""What the neighbours of a feature say about its label.

Labels are integers of any type. Every function raises `ValueError` for a shape, type or value that its docstring does
not allow, and for features that are not finite.
"""

import torch
from scipy.stats import hypergeom
from torch import Tensor

from sslbook.config import require, require_number
from sslbook.tensors import finite, integers, promoted, unit

_CHUNK = 2**24
"""Similarities held in memory at once (64 MB in float32)."""


def label_agreement(labels: Tensor, nearest: Tensor) -> float:
    """Share of the N anchors, in [0, 1], whose nearest negative has the anchor's label.

    `labels` is (N,); `nearest` (N,) indexes the 2N views [z1; z2] of the same images, as
    `losses.info_nce_upper_bound` returns it. Source: Cosentino et al. 2022, Fig. 6.
    """
    labels = integers("labels", labels)
    nearest = integers("nearest", nearest, least=0, most=2 * len(labels) - 1)
    require(
        labels.shape == nearest.shape,
        f"labels and nearest have the shapes {tuple(labels.shape)} and {tuple(nearest.shape)}; both must be (N,).",
    )
    return (labels[nearest % len(labels)] == labels).double().mean().item()


def agreement_limit(labels: Tensor, batch_size: int) -> float:
    """The most that `label_agreement` can be on average in batches of N = `batch_size` distinct images.

    It is the probability that the other N − 1 images, drawn uniformly from all those with the given `labels` (M,),
    hold at least one with the anchor's label: Σ_c (n_c/M) [1 − C(M − n_c, N − 1)/C(M − 1, N − 1)].
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

    Nearest by cosine similarity s, a vote weighs exp(s/temperature); among equal votes the smallest label wins.
    `train` is (M, D), `test` (N, D); a test label unknown to the training labels counts as an error. Memory does not
    grow with N.

    Source: Wu et al. 2018, Sec. 3.4. Raises `ValueError` if shapes do not match, k exceeds M or temperature ≤ 0.
    """
    train, train_labels, test, test_labels = labelled(train=(train, train_labels), test=(test, test_labels))
    require_number("k", k, least=1, most=len(train), whole=True)
    require_number("The temperature", temperature, above=0)
    train, test = unit(train), unit(test)
    classes, train_labels = train_labels.unique(return_inverse=True)
    correct = 0
    rows = max(1, _CHUNK // len(train))
    for features, labels in zip(test.split(rows), test_labels.split(rows), strict=True):
        similarity, index = (features @ train.T).topk(k)
        # Relative to the nearest, whose vote is 1, so that at a low temperature not all of them vanish.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        # Sums of float32 numbers in float64 hardly round, so equal votes stay equal in whatever order they are added.
        votes = weights.new_zeros(len(features), len(classes), dtype=torch.float64)
        votes.scatter_add_(1, train_labels[index], weights.double())
        correct += int((classes[votes.argmax(1)] == labels).sum())
    return correct / len(test)


def labelled(**sets: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Features and labels of each of the named `sets`, in turn: float32 or float64, and int64 on the features' device.

    Raises `ValueError` unless features are finite, (N, D) with one D, not empty, and each has one integer label.
    """
    found = []
    for name, (features, labels) in sets.items():
        features, labels = promoted(finite(name, features, 2)), integers(f"{name}_labels", labels)
        require(
            len(labels) == len(features),
            f"There are {len(labels)} labels for the {len(features)} features of {name}; each feature needs one.",
        )
        found += [features, labels.to(features.device)]
        require(
            features.shape[1] == found[0].shape[1],
            f"{next(iter(sets))} and {name} have the shapes {tuple(found[0].shape)} and {tuple(features.shape)}; they "
            "must be (M, D) and (N, D).",
        )
    return found
