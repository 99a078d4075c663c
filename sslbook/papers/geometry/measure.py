"""What the figures show of a run of SimCLR: spectra, neighbours, the bound, what the projector explains."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from sslbook import data, hardware, lie, metrics
from sslbook.config import Config, require
from sslbook.data.shapes import FACTORS, render
from sslbook.losses import info_nce, info_nce_upper_bound
from sslbook.methods import JointEmbedding
from sslbook.papers.geometry import theory
from sslbook.papers.observe import BATCH, encode, held_out, observe, pairs
from sslbook.runs import Run
from sslbook.views import Draws

VERSION = 3
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew."""

_LOCAL = 512
_DISTANCES = torch.linspace(0, 2, 51)
_ROTATED, _DEGREES = 1024, 10.0
_STEP = 1 / 32
"""By how much a factor of `shapes` is moved to either side for a tangent, as a share of its range."""


@torch.no_grad()
def measure(run: Run, device: str | None = None) -> Iterator[dict[str, Tensor]]:
    """All that the figures need, for each kept epoch.

    Encoders are in evaluation mode; at epoch 0 batch norm has the statistics of the training images. Features are taken
    of all training images (the bank of the neighbour and linear classifiers), of the test images (where a run trains on
    a part, a balanced set of a fifth of its size), and of two views of a fixed balanced 2048 of the training images,
    with the same draws at every epoch, in B batches of 128.

    - () `knn`, `linear`: accuracies on the test images; `knn_projector`, `linear_projector`: those of the outputs.
    - (·,) singular values of `projector` W, `encoder` and `encoder_centered` (training images), `views` and
      `views_centered` (first views), `displacement` h² − h¹.
    - (B,) `loss` (Eq. 1), `upper`, `invariance`, `repulsion` (Prop. 3.1); `fine`, `coarse`: label agreement, and
      `…_chance`, `…_limit`: what it is by chance and at most in this batch; `attraction_gradient`,
      `repulsion_gradient`: means of `gradient_norms`.
    - (50,) counts `distance_unit`, `distance_relative` of h¹ to its nearest negative, unit features or relative to
      the mean distance of random pairs, in 50 equal bins of [0, 2]; () their means `…_mean`, and `second_mean`, the
      relative distance of h² to it.
    - () Eq. 10 `unexplained`, `unexplained_half` (directions with σ ≥ σ_max/2 only), `unexplained_oracle`, and, for
      other differences than δh, `unexplained_pairs` (random pairs of images) and `unexplained_views` (h² − h¹);
      `unexplained_local` (with the projector's linear map at each of 512 anchors, Eq. 11), `unexplained_elsewhere`
      (with the map at another of them); `regions`: how many of the
      projector's linear regions the 2048 anchors fall into.
    - (K,) `view_variance`, `image_variance`: for each left singular vector u of W, half the mean of ⟨u, h² − h¹⟩², and
      the variance of ⟨u, h¹⟩.
    - () `generator_1`, `generator_2`, `generator_3`: of the change of features when an image is turned by 10°, 20° and
      30°, the share that exp(εG) explains in images on which the generator G, `lie.fit` to the first of these angles,
      was not fitted (0: nothing moves); `generator_passes`: ‖WᵀGh‖²/‖Gh‖² relative to that of differences between
      images.
    - () `spread_encoder`, `spread_projector`: ‖x² − x¹‖²/‖x_i − x_j‖² of features and of unit outputs.

    Of runs on `shapes` also, with the tangent space at the second view of each of 512 anchors, spanned by the change of
    its features (in float32) when one of the seven factors changes and the view does not:

    - () `angle`, in degrees: the mean angle between δh and this space; `angle_pairs`, with a view of a random image in
      the place of the nearest negative; `angle_views`, with the other view of the image.
    - (7,) `unexplained_tangents`: Eq. 10 of the tangents, by factor, in the order of `data.shapes.FACTORS`.

    What is made of the matrix W is missing where the projector is not one matrix.
    """
    train, test = data.load_train(run.config.data), held_out(run.config)
    anchors, first, second = pairs(run.config, train)
    images = {"bank": train.images, "queries": test.images, "first": first, "second": second}
    images |= _turned(anchors.images[:_ROTATED])
    around = _around(anchors, run.config) if anchors.factors else None
    for _, method, h in observe(run, images, device):
        bank, queries, h1, h2, *turned = h.values()
        outputs = method.projector(bank), method.projector(queries)
        tangents = None if around is None else _tangents(method, around, device)
        yield {
            **_spectra(method, bank, h1, h2),
            **_neighbourhood(method.projector, h1, h2, anchors, run.config, tangents),
            **_rotation(method.projector, h1, turned),
            "knn": metrics.knn_accuracy(bank, train.fine, queries, test.fine),
            "linear": metrics.linear_probe(bank, train.fine, queries, test.fine),
            "knn_projector": metrics.knn_accuracy(outputs[0], train.fine, outputs[1], test.fine),
            "linear_projector": metrics.linear_probe(outputs[0], train.fine, outputs[1], test.fine),
        }


