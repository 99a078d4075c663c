"""A laptop training step against a plain float32 loop: the same model, loss and optimiser, fed by a data loader.

The plain loop is what one writes from the tutorials: torchvision's v2 transforms applied twice to each uint8 image in
a `DataLoader` of one process, contiguous memory, the allocator as it is, no mixed precision, on the same cores.
"""

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import milliseconds, row
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
    """One row: milliseconds for a step of the laptop profile under large augmentations."""
    config = geometry.configs("fig1", "laptop", seeds=[1])[2]
    images = data.load("shapes", "train").images[: config.batch_size]
    statistics = data.channel_statistics(images)

    ours = training.build(config, 3, statistics).to(memory_format=torch.channels_last)
    step = training._step(config, ours, config.optim.build(ours), images, "cpu")
    indices, generator = torch.arange(len(images)), torch.Generator().manual_seed(0)

    plain = training.build(config, 3, statistics)
    encoder, optimizer = plain.encoder, config.optim.build(plain)
    loader = DataLoader(Pairs(images, torchvision_per_image(config.views)), batch_size=config.batch_size)

    def loop():
        for first, second in loader:
            optimizer.zero_grad()
            normalised = (torch.cat([first, second]).float() / 255 - encoder.mean) / encoder.std
            z1, z2 = plain.projector(encoder.trunk(normalised).mean(dim=(2, 3))).chunk(2)
            plain.pair_loss(z1, z2).backward()
            optimizer.step()

    (theirs,) = milliseconds(loop)
    training.keep_memory()  # for the rest of the process: so the plain loop goes first
    (taken,) = milliseconds(lambda: step(indices, generator, 0.1, 0.5))
    return [row(f"laptop step, {config.batch_size} images", taken, "plain loop, loader-fed", theirs)]
