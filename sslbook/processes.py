"""The processes that train one run together, as `torchrun` starts them; one process alone needs none of this."""

import datetime
import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The `size` processes that train a run together: this one has the number `rank`, and `local` on its machine.

    For one process alone each of these functions is the identity.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """The part of `whole` that is this process's, a view; sizes differ by 1 at most, the last are the smaller."""
        return whole.tensor_split(self.size, dim)[self.rank]

    def gather(self, part: Tensor, n: int) -> Tensor:
        """All-gather: concatenate each process's rows `part` into the batch of `n`.

        Backward sums the gradients of all processes and returns this one's rows. If each process computes the same loss
        of the whole batch, then the `average` of the gradients of the weights is the gradient of that loss.
        """
        return _Gather.apply(part, n, self) if self.size > 1 else part

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put in place of each tensor its mean over the processes, the same bits in all of them, in one exchange."""
        tensors = list(tensors)
        if self.size > 1 and tensors:
            means = _add(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
            for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def broadcast(self, value: float) -> float:
        """The first process's `value`, in all of them."""
        if self.size == 1:
            return value
        return _add(torch.tensor(float(value) if self.rank == 0 else 0.0, dtype=torch.float64)).item()

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        self.broadcast(0)

    def in_turn(self, action: Callable):
        """`action()`, by one process after the other."""
        for rank in range(self.size):
            if rank == self.rank:
                result = action()
            self.barrier()
        return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, n, processes):
        ctx.processes = processes
        whole = part.new_zeros(n, *part.shape[1:])
        processes.share(whole).copy_(part)
        return _add(whole)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.processes.share(_add(gradient.clone(memory_format=torch.contiguous_format))), None, None


def _add(tensor: Tensor) -> Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor


@functools.cache
def world() -> World:
    """The processes that `torchrun` started, which meet at the first call; else this process alone.

    They wait for each other as long as it takes: `torchrun` ends all when one fails.
    """
    rank, size, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if size < 2:
        return World()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=7))
    return World(rank, size, local)
