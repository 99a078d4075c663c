"""Models: encoders, heads and decoders, gathered here by their public names.

An encoder is a part in the slot "encoder" with `dim` and `build(about, mean, std)`.
"""

from sslbook.models.gaussian import MLP, ConvDecoder, GaussianEncoder, GaussianResNet, MLPDecoder, TransposedBlock
from sslbook.models.heads import projector
from sslbook.models.pretrained import CHECKPOINTS, SIDE, Checkpoint, PretrainedEncoder, pretrained, resized
from sslbook.models.resnet import BasicBlock, Encoder, ResNet

__all__ = [
    "CHECKPOINTS",
    "MLP",
    "SIDE",
    "BasicBlock",
    "Checkpoint",
    "ConvDecoder",
    "Encoder",
    "GaussianEncoder",
    "GaussianResNet",
    "MLPDecoder",
    "PretrainedEncoder",
    "ResNet",
    "TransposedBlock",
    "pretrained",
    "projector",
    "resized",
]
