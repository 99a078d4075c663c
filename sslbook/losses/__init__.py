"""Losses as pure functions on tensors, gathered here by their public names."""

from sslbook.losses.contrastive import UpperBound, cross_view_info_nce, info_nce, info_nce_upper_bound, nt_xent
from sslbook.losses.matching import Plan, matching_gap, multi_matching_gap, sinkhorn
from sslbook.losses.redundancy import barlow_twins, vicreg
from sslbook.losses.targets import byol, codes, deepcluster, dino, moco, spherical_kmeans, swav
from sslbook.losses.variational import (
    Bound,
    bernoulli_log_likelihood,
    consistency,
    elbo_ssl,
    gaussian_log_likelihood,
    group_log_prior,
    group_quadratic,
    importance_log_likelihood,
    optimal_variance,
    posterior_entropy,
    reconstruction,
)

__all__ = [
    "Bound",
    "Plan",
    "UpperBound",
    "barlow_twins",
    "bernoulli_log_likelihood",
    "byol",
    "codes",
    "consistency",
    "cross_view_info_nce",
    "deepcluster",
    "dino",
    "elbo_ssl",
    "gaussian_log_likelihood",
    "group_log_prior",
    "group_quadratic",
    "importance_log_likelihood",
    "info_nce",
    "info_nce_upper_bound",
    "matching_gap",
    "moco",
    "multi_matching_gap",
    "nt_xent",
    "optimal_variance",
    "posterior_entropy",
    "reconstruction",
    "sinkhorn",
    "spherical_kmeans",
    "swav",
    "vicreg",
]
