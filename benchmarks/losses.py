"""Losses and neighbours against lightly's: same numbers (the tests say so), forward and backward, float32."""

import sys

import torch

from benchmarks.timing import milliseconds, row
from sslbook import losses, metrics
from sslbook.tensors import unit

SIZES = ((128, 32), (512, 128), (1024, 128))
WIDE = ((256, 2048), (512, 2048))
SCORES = ((512, 256), (512, 1024))


def rows() -> list[dict]:
    """Losses with gradient at several N×D, and 20-NN of 2000 queries in a bank of 10,000×128."""
    try:
        from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
        from lightly.utils.benchmarking import knn_predict
    except ModuleNotFoundError:
        print("lightly is not installed: its rows are left out.", file=sys.stderr)
        return []
    swapped = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    similarity = NegativeCosineSimilarity()
    cases = [
        ("NT-Xent", lambda a, b: losses.nt_xent(a, b, temperature=0.5), NTXentLoss(temperature=0.5), SIZES),
        ("VICReg", losses.vicreg, VICRegLoss(), WIDE),
        ("Barlow Twins", losses.barlow_twins, BarlowTwinsLoss(), WIDE),
        ("BYOL, one view", losses.byol, lambda p, z: similarity(p, z.detach()), SCORES),
        ("SwAV, of cosines", losses.swav, lambda a, b: swapped([a, b], []), SCORES),
    ]
    generator, found = torch.Generator().manual_seed(0), []
    for name, ours, theirs, sizes in cases:
        for n, d in sizes:
            z1, z2 = torch.randn(2, n, d, generator=generator)
            if "cosines" in name:  # with prototypes, of projections of 128 numbers
                x1, x2 = unit(torch.randn(2, n, 128, generator=generator))
                z1, z2 = (x @ unit(torch.randn(d, 128, generator=generator)).T for x in (x1, x2))
            z1, z2 = (z.clone().requires_grad_() for z in (z1, z2))
            assert ours(z1, z2).isfinite() and theirs(z1, z2).isfinite()
            taken = milliseconds(
                lambda a=z1, b=z2, loss=ours: loss(a, b).backward(),
                lambda a=z1, b=z2, loss=theirs: loss(a, b).backward(),
            )
            found.append(row(f"{name} with gradient, {n}×{d}", taken[0], "lightly", taken[1]))
    bank, queries = torch.randn(10_000, 128, generator=generator), torch.randn(2_000, 128, generator=generator)
    labels, answers = (torch.randint(0, 100, (n,), generator=generator) for n in (10_000, 2_000))
    x, y = unit(queries), unit(bank).T.contiguous()
    ours, *others = milliseconds(
        lambda: metrics.knn_accuracy(bank, labels, queries, answers),
        lambda: knn_predict(x, y, labels, num_classes=100, knn_k=20, knn_t=0.1),
        lambda: x @ y,
        lambda: (x @ y).topk(20),
    )
    beside = ("lightly", "matrix product only", "matrix product and top 20")
    return [*found, *(row("20-NN, 2,000 queries in 10,000×128", ours, *pair) for pair in zip(beside, others))]
