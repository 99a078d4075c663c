"""Views: random distortions of a batch of images, one independent draw per image, computed where the images lie.

The operations and their order are those of SimCLR (Chen et al. 2020, App. A): resized crop, horizontal flip, colour
jitter, grayscale, blur. Each is defined as torchvision's functional operation on a float image. Chance and computation
are apart: `Policy.draw` decides what happens to each image, `Policy.apply` does it and is a pure function, so a view
can be replayed, shown with its parameters, or compiled without freezing its randomness.

Every function raises `ValueError` for tensors of other types and shapes than its docstring names.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbook.config import Part, require, require_choice, require_number
from sslbook.tensors import floating, require_generator, require_size

_TRIES = 10


class Draws(NamedTuple):
    """What happens to each of N images.

    `box` (N, 4) is the crop's top, left, height and width in pixels; `flip` (N,) mirrors left and right; `factors`
    (N, 4) holds the factors of brightness, contrast and saturation (1 changes nothing) and the shift of hue in turns
    (0 changes nothing); `order` (N, 4) lists these four in the order of their application, by column of `factors`;
    `gray` (N,) removes colour; `sigma` (N,) is the standard deviation of the blur in pixels (0 for none); `vertical`
    (N,) mirrors top and bottom.
    """

    box: Tensor
    flip: Tensor
    factors: Tensor
    order: Tensor
    gray: Tensor
    sigma: Tensor
    vertical: Tensor


@dataclass(frozen=True)
class Policy(Part, slot="views"):
    """How images are distorted.

    `crop` bounds the share of the area that is kept (uniform), `ratio` the width of the crop over its height
    (log-uniform). `jitter` holds the strengths b, c, s of brightness, contrast and saturation, whose factors are
    uniform in [max(0, 1 − b), 1 + b], and the strength of hue, whose shift is uniform in ± that many turns; jitter
    happens with probability `jitter_probability`, its four operations in random order. `flip` (left and right),
    `vertical` (top and bottom), `grayscale` and `blur` are probabilities; `sigma` bounds the blur's standard deviation
    in pixels (uniform).
    """

    crop: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jitter_probability: float = 0.8
    grayscale: float = 0.2
    blur: float = 0.0
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sigma: tuple[float, float] = (0.1, 2.0)
    vertical: float = 0.0

    def validate(self):
        require(
            0 < self.crop[0] <= self.crop[1] <= 1,
            f"Policy.crop is {self.crop}; it must be two shares of the area, 0 < least ≤ greatest ≤ 1.",
        )
        for name in ("ratio", "sigma"):
            low, high = getattr(self, name)
            require(
                0 < low <= high,
                f"Policy.{name} is {(low, high)}; it must be two values, 0 < least ≤ greatest < ∞.",
            )
        self.limit("flip", "vertical", "jitter_probability", "grayscale", "blur", least=0, most=1)
        require(
            all(strength >= 0 for strength in self.jitter[:3]) and 0 <= self.jitter[3] <= 0.5,
            f"Policy.jitter is {self.jitter}; brightness, contrast and saturation must be at least 0, hue in 0 … 0.5.",
        )

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One view of each image: uint8 (N, C, H, W), C = 1 or 3, to float32 of the same shape in [0, 1].

        Without a generator the chance comes from the default one of the images' device. For a second view, call again.

        **Raises** `ValueError` for images of another type or shape.
        """
        _require_pixels(images)
        return self.apply(images, self.draw(len(images), images.shape[-2:], generator, images.device))

    def draw(self, n: int, size: tuple[int, int], generator=None, device=None) -> Draws:
        """Independent draws for `n` images of `size` (H, W), on `device` (by default the generator's, else the CPU).

        All chance is one block of uniform numbers, (n, 35), and n more if `vertical` is above 0. They are drawn on the
        generator's device: the same generator gives the same draws wherever the images lie, and with a generator on
        their own device nothing is synchronised.
        """
        require_number("The number of images", n, least=0, whole=True)
        require_size(size)
        require_generator(generator)
        source = generator.device if generator is not None else device
        uniform = torch.rand(n, 2 * _TRIES + 15, generator=generator, device=source).to(device=device)
        area, shape, place, flip, jitter, factors, order, gray, blur, sigma = uniform.split(
            [_TRIES, _TRIES, 2, 1, 1, 4, 4, 1, 1, 1], dim=1
        )
        # A draw of its own, and only where it matters: policies without it keep the draws they had before it was there.
        vertical = torch.zeros_like(flip[:, 0], dtype=torch.bool)
        if self.vertical:
            vertical = torch.rand(n, generator=generator, device=source).to(device=device) < self.vertical
        return Draws(
            box=self._box(area, shape, place, *size),
            flip=flip[:, 0] < self.flip,
            factors=self._factors(factors, jitter < self.jitter_probability),
            order=order.argsort(1),
            gray=gray[:, 0] < self.grayscale,
            sigma=((blur < self.blur) * _between(sigma, *self.sigma))[:, 0],
            vertical=vertical,
        )

    def _box(self, area: Tensor, shape: Tensor, place: Tensor, height: int, width: int) -> Tensor:
        """The first of the tried boxes that fits into the image, else the largest central one of allowed ratio."""
        area = height * width * _between(area, *self.crop)
        ratio = _between(shape, *map(math.log, self.ratio)).exp()
        w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first, found = fits.int().argmax(1, keepdim=True), fits.any(1)
        largest_h = max(1, min(height, round(width / self.ratio[0])))
        largest_w = max(1, min(width, round(height * self.ratio[1])))
        h = torch.where(found, h.gather(1, first)[:, 0], largest_h)
        w = torch.where(found, w.gather(1, first)[:, 0], largest_w)
        top, left = (
            torch.where(found, (u * (free + 1)).floor().minimum(free), (free / 2).floor())
            for u, free in zip(place.unbind(1), (height - h, width - w), strict=True)
        )
        return torch.stack([top, left, h, w], dim=1).long()

    def _factors(self, uniform: Tensor, jittered: Tensor) -> Tensor:
        *blends, hue = uniform.unbind(1)
        factors = [_between(u, max(0.0, 1 - s), 1 + s) for u, s in zip(blends, self.jitter, strict=False)]
        factors.append(_between(hue, -self.jitter[3], self.jitter[3]))
        neutral = torch.arange(4, device=uniform.device) < 3
        return torch.where(jittered, torch.stack(factors, dim=1), neutral.float())

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views that `draws`, made by this policy, describe: uint8 (N, C, H, W) to float32 in [0, 1].

        Pure, without host synchronisation on accelerators, and one graph for `torch.compile(fullgraph=True)`.
        Time and memory are linear in N.

        **Raises** `ValueError` for images of another type or shape.
        """
        _require_draws(draws, images)
        views = crop(images.float().div_(255), draws.box, draws.flip)
        if self.vertical:
            views = torch.where(_each(draws.vertical), views.flip(2), views)
        for position in range(4):
            for k, operation in enumerate((brightness, contrast, saturation, hue)):
                factor = draws.factors[:, k]
                chosen = (draws.order[:, position] == k) & (factor != (0 if operation is hue else 1))
                views = _where(chosen, operation, views, factor)
        views = _where(draws.gray, lambda x: gray(x).expand_as(x), views)
        if self.blur:
            views = _where(draws.sigma > 0, blur, views, draws.sigma)
        return views.clamp_(0, 1)


@dataclass(frozen=True)
class PerView(Part, slot="views"):
    """Another policy for each view of an image: the first view comes from `views[0]`, and so on.

    A method that takes k views needs k policies. `draw` and `apply` are those of `Policy` for the k·N views in order.
    """

    views: tuple[Part, ...]

    def validate(self):
        require(len(self.views) > 0, "PerView.views is empty; it must list a policy for each view.")

    def draw(self, n: int, size: tuple[int, int], generator=None, device=None) -> Draws:
        """Draws for `n` views, an equal number by each policy; see `Policy.draw`.

        **Raises** `ValueError` if `n` is not a multiple of the number of policies.
        """
        k = len(self.views)
        require_number("The number of views", n, least=0, whole=True)
        require(n % k == 0, f"{n} views are asked of {k} policies; the number must be a multiple of theirs.")
        draws = [policy.draw(n // k, size, generator, device) for policy in self.views]
        return Draws(*map(torch.cat, zip(*draws, strict=True)))

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views that `draws` describe, as `Policy.apply`."""
        _require_draws(draws, images)
        k = len(self.views)
        require(
            len(images) % k == 0, f"There are {len(images)} views of {k} policies; it must be a multiple of theirs."
        )
        parts = zip(self.views, images.chunk(k), *(draw.chunk(k) for draw in draws), strict=True)
        return torch.cat([policy.apply(part, Draws(*draw)) for policy, part, *draw in parts])


