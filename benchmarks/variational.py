"""A training step of a VAE on binary digits against pythae's: the same layers, loss and optimiser, float32."""

import sys

import torch

from benchmarks.timing import milliseconds, row
from sslbook import data
from sslbook.methods import VAE, Batch
from sslbook.models import MLP, MLPDecoder
from sslbook.optim import Adam

BATCH, LATENTS, WIDTH = 100, 40, 512
"""`WIDTH` is that of the hidden layers of pythae's default."""


def rows() -> list[dict]:
    """Loss, gradient and a step of Adam."""
    try:
        from pythae.models import VAE as PythaeVAE
        from pythae.models import VAEConfig
    except ModuleNotFoundError:
        print("pythae is not installed: its row is left out.", file=sys.stderr)
        return []
    about = data.info("binarised_mnist")
    ours = VAE(decoder=MLPDecoder((WIDTH,)), views=1, likelihood="bernoulli", binarised=True)
    ours = ours.build(MLP(LATENTS, (WIDTH,)).build(about, torch.zeros(1), torch.ones(1)), about)
    theirs = PythaeVAE(VAEConfig(input_dim=about.shape, latent_dim=LATENTS, reconstruction_loss="bce"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, *about.shape, generator=generator).round()

    def our_loss():
        noise = ours.draw(BATCH, generator, "cpu")
        return ours.loss(Batch(images[None], torch.zeros(BATCH, dtype=torch.long), noise, torch.tensor(0.5)))[0]

    steps = (step(ours, our_loss), step(theirs, lambda: theirs({"data": images}).loss))
    what = f"step of a VAE, {BATCH} images, 784–{WIDTH}–{LATENTS} and back"
    taken = milliseconds(*steps)
    return [row(what, taken[0], "pythae", taken[1])]


def step(model, loss):
    """A function that takes a step of training."""
    optimizer = Adam(learning_rate=1e-3).build(model)

    def take():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return take
