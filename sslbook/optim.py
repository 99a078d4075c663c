"""Optimisers with their schedules: LARS (You et al. 2017) without host synchronisation, SGD and Adam."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sslbook.config import Part, require_number


@dataclass(frozen=True)
class Optimiser(Part):
    """Base of the optimisers: a peak `learning_rate`, reached linearly after the share `warmup` of all steps.

    From there it falls to 0 by half a cosine, or stays. `warmup` lies in [0, 1). `weight_decay`, at least 0, spares
    parameters of fewer than two dimensions: biases, and the scales of batch norm.

    **Raises** `ValueError` for a value out of range, as all parts below do.
    """

    learning_rate: float = 1.0
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"

    def validate(self):
        self.limit("learning_rate", above=0)
        self.limit("weight_decay", least=0)
        self.limit("warmup", least=0, below=1)

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the trainable parameters of `module`, weights and vectors in a group each."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return self.optimizer([group for group in groups if group["params"]])

    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        """PyTorch's optimiser of groups of parameters, each with its `weight_decay`."""
        raise NotImplementedError(f"{type(self).__name__} builds no optimiser.")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of `step`, in 0 … `steps` − 1.

        >>> sgd = optim.SGD(learning_rate=1.0, warmup=0.5)
        >>> [round(sgd.learning_rate_at(step, 8), 3) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
        """
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@dataclass(frozen=True)
class LARS(Optimiser, slot="optim", kind="Optim"):  # the kind's name is part of the identity of shipped records
    """SGD whose rate is adapted layer by layer, for large batches; see `LayerwiseSGD`. Source: You et al. 2017.

    `weight_decay` is the coefficient λ of the L2 penalty λ‖w‖²/2, `momentum` lies in [0, 1), `trust` > 0 is the
    coefficient η of the adaptation. Parameters of fewer than two dimensions are not adapted.
    """

    learning_rate: float = 4.0
    weight_decay: float = 1e-6
    momentum: float = 0.9
    warmup: float = 0.1
    trust: float = 0.001

    def validate(self):
        super().validate()
        self.limit("momentum", least=0, below=1)
        self.limit("trust", above=0)

    def optimizer(self, groups):
        weights = [group | {"trust": self.trust if group["params"][0].ndim > 1 else None} for group in groups]
        return LayerwiseSGD(weights, lr=self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True)
class SGD(Optimiser, slot="optim"):
    """Stochastic gradient descent with `momentum` in [0, 1); `weight_decay` is the coefficient of the L2 penalty."""

    learning_rate: float = 0.1
    momentum: float = 0.9

    def validate(self):
        super().validate()
        self.limit("momentum", least=0, below=1)

    def optimizer(self, groups):
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True)
class Adam(Optimiser, slot="optim"):
    """Adam; `weight_decay` is decoupled, as in AdamW, which it is where that is not 0. Source: Kingma and Ba 2015.

    `betas`, in [0, 1), are the decay rates of the two moments. `eps` > 0 is added to the root of the second one. Its
    effect depends on the size of the gradients, so a loss that is a sum over the batch needs another one than a mean.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def validate(self):
        super().validate()
        for beta in self.betas:
            require_number("A value in Adam.betas", beta, least=0, below=1)
        self.limit("eps", above=0)

    def optimizer(self, groups):
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps)


class LayerwiseSGD(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling on SGD with momentum.

    For each parameter `w` with gradient `g` of a group with a `trust` coefficient η and weight decay λ:
    `d = g + λ w`, `d ← d · η ‖w‖ / ‖d‖` where both norms are positive (else unscaled), `m ← μ m + d`, `w ← w − lr · m`.
    Source: You et al. 2017. As in later codes ‖g + λw‖ stands for their ‖g‖ + λ‖w‖, and, as in PyTorch's SGD, the rate
    multiplies the momentum.

    A group whose `trust` is None is plain SGD with momentum. Norms stay on the device: nothing waits for the host.
    """

    def __init__(self, params, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust=0.001):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust))

    @torch.no_grad()
    def step(self):
        """One update from the gradients in place; a parameter without gradient is left alone."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = [p.grad for p in weights]
            if group["weight_decay"]:
                updates = torch._foreach_add(updates, weights, alpha=group["weight_decay"])
            if group["trust"] is not None:
                w, u = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, updates))
                scales = torch.where((w > 0) & (u > 0), group["trust"] * w / u, 1.0)
                updates = torch._foreach_mul(updates, scales.unbind())
            for p in weights:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(weights, momenta, alpha=-group["lr"])
