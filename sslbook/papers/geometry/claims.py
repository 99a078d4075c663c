"""Claims of Cosentino et al. 2022, on its main runs: SimCLR with a linear projector under three strengths."""

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from sslbook import lie
from sslbook.ledger import MATHEMATICS, Claim, Counterexample, FromDraws, FromRuns, Test, Untestable, value
from sslbook.papers.geometry import theory
from sslbook.papers.geometry.plan import STRENGTHS
from sslbook.papers.observe import BATCH

Statistic = Callable[[pd.DataFrame, str], pd.Series]
"""Of the runs of one strength: a number by seed."""


def _at(frame: pd.DataFrame, strength: str, name: str, when: str = "end") -> pd.Series:
    return value(frame, name, when, strength=strength)


def _value(name: str, when: str = "end") -> Statistic:
    return lambda f, s: _at(f, s, name, when)


def _change(name: str) -> Statistic:
    return lambda f, s: _at(f, s, name) - _at(f, s, name, "start")


def _relative_change(name: str) -> Statistic:
    return lambda f, s: _at(f, s, name) / _at(f, s, name, "start") - 1


def _kept_rank(frame: pd.DataFrame, strength: str) -> pd.Series:
    """Effective rank at the end over that at the start."""
    return 1 + _relative_change("effective_rank")(frame, strength)


def _test(says: str, statistic: Statistic, strength: str, threshold: float = 0.0) -> Test:
    return Test(f"{says}, {strength}", lambda f: statistic(f, strength), threshold)


def _ordered(says: str, statistic: Statistic, *, falling: bool = False) -> tuple[Test, ...]:
    """The statistic rises (or falls) with strength. Paired by seed: the runs of a seed start from the same weights."""
    pairs = [("large", "moderate"), ("moderate", "small")]
    return tuple(
        Test(f"{says}, {a} minus {b}", lambda f, a=a, b=b: statistic(f, a) - statistic(f, b))
        for a, b in ([(b, a) for a, b in pairs] if falling else pairs)
    )


def _repulsion_correlation(frame: pd.DataFrame, strength: str) -> pd.Series:
    """Of the repulsion parts of loss and bound over kept epochs; the shared attraction is taken out of both."""
    pull = 2.0 * frame.invariance
    return _curve_correlation(frame.assign(loss=frame.loss - pull, upper=frame.upper - pull), strength)


def _least_gap(frame: pd.DataFrame, strength: str) -> pd.Series:
    return frame[frame.strength == strength].assign(gap=frame.upper - frame.loss).groupby("seed").gap.min()


def _rise_by_half(frame: pd.DataFrame, strength: str) -> pd.Series:
    start, half, end = (_at(frame, strength, "coarse", when) for when in ("start", "half", "end"))
    return (half - start) / (end - start)


def _spread_ratio(frame: pd.DataFrame, strength: str, when: str = "end") -> pd.Series:
    """Spread of views in unit outputs over that in features: below 1 where W passes less of displacements than of
    differences between images."""
    return _at(frame, strength, "spread_projector", when) / _at(frame, strength, "spread_encoder", when)


def _curve_correlation(frame: pd.DataFrame, strength: str) -> pd.Series:
    """Of loss and bound over kept epochs."""
    groups = frame[frame.strength == strength].sort_values("epoch").groupby("seed")
    return pd.Series({seed: float(np.corrcoef(g.loss, g.upper)[0, 1]) for seed, g in groups}, dtype=float)


def _excess_spread(frame: pd.DataFrame, strength: str) -> pd.Series:
    return _at(frame, strength, "spread_encoder") - _at(frame, strength, "spread_projector")


def _behind(name: str) -> Statistic:
    """How far an accuracy of the projector's output is behind the encoder's."""
    return lambda f, s: _at(f, s, name) - _at(f, s, f"{name}_projector")


def _rise_after_least(frame: pd.DataFrame, strength: str) -> pd.Series:
    least = frame[frame.strength == strength].groupby("seed").unexplained.min()
    return _at(frame, strength, "unexplained") - least


