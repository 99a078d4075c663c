"""Manifold graph metrics of features: what the chapter measures, of points whose truth is known and of a model.

The paper's number of candidates, kernel, images, augmentations and averages are not known to us: all are ours. K and
kernel are those of the authors' public scripts for features.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook import data, lie, metrics
from sslbook.config import Config, require, require_choice
from sslbook.data import ImageSet
from sslbook.papers.observe import held_out, observe
from sslbook.runs import Run
from sslbook.tensors import unit
from sslbook.views import Policy, gray

VERSION = 4
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew."""
K = 50
"""Candidates of each neighbourhood."""
IMAGES = 1_000
"""Test images whose features are measured; fewer where a set has fewer."""
VIEWED, VIEWS = 50, 64
"""Images whose augmentation manifolds are measured, at most a twentieth of those above, and views of each."""
FAMILIES = ("crop", "flip", "jitter", "grayscale", "blur", "rotation", "translation", "all")
BINARY = ("flip", "grayscale")
"""Families of two views: their manifold is two points, which have a distance and no neighbourhoods."""
TRANSFER = ("cifar10", "fashion_mnist", "mnist", "shapes", "rsscn7", "gtsrb", "flowers102", "usps")
BANK, VALIDATION, TEST = 2_000, 1_000, 2_000
"""Images of a transfer set to which probes are fitted, on which the penalty is chosen, and which are scored; fewer
where a set has fewer, or a run trained on less than five times as many."""
SOURCE_BANK = 5_000
"""Training images of the source to which probes are fitted: it may have a hundred classes."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Those of the linear probe, from which the best on validation images is taken."""
DEGREES, PIXELS = 30, 4
"""The largest rotation and translation."""
COMPARED, COMPONENTS, NEAR = 400, 32, 10
"""Images on which models are compared, the principal components that are kept, and the neighbours."""

_NONE = dict(crop=(1, 1), flip=0, jitter=(0, 0, 0, 0), grayscale=0)
_LARGE = dict(crop=(0.08, 1), jitter=(0.4, 0.4, 0.4, 0.1))
_POLICIES = {
    "crop": Policy(**_NONE | {"crop": _LARGE["crop"]}),
    "flip": Policy(**_NONE | {"flip": 0.5}),
    "jitter": Policy(**_NONE | {"jitter": _LARGE["jitter"], "jitter_probability": 1}),
    "grayscale": Policy(**_NONE | {"grayscale": 0.5}),
    "blur": Policy(**_NONE | {"blur": 1, "sigma": (0.1, 2)}),
    "all": Policy(**_LARGE, flip=0.5, grayscale=0.2, blur=0.5),
}


_Labelled = tuple[Tensor, Tensor]
"""Features and the classes of their images."""
_DRAWN = {"flip": "flip", "grayscale": "gray"}
"""What a binary family sets among the `views.Draws`."""


def geometry(features: Tensor, *, k: int = K) -> dict[str, Tensor]:
    """The metrics (N,) of the NNK neighbourhood of each of the `features` (N, D) among the others, cosine kernel.

    `count`; `diameter` in [0, 2] and `dimension`, the low-rank one, of unit features; `affinity` with all neighbours,
    `affinity_nearest` with the nearest, `affinity_random` with a random feature; see `metrics`. Raises `ValueError`
    unless k is in 1 … N − 1.
    """
    x = unit(features)
    found = metrics.nnk(x, k=k)
    own = metrics.tangents(found, x)
    return {
        "count": metrics.neighbor_count(found),
        "diameter": metrics.diameter(found, x),
        "dimension": own.dimension,
        "affinity": metrics.affinity(found, own),
        "affinity_nearest": metrics.affinity_nearest(found, own),
        "affinity_random": metrics.affinity_random(own),
    }


