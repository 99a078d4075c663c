"""Two models side by side, measure by measure, among all models: do they differ more than models differ?"""

import itertools
from typing import ClassVar

import numpy as np
import pandas as pd
import traitlets

from sslbook import plotting
from sslbook.config import require
from sslbook.papers.manifold_graphs import statistics
from sslbook.widgets.base import Explorer

LONGEST = 32
"""Letters of a name that fit beside its values on a telephone."""


def _select(label: str) -> traitlets.Unicode:
    """A choice among what a table holds."""
    return traitlets.Unicode().tag(sync=True, control={"label": label, "options": []})


def distances(values: np.ndarray) -> np.ndarray:
    """Distances (n, n) of the profiles of n models, the rows of `values` (n, p), in standard deviations.

    The root mean square over the p columns of the difference of standardised values; a constant column counts as 0. The
    mean square over all pairs of models is 2n/(n − 1) if no column is constant.
    """
    z = statistics.standardised(values)
    return np.sqrt(((z[:, None] - z) ** 2).mean(2))


class Profiles(Explorer):
    """Two models of `table` side by side, among the marks of all models, in standard deviations from their mean.

    **Arguments**
    - `table`: a row for each model (or what `pandas.DataFrame` makes one of), with the columns `model` (names),
      `paradigm`, `policy` and those of the groups, which are drawn and computed in single precision.
    - `groups`: what is compared at a time, as `{title: {column: short name}}`.
    - `first`, `second`, `group`: the names of two models and the title chosen at first, by default the first ones.
    - `colours`: colours of paradigms, by name; by default each of the two models has one of its own.

    The numbers: the two `measures` in which they differ most, their distance (see `distances`), and its median over all
    pairs of models, over those of one paradigm, and over those of one policy.

    **Raises** `ValueError` if a column is missing, a number is not finite, a name is not unique or has more than 32
    letters, or no two models share a paradigm or a policy.
    """

    first = _select("One model")
    second = _select("Another model")
    group = _select("What is compared")
    models = traitlets.List().tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    numbers: ClassVar = {
        "most": "In standard deviations over all models they differ most in",
        "distance": "their distance is",
        "all": "the median of all pairs",
        "paradigm": "of pairs of one paradigm",
        "policy": "of pairs with the same views",
    }

    def __init__(self, table, groups: dict[str, dict[str, str]], *, colours=None, **values):
        table = pd.DataFrame(table)
        _check(table, groups)
        names = list(table.model)
        self._options = {"first": names, "second": names, "group": list(groups)}
        self._values = {title: table[list(rows)].to_numpy(np.float32) for title, rows in groups.items()}
        self._kinds = table[["paradigm", "policy"]]
        kinds = zip(names, table.paradigm, table.policy, strict=True)
        start = {"first": names[0], "second": names[1], "group": next(iter(groups))}
        super().__init__(
            models=[[name, paradigm, policy, (colours or {}).get(paradigm)] for name, paradigm, policy in kinds],
            rows=[list(rows.values()) for rows in groups.values()],
            data=b"".join(values.tobytes() for values in self._values.values()),
            **start | values,
        )
        self.controls = [control | {"options": self._options[control["name"]]} for control in self.controls]

    @traitlets.validate("first", "second", "group")
    def _known(self, proposal):
        name, options = proposal.trait.name, self._options[proposal.trait.name]
        if proposal.value not in options:
            raise traitlets.TraitError(f"{name} is {proposal.value!r}; it is one of {', '.join(options)}.")
        return proposal.value

    def _now(self) -> tuple[np.ndarray, list[str], list[int]]:
        """The values (n, p) of the group, the names of its p rows, the indices of the two models."""
        rows = self.rows[self._options["group"].index(self.group)]
        return (
            self._values[self.group],
            rows,
            [self._options["first"].index(name) for name in (self.first, self.second)],
        )

    def compute(self) -> dict:
        values, rows, (a, b) = self._now()
        z = statistics.standardised(values)
        by = dict(sorted(zip(rows, abs(z[a] - z[b]).tolist(), strict=True), key=lambda each: -each[1])[:2])
        most = " and ".join(f"{row} (by {much:.1f})" for row, much in by.items() if much > 0)
        distance = distances(values)
        pairs = np.triu(np.ones_like(distance, bool), 1)
        numbers = {"most": most or "nothing", "distance": distance[a, b], "all": np.median(distance[pairs])}
        for kind, of in self._kinds.items():
            same = of.to_numpy()[:, None] == of.to_numpy()
            numbers[kind] = np.median(distance[pairs & same])
        return {name: each if isinstance(each, str) else float(each) for name, each in numbers.items()}

    def still(self):
        values, rows, pair = self._now()
        z, height = statistics.standardised(values), np.arange(len(rows))
        ax = plotting.axes(figsize=(7, 1.6 + 0.36 * len(rows)))
        for place in z:
            ax.plot(place, height, "|", color="black", markersize=9, markeredgewidth=1, alpha=0.35)
        ax.hlines(height, *np.sort(z[pair], 0), color="black", linewidth=1, alpha=0.6)
        for k, (i, mark, size, filled) in enumerate(zip(pair, "oD", (7, 8), (True, False), strict=True)):
            name, _, _, colour = self.models[i]
            colour = colour or plotting.PALETTE[k]
            face = {"markerfacecolor": colour if filled else "none", "markeredgecolor": colour, "markeredgewidth": 1.8}
            ax.plot(z[i], height, mark, markersize=size, label=name, **face)
        ax.set(yticks=height, yticklabels=rows, xlabel="standard deviations from the mean")
        ax.invert_yaxis()
        ax.legend(title=self.group, alignment="left", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return ax.figure


def _check(table: pd.DataFrame, groups: dict[str, dict[str, str]]) -> None:
    require(bool(groups) and all(groups.values()), f"The groups are {groups}; there must be one, and columns in each.")
    for column in ("model", "paradigm", "policy", *itertools.chain.from_iterable(groups.values())):
        require(column in table, f"The table has no column {column}; it has {', '.join(map(str, table))}.")
    for names in (table.model, *(rows.values() for rows in groups.values())):
        names = list(names)
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"The name {twice} stands twice; each model, and each row of a group, has its own.")
        long = max(names, key=len)
        require(len(long) <= LONGEST, f"The name {long} has {len(long)} letters; at most {LONGEST} fit a telephone.")
    for kind in ("paradigm", "policy"):
        require(not table[kind].isna().any(), f"A {kind} is missing; every model has one, such as 'untrained'.")
        require(table[kind].duplicated().any(), f"No two of the {len(table)} models share a {kind}; two must.")
    for column in itertools.chain.from_iterable(groups.values()):
        finite = np.isfinite(table[column].to_numpy(float))
        at = (
            f"{column} of {table.model[~finite].iloc[0]} is {table[column][~finite].iloc[0]}" if not all(finite) else ""
        )
        require(not at, f"{at}; a profile needs a finite number.")
