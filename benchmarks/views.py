"""Random views of a batch: ours against torchvision image by image and against kornia.

Claim: the "large" policy of Table 2 on 512 RGB images of 32×32 is at least 15 times as fast as torchvision's v2
transforms applied to each uint8 image, and at least twice as fast as kornia's batched ones. All three do the same
work: bilinear crop (8–100 % of the area, antialiasing on where there is a choice), flip, jitter, grayscale, one draw
per image (kornia: one order of the jitter per batch), in one process with the same threads, taking turns.
"""

import platform
import statistics
import time

import torch
import torchvision
from torchvision.transforms import v2

from sslbook import views

BATCH, SIZE, REPEATS = 512, 32, 9


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


def milliseconds(*functions) -> list[float]:
    """Median wall time of each, called in turn so that a busy moment of the machine meets all of them."""
    times = [[] for _ in functions]
    for repeat in range(REPEATS + 1):
        for function, taken in zip(functions, times):
            start = time.perf_counter()
            function()
            if repeat:  # the first call warms up
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def rows() -> list[dict]:
    """One row per peer: {"what", "ours_ms", "theirs", "theirs_ms", "ratio"}, times per batch."""
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    policy = views.policy("large")
    peers = {"torchvision v2 per image": torchvision_per_image(policy)}
    try:
        peers["kornia, batched"] = kornia_batched(policy)
    except ModuleNotFoundError:
        print("kornia is not installed: its row is left out.")
    ours, *theirs = milliseconds(*(lambda f=f: f(images) for f in (policy, *peers.values())))
    what = f"views: large policy, {BATCH}×3×{SIZE}×{SIZE}"
    return [
        {"what": what, "ours_ms": ours, "theirs": name, "theirs_ms": taken, "ratio": taken / ours}
        for name, taken in zip(peers, theirs)
    ]


def main():
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, median of {REPEATS}"
    )
    for row in rows():
        print(
            f"{row['what']}: {row['ours_ms']:.1f} ms · {row['theirs']} {row['theirs_ms']:.1f} ms · {row['ratio']:.1f}×"
        )


if __name__ == "__main__":
    main()
