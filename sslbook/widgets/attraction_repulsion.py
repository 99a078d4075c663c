"""Attraction and repulsion on the circle (Cosentino et al. 2022, Fig. 2 and Prop. 3.1)."""

import math
from typing import ClassVar

import torch

from sslbook import losses, plotting
from sslbook.widgets.base import Explorer, slider

MOST = 12


class AttractionRepulsion(Explorer):
    """n images evenly on the circle, the first one `turn`ed away, each with two views that `spread` about its place.

    View k of image i has the angle 360° i/n + [i = 0] turn + spread · e_ik, e standard normal and fixed (in `data`).
    The arrows are the parts of −∂/∂θ_i^(1) / β of the loss and of its bound: sin(θ_i^(2) − θ_i^(1)) towards the twin,
    −sin(θ_l − θ_i^(1)) from the nearest negative, and the mean of these over all negatives l with the weights p_i(l).
    """

    beta = slider(2.0, 0.0, 50.0, 0.5, "Inverse temperature β")
    spread = slider(20, 0, 60, 1, "Strength: spread of the views", "°")
    images = slider(5, 2, MOST, 1, "Images")
    turn = slider(0, -180, 180, 1, "Image 1 moved by (or drag it)", "°")
    numbers: ClassVar = {"loss": "Loss", "bound": "Upper bound", "gap": "Gap", "limit": "Largest possible gap"}

    def __init__(self, **values):
        self._draws = torch.randn(MOST, 2, generator=torch.Generator().manual_seed(11))
        super().__init__(data=self._draws.numpy().tobytes(), **values)

    def angles(self) -> torch.Tensor:
        """θ of both views of each image in radians, (images, 2), float64."""
        n = self.images
        degrees = 360 * torch.arange(n).double()[:, None] / n + self.spread * self._draws[:n].double()
        degrees[0] += self.turn
        return degrees.deg2rad()

    def compute(self) -> dict:
        z1, z2 = (torch.stack([theta.cos(), theta.sin()], dim=1) for theta in self.angles().T)
        loss = float(losses.info_nce(z1, z2, beta=self.beta))
        bound = float(losses.info_nce_upper_bound(z1, z2, beta=self.beta).total)
        return {"loss": loss, "bound": bound, "gap": bound - loss, "limit": math.log(2 * (self.images - 1))}

    def still(self):
        theta = self.angles()
        x, y = theta.cos(), theta.sin()
        nearest = losses.info_nce_upper_bound(*torch.stack([x, y], dim=2).unbind(1), beta=self.beta).nearest
        towards, away = theta[:, 1], theta.T.flatten()[nearest]
        ax = plotting.axes(figsize=(4.6, 4.2))
        ax.axis("off")
        ax.set(aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
        around = torch.linspace(0, 2 * math.pi, 200)
        ax.plot(around.cos(), around.sin(), color="black", linewidth=0.8, alpha=0.4)
        kinds = ((towards, 1, "pull to the twin", 1.0), (away, -1, "push from the nearest negative", 1.1))
        for other, sign, label, out in kinds:  # the second arrows stand a little farther out, beside the first
            force = sign * (other - theta[:, 0]).sin()
            arrows = {"color": plotting.PALETTE[int(sign < 0)], "angles": "xy", "scale_units": "xy", "scale": 2}
            start = out * x[:, 0], out * y[:, 0]
            ax.quiver(*start, -force * y[:, 0], force * x[:, 0], label=label, width=0.009, **arrows)
        ax.scatter(x[:, 0], y[:, 0], s=36, color="black", zorder=3, label="first view")
        ax.scatter(x[:, 1], y[:, 1], s=36, facecolor="none", edgecolor="black", zorder=3, label="second view")
        ax.legend(loc="center", fontsize=9)
        return ax.figure
