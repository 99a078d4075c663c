"""The orbit of a picture under a group, and the dimensions that it fills (Cosentino et al. 2022, App. E, Fig. 10)."""

import functools
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sslbook import data, lie, metrics, plotting, views
from sslbook.widgets.base import Explorer, choice, slider

SIZE, COPIES, SHOWN, SEED = 32, 200, 100, 8
REACHES = range(0, 101, 5)

# On the homogeneous coordinates (right, up, 1) from the centre, in pixels; ε of a copy is at most `FULL`.
FULL = {"rotation": 2 * math.pi, "scaling": math.log(2), "shear": 1.0, "translation": 16.0}
GENERATORS = {name: torch.zeros(3, 3, dtype=torch.float64) for name in FULL}
for _name in ("rotation", "scaling", "shear"):
    GENERATORS[_name][:2, :2] = lie.plane_generator(_name)
GENERATORS["translation"][0, 2] = 1


@functools.cache
def pictures() -> dict[str, Tensor]:
    """Two pictures (32, 32) in [0, 1], float64: the pixel of `lie.orbit_rank`, and the luminance of a star."""
    chance, pixel = np.random.default_rng(SEED), torch.zeros(SIZE, SIZE, dtype=torch.float64)
    pixel[chance.integers(0, SIZE), chance.integers(0, SIZE)] = 1
    star = data.load("shapes", "test").images[36].double() / 255
    return {"one pixel": pixel, "a star": views.gray(star[None])[0, 0]}


def moved(picture: Tensor, group: str, epsilon: Tensor) -> Tensor:
    """exp(ε G) of a picture for each ε (M,): (M, 32, 32), nearest interpolation, 0 from outside."""
    right = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    up, right = torch.meshgrid(-right, right, indexing="ij")
    here = torch.stack([right, up, torch.ones_like(up)]).flatten(1)
    x, y, _ = (lie.exp(GENERATORS[group], -epsilon) @ here).unbind(1)
    column, row = (x + SIZE / 2).floor(), (SIZE / 2 - y).floor()
    inside = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
    values = picture.flatten()[(row * SIZE + column).where(inside, 0).long()]
    return values.where(inside, 0).view(-1, SIZE, SIZE)


def spectrum(picture: Tensor, group: str, reach: float) -> Tensor:
    """Eigenvalues (200,), descending, of the centred covariance of 200 copies, ε uniform between 0 and `reach` %.

    The draws are those of `lie.orbit_rank` with the seed `SEED`; what does not exceed its threshold, 1e-10, is 0.
    """
    chance = np.random.default_rng(SEED)
    chance.integers(0, SIZE), chance.integers(0, SIZE)
    epsilon = reach / 100 * FULL[group] * torch.from_numpy(chance.uniform(size=COPIES))
    copies = moved(picture, group, epsilon).flatten(1)
    copies = copies[:, copies.any(0)]
    copies = copies - copies.mean(0)
    return torch.nn.functional.threshold(torch.linalg.eigvalsh(copies @ copies.T / (COPIES - 1)).flip(0), 1e-10, 0)


def counts(eigenvalues: Tensor) -> dict:
    """The rank, and how many directions hold 99 % of the variance."""
    return {"rank": int((eigenvalues > 0).sum()), "energy": metrics.energy_rank(eigenvalues.sqrt())}


@functools.cache
def _frames() -> bytes:
    """For each picture, group and reach a row of float32: two counts, 100 shares of the variance; then the pictures."""
    rows = []
    for picture in pictures().values():
        for group in FULL:
            for reach in REACHES:
                values = spectrum(picture, group, reach)
                rows.append(torch.cat([torch.tensor([*counts(values).values()]), _shares(values)]))
    return torch.cat([*rows, *(picture.flatten() for picture in pictures().values())]).float().numpy().tobytes()


def _shares(eigenvalues: Tensor) -> Tensor:
    return eigenvalues[:SHOWN] / eigenvalues.sum().clamp(min=1e-300)


class Orbits(Explorer):
    """A picture moved along a group by ε up to `reach` % of a full turn, twice the size, a shear by 1, or 16 pixels.

    `rank` and `energy` are those of the covariance of 200 copies; `similarity` is the cosine of the picture and the
    copy at the largest ε.
    """

    group = choice("rotation", FULL, "Group")
    picture = choice("one pixel", ["one pixel", "a star"], "Picture")
    reach = slider(25, 0, 100, REACHES.step, "Strength: largest ε, of the full one", " %")
    numbers: ClassVar = {
        "rank": "Rank of the covariance",
        "energy": "Directions with 99 % of the variance",
        "similarity": "Cosine of the first and the last copy",
    }

    def __init__(self, **values):
        super().__init__(data=_frames(), **values)

    def compute(self) -> dict:
        picture = pictures()[self.picture]
        last = moved(picture, self.group, torch.tensor([self.reach / 100 * FULL[self.group]]).double())[0]
        cosine = (picture * last).sum() / (picture.norm() * last.norm()).clamp(min=1e-12)
        return counts(spectrum(picture, self.group, self.reach)) | {"similarity": float(cosine)}

    def still(self):
        ax = plotting.axes()
        ax.set(yscale="log", ylim=(1e-5, 1), xlabel="direction", ylabel="share of the variance")
        for group in FULL:
            shares = _shares(spectrum(pictures()[self.picture], group, 100))
            ax.plot(range(1, SHOWN + 1), shares.where(shares > 1e-12, torch.nan), label=group)
        ax.legend()
        return ax.figure
