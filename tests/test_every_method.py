"""Laws of the training of every method.

Those of `methods.pairwise` differ in nothing but a loss; `test_distributed` has the losses, and SimCLR stands for them
there and in `test_training`. The one with more than two views stands here.
"""

import pytest
import torch

from sslbook import losses, methods
from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import CRVAE, VAE, BetaVAE, MatchingGap, SimVAE, VICReg
from sslbook.models import MLP, MLPDecoder
from sslbook.optim import SGD, Adam
from sslbook.views import Policy, policy
from tests.laws import assert_stops_change_nothing, assert_two_train_as_one
from tests.test_targets import PARTS

LATENT = {kind.__name__: kind(decoder=MLPDecoder((16,))) for kind in (SimVAE, VAE, BetaVAE, CRVAE)}
GENTLE = Policy(crop=(0.6, 1), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1))


def small(method, encoder, optim, views) -> Config:
    """Two epochs on `shapes`; a batch of 33 images leaves two processes shares of unequal size."""
    parts = {"views": views, "encoder": encoder, "method": method, "optim": optim}
    return Config(data=Data("shapes", 99), epochs=2, batch_size=33, seed=3, snapshots=1, **parts)


CONFIGS = {
    name: small(method, MLP(5, (16,)), SGD(learning_rate=0.02), policy("moderate")) for name, method in PARTS.items()
} | {name: small(method, MLP(4, (16,)), Adam(learning_rate=1e-3), GENTLE) for name, method in LATENT.items()}
SEVERAL = {"three views": MatchingGap(widths=(8,), views=3)}
CONFIGS |= {name: small(method, MLP(5, (16,)), SGD(learning_rate=0.02), GENTLE) for name, method in SEVERAL.items()}


def test_no_method_is_forgotten():
    parts = {name: getattr(methods, name) for name in methods.__all__ if hasattr(getattr(methods, name), "build")}
    assert {name for name, part in parts.items() if not part.__module__.endswith("pairwise")} == set(CONFIGS) - set(
        SEVERAL
    )


def test_the_matching_gap_of_more_views_goes_on_from_that_of_two_and_is_smaller_where_they_agree():
    views = torch.nn.functional.normalize(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    two = MatchingGap(epsilon=0.5).pair_loss(*views[:2])
    assert 2 * losses.multi_matching_gap(views[:2], epsilon=0.25) == pytest.approx(two.item(), rel=1e-4)
    apart, alike = (MatchingGap(epsilon=0.5, views=3).pair_loss(*z) for z in (views, views[:1].expand(3, -1, -1)))
    assert 0 < alike < apart
    for wrong, sentence in (
        ({"views": 1}, r"MatchingGap\.views is 1; it must be a finite number of at least 2\."),
        ({"views": 3, "epsilon": 0.0}, r"MatchingGap\.epsilon is 0\.0; it must be at least 2e-30, or of two views 0\."),
    ):
        with pytest.raises(ValueError, match=sentence):
            MatchingGap(**wrong)
    with pytest.raises(ValueError, match=r"VICReg\.covariance is -1\.0; it must be a finite number of at least 0\."):
        VICReg(covariance=-1.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stopped_run_continues_to_the_same_bits(name, tmp_path):
    assert_stops_change_nothing(CONFIGS[name], tmp_path)


def test_two_processes_train_as_one(tmp_path):
    """Loss and gradient are those of the whole batch, whose shares the processes have."""
    close, closer = dict(rtol=1e-3, atol=1e-5), dict(rtol=1e-4, atol=1e-6)
    assert_two_train_as_one(CONFIGS, tmp_path, lambda name: closer if name in LATENT else close)
