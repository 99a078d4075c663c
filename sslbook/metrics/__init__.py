"""Measurements as pure functions on features, weights and labels, gathered here by their public names."""

from sslbook.metrics.neighbors import agreement_limit, knn_accuracy, label_agreement
from sslbook.metrics.probes import linear_probe
from sslbook.metrics.spectrum import (
    effective_rank,
    energy_rank,
    pca_unexplained,
    rank,
    singular_values,
    unexplained_variance,
)

__all__ = [
    "agreement_limit",
    "effective_rank",
    "energy_rank",
    "knn_accuracy",
    "label_agreement",
    "linear_probe",
    "pca_unexplained",
    "rank",
    "singular_values",
    "unexplained_variance",
]
