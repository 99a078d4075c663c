"""Losses and neighbours against lightly's: same numbers (the tests say so), forward and backward, float32."""

import sys

import torch

from benchmarks.timing import milliseconds, row
from sslbook import losses, metrics

SIZES = ((128, 32), (512, 128), (1024, 128))
WIDE = ((256, 2048), (512, 2048))
BROAD = ((512, 256), (512, 1024))


def rows() -> list[dict]:
    """Losses with gradient at several N×D, and 20-NN of 2000 queries in a bank of 10,000×128."""
    try:
        from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
        from lightly.utils.benchmarking import knn_predict
    except ModuleNotFoundError:
        print("lightly is not installed: its rows are left out.", file=sys.stderr)
        return []
    prototypes = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    swav = lambda a, b: prototypes([a, b], [])  # noqa: E731
    generator, found = torch.Generator().manual_seed(0), []
    cases = [("NT-Xent", lambda a, b: losses.nt_xent(a, b, temperature=0.5), NTXentLoss(temperature=0.5), SIZES)]
    cases += [
        ("VICReg", losses.vicreg, VICRegLoss(), WIDE),
        ("Barlow Twins", losses.barlow_twins, BarlowTwinsLoss(), WIDE),
        ("BYOL, one view", losses.byol, NegativeCosineSimilarity(), BROAD),
        ("SwAV, of scores", losses.swav, swav, BROAD),
    ]
    for name, ours, theirs, sizes in cases:
        for n, d in sizes:
            z1, z2 = (torch.randn(n, d, generator=generator).requires_grad_() for _ in range(2))
            taken = milliseconds(
                lambda a=z1, b=z2, loss=ours: loss(a, b).backward(),
                lambda a=z1, b=z2, loss=theirs: loss(a, b).backward(),
            )
            found.append(row(f"{name} with gradient, {n}×{d}", taken[0], "lightly", taken[1]))
    bank, queries = torch.randn(10_000, 128, generator=generator), torch.randn(2_000, 128, generator=generator)
    labels, answers = (torch.randint(0, 100, (n,), generator=generator) for n in (10_000, 2_000))
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (queries, bank)]
    taken = milliseconds(
        lambda: metrics.knn_accuracy(bank, labels, queries, answers),
        lambda: knn_predict(unit[0], unit[1].T.contiguous(), labels, num_classes=100, knn_k=20, knn_t=0.1),
        lambda: unit[0] @ unit[1].T,
        lambda: (unit[0] @ unit[1].T).topk(20),
    )
    beside = ("lightly", "its product of all pairs alone", "that and the choice of 20")
    what = "20-NN, 2,000 queries in 10,000×128"
    return [*found, *(row(what, taken[0], name, theirs) for name, theirs in zip(beside, taken[1:]))]
