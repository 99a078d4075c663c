"""A laptop training step against a plain float32 loop: the same model, loss and optimiser, fed by a data loader.

The plain loop is what one writes from the tutorials: torchvision's v2 transforms applied twice to each uint8 image in
a `DataLoader` of one process, contiguous memory, the allocator as it is, no mixed precision, on the same cores.
"""

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import REPEATS, milliseconds, row
from benchmarks.views import torchvision_per_image
from sslbook import data, training
from sslbook.papers import geometry


class Pairs(Dataset):
    """Two transformed views of each image."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index][None]
        return self.transform(image)[0], self.transform(image)[0]


def rows() -> list[dict]:
    """A step of the laptop profile under large augmentations: beside the plain loop, and beside itself before the
    allocator is told to keep memory."""
    config, images, step = laptop()
    plain = training.build(config, 3, data.channel_statistics(images))
    encoder, optimizer = plain.encoder, config.optim.build(plain)
    loader = DataLoader(Pairs(images, torchvision_per_image(config.views)), batch_size=config.batch_size)

    def loop():
        for first, second in loader:
            optimizer.zero_grad()
            normalised = (torch.cat([first, second]).float() / 255 - encoder.mean) / encoder.std
            z1, z2 = plain.projector(encoder.trunk(normalised).mean(dim=(2, 3))).chunk(2)
            plain.pair_loss(z1, z2).backward()
            optimizer.step()

    theirs, before = milliseconds(loop, step)
    training.keep_memory()  # for the rest of the process: so the others go first
    (taken,) = milliseconds(step)
    what = f"laptop step, {config.batch_size} images"
    return [row(what, taken, "plain loop, loader-fed", theirs), row(what, taken, "ours, allocator as it is", before)]


def laptop() -> tuple:
    """Configuration, a batch of images, and the function that takes our step on it."""
    config = geometry.configs("fig1", "laptop", seeds=[1])[2]
    images = data.load("shapes", "train").images[: config.batch_size]
    method = training.build(config, 3, data.channel_statistics(images)).to(memory_format=torch.channels_last)
    step = training._step(config, method, config.optim.build(method), images, "cpu")
    indices, generator = torch.arange(len(images)), torch.Generator().manual_seed(0)
    return config, images, lambda: step(indices, generator, 0.1, 0.5)


PARTS = {
    "convolutions": ("convolution",),
    "batch norm": ("batch_norm",),
    "ReLU": ("threshold_backward", "clamp_min"),
    "all else: views, sums, loss, LARS": ("",),
}


def bounds() -> tuple[dict[str, float], float, float]:
    """What a laptop step spends its time on, as shares, and the GFLOP/s of its convolutions and of a matrix product.

    The matrices are 1024×1024, in the precision of the step, on the same threads.
    """
    config, images, step = laptop()
    training.keep_memory()
    matrix = torch.randn(1024, 1024, dtype=torch.bfloat16 if training.uses_bfloat16("cpu") else torch.float32)
    taken, product = milliseconds(step, lambda: matrix @ matrix)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(REPEATS):
            step()
    seconds = dict.fromkeys(PARTS, 0.0)
    for event in profiled.key_averages():
        part = next(part for part, names in PARTS.items() if any(name in event.key for name in names))
        seconds[part] += event.self_cpu_time_total
    shares = {part: value / sum(seconds.values()) for part, value in seconds.items()}
    arithmetic = training.flop(config, tuple(images.shape[1:])) * len(images)
    return shares, arithmetic / (shares["convolutions"] * taken) / 1e6, 2 * 1024**3 / product / 1e6
