"""Losses as pure functions on tensors, gathered here by their public names."""

from sslbook.losses.contrastive import UpperBound, cross_view_info_nce, info_nce, info_nce_upper_bound, nt_xent
from sslbook.losses.matching import Plan, matching_gap, multi_matching_gap, sinkhorn
from sslbook.losses.redundancy import barlow_twins, vicreg

__all__ = [
    "Plan",
    "UpperBound",
    "barlow_twins",
    "cross_view_info_nce",
    "info_nce",
    "info_nce_upper_bound",
    "matching_gap",
    "multi_matching_gap",
    "nt_xent",
    "sinkhorn",
    "vicreg",
]
