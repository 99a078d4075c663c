"""What the figures show of a run: what can be read off its features, how far views spread, what can be drawn from them.

Features are the posterior means μ, of discriminative methods too; the suffix `_before` means the layer of which μ is a
linear function, `_head` the projections of a method that has a head. The paper's protocol is not known: all is ours.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sslbook import data, losses, metrics
from sslbook.config import Config
from sslbook.data import ImageSet
from sslbook.methods import LatentVariable, Method
from sslbook.papers.observe import observe
from sslbook.runs import Run

VERSION = 2
"""Of `measure`: raise it when an array changes its meaning, and measurements are made anew."""

BANK, VALIDATION, TEST = 5_000, 1_000, 5_000
"""Images that probes are fitted to, those on which settings are chosen, and those that are scored; fewer where a set
has fewer, and never more than there are training images."""
SAMPLES = 200
"""Draws of the posterior for each image whose likelihood is estimated."""
VIEWS, VIEWED = 4, 1_000
"""Views of each test image, and test images seen in them."""
ACTIVE = 0.01
"""The variance of its posterior mean above which a dimension counts as used (Burda et al. 2016)."""

_CROP = ("x", "y", "area")
_COLOUR = ("brightness", "contrast", "saturation", "hue")
_SIGMA2 = 0.15
"""σ² of the groups that are drawn from methods without a σ² of their own: that of SimVAE."""
_QUADRATIC = 16
"""Up to so many features every ridge gets their products too; that of `style` on μ always does."""


def measure(run: Run, device: str | None = None) -> Iterator[dict[str, Tensor]]:
    """All that the figures need, for each kept epoch; the encoder is in evaluation mode.

    Epoch 0 is the random encoder. Its batch norm keeps mean 0 and variance 1: with statistics of the training images
    its probes score lower, so this is the stronger baseline.

    Probes are fitted to the first `BANK` training images, their settings are chosen on validation images, and they are
    scored on test images. Images and views are the same for all runs with the same data and policy.

    - () accuracies of a class on clean images: `linear`, `knn` (20-NN), both also with `_before` and `_head`; `mlp`, an
      MLP of 128 units; `validation_linear` and `validation_knn`, scored on the validation images.
    - () R² of what was done to a view, from its features: `style_x`, `style_y`, `style_area` for policies that crop and
      `style_brightness`, …, `style_hue` for those with jitter, by a ridge on the features and their products, see
      `metrics.ridge_probe`. `style_before` and `style_head` are means over x, y and area. `flip`: the accuracy of an
      MLP that tells whether a view is mirrored, for policies that mirror.
    - () R² of factors of the clean image: for gray images `slant`, `thickness` and `rotation`, else what the set knows.
      These and the two means before are by a ridge without products where there are more than 16 features.
    - () `ratio`, `ratio_before`, `ratio_head`: see `spread_ratio`.
    - () `rebuilt`: mean squared error per pixel of views that a fresh decoder draws from μ; see `fresh_decoder`.
    - () for latent-variable models: `active`, the number of dimensions whose μ varies by more than `ACTIVE`; `q`, the
      mean of E[Q]/J over these (0 if there are none), on groups of training views; see `losses.group_quadratic`.
    - () for models of binary images: `likelihood`, the mean of log p(x) of the test images in nats, estimated from
      `SAMPLES` draws; see `losses.importance_log_likelihood`.
    - uint8 pictures (…, C, H, W): `views` (n, …) of n test images, `rebuilt_views` by the fresh decoder; for
      latent-variable models also `own_views`, `groups` (k, k, …), k draws from p(z | y) for each of k images,
      `between` (2, m, …), on the way between the μ of two images and between those of two views of one, and, where
      p(z) is proper, `samples` (n, …) from it.
    """
    config = run.config
    train = data.load_train(config.data)
    sets = {"bank": train.balanced(BANK, seed=2)}
    for name, most in (("validation", VALIDATION), ("test", TEST)):
        sets[name] = data.load(config.data.name, name).balanced(min(most, len(train)), seed=3)
    seen = {"bank": sets["bank"].images, "validation": sets["validation"].images}
    seen["test"] = sets["test"].images[:VIEWED].repeat(VIEWS, 1, 1, 1)
    views, done = {}, {}
    for k, (name, images) in enumerate(seen.items()):
        draws = config.views.draw(len(images), images.shape[-2:], torch.Generator().manual_seed(k))
        views[name] = config.views.apply(images, draws)
        done[name] = metrics.augmentation_factors(draws, images.shape[-2:])
    groups = sets["bank"].images[:VIEWED].repeat(getattr(config.method, "views", 2), 1, 1, 1)
    groups = config.views(groups, torch.Generator().manual_seed(3))
    images = {name: part.images for name, part in sets.items()}
    images |= {f"{name} views": part for name, part in views.items()} | {"groups": groups}
    factors = {name: _factors(part) for name, part in sets.items()}
    for _, method, before in observe(run, images, device, _before, calibrated=False):
        layers = _layers(method, before)
        features = layers[""]
        row = _flip(config, features, done) | _r2(features, factors) | _latents(config, method, before["groups"])
        for suffix, layer in layers.items():
            row |= _content(layer, sets, suffix) | _style(config, layer, done, suffix)
            row[f"ratio{suffix}"] = spread_ratio(layer["test views"].unflatten(0, (VIEWS, -1)))
        rebuilt = fresh_decoder(features["bank views"], views["bank"])(features["test views"])
        row["rebuilt"] = (rebuilt - views["test"]).square().mean()
        row |= _likelihood(method, sets["test"].images) | _pictures(method, views["test"], rebuilt)
        yield {name: torch.as_tensor(value) for name, value in row.items()}


def row(config: Config, arrays: dict[str, Tensor]) -> dict[str, float]:
    """The scalars of one kept epoch, and `style`, the mean R² over x, y and area for policies that crop."""
    row = {name: float(values) for name, values in arrays.items() if values.ndim == 0}
    crop = [row[f"style_{name}"] for name in _CROP if f"style_{name}" in row]
    return row | ({"style": sum(crop) / len(crop)} if crop else {})


def spread_ratio(z: Tensor) -> float:
    """Variance within the views of an image over the whole variance, of features z (V, N, D) of V views of N images.

    Both are traces of unbiased covariances. 0 where the views of each image have one feature; 1 on average where the
    views of an image differ as much as those of different images; 0 where nothing varies.
    """
    whole = z.flatten(0, 1).var(0).sum()
    return float(z.var(0).mean(0).sum() / whole) if whole > 0 else 0.0


def fresh_decoder(features: Tensor, images: Tensor, *, passes: int = 5):
    """A function from features (M, D) to images (M, C, H, W) in [0, 1], fitted to `features` (N, D) of `images`.

    One hidden layer of 256 units on features standardised by those given, a sigmoid at its end. Adam minimises the
    squared error in batches of 64 for `passes` passes, at a rate that falls linearly from 3e-3. It is the same for all
    encoders, and starts from the same weights; the global stream of chance is left alone.
    """
    mean, deviation = features.mean(0), features.std(0)
    deviation = deviation.masked_fill(deviation == 0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        first, last = nn.Linear(features.shape[1], 256), nn.Linear(256, images[0].numel())
        batches = [batch for _ in range(passes) for batch in torch.randperm(len(features)).split(64)]
    network = nn.Sequential(first, nn.ReLU(), last, nn.Sigmoid(), nn.Unflatten(1, images.shape[1:]))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for step, chosen in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / len(batches))
        optimizer.zero_grad()
        drawn = network((features[chosen] - mean) / deviation)
        (drawn - images[chosen]).square().mean().backward()
        optimizer.step()
    return torch.no_grad()(lambda z: network((z - mean) / deviation))


def _before(method: Method, images: Tensor) -> Tensor:
    return getattr(method, "before", method.encoder.before)(images)


@torch.no_grad()
def _layers(method: Method, before: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Features by the name of the images, for each suffix."""
    features = {name: method.encoder.head(h).chunk(2, 1)[0] for name, h in before.items()}
    layers = {"": features, "_before": before}
    if len(getattr(method, "projector", ())):
        layers["_head"] = {name: method.projector(h) for name, h in features.items()}
    return layers


