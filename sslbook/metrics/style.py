"""Style that can be measured: how a view was made, and how a stroke was drawn. Targets for `probes.ridge_probe`."""

import torch
from torch import Tensor

from sslbook.config import require
from sslbook.tensors import finite, require_size
from sslbook.views import Draws


def augmentation_factors(draws: Draws, size: tuple[int, int]) -> dict[str, Tensor]:
    """What was done to each of N views of images of `size` (H, W): a dictionary of (N,) float by name.

    - `x` (to the right) and `y` (down): from the centre of the image to that of the crop, in widths and heights of the
      image, with the sign flipped in mirrored views.
    - `area`: the share of the image's area that is kept. `ratio`: the logarithm of the crop's width over its height.
    - `flip`, `vertical` and `gray`: 0 or 1.
    - `brightness`, `contrast`, `saturation` and `hue`: the columns of `Draws.factors`.
    - `blur`: the standard deviation in pixels.

    **Raises** `ValueError` if `draws` is no `Draws`, or `size` not two sides of at least 1.
    """
    require(isinstance(draws, Draws), f"draws is of type {type(draws).__name__}; `Policy.draw` makes what it must be.")
    require_size(size)
    top, left, height, width = draws.box.float().unbind(1)
    flip, vertical = draws.flip.float(), draws.vertical.float()
    jitter = zip(("brightness", "contrast", "saturation", "hue"), draws.factors.unbind(1), strict=True)
    return {
        "x": ((left + width / 2) / size[1] - 0.5) * (1 - 2 * flip),
        "y": ((top + height / 2) / size[0] - 0.5) * (1 - 2 * vertical),
        "area": height * width / (size[0] * size[1]),
        "ratio": (width / height).log(),
        "flip": flip,
        "vertical": vertical,
        **dict(jitter),
        "gray": draws.gray.float(),
        "blur": draws.sigma,
    }


def stroke_factors(images: Tensor) -> dict[str, Tensor]:
    """How bright strokes on a black ground are drawn, from the moments of images (N, 1, H, W): each (N,) float.

    With μ the second central moments of the brightness, u to the right and v upwards:

    - `slant` = μ_uv/μ_vv, the pixels that a stroke moves to the right for each pixel upwards (NaN if it fills one row);
    - `rotation` = ½ atan2(−2 μ_uv, μ_vv − μ_uu), the angle from the vertical to the longest axis, in degrees,
      anticlockwise, in ±90;
    - `thickness` = 2 Σ I / Σ |∇I| in pixels, twice the area over the perimeter, which is the width of a stroke much
      longer than wide.

    None of them changes if the strokes are moved or their brightness is multiplied.

    **Raises** `ValueError` for another shape, for pixels that are negative or not finite, and for an image without a
    bright pixel.

    >>> image = torch.zeros(1, 1, 28, 28)
    >>> image[..., 4:24, 13:15] = 1  # upright
    >>> metrics.stroke_factors(image)["slant"]
    tensor([0.])
    """
    images = finite("The tensor of images", images, 4)
    require(
        images.shape[1] == 1,
        f"The images have the shape {tuple(images.shape)}; strokes are measured on (N, 1, H, W).",
    )
    image = images[:, 0].double()
    require(bool(image.min() >= 0), f"The darkest pixel is {image.min():g}; brightness must be at least 0.")
    mass = image.sum((1, 2))
    require(bool((mass > 0).all()), f"{int((mass <= 0).sum())} of {len(mass)} images are black; they show no stroke.")
    height, width = image.shape[1:]
    u = torch.arange(width, device=image.device, dtype=image.dtype)
    v = -torch.arange(height, device=image.device, dtype=image.dtype)[:, None]

    def mean(values: Tensor) -> Tensor:
        return (image * values).sum((1, 2), keepdim=True) / mass[:, None, None]

    u, v = u - mean(u), v - mean(v)
    uu, uv, vv = (mean(product).flatten() for product in (u * u, u * v, v * v))
    # Differences at the corners between four pixels each; straight edges along the grid count their length.
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    across, down = padded.diff(dim=2), padded.diff(dim=1)
    gradient = torch.hypot((across[:, 1:] + across[:, :-1]) / 2, (down[:, :, 1:] + down[:, :, :-1]) / 2)
    factors = {
        "slant": torch.where(vv > 1e-12 * height**2, uv / vv, torch.nan),  # in a single row vv is 0 but for rounding
        "rotation": torch.rad2deg(torch.atan2(-2 * uv, vv - uu) / 2),
        "thickness": 2 * mass / gradient.sum((1, 2)),
    }
    return {name: values.float() for name, values in factors.items()}
