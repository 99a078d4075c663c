"""Recorded runs, epoch by epoch, the three strengths side by side (Cosentino et al. 2022, Figs. 1 and 4 to 7)."""

import functools
from typing import ClassVar

import torch
from torch import Tensor

from sslbook import plotting
from sslbook.config import require
from sslbook.papers.geometry import PAPER
from sslbook.papers.geometry.plan import COLOURS, DASHES, STRENGTHS
from sslbook.widgets.base import Explorer, choice, recorded, slider

CURVES = {
    "singular values of W (Fig. 1)": "projector",
    "singular values of the encoder (Fig. 4)": "encoder_centered",
    "distances to the nearest negative (Fig. 5)": "distance_relative",
}
MEASURES = {
    "effective rank of W (Fig. 1)": "effective_rank",
    "20-NN accuracy (Fig. 1)": "knn",
    "20-NN accuracy of the projector's output": "knn_projector",
    "linear-probe accuracy": "linear",
    "distance to the nearest negative (Fig. 5)": "distance_relative_mean",
    "label agreement (Fig. 6)": "fine",
    "unexplained variance (Fig. 7)": "unexplained",
}


def _gather(found: list) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Kept epochs (T,), means of each curve over seeds (T, 3, ·), means and deviations of each measure (T, 3, 2).

    Epochs kept by `Config.early` alone are left out, so that the steps are even.
    """
    config = found[0].run.config
    even = config.replace(early=()).snapshot_epochs
    kept = [config.snapshot_epochs.index(epoch) for epoch in even]
    frame = PAPER.frame(found)
    frame = frame[frame.epoch.isin(even)]
    names = set(frame.strength)
    require(names >= set(STRENGTHS), f"The runs are of {', '.join(sorted(names))}; all strengths are needed.")
    curves = {}
    for curve in CURVES.values():
        means = []
        for strength in STRENGTHS:
            arrays = [PAPER.arrays(run)[curve][kept] for run, labels in found if labels["strength"] == strength]
            means.append(torch.stack(arrays).double().mean(0))
        curves[curve] = torch.stack(means, 1)
    curves["distance_relative"] /= curves["distance_relative"].sum(2, keepdim=True)
    grouped, measures = frame.groupby(["epoch", "strength"]), {}
    for measure in MEASURES.values():
        parts = [grouped[measure].mean(), grouped[measure].std(ddof=0)]
        parts = [torch.tensor(part.unstack()[list(STRENGTHS)].values.copy()) for part in parts]
        measures[measure] = torch.stack(parts, 2)
    epochs = torch.tensor(sorted(set(frame.epoch)))
    regular = len(epochs) > 1 and len(epochs.diff().unique()) == 1
    require(regular, f"The runs keep the epochs {epochs.tolist()}; a slider needs two or more, evenly spaced from 0.")
    return epochs, curves, measures


@functools.cache
def _shipped():
    return _gather(recorded("geometry", "main"))


class TrainingScrubbed(Explorer):
    """What is measured of `found`, runs of all strengths: a curve and a measure by kept epoch.

    The numbers are the mean and the standard deviation (divisor n) of the measure over the seeds of each strength.
    `found` are by default the shipped main runs of the profile `laptop`.
    """

    epoch = slider(0, 0, 100_000, 1, "Epoch")
    curve = choice(next(iter(CURVES)), CURVES, "Curves at this epoch")
    measure = choice(next(iter(MEASURES)), MEASURES, "Measure through training")
    colours: ClassVar = COLOURS
    numbers: ClassVar = {
        name: label for s in STRENGTHS for name, label in ((s, s.capitalize()), (f"{s}_deviation", "±"))
    }

    def __init__(self, found=None, **values):
        self._epochs, self._curves, self._measures = _gather(found) if found else _shipped()
        count = len(self._epochs)
        head = torch.tensor([count, *(curve.shape[2] for curve in self._curves.values())])
        parts = [head, self._epochs, *self._curves.values(), *self._measures.values()]
        frames = torch.cat([part.flatten().float() for part in parts]).numpy().tobytes()
        super().__init__(data=frames, **{"epoch": int(self._epochs[count // 2])} | values)
        kept = {"max": int(self._epochs[-1]), "step": int(self._epochs[1])}
        self.controls = [control | kept if control["name"] == "epoch" else control for control in self.controls]

    def _now(self) -> int:
        epochs = self._epochs.tolist()
        require(self.epoch in epochs, f"epoch is {self.epoch}; kept are {', '.join(map(str, epochs))}.")
        return epochs.index(self.epoch)

    def compute(self) -> dict:
        return dict(
            zip(self.numbers, self._measures[MEASURES[self.measure]][self._now()].flatten().tolist(), strict=True)
        )

    def still(self):
        figure = plotting.figure(figsize=(8, 3.5))
        left, right = figure.subplots(1, 2)
        left.set_title(f"{self.curve}, epoch {self.epoch}", fontsize=10)
        right.set(title=self.measure, xlabel="epoch")
        for i, (strength, colour) in enumerate(COLOURS.items()):
            line = {"color": colour, "dashes": DASHES[strength] or (None, None), "label": strength}
            left.plot(self._curves[CURVES[self.curve]][self._now(), i], **line)
            mean, deviation = self._measures[MEASURES[self.measure]][:, i].T
            right.plot(self._epochs, mean, **line)
            right.fill_between(self._epochs, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)
        right.set_ylim(bottom=min(0, right.get_ylim()[0]))
        left.legend()
        return figure