def _content(layer: dict[str, Tensor], sets: dict[str, ImageSet], suffix: str) -> dict[str, float]:
    bank, validation, test = ((layer[name], sets[name].fine) for name in ("bank", "validation", "test"))
    row = {
        f"linear{suffix}": metrics.linear_probe(*bank, *test),
        f"knn{suffix}": metrics.knn_accuracy(*bank, *test),
    }
    if suffix == "":
        row["mlp"] = metrics.mlp_probe(*bank, *validation, *test, hidden=128)
        row["validation_linear"] = metrics.linear_probe(*bank, *validation)
        row["validation_knn"] = metrics.knn_accuracy(*bank, *validation)
    return row


def _of_views(layer: dict[str, Tensor], targets: dict[str, Tensor]) -> list[Tensor]:
    """Features and targets of the three sets of views, as the probes take them."""
    return [x for name, target in targets.items() for x in (layer[f"{name} views"], target)]


def _style(config: Config, layer: dict[str, Tensor], done: dict, suffix: str) -> dict[str, float]:
    if config.views.crop == (1, 1):
        return {}
    names = _CROP + (_COLOUR if suffix == "" and config.views.jitter[0] else ())
    targets = {part: torch.stack([factors[name] for name in names], 1) for part, factors in done.items()}
    quadratic = suffix == "" or layer["bank"].shape[1] <= _QUADRATIC
    found = metrics.ridge_probe(*_of_views(layer, targets), quadratic=quadratic).tolist()
    if suffix:
        return {f"style{suffix}": sum(found) / len(found)}
    return {f"style_{name}": r2 for name, r2 in zip(names, found, strict=True)}


