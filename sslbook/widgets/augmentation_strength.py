"""One image, and what one augmentation or a whole policy makes of it, by strength (Cosentino et al. 2022, Table 2)."""

import functools
from typing import ClassVar

import torch

from sslbook import data, plotting, views
from sslbook.widgets.base import Explorer, choice, slider, webp

VIEWS, COLUMNS, IMAGE, SEED = 12, 4, 39, 7
STRENGTHS = range(0, 101, 10)

_NOTHING = {"crop": (1, 1), "jitter": (0, 0, 0, 0), "flip": 0, "grayscale": 0}
KNOBS = {
    knob: views.policy("large").replace(**{name: value for name, value in _NOTHING.items() if name != knob})
    for knob in _NOTHING
} | {name: views.policy(name) for name in ("small", "moderate", "large")}
"""What can be turned: each augmentation of the large policy alone, and the three policies as a whole."""


def scaled(policy: views.Policy, t: float) -> views.Policy:
    """`policy` at the share t of its strength, from the image itself (0) to the policy (1).

    The least area kept is 1 − t (1 − least), jitter and the probabilities of flip and grayscale are t times theirs, and
    the ratios of a crop r^t, so that each box grows out of the whole image.
    """
    return policy.replace(
        crop=tuple(1 - t * (1 - share) for share in policy.crop),
        ratio=tuple(ratio**t for ratio in policy.ratio),
        flip=t * policy.flip,
        jitter=tuple(t * strength for strength in policy.jitter),
        grayscale=t * policy.grayscale,
    )


@functools.cache
def _typical() -> float:
    """The mean squared distance of two images of `shapes`."""
    images = data.load("shapes", "validation").images.flatten(1).double() / 255
    return float(2 * images.var(0).sum())


def look(knob: str, strength: float) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """The numbers, the boxes of the crops (12, 4; as in `views.Draws`) and the views (12, 3, 32, 32)."""
    policy, source = scaled(KNOBS[knob], strength / 100), data.load("shapes", "test").images[IMAGE]
    draws = policy.draw(VIEWS, source.shape[1:], torch.Generator().manual_seed(SEED))
    seen = policy.apply(source.expand(VIEWS, -1, -1, -1), draws)
    numbers = {
        "kept": 100 * float(draws.box[:, 2:].prod(1).double().mean()) / source[0].numel(),
        "flipped": int(draws.flip.sum()),
        "gray": int(draws.gray.sum()),
        "apart": float((2 * seen.flatten(1).double().var(0).sum() / _typical()).sqrt()),
    }
    return numbers, draws.box, seen


@functools.cache
def _frames() -> bytes:
    """For each knob and strength a row of float32 (numbers, 12 boxes, end of its picture); then the pictures, WebP."""
    rows, pictures = [], b""
    for knob in KNOBS:
        for strength in STRENGTHS:
            numbers, boxes, seen = look(knob, strength)
            pictures += webp(_sheet(seen))
            rows.append([*numbers.values(), *boxes.flatten().tolist(), len(pictures)])
    return torch.tensor(rows).numpy().tobytes() + pictures


def _sheet(seen) -> torch.Tensor:
    """The views (N, 3, H, W) as one picture, 4 in a row with 2 transparent pixels between them."""
    tiles = torch.nn.functional.pad(torch.cat([seen, torch.ones_like(seen[:, :1])], 1), (0, 2, 0, 2))
    sheet = tiles.unflatten(0, (-1, COLUMNS)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-2, :-2]
    return (sheet * 255).round().byte()


class AugmentationStrength(Explorer):
    """Twelve views of one image of `shapes`, from the same draws at every `strength`, so that only the knob is seen.

    `apart` is the root mean squared distance of two of the views over that of two images of the set.
    """

    knob = choice("crop", KNOBS, "What is turned")
    strength = slider(50, 0, 100, STRENGTHS.step, "Its strength, of the full one", " %")
    numbers: ClassVar = {
        "kept": "Area kept on average (%)",
        "flipped": "Mirrored views",
        "gray": "Views without colour",
        "apart": "Distance of two views, over that of two images",
    }

    def __init__(self, **values):
        super().__init__(data=_frames(), **values)

    def compute(self) -> dict:
        return look(self.knob, self.strength)[0]

    def still(self):
        rows = {knob: look(knob, 100)[2][:8] for knob in KNOBS}
        return plotting.sheet(torch.cat(list(rows.values())), [title for knob in rows for title in [knob] + [""] * 7])