def augmented(images: Tensor, family: str, n: int, *, seed: int = 0) -> Tensor:
    """`n` views by one of the `FAMILIES` of each image, uint8 (N, C, H, W): float32 (n, N, C, H, W) in [0, 1].

    Crops and jitter are as strong as in the policy "large"; "jitter" changes every view (there: 0.8). Rotations are
    uniform in ± `DEGREES`; translations are `n` different ones by whole pixels, up to ± `PIXELS` each way. Both mirror
    the image at its edge. Blurs have standard deviations of 0.1 to 2 pixels. "all" is the policy "large" with half of
    the views blurred. Of the `BINARY` families the first half of the views is the image and the second what the family
    makes of it.

    **Raises** `ValueError` for another family, and for more translations than there are.
    """
    require_choice("The family", family, FAMILIES)
    generator = torch.Generator().manual_seed(seed)
    many = images.repeat(n, 1, 1, 1)
    if family in _POLICIES:
        policy = _POLICIES[family]
        draws = policy.draw(len(many), many.shape[-2:], generator)
        if family in BINARY:
            draws = draws._replace(**{_DRAWN[family]: torch.arange(len(many)) >= n // 2 * len(images)})
        return policy.apply(many, draws).unflatten(0, (n, -1))
    (height, width), pad = images.shape[-2:], 2 * PIXELS
    wide = F.pad(many.float() / 255, (pad,) * 4, mode="reflect")
    if family == "rotation":
        degrees = DEGREES * (2 * torch.rand(len(many), generator=generator) - 1)
        moved = lie.rotate(wide, degrees, interpolation="bilinear")[:, :, pad : pad + height, pad : pad + width]
    else:
        steps = torch.cartesian_prod(*2 * [torch.arange(pad - PIXELS, pad + PIXELS + 1)])
        require(n <= len(steps), f"{n} translations are asked for; there are {len(steps)}.")
        # A copy of a view would take all the weight of its neighbourhood.
        chosen = torch.rand(len(images), len(steps), generator=generator).argsort(1)[:, :n].T.flatten()
        places = zip(wide, steps[chosen].tolist(), strict=True)
        moved = torch.stack([x[:, i : i + height, j : j + width] for x, (i, j) in places])
    return moved.unflatten(0, (n, -1))


def measure(run: Run, device: str | None = None) -> Iterator[dict[str, Tensor]]:
    """All that the figures need, for each kept epoch. The encoder is in evaluation mode; at epoch 0 batch norm has
    statistics of the training images.

    Features are computed in float32, also of runs in another precision: neighbourhoods are made of small differences,
    and in bfloat16 those among blurred views are rounding.

    - (N,) the `geometry` of the features of `IMAGES` test images.
    - (F, M) for each family and image of `VIEWED`: `view_count`, `view_dimension` and `view_affinity`, means over the
      views of what `geometry` says of them alone, NaN for a binary family; `view_diameter`, of a binary family the
      distance of its two points; `invariance`, see `whitened_cosine`.
    - () `linear` and `knn` (20-NN) on the source's test images, `validation_knn` on its validation images; `rankme`,
      `alpha_req`, `two_nn` and `uniformity` of the test features.
    - () `linear_…` and `knn_…` on each of the sets to which the model is transferred, `transfer`.
    - (`COMPARED`, `COMPONENTS`) `components`: principal components of test features; (`COMPARED`, `NEAR`) `near`:
      indices of the nearest of them by cosine similarity.
    """
    config = run.config
    size = data.info(config.data.name).shape[1]
    test = held_out(config)
    test = test.subset(torch.arange(min(IMAGES, len(test))))
    images = {"test": test.images}
    for seed, family in enumerate(FAMILIES):
        images[family] = augmented(test.images[: min(VIEWED, len(test) // 20)], family, VIEWS, seed=seed).flatten(0, 1)
    sets = {name: _parts(config, name, size) for name in transfer(config)}
    sets |= {"source": _source(config)}
    for name, parts in sets.items():
        images |= {f"{name} {part}": each.images for part, each in parts.items()}
    for _, _, features in observe(run, images, device, precision="float32"):
        clean = features["test"]
        row = geometry(clean, k=min(K, len(clean) // 2)) | _spectra(clean)
        row |= _manifolds(clean, {family: features[family].unflatten(0, (VIEWS, -1)) for family in FAMILIES})
        for name, parts in sets.items():
            labelled = {part: (features[f"{name} {part}"], each.fine) for part, each in parts.items()}
            suffix = "" if name == "source" else f"_{name}"
            row |= {f"{probe}{suffix}": accuracy for probe, accuracy in _content(**labelled).items()}
            if name == "source":
                row["validation_knn"] = metrics.knn_accuracy(*labelled["bank"], *labelled["validation"])
        yield {name: torch.as_tensor(value) for name, value in (row | _compared(clean)).items()}


def row(config: Config, arrays: dict[str, Tensor]) -> dict[str, float]:
    """The scalars of one kept epoch: means over images and, of the `geometry`, deviations under `…_deviation`.

    Of each family `invariance_…` and `diameter_…`, the mean diameter over that of the images themselves, and of those
    that are not binary `count_…`, `dimension_…` and `affinity_…`. `transfer`: the mean of `linear_…` over the sets.
    Images without tangents have no affinity and are left out of it; where no image has one the mean is NaN.
    """
    row = {name: float(arrays[name]) for name in sorted(arrays) if arrays[name].ndim == 0}
    for name in ("count", "diameter", "dimension", "affinity", "affinity_nearest", "affinity_random"):
        values = arrays[name][~arrays[name].isnan()].double()
        row |= {name: float(values.mean()), f"{name}_deviation": float(values.std(correction=0))}
    for name in ("view_count", "view_dimension", "view_affinity", "view_diameter", "invariance"):
        short = name.removeprefix("view_")
        for family, values in zip(FAMILIES, arrays[name].double(), strict=True):
            if family in BINARY and short not in ("diameter", "invariance"):
                continue
            row[f"{short}_{family}"] = float(values.nanmean()) / (row["diameter"] if short == "diameter" else 1)
    return row | {"transfer": sum(row[f"linear_{name}"] for name in transfer(config)) / len(transfer(config))}


def transfer(config: Config) -> tuple[str, ...]:
    """The sets to which a model of this configuration is transferred: those of `TRANSFER`, without files `shapes`."""
    return TRANSFER if config.data.name != "shapes" else ("shapes",)


def whitened_cosine(clean: Tensor, originals: Tensor, views: Tensor) -> Tensor:
    """Mean cosine (M,) between the features of M images, `originals` (M, D), and those of their V `views` (V, M, D).

    Both are whitened by the mean and covariance of `clean` (N, D); a share of 10⁻³ of the mean variance is added to the
    diagonal. In [−1, 1]; 1 if views change nothing. Source: Ericsson et al. 2021, without the share, which is ours.
    """
    mean, clean = clean.mean(0), (clean - clean.mean(0)).double()
    covariance = clean.T @ clean / len(clean)
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    factor = torch.linalg.cholesky(covariance)
    originals, views = (
        torch.linalg.solve_triangular(factor, (z - mean).double().flatten(0, -2).T, upper=False).T.view(z.shape)
        for z in (originals, views)
    )
    return F.cosine_similarity(originals.expand_as(views), views, dim=-1).mean(0)


def _parts(config: Config, name: str, size: int) -> dict[str, ImageSet]:
    """The images of a transfer set, `size` × `size` pixels, with as many channels as those that the run trained on."""
    counts = {"bank": ("train", BANK), "validation": ("validation", VALIDATION), "test": ("test", TEST)}
    most = (config.data.images or 5 * BANK) // 5
    parts = {part: data.load(name, split).balanced(min(n, most), seed=2) for part, (split, n) in counts.items()}
    parts = {part: replace(each, images=data.as_colour(each.images, size)) for part, each in parts.items()}
    if data.info(config.data.name).shape[0] == 3:
        return parts
    return {part: replace(each, images=gray(each.images.float()).round().byte()) for part, each in parts.items()}


def _source(config: Config) -> dict[str, ImageSet]:
    """Images of the set that a run was trained on."""
    validation = data.load(config.data.name, "validation")
    return {
        "bank": data.load_train(config.data).balanced(SOURCE_BANK, seed=2),
        "validation": validation.balanced(min(TEST, config.data.images or TEST), seed=2),
        "test": held_out(config),
    }


def _content(bank: _Labelled, validation: _Labelled, test: _Labelled) -> dict[str, float]:
    """Accuracies on `test` of probes of `bank`; the linear penalty is the best on `validation`."""
    scored = [metrics.linear_probe(*bank, *validation, penalty=penalty) for penalty in PENALTIES]
    return {
        "linear": metrics.linear_probe(*bank, *test, penalty=PENALTIES[scored.index(max(scored))]),
        "knn": metrics.knn_accuracy(*bank, *test),
    }


def _spectra(clean: Tensor) -> dict[str, float]:
    """RankMe, α-ReQ, TwoNN and uniformity of features (N, D)."""
    most = min(100, clean.shape[1] - 2)
    return {
        "rankme": metrics.rankme(clean),
        "alpha_req": metrics.alpha_req(clean, first=min(11, most // 2), last=most),
        "two_nn": metrics.two_nn(clean),
        "uniformity": metrics.uniformity(clean),
    }


def _manifolds(clean: Tensor, views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of views (V, M, D) by family, arrays (F, M); the first M of the `clean` features are those of the images."""
    found = {name: [] for name in ("view_count", "view_dimension", "view_affinity", "view_diameter", "invariance")}
    for family, z in views.items():
        z = z.transpose(0, 1)
        found["invariance"].append(whitened_cosine(clean, clean[: len(z)], z.transpose(0, 1)))
        if family in BINARY:
            found["view_diameter"].append((unit(z[:, 0]) - unit(z[:, -1])).norm(dim=1))
            for name in ("view_count", "view_dimension", "view_affinity"):
                found[name].append(torch.full((len(z),), torch.nan))
            continue
        each = [geometry(manifold) for manifold in z]
        for name in ("count", "dimension", "affinity", "diameter"):
            found[f"view_{name}"].append(torch.stack([values[name].double().nanmean() for values in each]))
    return {name: torch.stack([values.double() for values in rows]) for name, rows in found.items()}


def _compared(clean: Tensor) -> dict[str, Tensor]:
    """Of the first `COMPARED` features the principal components (n, `COMPONENTS`) and nearest others (n, `NEAR`)."""
    chosen = clean[:COMPARED]
    centred = (chosen - chosen.mean(0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    similarity = unit(chosen) @ unit(chosen).T
    near = similarity.fill_diagonal_(-torch.inf).topk(NEAR, 1).indices
    return {"components": (left * values)[:, :COMPONENTS], "near": near.short()}
