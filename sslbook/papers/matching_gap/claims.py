"""Claims on the matching gap, as the abstract and the reviews of its paper state them."""

import functools

import pandas as pd

from sslbook.ledger import MATHEMATICS, Claim, Counterexample, FromDraws, FromRuns, Test, Untestable, value
from sslbook.papers.matching_gap import theory
from sslbook.papers.matching_gap.plan import EPSILON, EPSILONS, LOSSES, POLICIES, VIEWS

GAP, CROSS_VIEW, NT_XENT, VICREG = LOSSES
ACCURACIES = (("knn", "20-NN accuracy"), ("linear", "linear-probe accuracy"))


def _difference(policy: str, a: str, b: str, name: str, says: str, threshold: float = 0.0) -> Test:
    """Paired by seed: the runs of a seed start from the same weights and see the same views."""

    def statistic(frame):
        return value(frame, name, policy=policy, loss=a) - value(frame, name, policy=policy, loss=b)

    return Test(f"{says}, {a} minus {b}, {policy}", statistic, threshold)


def _accuracies(policy: str, pairs: tuple[tuple[str, str], ...], threshold: float = 0.0) -> FromRuns:
    return FromRuns(
        tuple(_difference(policy, a, b, name, says, threshold) for name, says in ACCURACIES for a, b in pairs)
    )


def _gain(frame: pd.DataFrame, loss: str, name: str) -> pd.Series:
    """What the large augmentations add to crop and flip."""
    return value(frame, name, policy="large", loss=loss) - value(frame, name, policy="weak", loss=loss)


def _temperature_over_loss(frame: pd.DataFrame, name: str) -> pd.Series:
    """What ε changes less what the loss changes at equal ε, by seed.

    The first is the standard deviation over ε of the mean of the two losses, the second the root mean square over ε of
    half their difference: two parts of one variance.
    """
    gap, contrast = (
        pd.DataFrame({e: value(frame, name, policy="weak", loss=loss, epsilon=e) for e in EPSILONS})
        for loss in (GAP, CROSS_VIEW)
    )
    return ((gap + contrast) / 2).std(axis=1, ddof=0) - ((gap - contrast) / 2).pow(2).mean(axis=1) ** 0.5


def _more_views(frame: pd.DataFrame, name: str) -> pd.Series:
    two, four = (value(frame, name, views=k) for k in VIEWS)
    return four - two


def _draws(says: str, statistic) -> FromDraws:
    """The statistic of 5 draws of noisy pairs of unit vectors, by seed."""

    def by_seed():
        return pd.Series({seed: float(statistic(*theory.noisy_pairs(seed))) for seed in range(1, 6)})

    return FromDraws((Test(f"{says}, five draws", by_seed),))


_FIRST, _FRESH = "bb2d633", "f40f9cd"
"""The commits of the first rules, and of those that were written for the runs on fresh seeds."""

_TOGETHER = "Earlier runs, on other seeds, entered the history together with it."
_EARLIER = "Earlier runs, on other seeds, had been seen when it was written."

_SCALE = "The losses differ by a factor ε as well, which LARS does not undo for biases and batch norm."

_points, _beside = (functools.partial(Claim, page, note=MATHEMATICS) for page in ("points", "beside-infonce"))
_first = functools.partial(Claim, "training", commit=_FIRST, note=_TOGETHER)
_training = functools.partial(Claim, "training", note=_EARLIER)
_sweeps = functools.partial(Claim, "epsilon-and-batch", commit=_FRESH)