def _orbit() -> pd.Series:
    """Least growth of the rank over a grid of angles, for each seed of Fig. 10."""
    angles = (0, 60, 120, 180, 240, 300, 360)
    return pd.Series({s: float(np.diff([lie.orbit_rank(a, seed=s) for a in angles]).min()) for s in range(5)})


def _toy(planes: str, m: int, degrees: float, width: int) -> pd.DataFrame:
    """The last row of `lie.train_projector` on m rotations of 16 dimensions, for each of the seeds 1 to 5."""
    pairs = list(itertools.combinations(range(4), 2)) if planes == "close" else [(2 * a, 2 * a + 1) for a in range(8)]
    generators, reach = lie.plane_generators(pairs[:m], 16), math.radians(degrees)
    return pd.DataFrame(
        {s: lie.train_projector(generators, reach, width=width, seed=s).iloc[-1] for s in range(1, 6)}
    ).T


def _lost(planes: str, few: int, many: int, width: int) -> pd.Series:
    return _toy(planes, few, 180, width)["rank"] - _toy(planes, many, 180, width)["rank"]


def _kept_ranks(few: int, many: int) -> pd.Series:
    """Largest rank of a 64×16 W that is invariant to few random directions, less that for many; for five draws."""
    return pd.Series({s: float(theory.kept_rank(few, s) - theory.kept_rank(many, s)) for s in range(1, 6)})


_FIRST = "07aa644"
"""The commit of the first rules, before any run. Then they were judged by shorter runs, of other seeds."""

_LONG = (
    "The rule is that of commit 6a1110c. When it was written, two of the nine runs of seeds 11 to 13 had ended and two "
    "were being trained; none had been looked at. Seeds 14 and 15 were trained later."
)

_START = "Since commit 6a1110c batch norm has statistics at the start."
_EPOCH = "Without the start, epoch 0, the same rule says otherwise; see the page."
_SHAPES = "On shapes the encoders under large augmentations hardly learn; under small ones they do."

_TOGETHER = "The history does not show that the rule is older than its draws: both entered it together."

_collapse, _bound, _forces, _tangent = (
    functools.partial(Claim, page)
    for page in ("dimensional-collapse", "upper-bound", "invariance-and-repulsion", "tangent-plane")
)
_lie = functools.partial(Claim, "lie-groups", note=_TOGETHER)

