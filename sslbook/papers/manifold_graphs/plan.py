"""The zoo: methods of three paradigms, and supervised training, on one encoder, image set, projector and budget.

The paper compares public models; which ones is not known to us. All that is here is ours. What a paradigm is follows
the abstract; which method belongs to which is the usual reading, DINO being counted to the cluster-based ones because
its loss is a cross-entropy between assignments to prototypes.
"""

from sslbook.config import Config
from sslbook.data import Data
from sslbook.methods import (
    BYOL,
    DINO,
    BarlowTwins,
    DeepCluster,
    MatchingGap,
    MoCo,
    SimCLR,
    SimSiam,
    Supervised,
    SwAV,
    VICReg,
)
from sslbook.models import ResNet
from sslbook.optim import Adam
from sslbook.papers.paper import Planned
from sslbook.views import policy

PARADIGMS = {
    "SimCLR": "contrastive",
    "MoCo": "contrastive",
    "matching gap": "contrastive",
    "BYOL": "non-contrastive",
    "SimSiam": "non-contrastive",
    "VICReg": "non-contrastive",
    "Barlow Twins": "non-contrastive",
    "SwAV": "cluster-based",
    "DeepCluster": "cluster-based",
    "DINO": "cluster-based",
    "supervised": "supervised",
}
METHODS = tuple(PARADIGMS)
POLICIES = ("large", "weak")
"""The views of SimCLR, and crop and flip alone: so that the geometry varies for more reasons than the method."""
LEARNED = 0.02
"""By how much the 20-NN accuracy on validation images of a model that has learned exceeds the untrained one's."""
COLOURS = {
    "contrastive": "#0072b2",
    "non-contrastive": "#d55e00",
    "cluster-based": "#008f68",
    "supervised": "#767676",
    "untrained": "#b2619b",
}

_PARTS = {
    "SimCLR": SimCLR(loss="nt_xent", beta=5.0),
    "MoCo": MoCo(),
    "matching gap": MatchingGap(epsilon=0.2),
    "BYOL": BYOL(),
    "SimSiam": SimSiam(),
    "VICReg": VICReg(),
    "Barlow Twins": BarlowTwins(),
    "SwAV": SwAV(),
    "DeepCluster": DeepCluster(),
    "DINO": DINO(),
    "supervised": Supervised(),
}

# Ours: one hidden layer in every projector, and one optimiser for all methods, chosen for none of them. Eight passes,
# so that the zoo takes hours of two cores and not days: with this optimiser, on validation images and seed 0,
# SimCLR's 20-NN accuracy was 0.180 after 8 of 16 passes and 0.184 at their end; that of the untrained network, its
# batch norm at mean 0 and variance 1, is 0.095. BYOL's was 0.091 and 0.094, and 0.07 to 0.10 in five other trials of
# 6 to 16 passes with Adam, SGD and LARS, wider layers and other momenta. So it is not expected to learn anything that
# 20-NN sees in this time.
_PROFILES = {
    "smoke": dict(data=Data("shapes", 128), encoder=ResNet(8, (1, 1)), epochs=1, batch_size=64),
    "laptop": dict(data=Data("cifar100", 10_000), encoder=ResNet(16, (1, 1, 1, 1)), epochs=8, batch_size=128),
    "paper": dict(data=Data("cifar100"), encoder=ResNet(), epochs=500, batch_size=512),
}
_WIDTHS = {"smoke": (16, 16), "laptop": (128, 128), "paper": (512, 128)}
_ADAM = Adam(learning_rate=2e-3, weight_decay=1e-4, warmup=0.1)


def _run(profile: str, seed: int, policy_name: str, method: str) -> Planned:
    part = _PARTS[method]
    part = part.replace(widths=_WIDTHS[profile]) if hasattr(part, "widths") else part
    config = Config(views=policy(policy_name), method=part, optim=_ADAM, seed=seed, snapshots=1, **_PROFILES[profile])
    return Planned(config, {"policy": policy_name, "method": method})


def _methods(profile: str) -> tuple[str, ...]:
    """All; at smoke two of each paradigm."""
    return METHODS if profile != "smoke" else ("SimCLR", "MoCo", "BYOL", "VICReg", "SwAV", "DINO", "supervised")


def main(profile: str) -> list[Planned]:
    """The zoo: every method under both policies, one seed each. The untrained model is where they all start."""
    return [_run(profile, 1, policy, method) for policy in POLICIES for method in _methods(profile)]


def seeds(profile: str) -> list[Planned]:
    """More seeds of every method under large augmentations: how much of the geometry is chance?"""
    more = (2,) if profile == "smoke" else (2, 3)
    return [_run(profile, seed, "large", method) for seed in more for method in _methods(profile)]


PLANS = {"main": main, "seeds": seeds}
