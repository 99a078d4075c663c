"""What losses, metrics and groups share: tensors checked and promoted, vectors of unit length.

Of tensors that a result is measured from, the values are checked. Of tensors that a step of training computes with,
in `losses` and `views`, only types and shapes are: to look at a value is to wait for the GPU and to break the compiled
graph. There what is not finite shows itself, for one such value makes a whole loss infinite or not a number.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from sslbook.config import require, require_number


def finite(name: str, value, *axes: int, dtype: torch.dtype | None = None) -> Tensor:
    """`value`, a tensor or what `torch.as_tensor` takes, as a tensor, in `dtype` if one is given.

    **Raises** `ValueError` unless it holds real and finite numbers, at least one, along one of the given numbers of
    `axes`. The sentence begins with `name`.

    >>> tensors.finite("The weight", [1.0, float("inf")])
    Traceback (most recent call last):
    ValueError: The weight holds 1 values that are infinite or not a number; all must be finite.
    """
    try:
        if isinstance(value, np.ndarray) and min(value.strides, default=0) < 0:
            value = value.copy()  # PyTorch takes no array that is read backwards
        tensor = torch.as_tensor(value, dtype=None if torch.is_tensor(value) and value.is_complex() else dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is of type {type(value).__name__}; it must hold real numbers.") from error
    require(not tensor.is_complex(), f"{name} holds numbers of {tensor.dtype}; they must be real.")
    require(tensor.numel() > 0, f"{name} has the shape {tuple(tensor.shape)}; it must not be empty.")
    require(
        not axes or tensor.ndim in axes,
        f"{name} has the shape {tuple(tensor.shape)}; it must have {' or '.join(map(str, axes))} axes.",
    )
    odd = tensor.numel() - int(tensor.isfinite().sum())
    require(odd == 0, f"{name} holds {odd} values that are infinite or not a number; all must be finite.")
    return tensor


def integers(name: str, value, *, least: float = -math.inf, most: float = math.inf) -> Tensor:
    """`value`, a tensor (N,) of any integer type, in int64.

    **Raises** `ValueError` if it holds no integers, or one outside `least` … `most`.
    """
    tensor = finite(name, value, 1)
    require(
        not (tensor.is_floating_point() or tensor.dtype == torch.bool),
        f"{name} holds numbers of {tensor.dtype}; they must be integers.",
    )
    tensor = tensor.long()
    low, high = (int(end) for end in tensor.aminmax())
    require(least <= low and high <= most, f"{name} holds {low} … {high}; all must lie in {least} … {most}.")
    return tensor


def floating(name: str, value) -> None:
    """Raise `ValueError` unless `value` is a floating-point tensor; its values are not looked at."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        found = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
        raise ValueError(f"{name} is {found}; it must be a floating-point tensor.")


def require_generator(generator: torch.Generator | None) -> None:
    """Raise `ValueError` unless `generator` is a source of chance, or None for the default one."""
    require(
        generator is None or isinstance(generator, torch.Generator),
        f"The generator is {generator!r}; it must be a torch.Generator or None.",
    )


def require_size(size: tuple[int, int]) -> None:
    """Raise `ValueError` unless `size` is the height and the width of an image, in pixels."""
    require(
        isinstance(size, (list, tuple)) and len(size) == 2,
        f"The size is {size!r}; it must be (height, width).",
    )
    for name, side in zip(("height", "width"), size, strict=True):
        require_number(f"The {name}", side, least=1, whole=True)


def paired(z1: Tensor, z2: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both views in one precision, float64 if either has it, else float32.

    **Raises** `ValueError` unless both are floating-point tensors of one shape (N, D), N ≥ `least`, D ≥ 1, on one
    device.
    """
    floating("The first view", z1)
    floating("The second view", z2)
    require(
        z1.ndim == 2 and z1.shape == z2.shape and z1.shape[1] > 0,
        f"The views have the shapes {tuple(z1.shape)} and {tuple(z2.shape)}; both must have the same shape (N, D).",
    )
    require(len(z1) >= least, f"The batch holds {len(z1)} image(s); this loss needs at least {least}.")
    require(z1.device == z2.device, f"The views lie on {z1.device} and {z2.device}; both must lie on one device.")
    dtype = torch.promote_types(z1.dtype, z2.dtype)
    return promoted(z1.to(dtype)), promoted(z2.to(dtype))


def promoted(z: Tensor) -> Tensor:
    """In float32, or in float64 if it is so already."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def centred(z: Tensor) -> Tensor:
    """The rows of `z` (N, D) less their mean; a column that is the same in all of them becomes 0 exactly."""
    return (z - z.mean(0)).masked_fill((z == z[0]).all(0), 0)


def measuring(function):
    """`function` without gradients and in the precision of its arguments, also within autocast."""

    @functools.wraps(function)
    def measured(*arguments, **options):
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*arguments, **options)

    return measured


def power_of_two(largest: Tensor) -> Tensor:
    """The power of two that brings each positive number into [1/2, 1): to multiply by it rounds nothing.

    >>> tensors.power_of_two(torch.tensor([3.0, 0.25]))
    tensor([0.2500, 2.0000])
    """
    return torch.frexp(largest).mantissa / largest


def unit(z: Tensor) -> Tensor:
    """The vectors along the last axis divided by their norms, at any scale that the type can hold.

    A vector of zeros (or of numbers too small to be normal) stays, with a finite gradient.

    >>> tensors.unit(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    largest = z.detach().abs().amax(-1, keepdim=True)  # vector_norm(…, inf) is ten times slower on a processor
    # Else the squares overflow from 1e19 on in float32, and vanish from 1e-23 on.
    z = z * power_of_two(largest.masked_fill(largest < torch.finfo(z.dtype).tiny, 1))
    return z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp(min=0.5)