CLAIMS = (
    _collapse(
        "fig1-order",
        "Fig. 1, Sec. 4",
        "The larger the augmentations, the more rank the linear projector loses in training.",
        FromRuns(_ordered("loss of effective rank", lambda f, s: -_change("effective_rank")(f, s))),
        commit=_FIRST,
    ),
    _collapse(
        "fig1-collapse",
        "Fig. 1",
        "Under large augmentations the projector suffers a substantial dimensional collapse.",
        FromRuns(
            tuple(
                _test(f"share of {what} lost", lambda f, s, name=name: -_relative_change(name)(f, s), "large", 0.1)
                for what, name in (
                    ("effective rank", "effective_rank"),
                    ("singular values ≥ 0.25", "rank_0.25"),
                    ("singular values ≥ σ_max/4", "relative_0.25"),
                )
            )
        ),
        commit=_FIRST,
    ),
    _collapse(
        "fig1-small",
        "Fig. 1, Sec. 5",
        "Under small augmentations the rank of the projector is not modified.",
        FromRuns(
            (
                _test(
                    "2 % less the relative change of effective rank, either way",
                    lambda f, s: 0.02 - _relative_change("effective_rank")(f, s).abs(),
                    "small",
                ),
            )
        ),
        commit=_FIRST,
    ),
    _collapse(
        "fig1-accuracy",
        "Fig. 1",
        "The larger the augmentations, the more accurate the encoder's representation.",
        FromRuns((*_ordered("20-NN accuracy", _value("knn")), *_ordered("linear-probe accuracy", _value("linear")))),
        commit=_FIRST,
    ),
    _collapse(
        "accuracy-without-collapse",
        "Ours, beside Fig. 1",
        "Accuracy needs no collapse: under moderate augmentations nine tenths of the rank are left, and three quarters "
        "of the accuracy that large ones gain are gained.",
        FromRuns(
            (
                _test("effective rank at the end over start", _kept_rank, "moderate", 0.9),
                Test(
                    "gain of 20-NN accuracy, moderate over large",
                    lambda f: _change("knn")(f, "moderate") / _change("knn")(f, "large"),
                    0.75,
                ),
            )
        ),
        note=f"{_LONG} By σ ≥ σ_max/4 the share of the rank is open, and so is the gain by the probe over small ones.",
    ),
    _collapse(
        "intro-accuracy",
        "Introduction",
        "The encoder's features are a better representation than the projector's output, which is thrown away; all the "
        "more under large augmentations.",
        FromRuns(
            tuple(
                test
                for says, name in (("20-NN", "knn"), ("linear-probe", "linear"))
                for test in (
                    _test(f"{says} accuracy, encoder minus projector", _behind(name), "large"),
                    Test(
                        f"that difference by {says}, large minus small",
                        lambda f, name=name: _behind(name)(f, "large") - _behind(name)(f, "small"),
                    ),
                )
            )
        ),
        note=f"{_LONG} By 20-NN the untrained network has a larger difference: fewer dimensions cost accuracy.",
    ),
    _collapse(
        "sec4-directions",
        "Sec. 4",
        "Under large augmentations, the smaller a singular value of the projector, the larger the part of views in the "
        "variance along its direction.",
        FromRuns(
            (
                _test(
                    "minus the rank correlation of σ with views' variance over images', singular directions of W",
                    lambda f, s: -_at(f, s, "views_by_direction"),
                    "large",
                    0.5,
                ),
            )
        ),
        note=_LONG,
    ),
    _forces(
        "fig2-weight",
        "Fig. 2, Sec. 4",
        "Strength acts as a weight on the invariance term: attraction gains on repulsion as augmentations grow.",
        FromRuns(_ordered("attraction's share of the gradient", _value("attraction_share"))),
        commit=_FIRST,
    ),
    _bound(
        "prop3.1-bound",
        "Prop. 3.1",
        "L_Upper is an upper bound of the InfoNCE loss of Eq. 1 (β ≥ 0, here 2).",
        FromRuns(tuple(_test("least L_Upper − L over kept epochs", _least_gap, s, -1e-5) for s in STRENGTHS)),
        commit=_FIRST,
    ),
    _bound(
        "prop3.1-condition",
        "Ours, beside Prop. 3.1",
        "The proposition names no condition on β. One might read it for negative β, too.",
        Counterexample(theory.bound_at_negative_beta),
    ),
    _bound(
        "fig3-tracks",
        "Fig. 3",
        "Through training L_Upper tracks the loss in its repulsion part, the part that the two do not share.",
        FromRuns(tuple(_test("correlation of the repulsion parts", _repulsion_correlation, s, 0.9) for s in STRENGTHS)),
        commit=_FIRST,
        note=f"{_START} {_EPOCH}",
    ),
    _bound(
        "fig3-curves",
        "Fig. 3",
        "The curves of L_Upper and of the loss rise and fall together.",
        FromRuns(tuple(_test("correlation of the curves", _curve_correlation, s, 0.9) for s in STRENGTHS)),
        note=f"{_LONG} {_EPOCH}",
    ),
    _bound(
        "upper-constant",
        "Ours, beside Fig. 3",
        "By L_Upper a network trained under large augmentations is worse than one with the same output for all images.",
        FromRuns(
            (
                _test(
                    "L_Upper at the end, less log 2(N − 1), N = 128",
                    lambda f, s: _at(f, s, "upper") - math.log(2 * (BATCH - 1)),
                    "large",
                ),
            )
        ),
        note=_LONG,
    ),
    *(
        _tangent(
            id,
            figure,
            says,
            FromRuns(
                tuple(
                    _test(f"share of directions with σ ≥ 10⁻³ σ_max, {w}", _value(name, w), "large", 0.95)
                    for w in ("start", "half", "end")
                )
            ),
            commit=_FIRST,
            note=_START,
        )
        for id, figure, name, says in (
            (
                "fig4-rank",
                "Fig. 4",
                "encoder_rank",
                "The features of the original images span nearly all encoder directions throughout training.",
            ),
            ("fig9-rank", "Fig. 9", "views_rank", "So do the features of the transformed images."),
        )
    ),
    _forces(
        "fig5-distance",
        "Fig. 5, Sec. 4",
        "The smaller the augmentations, the farther an anchor is from its nearest negative in the encoder.",
        FromRuns(
            (
                *_ordered("mean distance of unit features", _value("distance_unit_mean"), falling=True),
                *_ordered("mean distance over that of random pairs", _value("distance_relative_mean"), falling=True),
            )
        ),
        commit=_FIRST,
    ),
    _tangent(
        "fig6-rises",
        "Fig. 6",
        "Under every strength, the nearest negative shares the anchor's label more often as training goes on.",
        FromRuns(
            tuple(
                _test(f"rise of {level} agreement", _change(level), s)
                for level in ("fine", "coarse")
                for s in STRENGTHS
            )
        ),
        commit=_FIRST,
        note=_START,
    ),
    _tangent(
        "fig6-order",
        "Fig. 6, Sec. 5",
        "Label agreement at the end increases with the strength of augmentation.",
        FromRuns((*_ordered("fine agreement", _value("fine")), *_ordered("coarse agreement", _value("coarse")))),
        commit=_FIRST,
    ),
    _tangent(
        "fig6-speed",
        "Fig. 6",
        "The larger the augmentations, the longer label agreement takes to converge.",
        FromRuns(
            (
                Test(
                    "share of the rise of coarse agreement done by half of training, moderate minus large",
                    lambda f: _rise_by_half(f, "moderate") - _rise_by_half(f, "large"),
                ),
            )
        ),
        commit=_FIRST,
        note=_START,
    ),
    _tangent(
        "sec5-start",
        "Sec. 5",
        "Before training, a second view is far from the nearest negative under large augmentations, near under small.",
        FromRuns(_ordered("distance over that of random pairs", _value("second_mean", "start"))),
        commit=_FIRST,
        note=_START,
    ),
    _tangent(
        "sec5-dynamics",
        "Sec. 5",
        "In training, the second view nears the nearest negative under large augmentations; under small ones the first "
        "moves away from it.",
        FromRuns(
            (
                _test(
                    "fall of the distance of h², over that of random pairs",
                    lambda f, s: -_change("second_mean")(f, s),
                    "large",
                ),
                _test("rise of the distance of h¹", _change("distance_relative_mean"), "small"),
            )
        ),
        note=_LONG,
    ),
    _tangent(
        "fig7-drop",
        "Fig. 7",
        "The variance of displacements that the projector leaves unexplained falls drastically in training.",
        FromRuns(
            (
                _test(
                    "unexplained share, start over end",
                    lambda f, s: 1 / (1 + _relative_change("unexplained")(f, s)),
                    "large",
                    2.0,
                ),
                _test(
                    "0.75, the value of a random W, less the share at the end",
                    lambda f, s: 0.75 - _at(f, s, "unexplained"),
                    "large",
                ),
            )
        ),
        commit=_FIRST,
        note=_START,
    ),
    _tangent(
        "fig7-rest",
        "Fig. 7, Sec. 5",
        "Part of the variance stays unexplained.",
        FromRuns((_test("unexplained share at the end", _value("unexplained"), "large", 0.01),)),
        commit=_FIRST,
    ),
    _tangent(
        "fig7-transient",
        "Ours, beside Fig. 7",
        "From its least value in training the unexplained share rises again.",
        FromRuns((_test("unexplained share, end minus least over kept epochs", _rise_after_least, "large", 0.05),)),
        note=_LONG,
    ),
    _tangent(
        "sec5-alignment",
        "Sec. 5",
        "The projector aligns with the displacements δh, rather than with the directions in which images differ.",
        FromRuns(
            (
                _test(
                    "unexplained share at the end, of differences between random pairs minus of displacements",
                    lambda f, s: _at(f, s, "unexplained_pairs") - _at(f, s, "unexplained"),
                    "large",
                ),
            )
        ),
        note=_LONG,
    ),
    _tangent(
        "sec5-tangent",
        "Sec. 5",
        "The displacement δh estimates a direction tangent to the manifold of images.",
        FromRuns(
            tuple(
                _test(
                    "angle to the tangent space, degrees, with a random image in the place of the nearest, minus of δh",
                    lambda f, s: _at(f, s, "angle_pairs") - _at(f, s, "angle"),
                    strength,
                )
                for strength in ("small", "large")
            ),
            figure="tangents",
        ),
        commit="532a5b4",
        note=_SHAPES,
    ),
    _tangent(
        "sec5-tangent-order",
        "Sec. 5",
        "The larger the augmentations, the better δh estimates a tangent.",
        FromRuns(
            (
                Test(
                    "angle of δh to the tangent space, in degrees, small minus large",
                    lambda f: _at(f, "small", "angle") - _at(f, "large", "angle"),
                ),
            ),
            figure="tangents",
        ),
        commit="532a5b4",
        note=_SHAPES,
    ),
    _tangent(
        "sec5-tangent-projector",
        "Sec. 5",
        "The projector aligns its columns with the tangents of the manifold of images.",
        FromRuns(
            (
                _test(
                    "unexplained share at the end, of differences between random pairs minus of tangents",
                    lambda f, s: _at(f, s, "unexplained_pairs") - _at(f, s, "unexplained_tangents"),
                    "large",
                ),
            ),
            figure="tangents",
        ),
        commit="532a5b4",
        note=_SHAPES,
    ),
    _forces(
        "intro-projector",
        "Abstract, Sec. 4",
        "It is the projector, rather than the encoder, that is driven to invariance as augmentations grow.",
        FromRuns(
            (
                _test("relative spread of views at the end, encoder minus projector", _excess_spread, "large"),
                Test(
                    "that difference, large minus small",
                    lambda f: _excess_spread(f, "large") - _excess_spread(f, "small"),
                ),
            )
        ),
        commit=_FIRST,
        note="Under small augmentations the encoder has little spread to lose, so the second test is nearly implied by "
        "the first. As a ratio the spread does not fall more under large ones.",
    ),
    _forces(
        "prop4.1-trend",
        "Prop. 4.1, Sec. 4",
        "Training moves the augmented directions v towards the kernel, the more so the larger the augmentations.",
        FromRuns(
            (
                _test(
                    "fall of the spread of views, projector over encoder",
                    lambda f, s: _spread_ratio(f, s, "start") - _spread_ratio(f, s),
                    "large",
                ),
                Test(
                    "that ratio at the end, small minus large",
                    lambda f: _spread_ratio(f, "small") - _spread_ratio(f, "large"),
                ),
            )
        ),
        note=f"{_LONG} An older rule, of commit {_FIRST}, compared with the features themselves; it is given up. "
        "Untrained networks have the order of the second test, too.",
    ),
    _forces(
        "sec4-span",
        "Sec. 4",
        "The larger the spread of the policy, the more dimensions the augmented directions v span.",
        FromRuns(
            (
                *_ordered("effective rank of v", _value("displacement_effective_rank")),
                *_ordered("directions of v with σ ≥ a twentieth of the largest of views", _value("displacement_count")),
            )
        ),
        note=f"{_LONG} The count was added afterwards, because the rank of the paper is a count.",
    ),
    _forces(
        "prop4.1-iff",
        "Prop. 4.1",
        "For features that are not collinear, the invariance term is minimised if and only if the displacements lie in "
        "the kernel of W.",
        Counterexample(theory.invariant_outside_kernel),
    ),
    _forces(
        "prop4.2-rank",
        "Prop. 4.2",
        "The fewer dimensions the augmented directions span, the more rank an invariant projector can keep.",
        FromDraws(
            (
                Test("largest rank of W, 8 directions minus 48, W 64×16", lambda: _kept_ranks(8, 48), -0.5),
                Test("largest rank of W, 48 directions minus 56, W 64×16", lambda: _kept_ranks(48, 56), 0.5),
            )
        ),
        note=MATHEMATICS,
    ),
    _lie(
        "prop4.3-iff",
        "Prop. 4.3",
        "For features that are not collinear, the invariance term is minimised if and only if the generator lies in "
        "the kernel of W.",
        Counterexample(theory.generator_outside_kernel),
        note="",
    ),
    _forces(
        "sec4-opposed",
        "Sec. 4",
        "The repulsion term is minimised by opposing each anchor to its nearest negative, Sim = −1. (The paper adds: "
        "if that is feasible. For more than two images it is not.)",
        Counterexample(theory.printed_repulsion_minimum),
    ),
    _bound(
        "propC.1-sign",
        "Prop. C.1, Eq. 13",
        "The loss equals −β⟨f¹, f²⟩ − β⟨f¹, E f⟩ + H.",
        Counterexample(theory.sign_of_c1),
    ),
    _tangent(
        "eq8-scale",
        "Eq. 8",
        "For outputs of norm 1, L_Upper is −β times the mean of ⟨δh, WWᵀh⟩, plus log 2(N − 1).",
        FromDraws(
            (
                Test(
                    "10⁻⁹ less the difference",
                    lambda: pd.Series({s: 1e-9 - theory.error_of_equation_8(s) for s in range(1, 6)}),
                ),
            )
        ),
        note=MATHEMATICS,
    ),
    _tangent(
        "eq9-projection",
        "Eq. 9",
        "WWᵀh is the projection of h onto the column space of W, for whatever W.",
        Counterexample(theory.not_a_projection),
    ),
    _lie(
        "fig10-rank",
        "Fig. 10, App. E",
        "The rank of a set of rotated images grows with the largest angle.",
        FromDraws(
            (Test("least growth of rank for a further 60°, five pixels", _orbit),), scale="at the size of the paper's"
        ),
        note=f"The rule is that of commit {_FIRST}, the first of the ledger.",
    ),
    _lie(
        "appB-generator",
        "App. B, Prop. 4.3",
        "Training aligns the kernel of the projector with the generator, the more so the stronger the transformation.",
        FromDraws(
            (
                Test(
                    "size of WᵀG (1: random W), 15° minus 90°, K = D = 16",
                    lambda: _toy("apart", 1, 15, 16)["size"] - _toy("apart", 1, 90, 16)["size"],
                    0.5,
                ),
                Test("0.5 less that size at 90°, K = 8", lambda: 0.5 - _toy("apart", 1, 90, 8)["size"]),
            )
        ),
    ),
    _lie(
        "appB-model",
        "Sec. 4, App. B",
        "A transformation of images acts on their features as exp(εG), with one generator G.",
        FromRuns(
            tuple(
                _test(
                    f"share explained in images held out of the fit, turned by {10 * k}°, G fitted to 10°",
                    _value(f"generator_{k}"),
                    "large",
                    0.5,
                )
                for k in (1, 3)
            )
        ),
        note=f"{_LONG} The first test asks for a linear map only. G is fitted to 768 images.",
    ),
    _lie(
        "appB-count",
        "Sec. 4",
        "The more transformations, the larger the projector's null space, unless generators span similar directions.",
        FromDraws(
            (
                Test("rank lost from one to six disjoint planes, K = 16", lambda: _lost("apart", 1, 6, 16), 5.0),
                Test("rank lost from one to four disjoint planes, K = 8", lambda: _lost("apart", 1, 4, 8), 0.5),
                Test(
                    "1 less the change of rank from three to six rotations of four dimensions",
                    lambda: 1 - _lost("close", 3, 6, 16).abs(),
                ),
            )
        ),
    ),
    Claim(
        "projector-regions",
        "sec5-depth",
        "Sec. 5, Fig. 8",
        "Deeper and wider projectors constrain the encoder less and so serve it better.",
        Untestable(
            "It names no measure of how constrained or how served an encoder is, and reports no experiment; the runs "
            "on the page are ours."
        ),
    ),
)
