"""Methods: what ties modules, views and a loss together. `Method` says what each of them is, `Batch` what it gets."""

from sslbook.methods.joint_embedding import JointEmbedding
from sslbook.methods.method import Batch, Method
from sslbook.methods.pairwise import MatchingGap, SimCLR, VICReg
from sslbook.methods.targets import BYOL, DINO, BarlowTwins, DeepCluster, MoCo, SimSiam, Supervised, SwAV
from sslbook.methods.variational import CRVAE, VAE, BetaVAE, LatentVariable, SimVAE

__all__ = [
    "BYOL",
    "CRVAE",
    "DINO",
    "VAE",
    "BarlowTwins",
    "Batch",
    "BetaVAE",
    "DeepCluster",
    "JointEmbedding",
    "LatentVariable",
    "MatchingGap",
    "Method",
    "MoCo",
    "SimCLR",
    "SimSiam",
    "SimVAE",
    "Supervised",
    "SwAV",
    "VICReg",
]
