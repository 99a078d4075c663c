"""Losses as pure functions on tensors, gathered here by their public names."""

from sslbook.losses.contrastive import UpperBound, info_nce, info_nce_upper_bound, nt_xent

__all__ = ["UpperBound", "info_nce", "info_nce_upper_bound", "nt_xent"]
