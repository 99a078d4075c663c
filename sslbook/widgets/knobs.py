"""Recorded runs of SimVAE, one change of its settings after the other: content, style and reconstructions."""

from typing import ClassVar

import torch
import traitlets

from sslbook import plotting
from sslbook.config import require
from sslbook.papers.simvae import KNOBS, PAPER
from sslbook.papers.simvae.figures import strip
from sslbook.widgets.base import Explorer, choice, recorded, slider, webp

CONTENT = {"linear probe": "linear", "20 nearest neighbours": "knn", "MLP probe": "mlp"}
SHOWN = (*CONTENT.values(), "style", "ratio", "rebuilt", "active")


def _sheet(arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """Views and their reconstructions after training, two rows of RGBA pixels: at most 8 of gray, 4 of colour."""
    views, own = (arrays[name][-1] for name in ("views", "own_views"))
    n = min(len(views), 8 if views.shape[1] == 1 else 4)
    return torch.cat([strip(views[:n]), strip(own[:n])])


class Knobs(Explorer):
    """What is measured of `found`, runs of every cell of `plan.KNOBS`, mean over seeds, and pictures of the first seed.

    `found` are by default the runs at the profile `laptop`. `data` holds the size of a sheet of pictures, for each cell
    its numbers in the order of `SHOWN` and the end of its sheet, then the sheets, WebP.
    """

    cell = slider(0, 0, len(KNOBS) - 1, 1, "Cell")
    content = choice(next(iter(CONTENT)), CONTENT, "Content is measured by")
    names = traitlets.List(list(KNOBS)).tag(sync=True)
    numbers: ClassVar = {
        "content": "Content",
        "style": "Style, R²",
        "ratio": "Variance within images, over all",
        "rebuilt": "Error of a fresh decoder",
        "active": "Used dimensions",
    }

    def __init__(self, found=None, **values):
        found = found or recorded("simvae", "knobs")
        frame = PAPER.frame(found)
        frame = frame[frame.epoch == frame.groupby("run").epoch.transform("max")]
        means = frame.groupby("knob")[list(SHOWN)].mean()
        require(set(means.index) == set(KNOBS), f"The runs are of {', '.join(means.index)}; all cells are needed.")
        self._means = torch.tensor(means.loc[list(KNOBS)].values.copy())
        firsts = {labels["knob"]: run for run, labels in reversed(found)}
        self._sheets = [_sheet(PAPER.arrays(firsts[knob])) for knob in KNOBS]
        pictures = [webp(sheet) for sheet in self._sheets]
        ends = torch.tensor([len(picture) for picture in pictures]).cumsum(0)[:, None]
        head = torch.tensor(self._sheets[0].shape[:2])
        table = torch.cat([self._means, ends], 1)
        numbers = torch.cat([head, table.flatten()]).float().numpy().tobytes()
        super().__init__(data=numbers + b"".join(pictures), **values)

    def compute(self) -> dict:
        now = dict(zip(SHOWN, self._means[self.cell].tolist(), strict=True))
        return {"content": now[CONTENT[self.content]]} | {name: now[name] for name in SHOWN[len(CONTENT) :]}

    def still(self):
        figure = plotting.figure(figsize=(8.6, 4.6))
        left, right = figure.subplots(1, 2)
        content, style = self._means[:, SHOWN.index(CONTENT[self.content])], self._means[:, SHOWN.index("style")]
        for k, (knob, x, y) in enumerate(zip(KNOBS, style.tolist(), content.tolist(), strict=True)):
            left.scatter(x, y, s=30, color=plotting.PALETTE[int(k == self.cell)])
            left.annotate(knob, (x, y), (5, 4), textcoords="offset points", fontsize=8)
        left.set(xlabel="style, R² of the crop", ylabel=f"content, {self.content}")
        left.margins(0.2)
        half = self._sheets[0].shape[0] // 2
        rows = [self._sheets[0][:half], *(sheet[half:] for sheet in self._sheets)]
        right.imshow(torch.cat(rows).numpy(), interpolation="none")
        right.set(xticks=[], yticks=[half * (k + 0.5) for k in range(len(rows))], yticklabels=["view", *KNOBS])
        right.tick_params(length=0, labelsize=8)
        right.grid(False)
        right.spines[:].set_visible(False)
        return figure
