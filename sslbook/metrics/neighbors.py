"""What the neighbours of a feature say about its label.

Every function raises `ValueError` for a shape or value that its docstring does not allow.
"""

import torch
import torch.nn.functional as F
from scipy.stats import hypergeom
from torch import Tensor

from sslbook.config import require

_CHUNK = 2**24
"""Similarities held in memory at once (64 MB in float32)."""


def label_agreement(labels: Tensor, nearest: Tensor) -> float:
    """Share of the N anchors, in [0, 1], whose nearest negative has the anchor's label.

    `labels` is (N,); `nearest` (N,) indexes the 2N views [z1; z2] of the same images, as
    `losses.info_nce_upper_bound` returns it. Source: Cosentino et al. 2022, Fig. 6.
    """
    require(
        labels.ndim == 1 and labels.shape == nearest.shape,
        f"labels and nearest have the shapes {tuple(labels.shape)} and {tuple(nearest.shape)}; both must be (N,).",
    )
    return (labels[nearest % len(labels)] == labels).double().mean().item()


def agreement_limit(labels: Tensor, batch_size: int) -> float:
    """The most that `label_agreement` can be on average in batches of N = `batch_size` distinct images.

    It is the probability that the other N − 1 images, drawn uniformly from all those with the given `labels` (M,),
    hold at least one with the anchor's label: Σ_c (n_c/M) [1 − C(M − n_c, N − 1)/C(M − 1, N − 1)].
    """
    total = len(labels)
    require(2 <= batch_size <= total, f"The batch size is {batch_size}; it must lie in 2 … {total} (all images).")
    counts = labels.unique(return_counts=True)[1].cpu().double().numpy()
    return float((counts / total * hypergeom.sf(0, total - 1, counts - 1, batch_size - 1)).sum())


@torch.no_grad()
def knn_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, k: int = 20, temperature: float = 0.1
) -> float:
    """Share of test features, in [0, 1], whose label wins the vote of their k nearest training features.

    Nearest by cosine similarity s, a vote weighs exp((s − 1)/temperature); among equal votes the smallest label wins.
    `train` is (M, D), `test` (N, D), the labels integers of at least 0; a test label unknown to the training labels
    counts as an error. Memory does not grow with N.

    Source: Wu et al. 2018, Sec. 3.4. Raises `ValueError` if shapes do not match, k exceeds M or temperature ≤ 0.
    """
    require_labelled(train, train_labels, test, test_labels)
    require(1 <= k <= len(train), f"k is {k}; it must lie in 1 … {len(train)}, the number of training features.")
    require(temperature > 0, f"The temperature is {temperature}; it must be positive.")
    train, test = F.normalize(_single(train)), F.normalize(_single(test))
    classes, correct = int(train_labels.max()) + 1, 0
    rows = max(1, _CHUNK // len(train))
    for features, labels in zip(test.split(rows), test_labels.split(rows), strict=True):
        similarity, index = (features @ train.T).topk(k)
        weights = ((similarity - 1) / temperature).exp()
        # Sums of float32 numbers in float64 hardly round, so equal votes stay equal in whatever order they are added.
        votes = weights.new_zeros(len(features), classes, dtype=torch.float64)
        votes.scatter_add_(1, train_labels[index], weights.double())
        correct += int((votes.argmax(1) == labels).sum())
    return correct / len(test)


def require_labelled(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> None:
    """Raise `ValueError` unless the features are (M, D) and (N, D), of one image at least, and each has one label."""
    require(
        train.ndim == 2 and test.ndim == 2 and train.shape[1] == test.shape[1],
        f"train and test have the shapes {tuple(train.shape)} and {tuple(test.shape)}; they must be (M, D) and (N, D).",
    )
    require(
        train_labels.shape == train.shape[:1] and test_labels.shape == test.shape[:1],
        f"There are {tuple(train_labels.shape)} and {tuple(test_labels.shape)} labels for {len(train)} training and "
        f"{len(test)} test features; each feature needs one.",
    )
    require(
        len(train) > 0 and len(test) > 0,
        f"There are {len(train)} training and {len(test)} test features; none of either is too few.",
    )


def _single(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
