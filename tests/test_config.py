import json

import pytest

from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import SimCLR
from sslbook.models import ResNet
from sslbook.optim import LARS, SGD
from sslbook.papers.geometry import PAPER
from sslbook.views import policy


def example(**changes):
    values = dict(
        data=Data("shapes"),
        views=policy("large"),
        encoder=ResNet(),
        method=SimCLR(),
        optim=LARS(),
        epochs=3,
        batch_size=8,
    )
    return Config(**(values | changes))


def test_identity_is_golden():
    """A change of this value orphans every record: raise RECIPE and say why, or mend what changed it."""
    assert example().id == "def7abe1a548"


def test_defaults_are_no_part_of_the_identity():
    spelled = example(method=SimCLR(loss="info_nce", widths=(128,), beta=2.0), seed=0, snapshots=12)
    assert spelled == example() and spelled.id == example().id
    assert "seed" not in example().to_dict() and example().to_dict()["method"] == {"kind": "SimCLR"}


@pytest.mark.parametrize(
    "change",
    [
        dict(seed=1),
        dict(epochs=4),
        dict(views=policy("small")),
        dict(encoder=ResNet(width=16)),
        dict(optim=SGD()),
    ],
)
def test_every_choice_is_part_of_the_identity(change):
    assert example(**change).id != example().id


def test_json_round_trip():
    planned = [*PAPER.plan("main", "laptop"), *PAPER.plan("main", "paper")]
    for config in [example(), *(config for config, _ in planned)]:
        again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config and again.id == config.id


def test_an_integer_for_a_float_is_the_same_configuration():
    assert example(optim=LARS(learning_rate=4)).id == example(optim=LARS(learning_rate=4.0)).id


def test_snapshots_run_from_initialisation_to_the_end():
    assert example(epochs=10, snapshots=5).snapshot_epochs == (0, 2, 4, 6, 8, 10)
    assert example(epochs=3, snapshots=12).snapshot_epochs == (0, 1, 2, 3)
    assert example(epochs=0).snapshot_epochs == (0,)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: example(epochs=-1), "epochs is -1; it must be a finite number of at least 0"),
        (lambda: example(batch_size=1), "batch_size is 1"),
        (lambda: example(epochs="three"), "epochs is 'three' of type str; it must be of type int"),
        (lambda: example(epochs=True), "epochs is True of type bool"),
        (lambda: example(data=ResNet()), "Config.data is ResNet.*; allowed kinds are Data"),
        (lambda: SimCLR(loss="triplet"), "SimCLR.loss is 'triplet'; allowed are 'info_nce', 'nt_xent', 'cross_view'"),
        (lambda: SimCLR(widths=(0,)), r"SimCLR.widths is \(0,\); each must be at least 1"),
        (lambda: ResNet(width=4), "ResNet.width is 4; it must be a finite number of at least 8"),
        (lambda: LARS(learning_rate=0), "learning_rate is 0.0; it must be a finite number above 0"),
        (lambda: Config.from_dict(example().to_dict() | {"recipe": 99}), "recipe 99"),
        (lambda: Config.from_dict(example().to_dict() | {"epoch": 1}), "no field epoch; it has data, views"),
        (lambda: Config.from_dict(example().to_dict() | {"encoder": {"kind": "ViT"}}), "'ViT'; allowed are .*ResNet"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
