"""The weights of the loss on the negatives, as β goes from 0 to 50 (Cosentino et al. 2022, Prop. C.1)."""

from typing import ClassVar

import torch

from sslbook import plotting
from sslbook.papers.geometry import theory
from sslbook.widgets.base import Explorer, choice, slider

IMAGES = 64


def batches() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Two views of 64 images by name, float64: random outputs whose second view is moved by half, and the simplex."""
    made = {}
    for width in (16, 128):
        z1 = theory.random_features(IMAGES, width)
        made[f"random, {width} outputs"] = (z1, z1 + theory.random_features(IMAGES, width, seed=1) / 2)
    return made | {"regular simplex": (theory.simplex(IMAGES),) * 2}


class WeightsOnNegatives(Explorer):
    """p_l ∝ exp(β s_l) on the 2(N − 1) = 126 negatives of one anchor, the most similar first.

    `data` are their similarities s_l, (batches, 126). The entropy H of p gives the effective number exp(H); the gap is
    that of the anchor's bound, β(s* − Σ p_l s_l) + log 2(N − 1) − H.
    """

    beta = slider(2.0, 0.0, 50.0, 0.5, "Inverse temperature β")
    batch = choice("random, 16 outputs", batches(), "Outputs")
    numbers: ClassVar = {
        "effective": "Effective negatives",
        "entropy": "Entropy",
        "largest": "Largest weight",
        "gap": "Gap of the bound",
    }

    def __init__(self, **values):
        self._batches = batches()
        self._similarity = {
            k: theory.negative_similarities(*z)[0].sort(descending=True).values for k, z in self._batches.items()
        }
        frames = torch.stack(list(self._similarity.values())).float()
        super().__init__(data=frames.numpy().tobytes(), **values)

    def compute(self) -> dict:
        z1, z2 = self._batches[self.batch]
        _, expectation, entropy = (part[0] for part in theory.decomposition(z1, z2, self.beta))
        largest = (self.beta * self._similarity[self.batch][0] - expectation - entropy).exp()
        gap = theory.bound_gap(z1, z2, self.beta)[0][0]
        parts = {"effective": entropy.exp(), "entropy": entropy, "largest": largest, "gap": gap}
        return {name: float(value) for name, value in parts.items()}

    def still(self):
        ax = plotting.axes()
        ax.set(yscale="log", ylim=(1e-4, 1), xlabel="negatives, the most similar first", ylabel="weight")
        for beta, dashes in ((0, ":"), (2, "-"), (10, "--"), (50, "-.")):
            weights = (beta * self._similarity[self.batch]).softmax(0)
            ax.plot(range(1, len(weights) + 1), weights, dashes, label=f"β = {beta}")
        ax.legend()
        return ax.figure
