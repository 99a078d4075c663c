"""Claims on the matching gap, as the abstract and the reviews of its paper state them."""

import functools

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import losses
from sslbook.claims.ledger import Claim, Test
from sslbook.papers import matching_gap as paper

GAP, CROSS_VIEW, NT_XENT, VICREG = paper.LOSSES
ACCURACIES = (("knn", "20-NN accuracy"), ("linear", "linear-probe accuracy"))


def at_end(frame: pd.DataFrame, policy: str, loss: str, name: str) -> pd.Series:
    """The column `name` by seed after the last epoch of the runs of one loss under one policy."""
    chosen = frame[(frame.policy == policy) & (frame.loss == loss) & (frame.epoch == frame.epoch.max())]
    return chosen.set_index("seed")[name]


def _difference(policy: str, a: str, b: str, name: str, says: str, threshold: float = 0.0) -> Test:
    """Paired by seed: the runs of a seed start from the same weights and see the same views."""

    def statistic(frame):
        return at_end(frame, policy, a, name) - at_end(frame, policy, b, name)

    return Test(f"{says}, {a} minus {b}, {policy}", statistic, threshold)


def _accuracies(policy: str, pairs: tuple[tuple[str, str], ...], threshold: float = 0.0) -> tuple[Test, ...]:
    return tuple(_difference(policy, a, b, name, says, threshold) for name, says in ACCURACIES for a, b in pairs)


def _gain(frame: pd.DataFrame, loss: str, name: str) -> pd.Series:
    """What the large augmentations add to crop and flip."""
    return at_end(frame, "large", loss, name) - at_end(frame, "weak", loss, name)


def _draws(statistic):
    """The statistic of 5 draws of noisy pairs of unit vectors, by seed (the frame of runs plays no part)."""
    return lambda frame: pd.Series({seed: float(statistic(*noisy_pairs(seed))) for seed in range(1, 6)})


