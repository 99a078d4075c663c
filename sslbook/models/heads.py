"""Heads: what is put on top of an encoder."""

from torch import nn

from sslbook.config import require, require_number


def projector(dim: int, widths: tuple[int, ...]) -> nn.Sequential:
    """The head `g` from features (N, `dim`) to projections (N, `widths[-1]`).

    One width is the linear projector of Cosentino et al. (2022): a bias-free linear map, nothing after it. More
    widths are an MLP: bias-free linear maps with batch norm and ReLU between them. Without widths it changes nothing.

    **Raises** `ValueError` unless all are whole numbers of at least 1.

    >>> models.projector(512, (128,))(torch.zeros(4, 512)).shape
    torch.Size([4, 128])
    """
    require(isinstance(widths, (list, tuple)), f"The widths are {widths!r}; they must be a list of whole numbers.")
    for size in (dim, *widths):
        require_number("The width of a layer", size, least=1, whole=True)
    if not widths:
        return nn.Sequential()
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        dim = width
    return nn.Sequential(*layers, nn.Linear(dim, widths[-1], bias=False))
