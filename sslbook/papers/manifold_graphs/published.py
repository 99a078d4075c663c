"""Numbers that others published of the 14 public models, and what chance alone makes of so few of them.

No number of the paper is among them: its tables are not known to us.
"""

import numpy as np
import pandas as pd

from sslbook.config import require, require_number
from sslbook.papers.manifold_graphs.statistics import predictions

_MODELS = (
    "byol",
    "deepcluster-v2",
    "infomin",
    "insdis",
    "moco-v1",
    "moco-v2",
    "pcl-v1",
    "pcl-v2",
    "sela-v2",
    "simclr-v1",
    "simclr-v2",
    "swav",
)
_FINE_TUNED = {
    "aircraft": (82.1, 82.43, 83.78, 79.7, 81.85, 83.7, 82.16, 83, 85.42, 80.54, 81.5, 83.04),
    "caltech101": (91.9, 91.16, 80.86, 77.21, 79.68, 82.76, 88.6, 87.52, 90.53, 90.94, 88.58, 89.49),
    "cars": (89.83, 90.16, 86.9, 80.21, 82.19, 85.55, 87.15, 85.56, 89.85, 89.98, 88.82, 89.81),
    "cifar10": (96.98, 97.17, 96.72, 93.08, 94.15, 96.48, 96.42, 96.55, 96.85, 97.09, 96.22, 96.81),
    "cifar100": (83.86, 84.84, 70.89, 69.08, 71.23, 71.27, 79.44, 79.84, 84.36, 84.49, 78.91, 83.78),
    "dtd": (76.37, 77.31, 73.47, 66.4, 67.36, 72.56, 73.28, 69.3, 76.03, 73.97, 74.71, 76.68),
    "flowers": (96.8, 97.05, 95.81, 93.63, 94.32, 95.12, 95.62, 95.87, 96.22, 95.33, 95.39, 97.11),
    "food": (85.44, 87.24, 78.82, 76.47, 77.21, 77.15, 77.7, 80.29, 86.37, 82.2, 82.23, 87.22),
    "pets": (91.48, 90.89, 90.92, 84.58, 85.26, 89.06, 88.93, 88.72, 89.61, 88.53, 89.18, 90.59),
    "sun397": (63.69, 66.54, 57.67, 51.62, 53.83, 56.28, 58.36, 58.82, 65.74, 63.46, 60.93, 66.1),
    "voc2007": (85.13, 85.38, 81.41, 76.33, 77.94, 78.32, 81.91, 81.85, 85.52, 83.29, 83.08, 85.06),
}

FINE_TUNED = pd.DataFrame(_FINE_TUNED, index=list(_MODELS))
"""Scores in per cent after fine-tuning of 12 models, by name in `models.CHECKPOINTS`, on 11 tasks.

Source: Shao et al. (2022), file `tw_group2.py` of their repository TencentARC/SFDA, commit 3b7edf7. The fine-tuning is
theirs, not that of Ericsson et al. (2021), whose data sets and checkpoints they use.
"""


def left_out(metrics, targets) -> np.ndarray:
    """R² (B, T) out of sample of T targets (B, n, T) of n models, predicted from p metrics (B, n, p), in B trials.

    Each model is predicted from the others, see `statistics.predictions`. With ȳ₋ᵢ the mean of the others,
    R² = 1 − Σᵢ (yᵢ − ŷᵢ)²/Σᵢ (yᵢ − ȳ₋ᵢ)²: 0 is as good as that mean, and it can be negative.

    **Raises** `ValueError` unless shapes match and there are at least four models.
    """
    x, y = np.asarray(metrics, float), np.asarray(targets, float)
    require(
        x.ndim == y.ndim == 3 and x.shape[:2] == y.shape[:2] and x.shape[1] >= 4,
        f"Metrics and targets have the shapes {x.shape} and {y.shape}; they must be (B, n, p) and (B, n, T), n ≥ 4.",
    )
    base = (y.sum(1, keepdims=True) - y) / (x.shape[1] - 1)
    predicted = predictions(x, y, np.arange(x.shape[1]))
    return 1 - ((y - predicted) ** 2).sum(1) / ((y - base) ** 2).sum(1)


def by_chance(targets: pd.DataFrame, p: int, *, trials: int = 200, seed: int = 0) -> np.ndarray:
    """`left_out` R² (trials, T) of `targets` (n, T), whose models are permuted, from p metrics drawn at random.

    The rows are permuted as a whole, so tasks that agree go on to agree. Metrics are independent and normal: p is a
    number of independent metrics, and those that say the same count once.
    """
    require_number("The number of metrics", p, least=1, whole=True)
    require_number("The number of trials", trials, least=1, whole=True)
    random, values = np.random.default_rng(seed), targets.to_numpy()
    permuted = np.stack([random.permutation(values) for _ in range(trials)])
    return left_out(random.standard_normal((trials, len(values), p)), permuted)