def _turned(images: Tensor) -> dict[str, Tensor]:
    """The images turned by 0 to 3 times `_DEGREES`, in the disk that stays inside at every angle."""
    height, width = images.shape[-2:]
    row, column = (torch.arange(n) - (n - 1) / 2 for n in (height, width))
    inside = torch.hypot(row[:, None], column) < min(height, width) / 2
    angles = [k * _DEGREES for k in range(4)]
    return {f"{a:g}°": lie.rotate(images.float() / 255, a, interpolation="bilinear") * inside for a in angles}


def _rotation(projector, h1: Tensor, turned: list[Tensor]) -> dict[str, Tensor]:
    """How well one generator describes what a rotation does to features, and how much of it passes through W."""
    fitted = len(turned[0]) * 3 // 4
    x, *moved = (h.double() for h in turned)
    G = lie.fit(x[:fitted], moved[0][:fitted], math.radians(_DEGREES))
    x, moved = x[fitted:], [h[fitted:] for h in moved]
    row = {}
    for k, target in enumerate(moved, 1):
        missed = (x @ lie.exp(G, k * math.radians(_DEGREES)).T - target).square().sum()
        row[f"generator_{k}"] = 1 - missed / (x - target).square().sum()
    if len(projector) > 1:
        return row
    basis = projector[0].weight.T
    passes = _energy((x @ G.T).float(), basis) / _energy(h1 - h1.roll(1, 0), basis)
    return row | {"generator_passes": passes}