PRESETS = {
    name: Policy(crop=share, flip=flip, jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s))
    for name, share, flip, s in (
        ("large", (0.08, 1), 0.5, 0.5),
        ("moderate", (0.5, 1), 0.5, 0.25),
        ("small", (0.9, 1), 0, 0.05),
    )
}
PRESETS["weak"] = PRESETS["large"].replace(jitter=(0, 0, 0, 0), grayscale=0)


def policy(name: str) -> Policy:
    """The policy "large", "moderate" or "small" of Table 2 of the geometry paper, or "weak": crop and flip of "large".

    Jitter has a strength s: (0.8 s, 0.8 s, 0.8 s, 0.2 s) with probability 0.8; the three of the table remove colour
    with probability 0.2 and none blurs. The table names the flip but not its probability: 0.5 is our choice, as are the
    ratios 3/4 … 4/3.

    **Raises** `ValueError` for another name.

    >>> images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> views.policy("large")(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """
    require_choice("The policy", name, PRESETS)
    return PRESETS[name]


def crop(x: Tensor, box: Tensor, flip: Tensor) -> Tensor:
    """Each image's box stretched to the whole image, mirrored where `flip`: x (N, C, H, W) to the same shape.

    Bilinear between pixel centres: output o of a side of S pixels reads the source at start + (o + 1/2) length / S −
    1/2, held inside the box. No box exceeds the image, so antialiasing has nothing to do.

    `box` is (N, 4), with top, left, height and width in pixels; `flip` is (N,) of truth values.
    """
    _require_images(x)
    require(
        isinstance(box, Tensor) and box.shape == (len(x), 4) and not box.is_complex(),
        f"{len(x)} images need a box each; boxes must be a tensor of real numbers (N, 4).",
    )
    require(
        isinstance(flip, Tensor) and flip.shape == (len(x),) and flip.dtype == torch.bool,
        f"{len(x)} images need a flip each; flips must be a tensor of truth values (N,).",
    )
    height, width = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)  # half precision cannot resolve positions
    top, left, h, w = box.to(dtype).unbind(1)
    columns = _source(left, w, width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None], _source(top, h, height)[:, :, None]), dim=-1)
    return F.grid_sample(x.to(dtype), grid, padding_mode="border", align_corners=False).to(x.dtype)