def _flip(config: Config, features: dict[str, Tensor], done: dict) -> dict[str, float]:
    mirrors = [name for name in ("flip", "vertical") if getattr(config.views, name)]
    if not mirrors:
        return {}
    targets = {part: factors[mirrors[0]].long() for part, factors in done.items()}
    return {"flip": metrics.mlp_probe(*_of_views(features, targets), hidden=64, epochs=20)}


def _factors(images: ImageSet) -> dict[str, Tensor]:
    """What is known of clean images, by name, each (N, 1), or (N, 2) for the cosine and sine of an angle."""
    known = images.factors or (metrics.stroke_factors(images.images / 255) if images.images.shape[1] == 1 else {})
    # How much makes a whole turn: a stroke turned by 180° is the same stroke.
    turns = {"rotation": 360 if images.factors else 180, "hue": 1, "background": 1}
    columns = {}
    for name, values in known.items():
        angle = 2 * math.pi * values / turns.get(name, 1)
        columns[name] = torch.stack([angle.cos(), angle.sin()] if name in turns else [values], 1)
    return columns


def _r2(features: dict[str, Tensor], factors: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    widths = {name: values.shape[1] for name, values in factors["bank"].items()}
    if not widths:
        return {}
    sets = [x for part, known in factors.items() for x in (features[part], torch.cat(list(known.values()), 1))]
    found = metrics.ridge_probe(*sets, quadratic=features["bank"].shape[1] <= _QUADRATIC)
    parts = found.split(list(widths.values()))
    return {name: part.mean() for name, part in zip(widths, parts, strict=True)}


@torch.no_grad()
def _latents(config: Config, method: Method, before: Tensor) -> dict[str, float]:
    if not isinstance(method, LatentVariable):
        return {}
    part = config.method
    mean, log_variance = method.encoder.head(before).unflatten(0, (part.views, -1)).chunk(2, -1)
    active = mean.flatten(0, 1).var(0) > ACTIVE
    q = losses.group_quadratic(mean, log_variance, **part.group_prior)[:, active]
    return {"active": float(active.sum()), "q": float(q.mean()) / part.views if active.any() else 0.0}


@torch.no_grad()
def _likelihood(method: Method, images: Tensor) -> dict[str, float]:
    if not (isinstance(method, LatentVariable) and method.part.binarised and method.part.views == 1):
        return {}
    generator, batches = torch.Generator().manual_seed(0), (images.float() / 255)[None].split(250, dim=1)
    found = [method.log_likelihood(batch, samples=SAMPLES, generator=generator) for batch in batches]
    return {"likelihood": float(torch.cat(found).mean())}


@torch.no_grad()
def _pictures(method: Method, views: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
    """Fewer of larger images: a record has little room."""
    n, k, m = (8, 4, 7) if views.shape[1] == 1 else (6, 3, 5)
    pictures = {"views": views[:n], "rebuilt_views": rebuilt[:n]}
    if isinstance(method, LatentVariable):
        generator = torch.Generator().manual_seed(0)
        pictures["own_views"] = method.reconstruct(views[:n])
        grouped, sigma2 = views.unflatten(0, (VIEWS, -1)), getattr(method.part, "sigma2", _SIGMA2)
        pictures["groups"] = method.sample_group(grouped[:, :k], k, sigma2=sigma2, generator=generator)
        ends = torch.stack([grouped[0, :2], grouped[:2, 1]])
        start, end = method.encode(ends.flatten(0, 1)).unflatten(0, (2, 2)).unbind(1)
        way = torch.linspace(0, 1, m)[:, None]
        pictures["between"] = method.decode(torch.lerp(start[:, None], end[:, None], way))
        if getattr(method.part, "prior", None) != "uniform":
            pictures["samples"] = method.sample(n, generator)
    return {name: (255 * values).round().to(torch.uint8) for name, values in pictures.items()}
