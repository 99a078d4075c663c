"""The matching gap: Sinkhorn against POT's after as many iterations, and the whole loss against NT-Xent.

Equal iterations of one algorithm leave equal errors, which `tests/test_matching.py` and a check here confirm. POT is
asked for the value that the loss needs; its solver works in float32 and the log domain too.
"""

import sys

import torch

from benchmarks.timing import milliseconds, row
from sslbook import losses

N, D = 512, 128
EPSILONS = (0.05, 0.2, 1.0)


def rows() -> list[dict]:
    """One solution, and one loss forward and backward, of 512 noisy pairs of 128-dimensional features."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator).requires_grad_()
    y = (x + torch.randn(N, D, generator=generator)).detach().requires_grad_()
    f1, f2 = (torch.nn.functional.normalize(z.detach()) for z in (x, y))
    found = []
    try:
        from ot.batch import solve_batch
    except ModuleNotFoundError:
        print("POT is not installed: its rows are left out.", file=sys.stderr)
    else:
        found = [_sinkhorn(1 - f1 @ f2.T, epsilon, solve_batch) for epsilon in EPSILONS]
    for epsilon in EPSILONS:
        taken = milliseconds(
            lambda e=epsilon: losses.matching_gap(x, y, epsilon=e).backward(),
            lambda e=epsilon: losses.nt_xent(x, y, temperature=e).backward(),
        )
        found.append(row(f"matching gap with gradient, {N}×{D}, ε = {epsilon:g}", taken[0], "our NT-Xent", taken[1]))
    return found


def _sinkhorn(cost: torch.Tensor, epsilon: float, solve_batch) -> dict:
    """Both solvers after the iterations that ours takes to a marginal error below 1e-3."""
    iterations = int(losses.sinkhorn(cost, epsilon).iterations)

    def theirs():
        return solve_batch(
            cost[None], epsilon, reg_type="entropy", grad="envelope", method="log_sinkhorn", max_iter=iterations, tol=0
        )

    errors = [(plan.sum(1) - 1 / N).abs().sum() for plan in (losses.sinkhorn(cost, epsilon).plan, theirs().plan[0])]
    assert torch.allclose(*errors, rtol=0.2, atol=1e-5), f"The errors {errors} differ, so the times do not compare."
    taken = milliseconds(lambda: losses.sinkhorn(cost, epsilon), theirs)
    what = f"Sinkhorn, {N}×{N}, ε = {epsilon:g}, {iterations} iterations, error {errors[0]:.0e}"
    return row(what, taken[0], "POT", taken[1])
