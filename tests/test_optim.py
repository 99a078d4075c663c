import math

import numpy as np
import pytest
import torch
from torch import nn

from sslbook.optim import LARS, SGD, Adam, LayerwiseSGD


def numpy_lars(w, gradients, lr, momentum, decay, trust):
    """A float64 transcription of You et al. (2017), Algorithm 1."""
    m = np.zeros_like(w)
    for g in gradients:
        d = g + decay * w
        a, b = np.linalg.norm(w), np.linalg.norm(d)
        if trust is not None and a > 0 and b > 0:
            d = d * trust * a / b
        m = momentum * m + d
        w = w - lr * m
    return w


@pytest.mark.parametrize(("decay", "trust"), [(1e-6, 0.001), (0.0, 0.001), (1e-2, 0.02), (0.1, None)])
def test_lars_agrees_with_a_transcription(decay, trust):
    random = np.random.default_rng(0)
    w, gradients = random.normal(size=(5, 3)), random.normal(size=(6, 5, 3))
    p = nn.Parameter(torch.tensor(w))
    optimizer = LayerwiseSGD([{"params": [p], "weight_decay": decay, "trust": trust}], lr=0.7, momentum=0.9)
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), numpy_lars(w, gradients, 0.7, 0.9, decay, trust), rtol=1e-12)


def test_a_vanishing_decay_is_no_decay():
    steps = []
    for decay in (0.0, 1e-12):
        p = nn.Parameter(torch.ones(4, 4))
        p.grad = torch.full((4, 4), 0.3)
        LayerwiseSGD([p], lr=1.0, weight_decay=decay).step()
        steps.append(p.detach())
    torch.testing.assert_close(*steps)


def test_weights_and_gradients_of_zero_stay_finite():
    p, q = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.ones(3, 3))
    p.grad, q.grad = torch.ones(3, 3), torch.zeros(3, 3)
    LayerwiseSGD([p, q], lr=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((3, 3), -0.5))  # unscaled
    torch.testing.assert_close(q.detach(), torch.ones(3, 3))


def test_vectors_are_neither_decayed_nor_adapted():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = LARS().build(module).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2} and {p.ndim for p in groups[1]["params"]} == {1}
    assert groups[1]["weight_decay"] == 0 and groups[1]["trust"] is None
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


@pytest.mark.parametrize("part", [LARS(learning_rate=5.0, weight_decay=0), SGD(), Adam(learning_rate=0.05)])
def test_every_optimiser_descends(part):
    torch.manual_seed(0)
    module, x = nn.Linear(8, 8), torch.randn(32, 8)
    optimizer = part.build(module)
    losses = []
    for _ in range(50):
        loss = (module(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_schedule_warms_up_and_decays_to_nothing():
    optim = LARS(learning_rate=4.0, warmup=0.1)
    rates = [optim.learning_rate_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.4 * (i + 1) for i in range(10)])
    assert rates[10] == 4.0 and max(rates) == 4.0
    assert rates[55] == pytest.approx(2.0) and 0 < rates[-1] < 0.005
    assert rates[-1] == pytest.approx(2 * (1 + math.cos(math.pi * 89 / 90)))
    assert LARS(warmup=0.0).learning_rate_at(0, 10) == 4.0


def test_a_constant_schedule_stays_at_its_peak_after_the_warm_up():
    rates = [Adam(learning_rate=2.0, warmup=0.2, schedule="constant").learning_rate_at(step, 10) for step in range(10)]
    assert rates == [1.0, *[2.0] * 9]


def test_adam_is_pytorchs_adam_and_decays_weights_alone():
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    ours = Adam(learning_rate=0.1, weight_decay=0.5, eps=1e-4).build(module)
    theirs = torch.optim.AdamW(
        [{"params": [twin.weight], "weight_decay": 0.5}, {"params": [twin.bias], "weight_decay": 0}], lr=0.1, eps=1e-4
    )
    for net, optimizer in ((module, ours), (twin, theirs)):
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(module.state_dict(), twin.state_dict())