def noisy_pairs(seed: int, n: int = 32, dim: int = 16, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Unit vectors `x (n, dim)` in float64, and `y`, the same with normal `noise` in each coordinate."""
    generator = torch.Generator().manual_seed(seed)
    x, shift = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    x = F.normalize(x)
    return x, F.normalize(x + noise * shift)


def _distance_at_zero(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm(dim=1).mean()) if losses.matching_gap(x, y, epsilon=0) < 1e-12 else -1.0


def _gradient_error(x: Tensor, y: Tensor) -> float:
    """Of the gradient along a random direction, relative to a central difference."""
    direction, step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype), 1e-4
    loss = functools.partial(losses.matching_gap, y=y, epsilon=paper.EPSILON, tol=1e-12)
    leaf = x.clone().requires_grad_()
    along = (torch.autograd.grad(loss(leaf), leaf)[0] * direction).sum()
    difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    return abs(float(along / difference) - 1)


def _inverse_transport(x: Tensor, y: Tensor) -> float:
    """|MG − ε KL(J ‖ P)| with J = I/N."""
    plan = losses.sinkhorn(1 - x @ y.T, paper.EPSILON, tol=1e-12).plan
    divergence = -(len(x) * plan.diagonal()).log().mean()
    return abs(float(losses.matching_gap(x, y, epsilon=paper.EPSILON, tol=1e-12) - paper.EPSILON * divergence))


def least_entropic_gap(n: int, epsilon: float) -> float:
    """The least matching gap of n pairs of unit vectors with cost 1 − cos: ε log(1 + (n − 1) exp(−n/((n − 1) ε))).

    By convexity the gap is least where all pairs, and all others, have one cost each; these differ by at most
    n/(n − 1), which a regular simplex with coinciding views reaches and nothing else.
    """
    margin = torch.tensor(-n / ((n - 1) * epsilon), dtype=torch.float64)
    return float(epsilon * torch.log1p((n - 1) * margin.exp()))


def _collapse_beats_noise() -> float:
    """How much lower the exact gap of a collapsed encoder (0) lies than that of independent features."""
    x, y = noisy_pairs(1, noise=100.0)
    same = x[:1].expand_as(x)
    return float(losses.matching_gap(x, y, epsilon=0) - losses.matching_gap(same, same, epsilon=0))


_points, _beside, _training = (
    functools.partial(Claim, "matching_gap", page) for page in ("points", "beside-infonce", "training")
)

CLAIMS = (
    _points(
        "mg-zero",
        "Abstract",
        "The gap to the optimal matching can be zero although the two views of an image differ.",
        (Test("mean distance of pairs whose gap is 0 (−1 where it is not), five draws", _draws(_distance_at_zero)),),
        seeds=5,
        dataset=None,
    ),
    _points(
        "mg-zero-entropic",
        "Ours, beside the abstract",
        "So can the entropic gap that is trained (with our ε = 0.2, 128 images, cost 1 − cos).",
        counterexample=lambda: least_entropic_gap(128, paper.EPSILON),
    ),
    _points(
        "mg-trivial",
        "Ours, beside the abstract",
        "The gap to the optimal matching, without entropy, rules out the trivial solution of equal features.",
        counterexample=_collapse_beats_noise,
    ),
    _beside(
        "mg-danskin",
        "Abstract",
        "The loss is differentiated without back-propagating through the iterations of Sinkhorn.",
        (
            Test(
                "10⁻⁵ less the relative error of the gradient, five draws",
                _draws(lambda x, y: 1e-5 - _gradient_error(x, y)),
            ),
        ),
        seeds=5,
        dataset=None,
    ),
    _beside(
        "mg-inverse-transport",
        "Reviews",
        "The loss only computes inverse optimal transport anew: it is ε KL(J ‖ P).",
        (Test("10⁻⁹ less the difference, five draws", _draws(lambda x, y: 1e-9 - _inverse_transport(x, y))),),
        seeds=5,
        dataset=None,
    ),
    _training(
        "mg-competitive",
        "Abstract",
        "Under crop and flip alone its features are competitive (to within a hundredth of accuracy).",
        _accuracies("weak", ((GAP, NT_XENT), (GAP, VICREG)), -0.01),
    ),
    _training(
        "mg-better-weak",
        "Reviews",
        "Under weak augmentation and for few epochs it beats the contrastive loss.",
        _accuracies("weak", ((GAP, CROSS_VIEW), (GAP, NT_XENT))),
    ),
    _training(
        "mg-less-sensitive",
        "Abstract, implied",
        "It leans less on augmentations than contrastive losses do.",
        tuple(
            Test(
                f"gain in {says} from large augmentations, {other} minus {GAP}",
                lambda f, name=name, other=other: _gain(f, other, name) - _gain(f, GAP, name),
            )
            for name, says in ACCURACIES
            for other in (CROSS_VIEW, NT_XENT)
        ),
    ),
    _training(
        "mg-distances",
        "Abstract, implied",
        "It presses the two views of an image together less than a contrastive loss does.",
        tuple(
            _difference(
                policy, GAP, CROSS_VIEW, f"{space}_positive_relative", f"distance of pairs over typical, {space}"
            )
            for policy in paper.POLICIES
            for space in ("projector", "encoder")
        ),
    ),
    _training(
        "mg-strong",
        "Reviews",
        "Under strong augmentation it falls slightly behind strong baselines.",
        _accuracies("large", ((NT_XENT, GAP), (VICREG, GAP))),
    ),
    Claim(
        "matching_gap",
        "imagenet",
        "mg-imagenet",
        "Abstract",
        "A ViT-B/16 trained on ImageNet with crop and flip alone reaches 74.2 %, against 72.9 % for I-JEPA.",
        reason="It takes ImageNet, a ViT-B/16 and several machines; the page has the configuration and its cost.",
    ),
)
