"""Measurements as pure functions on features, weights and labels, gathered here by their public names."""

from sslbook.metrics.manifold import (
    Tangents,
    affinity,
    affinity_nearest,
    affinity_random,
    diameter,
    neighbor_count,
    tangents,
)
from sslbook.metrics.neighbors import agreement_limit, knn_accuracy, label_agreement, two_nn
from sslbook.metrics.nnk import Neighborhood, nnk
from sslbook.metrics.probes import linear_probe, mlp_probe, ridge_probe
from sslbook.metrics.similarity import alignment, cka, uniformity
from sslbook.metrics.spectrum import (
    alpha_req,
    effective_rank,
    energy_rank,
    pca_unexplained,
    rank,
    rankme,
    singular_values,
    unexplained_variance,
)
from sslbook.metrics.style import augmentation_factors, stroke_factors

__all__ = [
    "Neighborhood",
    "Tangents",
    "affinity",
    "affinity_nearest",
    "affinity_random",
    "agreement_limit",
    "alignment",
    "alpha_req",
    "augmentation_factors",
    "cka",
    "diameter",
    "effective_rank",
    "energy_rank",
    "knn_accuracy",
    "label_agreement",
    "linear_probe",
    "mlp_probe",
    "neighbor_count",
    "nnk",
    "pca_unexplained",
    "rank",
    "rankme",
    "ridge_probe",
    "singular_values",
    "stroke_factors",
    "tangents",
    "two_nn",
    "unexplained_variance",
    "uniformity",
]
