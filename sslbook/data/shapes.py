"""The procedural set `shapes`: twelve outlines in four coarse classes, drawn with seven known factors of style."""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from sslbook.config import require
from sslbook.data.imageset import ImageSet, Info, Names

FACTORS = {
    "x": (-4.0, 4.0),
    "y": (-4.0, 4.0),
    "scale": (4.0, 6.5),
    "rotation": (0.0, 360.0),
    "hue": (0.0, 1.0),
    "background": (0.0, 1.0),
    "light": (0.6, 1.0),
}
"""Ranges of the style factors of `shapes`, drawn uniformly and independently of the class and of each other.

`x` (right) and `y` (down) in pixels from the centre of the image to the shape's centroid; `scale` in pixels, the
radius of the disk of equal area; `rotation` in degrees, anticlockwise; `hue` of the shape and of its `background`
in turns of the colour circle; `light` multiplies every colour.
"""


def render(fine: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """Draw `shapes`: labels (N,) and the factors of `FACTORS`, each (N,), to images (N, 3, 32, 32) uint8.

    All classes have the area π scale², so that colour means say nothing of the class. A pixel is covered by
    clip(1/2 − d, 0, 1), with d the signed distance of its centre to the outline in pixels. Only + − × ÷ √ act on
    pixels, which IEEE arithmetic rounds exactly: the images are the same on every machine. Raises `ValueError` for
    other labels, and if a factor is missing.
    """
    fine = fine.cpu().numpy()
    known = np.isin(fine, np.arange(len(_OUTLINES)))
    require(known.all(), f"The labels {fine[~known]} are no shapes; allowed are 0 … {len(_OUTLINES) - 1}.")
    absent = set(FACTORS) - set(factors)
    require(not absent, f"Factors of the shapes are missing: {', '.join(sorted(absent))}.")
    values = {name: factors[name].cpu().double().numpy()[:, None] for name in FACTORS}
    images = np.empty((len(fine), 3, 32 * 32), np.uint8)
    for label, distance in enumerate(_OUTLINES.values()):
        chosen = fine == label
        images[chosen] = _draw(distance, {name: value[chosen] for name, value in values.items()})
    return torch.from_numpy(images.reshape(-1, 3, 32, 32))


def _draw(distance, factors: dict[str, np.ndarray]) -> np.ndarray:
    rows, columns = np.divmod(np.arange(32 * 32, dtype=np.float32), 32)
    angle = np.deg2rad(factors["rotation"])
    x, y, scale, light, cosine, sine = (
        value.astype(np.float32)
        for value in (factors["x"], factors["y"], factors["scale"], factors["light"], np.cos(angle), np.sin(angle))
    )
    right, up = columns - 15.5 - x, 15.5 - rows + y
    cover = 0.5 - scale * distance((cosine * right + sine * up) / scale, (cosine * up - sine * right) / scale)
    cover = np.clip(cover, 0, 1)[:, None]
    # Saturations and values are such that the shape is brighter than its ground for every pair of hues.
    shape = _rgb(factors["hue"], saturation=0.6, value=0.95)
    ground = _rgb(factors["background"], saturation=0.5, value=0.35)
    colour = (ground + cover * (shape - ground)) * light[:, None]
    return (colour * 255 + 0.5).astype(np.uint8)


def _rgb(hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """HSV (hue (N, 1) in turns) to RGB (N, 3, 1) in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return (value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)))[..., None].astype(np.float32)


def _polygon_distance(u, v, vertices: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) of points (u, v) to a simple polygon of area π about its centroid."""
    nearest, inside = np.inf, False
    for (au, av), (bu, bv) in zip(vertices.tolist(), np.roll(vertices, -1, 0).tolist(), strict=True):
        eu, ev, pu, pv = bu - au, bv - av, u - au, v - av
        along = np.clip((pu * eu + pv * ev) / (eu * eu + ev * ev), 0, 1)
        nearest = np.minimum(nearest, (pu - along * eu) ** 2 + (pv - along * ev) ** 2)
        inside ^= ((v < av) != (v < bv)) & ((pu * ev < pv * eu) == (ev > 0))  # a ray to the right crosses the edge
    return np.sqrt(nearest) * np.where(inside, np.float32(-1), np.float32(1))


def _polygon(vertices) -> Callable:
    """The distance to a polygon with these vertices (anticlockwise), moved to its centroid and scaled to area π."""
    a = np.array(vertices, dtype=float)
    b = np.roll(a, -1, 0)
    cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    centroid = ((a + b) * cross[:, None]).sum(0) / (3 * cross.sum())
    return partial(_polygon_distance, vertices=(a - centroid) * np.sqrt(2 * np.pi / cross.sum()))


def _star(points: int, inner: float) -> Callable:
    angle = np.pi / 2 + np.pi / points * np.arange(2 * points)
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))


def _regular(corners: int) -> Callable:
    return _star(corners, np.cos(np.pi / corners))


def _half_disk(u, v) -> np.ndarray:
    radius = 2**0.5
    v = v + 4 * radius / (3 * math.pi)
    return np.maximum(np.sqrt(u * u + v * v) - radius, -v)


def _ring(u, v) -> np.ndarray:
    outer = (1 - 0.55**2) ** -0.5  # the hole has 0.55 of the outer radius
    return np.abs(np.sqrt(u * u + v * v) - 0.775 * outer) - 0.225 * outer


_OUTLINES = {
    "disk": lambda u, v: np.sqrt(u * u + v * v) - 1,
    "half_disk": _half_disk,
    "ring": _ring,
    "triangle": _regular(3),
    "square": _regular(4),
    "pentagon": _regular(5),
    "star_4": _star(4, 0.4),
    "star_5": _star(5, 0.4),
    "star_6": _star(6, 0.5),
    "bar": _polygon([(-3, -1), (3, -1), (3, 1), (-3, 1)]),
    "tee": _polygon([(-1, -4), (1, -4), (1, 0), (4, 0), (4, 2), (-4, 2), (-4, 0), (-1, 0)]),
    "plus": _polygon(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    ),
}
"""Signed distance to the outline of each fine class, three to a coarse class, in units of the factor `scale`."""


_SEEDS = {"train": 1, "validation": 2, "test": 3}
SETS = {"shapes": Info((3, 32, 32), len(_OUTLINES), 4, {"train": 4000, "validation": 500, "test": 1000})}


def load(name: str, split: str, root=None) -> ImageSet:
    """A split of `shapes`; nothing is read."""
    return _drawn(SETS[name].sizes[split], _SEEDS[split])._map(Tensor.clone)  # the cached original stays as it is


@lru_cache
def _drawn(images: int, seed: int) -> ImageSet:
    """`shapes` drawn with equal numbers of each class, to within one, in random order."""
    stream = np.random.RandomState(seed)
    fine = torch.from_numpy(stream.permutation(images) % len(_OUTLINES))
    factors = {name: torch.from_numpy(stream.uniform(*ends, images)).float() for name, ends in FACTORS.items()}
    names = Names(tuple(_OUTLINES), ("round", "polygon", "star", "bars"))
    return ImageSet(render(fine, factors), fine, fine // 3, names, factors)
