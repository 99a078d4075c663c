"""What the losses share: arguments checked and promoted, vectors of unit length."""

import torch
from torch import Tensor

from sslbook.config import require


def paired(z1: Tensor, z2: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both views in one precision, float64 if either has it, else float32.

    Raises `ValueError` unless both have one shape (N, D) with N ≥ `least`.
    """
    require(
        z1.ndim == 2 and z1.shape == z2.shape,
        f"The views have the shapes {tuple(z1.shape)} and {tuple(z2.shape)}; both must have the same shape (N, D).",
    )
    require(len(z1) >= least, f"The batch holds {len(z1)} image(s); this loss needs at least {least}.")
    dtype = torch.promote_types(z1.dtype, z2.dtype)
    return promoted(z1.to(dtype)), promoted(z2.to(dtype))


def promoted(z: Tensor) -> Tensor:
    """In float32, or in float64 if it is so already."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def unit(z: Tensor) -> Tensor:
    """The vectors along the last axis divided by their norms; a vector of zeros stays, with a finite gradient."""
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z / norm.masked_fill(norm == 0, 1)
