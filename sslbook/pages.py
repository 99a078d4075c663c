"""What a notebook shows: the runs behind a figure, their numbers and provenance, figures, and verdicts."""

import functools
import json
from collections.abc import Iterable
from importlib import metadata

import pandas as pd

from sslbook import hardware, ledger, papers, plotting, runs
from sslbook.config import require
from sslbook.ledger import Claim, Verdict


class Page:
    """A notebook of `paper`, shown with the runs behind `figure`, the missing ones trained first; None needs no runs.

    The parameters are those of the notebook. Raises `ValueError` with the allowed values if one is not of them.
    """

    def __init__(
        self, paper: str, figure: str | None = "main", *, profile="laptop", dataset=None, seeds=None, device=None
    ):
        papers.check(profile, dataset, seeds, device)
        self.paper, self.profile = papers.paper(paper), profile
        self.options = {"profile": profile, "dataset": dataset, "seeds": seeds, "device": device}
        self.figure, self.judged = figure, {}
        self.planned = [] if figure is None else self.paper.plan(figure, profile, dataset, seeds)
        self.found = list(self.paper.obtain(self.planned, device=device))
        if self.found:
            # The first page of a kernel sets the facts; further ones do not overwrite them.
            note(**{"data": self.facts.data, "seeds": self.facts.seeds} | _facts)

    def of(self, figure: str) -> "Page":
        """A page of the runs behind another figure, with the same parameters."""
        return Page(self.paper.name, figure, **self.options)

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each run and kept epoch; see `Paper.frame`."""
        return self.paper.frame(self.found)

    @functools.cached_property
    def facts(self) -> papers.Facts:
        """Provenance: the line under the page's figures, data set, seeds, scale, seconds of training."""
        return papers.facts(self.found, self.profile)

    @property
    def epochs(self) -> list[int]:
        """The kept epochs, from 0."""
        return sorted(self.frame.epoch.unique().tolist())

    @functools.cached_property
    def moments(self) -> dict[str, int]:
        """The kept epochs at the "start", the "half" and the "end" of training."""
        return ledger.moments(self.epochs)

    def at(self, when: str = "end") -> pd.DataFrame:
        """The rows of the frame at one of the moments, which may be another epoch for each run."""
        epochs = self.frame.groupby("run").epoch
        return self.frame[self.frame.epoch == epochs.transform(lambda of_run: ledger.moments(of_run)[when])]

    def change(self, name: str, **where) -> float:
        """The mean over seeds of the change of a column from start to end, of the runs with these labels."""
        start, end = (ledger.value(self.frame, name, when, **where) for when in ("start", "end"))
        return float((end - start).mean())

    def difference(self, name: str, first: dict, second: dict, digits: int = 3) -> str:
        """The mean over seeds of the difference of a column at the end between runs with the labels `first` and those
        with `second`, paired by seed, with its 95 % interval, in words for the text."""
        a, b = (ledger.value(self.frame, name, **labels) for labels in (first, second))
        return interval(a - b, digits)

    def table(self, columns: dict[str, str], by, digits: int = 3, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        """Mean ± standard deviation (of several seeds) of columns with titles, by label, at the end of training.

        Or of the rows of `frame`; a group without numbers stays empty.
        """
        groups = (self.at() if frame is None else frame).groupby(by, sort=False)[list(columns)]
        both = groups.mean().round(digits) + 0.0, groups.std(ddof=1)  # no −0
        mean, deviation = (part.map(f"{{:.{digits}f}}".format) for part in both)
        shown = (mean + (" ± " + deviation).replace(" ± nan", "")).where(groups.count() > 0, "")
        return shown.rename(columns=columns)

    def show(self, figure, *, caption: str, alt: str, name: str | None = None, made_by: str | None = None) -> None:
        """Display a figure of the page's runs, or one that was computed here if `made_by` says so; see `here`."""
        plotting.show(figure, caption=caption, alt=alt, made_by=made_by or self.facts.line, name=name)

    def here(self, data: str, seeds: Iterable[int] = (), seconds: float | None = None) -> str:
        """The line under a figure that was computed on its page."""
        return made_by(profile=self.profile, data=data, seeds=list(seeds), seconds=seconds)

    def axes(self, panels: int = 1, *, sharey: bool = False, **size):
        """A figure in the house style with panels beside each other, and their list."""
        figure = plotting.figure(**({"figsize": (6.4, 3.6) if panels == 1 else (8.6, 3.4)} | size))
        return figure, list(figure.subplots(1, panels, squeeze=False, sharey=sharey).flat)

    def draw(self, y: str, hue: str, *, x: str = "epoch", ax=None, frame: pd.DataFrame | None = None, **labels):
        """Curves of a column over `x`, mean ± one standard deviation over seeds, in the paper's colours."""
        looks = {"colours": self.paper.colours, "dashes": self.paper.dashes}
        data = self.frame if frame is None else frame
        return plotting.curves_with_band(data, x, y, hue, ax=ax, **({"xlabel": x} | looks | labels))

    def told(self, y: str, hue: str, digits: int = 3) -> str:
        """Where the curve of each value of `hue` starts and ends, in words."""
        first, last = (self.at(when).groupby(hue, sort=False)[y].mean() for when in ("start", "end"))
        parts = [f"{key} from {first[key]:.{digits}f} to {last[key]:.{digits}f}" for key in last.index]
        return f"{hue.replace('_', ' ').capitalize()}: {'; '.join(parts)}."

    def verdicts(self, *ids: str):
        """Judge claims by their runs, and return the table of their tests as a page shows it."""
        options = {name: self.options[name] for name in ("dataset", "seeds")}
        known = {self.figure: (self.found, self.frame)} if self.found else {}
        found = self.paper.verdicts(self.profile, *ids, **options, known=known)
        self.judged |= {verdict.claim.id: verdict for verdict in found}
        note(result="; ".join(f"{id} {verdict.status}" for id, verdict in self.judged.items()))
        return styled(found)

    def status(self, id: str) -> str:
        """The verdict on a claim that the page judges, in a word or two. Raises `ValueError` for any other claim."""
        require(id in self.judged, f"The page judges no claim {id!r}; it judges {', '.join(self.judged) or 'none'}.")
        return self.judged[id].status

    def outcome(self, id: str, test: int = 0, digits: int = 3) -> str:
        """Mean and interval of a test of a claim that the page judges, or that there is none."""
        self.status(id)
        if not self.judged[id].outcomes:
            return "not measured at this scale"
        found = self.judged[id].outcomes[test]
        return signed(found.mean, found.low, found.high, digits=digits)

    def claim(self, id: str) -> Claim:
        """A claim of the page's paper."""
        return self.paper.claim(id)

    def judge(self, claim: Claim) -> str:
        """What the page's runs say of a claim, as with other thresholds than its own."""
        return self.paper.judge(claim, self.found, self.profile).status

    def verdict(self, id: str) -> str:
        """The verdict on a claim that the page judges, as a sentence has it: "partly reproduced in a toy".

        The scale is said of toys alone: that of the runs stands at the head of the page.
        """
        words = {ledger.PARTLY: "partly reproduced", ledger.MIXED: "mixed (some tests hold, others fail)"}
        status = self.status(id)
        scale = "" if self.judged[id].runs else self.judged[id].scale
        return f"{words.get(status, status)} {scale}".strip()

    def measured(self, *ids: str):
        """What the tests of claims find on the page's runs, whichever runs were declared for them: no verdicts."""
        claims = [self.claim(id) for id in ids]
        return styled([Verdict(claim, None, ledger.measure(claim, self.frame)) for claim in claims])

    def means(self, by: str, when: str = "end") -> pd.DataFrame:
        """The mean of every column of the frame at one of the `moments`: a row for each value of the label `by`."""
        return self.at(when).groupby(by, sort=False).mean(numeric_only=True)

    def trend(self, name: str, by: str) -> str:
        """How the means of a column at the end go from value to value of the label `by`: rises, falls or varies."""
        steps = self.means(by)[name].diff().iloc[1:]
        return "rises" if (steps > 0).all() else "falls" if (steps < 0).all() else "varies"

    def through(self, columns: dict[str, str], by: str) -> pd.DataFrame:
        """Means of columns, with their titles, at the three `moments`: a row for each value of the label `by`."""
        means = {when: self.means(by, when) for when in self.moments}
        tables = {title: pd.DataFrame({w: m[name] for w, m in means.items()}) for name, title in columns.items()}
        return pd.concat(tables, axis=1)

    def panels(
        self, columns: dict[str, str], hue: str, *, legend_in: int = 0, sharey: bool = False, ylim=None, **labels
    ):
        """Curves of columns beside each other, each under its title, and one legend: the figure and a list of axes."""
        figure, axes = self.axes(len(columns), sharey=sharey, figsize=(8, 3.4))
        for ax, (name, title) in zip(axes, columns.items(), strict=True):
            self.draw(name, hue, ax=ax, title=title, **labels)
            if ax is not axes[legend_in]:
                ax.get_legend().remove()
        for ax in axes:  # only now: a limit set on shared axes would hold for curves yet to come
            ax.set_ylim(ylim)
        return figure, axes

    def spectra(self, name, hue: str, moments: dict[str, str] | None = None, *, relative=False, ax=None, **labels):
        """Singular values against their index, means over runs, at the end or at titled `moments`.

        They are the array `name`, or a frame of entries. One colour for each value of `hue`, a label or column, one
        kind of line for each moment. If `relative`, the values of a run are divided by its largest.
        """
        moments = moments or {"end": "end"}
        entries = self.paper.entries(self.found, name) if isinstance(name, str) else name
        if relative:
            largest = entries.groupby([hue, "seed", "epoch"]).value.transform("max")
            entries = entries.assign(value=entries.value / largest)
        lines = pd.concat(entries[entries.epoch == self.moments[w]].assign(when=t) for w, t in moments.items())
        lines = lines.groupby([hue, "when", "index"], as_index=False, sort=False).value.mean()
        looks = {"style": "when" if len(moments) > 1 else None, "ax": ax}
        looks |= {"colours": self.paper.colours, "dashes": self.paper.dashes}
        return plotting.spectra(lines, "index", "value", hue, **looks, **({"xlabel": "direction"} | labels))

    def beside(self, columns: dict[str, str], hue: str | None, *, figsize=(8.6, 3.2), **labels):
        """As `panels`, each title at the ordinate and each panel with its legend."""
        figure, axes = self.axes(len(columns), figsize=figsize)
        for ax, (name, title) in zip(axes, columns.items(), strict=True):
            self.draw(name, hue, ax=ax, ylabel=title, **labels)
        return figure, axes

    def points(self, x: str, y: str, hue: str, *, ax=None, frame: pd.DataFrame | None = None, **labels):
        """A point for each row of the frame at two of its columns, in the paper's colours."""
        data = self.frame if frame is None else frame
        return plotting.points(data, x, y, hue, ax=ax, colours=self.paper.colours, **labels)

    def grid(self, rows: int, columns: int, *, share: bool = True, **size):
        """A figure in the house style with panels in rows and columns, which may share their axes, and their array."""
        figure = plotting.figure(**size)
        return figure, figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)