CLAIMS = (
    _points(
        "mg-zero",
        "Abstract",
        "The gap to the optimal matching can be zero although the two views of an image differ.",
        _draws("mean distance of pairs whose gap is 0 (−1 where it is not)", theory.distance_at_zero),
    ),
    _points(
        "mg-zero-entropic",
        "Ours, beside the abstract",
        "One might hope that the entropic gap that is trained can be zero, too (ε = 0.2, 128 images, cost 1 − cos).",
        Counterexample(lambda: theory.least_entropic_gap(128, EPSILON)),
        note="",
    ),
    _points(
        "mg-trivial",
        "Ours, beside the abstract",
        "One might hope that the gap without entropy rules out the trivial solution of equal features.",
        Counterexample(theory.collapse_beats_noise),
        note="",
    ),
    _beside(
        "mg-danskin",
        "Abstract",
        "The loss is differentiated without back-propagating through the iterations of Sinkhorn.",
        _draws("10⁻⁵ less the relative error of the gradient", lambda x, y: 1e-5 - theory.gradient_error(x, y)),
    ),
    _beside(
        "mg-inverse-transport",
        "Reviews",
        "The loss only computes inverse optimal transport anew: it is ε KL(J ‖ P).",
        _draws("10⁻⁹ less the difference", lambda x, y: 1e-9 - theory.inverse_transport(x, y)),
    ),
    _first(
        "mg-competitive",
        "Abstract",
        "Under crop and flip alone its features are competitive (to within a hundredth of accuracy).",
        _accuracies("weak", ((GAP, NT_XENT), (GAP, VICREG)), -0.01),
    ),
    _first(
        "mg-better-weak",
        "Reviews",
        "Under weak augmentation and for few epochs it beats the contrastive loss.",
        _accuracies("weak", ((GAP, CROSS_VIEW), (GAP, NT_XENT))),
    ),
    _first(
        "mg-less-sensitive",
        "Abstract, implied",
        "It leans less on augmentations than contrastive losses do.",
        FromRuns(
            tuple(
                Test(
                    f"gain in {says} from large augmentations, {other} minus {GAP}",
                    lambda f, name=name, other=other: _gain(f, other, name) - _gain(f, GAP, name),
                )
                for name, says in ACCURACIES
                for other in (CROSS_VIEW, NT_XENT)
            )
        ),
    ),
    _first(
        "mg-distances",
        "Abstract, implied",
        "It presses the two views of an image together less than a contrastive loss does.",
        FromRuns(
            tuple(
                _difference(
                    policy, GAP, CROSS_VIEW, f"{space}_positive_relative", f"distance of pairs over typical, {space}"
                )
                for policy in POLICIES
                for space in ("projector", "encoder")
            )
        ),
        note=f"{_TOGETHER} {_SCALE}",
    ),
    _first(
        "mg-strong",
        "Reviews",
        "Under strong augmentation it falls slightly behind strong baselines.",
        _accuracies("large", ((NT_XENT, GAP), (VICREG, GAP))),
        note=f"{_TOGETHER} VICReg, whose weights were chosen over both policies, has the lowest accuracies here.",
    ),
    _training(
        "mg-equal-settings",
        "Reviews, after the answers",
        "Under equal settings it is less effective than its baselines.",
        FromRuns(
            tuple(
                _difference(policy, other, GAP, name, says)
                for policy in POLICIES
                for name, says in ACCURACIES
                for other in (CROSS_VIEW, NT_XENT)
            )
        ),
        commit="07f87d5",
    ),
    _training(
        "mg-rank",
        "Ours, beside the abstract",
        "Its encoder has a higher effective rank than that of cross-view InfoNCE at the same ε.",
        FromRuns(
            tuple(_difference(p, GAP, CROSS_VIEW, "encoder_rank", "effective rank of the encoder") for p in POLICIES)
        ),
        commit=_FRESH,
        note=f"{_EARLIER} {_SCALE}",
    ),
    _training(
        "mg-scale",
        "Ours, beside the abstract",
        "It differs from cross-view InfoNCE at the same ε by more than its scale: with Adam, which takes no notice of "
        "that, its encoder has the higher effective rank, and its views are farther apart.",
        FromRuns(
            tuple(
                Test(
                    f"{says}, {GAP} minus {CROSS_VIEW}, ε = {epsilon}",
                    lambda f, name=name, epsilon=epsilon: (
                        value(f, name, loss=GAP, epsilon=epsilon) - value(f, name, loss=CROSS_VIEW, epsilon=epsilon)
                    ),
                )
                for name, says in (
                    ("encoder_rank", "effective rank of the encoder"),
                    ("projector_positive_relative", "distance of pairs over typical, projector"),
                )
                for epsilon in (0.05, EPSILON)
            ),
            figure="scale",
        ),
        commit="bff6d99",
        note="Runs with LARS had been seen when it was written, none with Adam.",
    ),
    _sweeps(
        "mg-temperature",
        "Ours, beside the abstract",
        "Of the variance over ε and loss more lies between values of ε, from 0.05 to 1, than between the gap and "
        "cross-view InfoNCE at the same ε.",
        FromRuns(
            tuple(
                Test(
                    f"{says}: standard deviation over ε less that between the losses",
                    lambda f, name=name: _temperature_over_loss(f, name),
                )
                for name, says in (*ACCURACIES, ("encoder_rank", "effective rank of the encoder"))
            ),
            figure="epsilon",
        ),
        note=f"Of the gap one earlier run at each ε had been seen when it was written; of InfoNCE none. {_SCALE}",
    ),
    _sweeps(
        "mg-views",
        "Ours, after the successor (arXiv 2405.19532)",
        "With four views of each image instead of two it learns better features, at the same number of images.",
        FromRuns(
            tuple(
                Test(f"{says}, four views minus two", lambda f, name=name: _more_views(f, name))
                for name, says in ACCURACIES
            ),
            figure="views",
        ),
        commit="f40f9cd",
    ),
    Claim(
        "imagenet",
        "mg-imagenet",
        "Abstract",
        "A ViT-B/16 trained on ImageNet with crop and flip alone reaches 74.2 %, against 72.9 % for I-JEPA.",
        Untestable("It takes ImageNet, a ViT-B/16 and several machines; the page has the configuration and its cost."),
    ),
)