def _source(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where each output pixel reads, (N, size), in the units of `grid_sample`: pixel i is at (2 i + 1) / size − 1."""
    at = (torch.arange(size, device=start.device) + 0.5) * (length[:, None] / size) - 0.5
    at = start[:, None] + at.clamp(min=0).minimum(length[:, None] - 1)
    return (2 * at + 1) / size - 1


def gray(x: Tensor) -> Tensor:
    """Luminance 0.2989 R + 0.587 G + 0.114 B of x (N, C, H, W), (N, 1, H, W); an image of one channel is its own."""
    _require_images(x)
    if x.shape[1] == 1:
        return x
    r, g, b = x.unbind(1)
    return (0.2989 * r).add_(g, alpha=0.587).add_(b, alpha=0.114)[:, None]


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """factor · x, held in [0, 1]; x (N, C, H, W), factor (N,)."""
    _require_images(x, factor)
    return (x * _each(factor)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """m + factor · (x − m), held in [0, 1], with m the mean luminance of the image; x (N, C, H, W), factor (N,)."""
    _require_images(x, factor)
    return _blend(x, gray(x).mean((1, 2, 3), keepdim=True), _each(factor))


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """g + factor · (x − g), held in [0, 1], with g the luminance of the pixel; x (N, C, H, W), factor (N,).

    Images of one channel stay as they are, up to rounding.
    """
    _require_images(x, factor)
    return _blend(x, gray(x), _each(factor))


def _blend(x: Tensor, reference: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).add_((1 - factor) * reference).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Hue of x (N, C, H, W) turned by `shift` (N,) turns at fixed maximum v and minimum v − c of the channels.

    With h the hue of HSV in turns, a channel is v − c · clamp(2 − 6 d, 0, 1), where d is the distance on the circle
    from h to the channel's complement: 1/2 for red, 5/6 for green, 1/6 for blue. One channel is left unchanged.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> views.hue(red, torch.tensor([1 / 3])).flatten().round(decimals=4).tolist()  # green
    [0.0, 1.0, 0.0]
    """
    _require_images(x, shift)
    if x.shape[1] == 1:
        return x
    r, g, b = x.unbind(1)
    v = x.amax(1)
    c = v - x.amin(1)
    sixth = (6 * c).clamp_(min=max(1e-12, torch.finfo(x.dtype).tiny)).reciprocal_()
    if_r, if_g, if_b = (g - b) * sixth, (b - r) * sixth + 1 / 3, (r - g) * sixth + 2 / 3
    not_r, not_g = (v - r).sign_(), (v - g).sign_()
    h = if_r + not_r * (if_g - if_r + not_g * (if_b - if_g)) + shift[:, None, None]
    away = h[:, None] - (1 / 2 + torch.arange(3, device=x.device)[:, None, None] / 3)
    away = (away - away.round()).abs_()
    return v[:, None] - c[:, None] * away.mul_(-6).add_(2).clamp_(0, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of x (N, C, H, W) with the standard deviations `sigma` (N,) in pixels, edges mirrored.

    The window has 2 r + 1 pixels each way; r is a twentieth of the shorter side and at least 1, which is SimCLR's
    window of a tenth of the image.

    **Raises** `ValueError` if a side has less than 2 pixels.
    """
    _require_images(x, sigma)
    require(min(x.shape[-2:]) > 1, f"Images of {tuple(x.shape[-2:])} pixels have no edges to mirror; 2 are needed.")
    radius = max(1, min(x.shape[-2:]) // 20)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.softmax(-((offsets / sigma[:, None].clamp(min=1e-3)) ** 2) / 2, dim=1)
    for dim, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, size = F.pad(x, padding, mode="reflect"), x.shape[dim]
        x = sum(_each(weights[:, k]) * padded.narrow(dim, k, size) for k in range(2 * radius + 1))
    return x


def _require_pixels(images: Tensor) -> None:
    require(isinstance(images, Tensor), f"Images are of type {type(images).__name__}; they must be a tensor.")
    if images.dtype != torch.uint8 or images.ndim != 4 or not _drawable(images):
        raise ValueError(
            f"Images are {images.dtype} of shape {tuple(images.shape)}; "
            "a policy takes uint8 images (N, C, H, W) with 1 or 3 channels."
        )


def _require_draws(draws: Draws, images: Tensor) -> None:
    _require_pixels(images)
    require(
        isinstance(draws, Draws) and len(draws.box) == len(images),
        f"The draws are not those of {len(images)} images; they must come from `draw`.",
    )


def _require_images(x: Tensor, *parameters: Tensor) -> None:
    floating("The tensor of images", x)
    require(
        x.ndim == 4 and _drawable(x),
        f"The images have the shape {tuple(x.shape)}; it must be (N, C, H, W) with 1 or 3 channels.",
    )
    for parameter in parameters:
        floating("The parameter", parameter)
        require(
            parameter.shape == x.shape[:1],
            f"The parameters have the shape {tuple(parameter.shape)}; {len(x)} images need one each.",
        )


def _drawable(images: Tensor) -> bool:
    return images.shape[1] in (1, 3) and min(images.shape[2:]) > 0


def _each(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _where(chosen: Tensor, operation, x: Tensor, *parameters: Tensor) -> Tensor:
    """`operation` on the chosen images, the others unchanged; `x` may be overwritten.

    A processor gains by computing only the chosen images; an accelerator loses more by waiting to learn which they
    are than by computing all in one fused kernel.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        index = chosen.nonzero()[:, 0]
        return x.index_copy_(0, index, operation(x.index_select(0, index), *(p[index] for p in parameters)))
    return torch.where(_each(chosen), operation(x, *parameters), x)
