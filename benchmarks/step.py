"""A laptop training step against a plain float32 loop: the same model, loss and optimiser, fed by a data loader.

The plain loop is what one writes from the tutorials: torchvision's v2 transforms applied twice to each uint8 image in
a `DataLoader` of one process, contiguous memory, the allocator as it is, no mixed precision, on the same cores.
"""

import statistics
import subprocess
import sys

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import REPEATS, milliseconds, row
from benchmarks.views import torchvision_per_image
from sslbook import data, hardware, training
from sslbook.papers.geometry import PAPER


class Pairs(Dataset):
    """Two transformed views of each image."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images.images[index][None]
        return self.transform(image)[0], self.transform(image)[0]


def rows() -> list[dict]:
    """Each in processes of its own, as the C library's allocator remembers what a process has done before."""
    taken = {kind: [] for kind in ("plain", "as it is", "kept")}
    for kind in list(taken) * 3:
        command = [sys.executable, "-m", "benchmarks.step", kind]
        taken[kind].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    plain, before, ours = (statistics.median(times) for times in taken.values())
    what = f"laptop step, {PAPER.plan('fig1', 'laptop')[0].config.batch_size} images"
    return [row(what, ours, "plain loop, loader-fed", plain), row(what, ours, "ours, allocator as it is", before)]


def main():
    """Print the milliseconds of a step: of the "plain" loop, or of ours with the allocator "as it is" or "kept"."""
    _, kind = sys.argv
    if kind == "kept":
        hardware.keep_memory()
    print(*milliseconds(plain() if kind == "plain" else laptop()[2], repeats=5))


def plain():
    """The function that takes a step of the plain loop."""
    config, images, _ = laptop()
    method = training.build(config, data.channel_statistics(images.images))
    encoder, optimizer = method.encoder, config.optim.build(method)
    loader = DataLoader(Pairs(images, torchvision_per_image(config.views)), batch_size=config.batch_size)

    def loop():
        for first, second in loader:
            optimizer.zero_grad()
            normalised = (torch.cat([first, second]).float() / 255 - encoder.mean) / encoder.std
            z1, z2 = method.projector(encoder.trunk(normalised).mean(dim=(2, 3))).chunk(2)
            loss = method.pair_loss(z1, z2)
            loss.backward()
            optimizer.step()
        return loss

    return loop


def laptop() -> tuple:
    """Configuration, a batch of images, and the function that takes our step on it."""
    config = PAPER.plan("fig1", "laptop", seeds=[1])[2].config
    images = data.load("shapes", "train").subset(torch.arange(config.batch_size))
    method = training.build(config, data.channel_statistics(images.images)).to(memory_format=torch.channels_last)
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
    hardware.keep_memory()
    matrix = torch.randn(1024, 1024, dtype=getattr(torch, hardware.precision("cpu")))
    taken, product = milliseconds(step, lambda: matrix @ matrix)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(REPEATS):
            step()
    seconds = dict.fromkeys(PARTS, 0.0)
    for event in profiled.key_averages():
        part = next(part for part, names in PARTS.items() if any(name in event.key for name in names))
        seconds[part] += event.self_cpu_time_total
    shares = {part: value / sum(seconds.values()) for part, value in seconds.items()}
    arithmetic = training.flop(config) * len(images)
    return shares, arithmetic / (shares["convolutions"] * taken) / 1e6, 2 * 1024**3 / product / 1e6


if __name__ == "__main__":
    main()
