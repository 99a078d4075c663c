"""Optimisers and schedules: LARS (You et al. 2017) without host synchronisation, warm-up, cosine decay."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sslbook.config import Part, require


@dataclass(frozen=True)
class Optim(Part, slot="optim"):
    """`name` with its peak `learning_rate`, reached after the share `warmup` of all steps, then cosine decay to 0.

    `weight_decay` is the L2 coefficient (for AdamW the decoupled one); parameters of fewer than two dimensions (biases,
    batch norm) have neither decay nor layer-wise adaptation. `momentum` is that of SGD and LARS (for AdamW it is β₁);
    `trust` is the coefficient of LARS.
    """

    name: Literal["lars", "sgd", "adamw"] = "lars"
    learning_rate: float = 4.0
    weight_decay: float = 1e-6
    momentum: float = 0.9
    warmup: float = 0.1
    trust: float = 0.001

    def validate(self):
        require(self.learning_rate > 0, f"Optim.learning_rate is {self.learning_rate}; it must be positive.")
        require(self.weight_decay >= 0, f"Optim.weight_decay is {self.weight_decay}; it must not be negative.")
        require(0 <= self.momentum < 1, f"Optim.momentum is {self.momentum}; it must lie in [0, 1).")
        require(0 <= self.warmup < 1, f"Optim.warmup is {self.warmup}; it must lie in [0, 1).")
        require(self.trust > 0, f"Optim.trust is {self.trust}; it must be positive.")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the trainable parameters of `module`, weights and vectors in a group each."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay, "trust": self.trust},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "trust": None},
        ]
        groups = [group for group in groups if group["params"]]
        if self.name == "lars":
            return LARS(groups, lr=self.learning_rate, momentum=self.momentum)
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(self.momentum, 0.999))

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of `step` (from 0) out of `steps`: linear warm-up, then half a cosine."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling on SGD with momentum, after You et al. 2017.

    For each parameter `w` with gradient `g` of a group with a `trust` coefficient η and weight decay λ:
    `d = g + λ w`, `d ← d · η ‖w‖ / ‖d‖` where both norms are positive (else unscaled), `m ← μ m + d`, `w ← w − lr · m`.
    As in later codes ‖g + λw‖ stands for their ‖g‖ + λ‖w‖, and, as in PyTorch's SGD, the rate multiplies the momentum.
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
