"""The optimal plan between the two views of a few images, beside InfoNCE (the matching gap, 2023)."""

from typing import ClassVar

import torch

from sslbook import losses, plotting
from sslbook.widgets.base import Explorer, slider


class Matching(Explorer):
    """Six images on an arc of the unit circle, whose second views stand where they are turned.

    The first view of image i has the angle `spread` i/5, i = 0 … 5, and the second is `one` … `six` degrees farther.
    The numbers are `matching_gap` at ε and at 0 and ε·`cross_view_info_nce` at temperature ε, all of the cosine, and
    the share of the optimal plan that lies off the true pairs.
    """

    log_epsilon = slider(-1.0, -1.5, 0.5, 0.05, "log₁₀ ε")
    spread = slider(300, 0, 300, 1, "Arc of the first views", "°")
    one, two, three, four, five, six = (
        slider(turn, -180, 180, 1, f"Second view of image {i}, turned by", "°")
        for i, turn in enumerate((20, -25, 35, -10, 10, 30), 1)
    )
    numbers: ClassVar = {
        "epsilon": "ε",
        "gap": "Matching gap",
        "info_nce": "ε · InfoNCE",
        "exact": "Gap at ε = 0",
        "misplaced": "Misplaced mass",
    }

    def views(self) -> torch.Tensor:
        """The first and the second views, (2, 6, 2), float64."""
        first = torch.linspace(0, self.spread, 6, dtype=torch.float64)
        turns = torch.tensor([self.one, self.two, self.three, self.four, self.five, self.six])
        angles = torch.stack([first, first + turns]).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], 2)

    def plan(self) -> torch.Tensor:
        """P_ε, (6, 6), found as `matching_gap` finds it: with centred views."""
        x, y = self.views() - self.views().mean(1, keepdim=True)
        return losses.sinkhorn(-x @ y.T, 10**self.log_epsilon).plan

    def compute(self) -> dict:
        epsilon, (x, y) = 10**self.log_epsilon, self.views()
        values = {
            "epsilon": epsilon,
            "gap": losses.matching_gap(x, y, epsilon=epsilon),
            "info_nce": epsilon * losses.cross_view_info_nce(x, y, temperature=epsilon),
            "exact": losses.matching_gap(x, y, epsilon=0),
            "misplaced": 1 - self.plan().trace(),
        }
        return {name: float(value) for name, value in values.items()}

    def still(self):
        (x, y), plan = self.views(), self.plan()
        ax = plotting.axes(figsize=(4.2, 4.2))
        ax.axis("off")
        ax.set(aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
        for i, j in (plan > 1e-3).nonzero().tolist():
            looks = {"color": plotting.PALETTE[int(i != j)], "linewidth": 50 * float(plan[i, j]), "alpha": 0.75}
            ax.plot(*torch.stack([x[i], 0.66 * y[j]], 1), **looks)
        ax.scatter(*x.T, s=40, color="black", zorder=3)
        ax.scatter(*0.66 * y.T, s=40, facecolor="none", edgecolor="black", zorder=3)
        for places in (1.15 * x, 0.53 * y):
            for i, place in enumerate(places.tolist(), 1):
                ax.text(*place, str(i), ha="center", va="center")
        return ax.figure
