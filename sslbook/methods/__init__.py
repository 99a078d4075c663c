"""Methods: what ties modules, views and a loss together.

A method is an `nn.Module` with `views: int`, `loss(views) -> (scalar, logs)` for `views` of shape `(k, N, C, H, W)`,
`encode(images) -> h (N, D)`, and where it keeps moving averages or queues `after_step(progress)`. All of its state
is in `state_dict`, so that a run resumes exactly.
"""

from sslbook.methods.joint_embedding import JointEmbedding, Method
from sslbook.methods.pairwise import MatchingGap, SimCLR, VICReg

__all__ = ["JointEmbedding", "MatchingGap", "Method", "SimCLR", "VICReg"]