def _around(anchors: data.ImageSet, config: Config) -> Tensor:
    """The second views by `pairs` of the first n anchors, one factor moved up and down: (7·2·n, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    _, draws = (config.views.draw(len(anchors), anchors.images.shape[-2:], generator) for _ in range(2))
    draws = Draws(*(part[:_LOCAL] for part in draws))
    fine, factors = anchors.fine[:_LOCAL], {name: values[:_LOCAL] for name, values in anchors.factors.items()}
    moved = []
    for name, (low, high) in FACTORS.items():
        for step in ((high - low) * _STEP, (low - high) * _STEP):
            images = render(fine, factors | {name: factors[name] + step})
            moved.append(config.views.apply(images, draws))
    return torch.cat(moved)


def _tangents(method: JointEmbedding, around: Tensor, device: str | None = None) -> Tensor:
    """Half the difference of the features of up and down in `_around`, (n, 7, D)."""
    with hardware.claim_device(device) as chosen:
        features = encode(method.to(chosen), around, chosen, precision="float32")
    method.cpu()
    up, down = features.unflatten(0, (len(FACTORS), 2, -1)).unbind(1)
    return ((up - down) / 2).transpose(0, 1)


def _angles(tangents: Tensor, differences: Tensor) -> Tensor:
    """Mean angle, in degrees, between differences (n, D) and the spans of the tangents (n, 7, D)."""
    _, sigma, basis = torch.linalg.svd(tangents, full_matrices=False)
    along = (basis @ F.normalize(differences)[:, :, None])[..., 0] * (sigma > 1e-3 * sigma[:, :1])
    return along.norm(dim=1).clamp(max=1).acos().rad2deg().mean()


def _spectra(method: JointEmbedding, bank: Tensor, h1: Tensor, h2: Tensor) -> dict[str, Tensor]:
    values = metrics.singular_values
    spectra = {"projector": values(method.projector[-1].weight)} if len(method.projector) == 1 else {}
    for name, features in (("encoder", bank), ("views", h1)):
        spectra |= {name: values(features), f"{name}_centered": values(features, centered=True)}
    return spectra | {"displacement": values(h2 - h1)}


def _neighbourhood(projector, h1: Tensor, h2: Tensor, anchors: data.ImageSet, config: Config, tangents) -> dict:
    """What happens between each anchor, its twin and its nearest negative, in sub-batches.

    `tangents` (n, 7, D) are those of the first n anchors, or None.
    """
    beta, labels = config.method.beta, zip(anchors.fine.split(BATCH), anchors.coarse.split(BATCH), strict=True)
    rows, nearest = [], []
    for a, b, (fine, coarse) in zip(h1.split(BATCH), h2.split(BATCH), labels, strict=True):
        z1, z2 = projector(a), projector(b)
        bound = info_nce_upper_bound(z1, z2, beta=beta)
        attraction, repulsion = gradient_norms(z1, z2, beta=beta)
        rows.append(
            {
                "loss": info_nce(z1, z2, beta=beta),
                "upper": bound.total,
                "invariance": bound.invariance,
                "repulsion": bound.repulsion,
                **_agreement("fine", fine, bound.nearest),
                **_agreement("coarse", coarse, bound.nearest),
                "attraction_gradient": attraction.mean(),
                "repulsion_gradient": repulsion.mean(),
            }
        )
        nearest.append(torch.cat([a, b])[bound.nearest])
    star = torch.cat(nearest)
    shuffled = h1.roll(1, 0)
    typical = (h1 - shuffled).norm(dim=1).mean()
    unit = (F.normalize(h1) - F.normalize(star)).norm(dim=1)
    relative = (h1 - star).norm(dim=1) / typical
    row = {name: torch.tensor([float(r[name]) for r in rows]) for name in rows[0]}
    for name, distance in (("unit", unit), ("relative", relative)):
        row[f"distance_{name}"] = torch.histogram(distance.clamp(max=float(_DISTANCES[-1])), _DISTANCES).hist
        row[f"distance_{name}_mean"] = distance.mean()
    row["second_mean"] = (h2 - star).norm(dim=1).mean() / typical
    f1, f2 = F.normalize(projector(h1)), F.normalize(projector(h2))
    row["spread_encoder"] = (h2 - h1).square().sum() / (h1 - shuffled).square().sum()
    row["spread_projector"] = (f2 - f1).square().sum() / (f1 - f1.roll(1, 0)).square().sum()
    delta, few = h2 - star, slice(_LOCAL)
    maps = theory.local_maps(projector, h1[few])
    row["unexplained_local"] = theory.local_unexplained(maps, delta[few])
    row["unexplained_elsewhere"] = theory.local_unexplained(maps.roll(1, 0), delta[few])
    row["regions"] = len({pattern.tobytes() for pattern in theory.activation_patterns(projector, h1).numpy()})
    if tangents is not None:
        few = slice(len(tangents))
        differences = {"": delta, "_pairs": h2 - shuffled, "_views": h2 - h1}
        row |= {f"angle{name}": _angles(tangents, which[few]) for name, which in differences.items()}
    if len(projector) > 1:
        return row
    basis = projector[0].weight.T
    if tangents is not None:
        shares = [metrics.unexplained_variance(of_factor, basis) for of_factor in tangents.unbind(1)]
        row["unexplained_tangents"] = torch.tensor([float(share) for share in shares])
    half = float(torch.linalg.matrix_norm(basis, 2)) / 2
    directions = torch.linalg.svd(basis, full_matrices=False).U
    return row | {
        "view_variance": ((h2 - h1) @ directions).square().mean(0) / 2,
        "image_variance": (h1 @ directions).var(0, correction=0),
        "unexplained": metrics.unexplained_variance(delta, basis),
        "unexplained_half": metrics.unexplained_variance(delta, basis, threshold=half),
        "unexplained_oracle": metrics.pca_unexplained(delta, basis.shape[1]),
        "unexplained_pairs": metrics.unexplained_variance(h1 - shuffled, basis),
        "unexplained_views": metrics.unexplained_variance(h2 - h1, basis),
    }


def _agreement(level: str, labels: Tensor, nearest: Tensor) -> dict[str, float]:
    """Label agreement, its chance level, and the most that it can be: the anchors with a namesake in the batch."""
    others = (labels[:, None] == labels).sum(1).double() - 1
    return {
        level: metrics.label_agreement(labels, nearest),
        f"{level}_chance": float(others.mean() / (len(labels) - 1)),
        f"{level}_limit": float((others > 0).double().mean()),
    }


def _energy(x: Tensor, basis: Tensor) -> Tensor:
    return (x @ basis).square().sum() / x.square().sum()


def gradient_norms(z1: Tensor, z2: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """How hard each anchor is pulled to its twin and pushed by its negatives, (N,) each.

    Norms of the gradients, along the sphere at f_i, of the two terms of l_i (Eq. 1): β ‖P_i f_i^(2)‖ and
    β ‖P_i E_{D₋ᵢ}[f]‖ with P_i = I − f_i f_iᵀ and the expectation of Prop. C.1.
    """
    f1, f2 = F.normalize(z1), F.normalize(z2)
    others = torch.cat([f1, f2])
    own = torch.eye(len(f1), dtype=torch.bool, device=f1.device).repeat(1, 2)
    weights = (beta * f1 @ others.T).masked_fill(own, -torch.inf).softmax(1)
    along = [beta * (v - (v * f1).sum(1, keepdim=True) * f1).norm(dim=1) for v in (f2, weights @ others)]
    return along[0], along[1]


def row(config: Config, arrays: dict[str, Tensor]) -> dict[str, float]:
    """Every scalar of `measure` for one kept epoch; sub-batches are averaged.

    Added are what derives from spectra: `effective_rank` of the projector, `sigma_min`, `sigma_max`, `norm`
    (Frobenius), counts `rank_0.25` … (σ ≥ τ) and `relative_0.25` … (σ ≥ τ σ_max) for the thresholds of `THRESHOLDS`,
    `energy_rank` (99 % of Σ σ²); `encoder_rank` and `views_rank`, the share of encoder directions with σ ≥ 10⁻³ σ_max
    after centring; `encoder_effective_rank`, also centred, and `displacement_effective_rank`; `displacement_count`, of
    the σ of displacements that are at least a twentieth of the largest of the centred views; `attraction_share`, of the
    sum of the two gradients; `views_by_direction`, the rank correlation over the singular directions of W between σ and
    `view_variance` / `image_variance`.
    """
    require(
        config.data.name != "shapes" or "angle" in arrays,
        f"Run {config.id} was measured without tangents; delete its geometry.safetensors, and it is measured again.",
    )
    skipped = {*SPECTRA, "distance_unit", "distance_relative", "view_variance", "image_variance"}
    means = {name: float(values.double().mean()) for name, values in arrays.items() if name not in skipped}
    ranks = _ranks(arrays["projector"]) if "projector" in arrays else {}
    shares = {"encoder_rank": arrays["encoder_centered"], "views_rank": arrays["views_centered"]}
    shares = {name: metrics.rank(sigma, 1e-3, relative=True) / len(sigma) for name, sigma in shares.items()}
    spectra = {"encoder": arrays["encoder_centered"], "displacement": arrays["displacement"]}
    shares |= {f"{name}_effective_rank": metrics.effective_rank(sigma) for name, sigma in spectra.items()}
    large_enough = arrays["displacement"] >= arrays["views_centered"].max() / 20
    shares["displacement_count"] = float(large_enough.sum())
    if "view_variance" in arrays:
        ratio = arrays["view_variance"] / arrays["image_variance"]
        shares["views_by_direction"] = float(spearmanr(arrays["projector"], ratio).statistic)
    pull, push = means["attraction_gradient"], means["repulsion_gradient"]
    return means | ranks | shares | {"attraction_share": pull / (pull + push)}


SPECTRA = ("projector", "encoder", "encoder_centered", "views", "views_centered", "displacement")
THRESHOLDS = (0.001, 0.01, 0.1, 0.25, 0.5)


def _ranks(sigma: Tensor) -> dict[str, float]:
    row = {
        "effective_rank": metrics.effective_rank(sigma),
        "energy_rank": metrics.energy_rank(sigma),
        "sigma_min": float(sigma[-1]),
        "sigma_max": float(sigma[0]),
        "norm": float(sigma.norm()),
    }
    for tau in THRESHOLDS:
        row[f"rank_{tau}"] = metrics.rank(sigma, tau)
        row[f"relative_{tau}"] = metrics.rank(sigma, tau, relative=True)
    return row