_facts: dict = {}


def note(**facts) -> None:
    """Keep facts of the page that runs in this kernel, such as `data` and `seeds`, for the metadata of its copy."""
    _facts.update(facts)


def provenance(device: str | None = None) -> str:
    """The facts noted in this kernel, hardware, commit and versions of packages, as a JSON object."""
    made = {
        "hardware": hardware.name(device or hardware.default()),
        "commit": runs.commit(),
        "versions": {p: _version(p) for p in PACKAGES},
    }
    return json.dumps(_facts | made)


PACKAGES = ("sslbook", "torch", "torchvision", "numpy", "scipy", "pandas", "papermill")
"""The packages whose versions are written into every executed copy."""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def made_by(*, profile: str, data: str, seeds=(), seconds: float | None = None) -> str:
    """The line under a figure that was computed on its page; under one of runs stands `papers.facts(…).line`."""
    parts = [f"profile {profile}", data]
    parts += [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] if seeds else []
    parts += [hardware.name(), f"commit {runs.commit()}"]
    parts += [] if seconds is None else [f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"]
    return " · ".join(parts)


def interval(values, digits: int = 3) -> str:
    """Mean of values over seeds, with sign, and its 95 % interval, in words for the text."""
    return signed(*ledger.interval(values), digits=digits)


def signed(mean: float, low: float, high: float, digits: int = 3) -> str:
    """Three numbers as mean (low to high), each with its sign; with more digits where an end would be printed as 0."""
    while digits < 6 and any(x and not round(x, digits) for x in (low, high)):
        digits += 1
    mean, low, high = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in (mean, low, high))  # no −0.0
    return f"{mean} ({low} to {high})"


def listed(values, form: str = ".2f") -> str:
    """Numbers by name, a series or a dictionary, in words for the text: 0.10 (small), 0.20 (large)."""
    return ", ".join(f"{value:{form}} ({name})" for name, value in values.items())


def styled(judged: Iterable[Verdict]):
    """The tests behind verdicts as a page shows them: narrow, without columns that are empty."""
    rows = ledger.rows(judged)
    frame = pd.DataFrame(
        {
            "claim": [row.claim.id for row in rows],
            "test": [row.test for row in rows],
            "mean (95 %)": [row.value().replace("-", "−") or None for row in rows],
            "over": [row.seeds and f"{row.seeds} {row.unit}" for row in rows],
            "must exceed": [row.limit().replace("-", "−") or None for row in rows],
            "test says": [row.state for row in rows],
            "verdict": [f"{row.status} {row.scale}".strip() if row.status else None for row in rows],
        },
        dtype=object,
    )
    shown = frame.dropna(axis=1, how="all").fillna("").style.hide(axis="index")
    return shown.set_table_attributes('class="dataframe verdicts"')
