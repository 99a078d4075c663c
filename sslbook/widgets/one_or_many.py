"""One subspace for all images, or one in each region of a ReLU projector (Cosentino et al. 2022, Fig. 8)."""

import functools
from typing import ClassVar

import torch
import traitlets
from matplotlib.collections import PolyCollection

from sslbook import metrics, plotting
from sslbook.papers.geometry import theory
from sslbook.widgets.base import Explorer, choice, slider

ANGLE = torch.arange(316).deg2rad()
ARC = torch.stack([ANGLE.cos(), ANGLE.sin()], 1)
TANGENT = torch.stack([-ANGLE.sin(), ANGLE.cos()], 1)
SIDE = 1.4


@functools.cache
def pieces(network: str, weights: str) -> tuple[torch.Tensor, torch.Tensor, list]:
    """W_ω of a `position_reader` at each degree of the arc (316, 2), the index of its region (316,), the regions."""
    layers, width = map(int, network.split(" × "))
    projector = theory.position_reader((width,) * layers, steps=500 * (weights == "fitted"))
    square = [(-SIDE, -SIDE), (SIDE, -SIDE), (SIDE, SIDE), (-SIDE, SIDE)]
    cells = theory.cells(theory.hidden_layers(projector, torch.tensor([[0.0, 0], [1, 0], [0, 1]])), square)
    centres = torch.stack([torch.tensor(cell.mean(0)) for cell in cells])
    patterns = theory.activation_patterns(projector, torch.cat([centres.float(), ARC]))
    index = patterns.unique(dim=0, return_inverse=True)[1]
    cells = [cells[i] for i in index[: len(cells)].argsort()]
    return theory.local_maps(projector, ARC)[..., 0], index[len(cells) :], cells


class OneOrMany(Explorer):
    """Images at each degree of an arc of the unit circle, and the direction that a projector to the line keeps there.

    One subspace is the best line for all tangents. The projectors have the hidden layers and the width of `network`,
    are fitted to an arc of 315° or as they start, and have a W_ω in each region. `data` holds for each projector the
    angle of W_ω at each image, NaN if W_ω = 0, then the indices of the regions, whose outlines are in `cuts`.
    """

    arc = slider(240, 10, 315, 1, "Length of the arc", "°")
    place = slider(60, 0, 315, 1, "Image looked at (or drag it)", "°")
    network = choice("2 × 24", ("1 × 24", "2 × 12", "3 × 8", "1 × 48", "2 × 24", "3 × 16"), "Hidden layers × units")
    weights = choice("fitted", ("fitted", "random"), "Weights")
    cuts = traitlets.List().tag(sync=True)
    numbers: ClassVar = {
        "one": "Missed by one subspace",
        "many": "Missed by the pieces",
        "here": "Missed by the piece here",
        "met": "Regions met",
        "regions": "Regions in the square",
    }

    def __init__(self, **values):
        cls = type(self)
        frames, cuts = [], []
        for maps, met, cells in (pieces(n, w) for n in cls.network.values for w in cls.weights.values):
            frames += [torch.atan2(maps[:, 1], maps[:, 0]).where(maps.any(1), torch.nan), met]
            outlines = (" ".join(f"{1000 * x:.0f} {-1000 * y:.0f}" for x, y in cell) for cell in cells)
            cuts.append("".join(f"M{outline}Z" for outline in outlines))
        super().__init__(data=torch.stack(frames).numpy().tobytes(), cuts=cuts, **values)

    def compute(self) -> dict:
        maps, met, cells = pieces(self.network, self.weights)
        here, there = slice(self.place, self.place + 1), slice(self.arc + 1)
        return {
            "one": metrics.pca_unexplained(TANGENT[there], 1),
            "many": theory.local_unexplained(maps[there, :, None], TANGENT[there]),
            "here": theory.local_unexplained(maps[here, :, None], TANGENT[here]),
            "met": len(met[there].unique()),
            "regions": len(cells),
        }

    def still(self):
        maps, met, cells = pieces(self.network, self.weights)
        images, some = slice(self.arc + 1), slice(6, self.arc + 1, 12)
        shades = ["none"] * len(cells)
        for region in met[images].tolist():
            shades[region] = f"{plotting.PALETTE[2]}40"
        ax = plotting.axes(figsize=(4.4, 4.4))
        ax.set(aspect="equal", xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), xticks=[], yticks=[])
        ax.add_collection(PolyCollection(cells, facecolors=shades, edgecolors="#00000066", linewidths=0.5))
        ax.plot(*ARC[images].T, color="black", linewidth=1)
        best = torch.linalg.svd(TANGENT[images]).Vh[0].expand(316, 2)
        looks = {"pivot": "mid", "headaxislength": 0, "headlength": 0, "headwidth": 0, "width": 0.009}
        for directions, colour in ((best, plotting.PALETTE[1]), (maps, plotting.PALETTE[0])):
            along = torch.nn.functional.normalize(directions[some])
            ax.quiver(*ARC[some].T, *along.T, color=colour, angles="xy", scale_units="xy", scale=5, **looks)
        return ax.figure
