"""Measurements as pure functions on features, weights and labels, gathered here by their public names."""

from sslbook.metrics.neighbors import agreement_limit, knn_accuracy, label_agreement
from sslbook.metrics.probes import linear_probe, mlp_probe, ridge_probe
from sslbook.metrics.spectrum import (
    effective_rank,
    energy_rank,
    pca_unexplained,
    rank,
    singular_values,
    unexplained_variance,
)
from sslbook.metrics.style import augmentation_factors, stroke_factors

__all__ = [
    "agreement_limit",
    "augmentation_factors",
    "effective_rank",
    "energy_rank",
    "knn_accuracy",
    "label_agreement",
    "linear_probe",
    "mlp_probe",
    "pca_unexplained",
    "rank",
    "ridge_probe",
    "singular_values",
    "stroke_factors",
    "unexplained_variance",
]
