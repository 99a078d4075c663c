"""Explorers: pictures with sliders that live in the static page too, drawn there by a small script.

An explorer is a class and a script of the same name beside each other. The class declares the parameters, answers with
the library's numbers, and draws the figure that stands in its place on paper:

    class Chord(Explorer):
        angle = slider(60, 0, 180, 1, "Angle", "°")
        numbers = {"length": "Length"}

        def compute(self):
            return {"length": 2 * math.sin(math.radians(self.angle) / 2)}

        def still(self):
            ...  # a matplotlib figure in the style of `sslbook.plotting`

The script draws the same at once, from a closed form of at most ten lines or from frames in the trait `data`:

    export default explorer({
      draw({ values, data, width, height }) {
        const length = 2 * Math.sin((values.angle * Math.PI) / 360);
        return { picture: `<path d="…"/>`, label: `A chord of ${values.angle}°.`, numbers: { length } };
      },
    });

Labels, keys, touch, read-outs, colours (`var(--c0)` … as in `plotting.PALETTE`, and those of the class's `colours`) and
the redrawing when Python has answered are in `base.js`, which stands in front of each script; its comments say what
`explorer`, `axes` and `image` take. In a notebook: `Chord().show(caption=…, alt=…, made_by=…)`.

Where a kernel runs, each change of a parameter is answered by `compute`, whose numbers replace those of the script.
The published page has no kernel; the script there is held to `compute` by tests at random parameters.
"""

from sslbook.widgets.attraction_repulsion import AttractionRepulsion
from sslbook.widgets.augmentation_strength import AugmentationStrength
from sslbook.widgets.base import Explorer, choice, slider
from sslbook.widgets.knobs import Knobs
from sslbook.widgets.latent_groups import LatentGroups
from sslbook.widgets.matching import Matching
from sslbook.widgets.one_or_many import OneOrMany
from sslbook.widgets.orbits import Orbits
from sslbook.widgets.polytope import Polytope
from sslbook.widgets.profiles import Profiles
from sslbook.widgets.training_scrubbed import TrainingScrubbed
from sslbook.widgets.weights_on_negatives import WeightsOnNegatives

__all__ = [
    "AttractionRepulsion",
    "AugmentationStrength",
    "Explorer",
    "Knobs",
    "LatentGroups",
    "Matching",
    "OneOrMany",
    "Orbits",
    "Polytope",
    "Profiles",
    "TrainingScrubbed",
    "WeightsOnNegatives",
    "choice",
    "slider",
]
