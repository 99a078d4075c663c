"""Random views of a batch: ours against torchvision image by image and against kornia.

Claim: the "large" policy of Table 2 on 512 RGB images of 32×32 is at least 15 times as fast as torchvision's v2
transforms applied to each uint8 image, and at least twice as fast as kornia's batched ones. All three do the same
work: bilinear crop (8–100 % of the area, antialiasing on where there is a choice), flip, jitter, grayscale, one draw
per image (kornia: one order of the jitter per batch), in one process with the same threads, taking turns.
"""

import sys

import torch
from torchvision.transforms import v2

from benchmarks.timing import milliseconds, row
from sslbook import views

BATCH, SIZE = 512, 32


def torchvision_per_image(policy: views.Policy):
    """`policy` as torchvision's transforms: uint8 (N, C, H, W) to uint8, image by image."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=policy.crop, ratio=policy.ratio, antialias=True),
            v2.RandomHorizontalFlip(policy.flip),
            v2.RandomApply([v2.ColorJitter(*policy.jitter)], policy.jitter_probability),
            v2.RandomGrayscale(policy.grayscale),
        ]
    )
    return lambda images: torch.stack([transform(image) for image in images])


def kornia_batched(policy: views.Policy):
    """`policy` as kornia's transforms: uint8 (N, C, H, W) to float, with its fastest crop."""
    import kornia.augmentation as K

    transform = K.AugmentationSequential(
        K.RandomResizedCrop((SIZE, SIZE), scale=policy.crop, ratio=policy.ratio),
        K.RandomHorizontalFlip(p=policy.flip),
        K.ColorJitter(*policy.jitter, p=policy.jitter_probability),
        K.RandomGrayscale(p=policy.grayscale),
    )
    return lambda images: transform(images.float() / 255)


def rows() -> list[dict]:
    """One row per peer, times per batch."""
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    policy = views.policy("large")
    peers = {"torchvision v2 per image": torchvision_per_image(policy)}
    try:
        peers["kornia, batched"] = kornia_batched(policy)
    except ModuleNotFoundError:
        print("kornia is not installed: its row is left out.", file=sys.stderr)
    ours, *theirs = milliseconds(*(lambda f=f: f(images) for f in (policy, *peers.values())))
    what = f"views, large policy, {BATCH}×3×{SIZE}×{SIZE}"
    return [row(what, ours, name, taken) for name, taken in zip(peers, theirs)]
