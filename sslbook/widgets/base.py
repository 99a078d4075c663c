"""What the explorers share: the link of sliders, picture and numbers, with and without Python behind them."""

import functools
import inspect
import io
import json
from pathlib import Path
from typing import ClassVar

import anywidget
import traitlets

from sslbook import papers, plotting
from sslbook.config import require

FOLDER = Path(__file__).parent
ROOM = 210_000
"""Bytes of `data` that fit: in base64, with the scripts, a widget then takes at most 300 KB of its page."""


def slider(default: float, low: float, high: float, step: float, label: str, unit: str = ""):
    """A parameter from `low` to `high` in `step`s; an int if `default` is one. `unit` follows the value (" °")."""
    kind = traitlets.Int if isinstance(default, int) else traitlets.Float
    about = {"label": label, "unit": unit, "min": low, "max": high, "step": step}
    return kind(default, min=low, max=high).tag(sync=True, control=about)


def webp(pixels) -> bytes:
    """A picture of pixels (H, W, 4), bytes, without loss."""
    from matplotlib.image import imsave

    imsave(buffer := io.BytesIO(), pixels.numpy(), format="webp", origin="upper", pil_kwargs={"lossless": True})
    return buffer.getvalue()


@functools.cache
def recorded(name: str, figure: str) -> list:
    """The runs behind a figure of a paper at the profile `laptop`; raises `ValueError` if one is missing."""
    planned = papers.paper(name).plan(figure)
    found = papers.paper(name).find(planned)
    require(len(found) == len(planned), f"Runs of the figure {figure} at `laptop` are missing; name the runs to show.")
    return found


def choice(default: str, options, label: str):
    """A parameter that takes one of the strings `options`."""
    return traitlets.Enum(list(options), default).tag(sync=True, control={"label": label, "options": list(options)})


class Explorer(anywidget.AnyWidget):
    """A picture and numbers that follow the parameters of a subclass. See `sslbook.widgets` for how to write one.

    `numbers` labels what is read out; `colours` names those that the script needs beside the palette's; `data` is what
    it draws from besides the parameters. `exact` is the latest answer of `compute`, with the parameters that it answers
    under `at`. A parameter out of its range raises `TraitError`, one between two steps `ValueError`.
    """

    numbers: ClassVar[dict[str, str]] = {}
    colours: ClassVar[dict[str, str]] = {}
    labels = traitlets.List().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    exact = traitlets.Dict().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        if "_esm" not in vars(cls):  # anywidget makes a subclass for each instance, with traits of these names
            # A module that comes from a Blob cannot import a neighbour: the shared script goes in front of each.
            script = Path(inspect.getfile(cls)).with_suffix(".js")
            cls._esm = "\n".join(path.read_text("utf-8") for path in (FOLDER / "base.js", script))
            colours = cls.colours | {f"c{i}": colour for i, colour in enumerate(plotting.PALETTE)}
            colours = " ".join(f"--{name}: {colour};" for name, colour in colours.items())
            cls._css = f".sslbook-explorer {{ {colours} }}\n" + (FOLDER / "base.css").read_text("utf-8")
        super().__init_subclass__(**kwargs)

    def __init__(self, **values):
        # Not from `traits()`, which forgets the order of their definition.
        members = [member for cls in reversed(type(self).__mro__) for member in vars(cls).values()]
        traits = [member for member in members if isinstance(member, traitlets.TraitType)]
        abouts = {trait.name: trait.metadata["control"] for trait in traits if "control" in trait.metadata}
        controls = [{"name": name} | about for name, about in abouts.items()]
        super().__init__(controls=controls, labels=list(self.numbers.items()), **values)
        self.observe(self._answer, list(abouts))
        self._answer()

    def compute(self) -> dict:
        """The numbers (and what else the script draws) at the present parameters, exactly; no NaN, no infinity."""
        raise NotImplementedError(f"{type(self).__name__} computes no numbers.")

    def still(self):
        """The figure that stands in the explorer's place where no script runs."""
        raise NotImplementedError(f"{type(self).__name__} draws no plain figure.")

    def show(self, *, caption: str, alt: str, **about) -> None:
        """Display the explorer, and below it the figure `still` with its caption; `about` as in `plotting.show`.

        The picture of that figure, described by `alt`, is seen only where the explorer is not alive. On paper stands
        the explorer as it was last, without its sliders.
        Raises `ValueError` if the data are too heavy for a page.
        """
        from IPython.display import display

        self._describe(alt)
        display(self)
        plotting.show(self.still(), caption=caption, alt=alt, **about)

    def html(self, *, caption: str, alt: str, **about) -> str:
        """What `show` displays, as the HTML of a static page: the widget's state, its place, and the figure."""
        from ipywidgets.embed import dependency_state

        self._describe(alt)
        version = {"version_major": 2, "version_minor": 0}
        state = version | {"state": dependency_state(self, drop_defaults=False)}
        parts = {"state": state, "view": version | {"model_id": self.model_id}}
        kind = "application/vnd.jupyter.widget"
        scripts = [f'<script type="{kind}-{name}+json">{json.dumps(part)}</script>' for name, part in parts.items()]
        return "\n".join([*scripts, plotting.page(self.still(), caption=caption, alt=alt, **about)])

    def _describe(self, alt: str) -> None:
        size = len(self.data)
        require(size <= ROOM, f"The data of {type(self).__name__} are {size} bytes; a page has room for {ROOM}.")
        self.alt = alt

    def _answer(self, change=None) -> None:
        at = {control["name"]: getattr(self, control["name"]) for control in self.controls}
        for name, low, step in ((c["name"], c["min"], c["step"]) for c in self.controls if "step" in c):
            steps = (at[name] - low) / step  # the data that the script draws from are those of the steps
            require(abs(steps - round(steps)) < 1e-6, f"{name} is {at[name]}; it goes from {low} in steps of {step}.")
        self.exact = json.loads(json.dumps({"at": at} | self.compute(), allow_nan=False))
