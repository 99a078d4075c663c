"""Linear probes of frozen features."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from sslbook.metrics.neighbors import labelled
from sslbook.tensors import power_of_two

L2 = 1e-3
"""Our choice, the same for every encoder: the penalty of the probe on features of unit variance."""
ITERATIONS = 100


@torch.no_grad()
def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy, in [0, 1], on `test` of multinomial logistic regression fitted to `train`.

    Features (M, D) and (N, D) are standardised by the mean and deviation of `train`; the fit minimises the mean
    cross-entropy + (L2/2)‖W‖², biases free, from 0 by full-batch L-BFGS with at most `ITERATIONS` iterations. Nothing
    is random and nothing is chosen by looking at `test`. Labels are integers of any type; a test label unknown to the
    training labels counts as an error.

    Raises `ValueError` if shapes do not match or a feature is not finite.
    """
    train, train_labels, test, test_labels = labelled(train, train_labels, test, test_labels)
    # The squares of very large features would overflow, those of very small ones vanish.
    largest = train.abs().amax(0)
    power = power_of_two(largest.masked_fill(largest < torch.finfo(train.dtype).tiny, 1))
    train, test = (train * power).float(), (test * power).float()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    # Of a constant feature only rounding is left; dividing by it would make noise a feature.
    deviation = deviation.masked_fill(deviation <= 1e-6 * mean.abs(), 1)
    classes, train_labels = train_labels.unique(return_inverse=True)
    weight, bias = _fit((train - mean) / deviation, train_labels)
    predicted = classes[((test - mean) / deviation @ weight + bias).argmax(1)]
    return (predicted == test_labels).double().mean().item()


def _fit(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (D, C) and biases (C,) of the probe of `labels` 0 … C − 1."""
    count, classes = len(features), int(labels.max()) + 1
    shape = (features.shape[1] + 1, classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).to(features).view(shape)
        weight, bias = parameters[:-1], parameters[-1]
        log_p = torch.addmm(bias, features, weight).log_softmax(1)
        loss = -log_p.gather(1, labels[:, None]).double().mean() + L2 / 2 * weight.double().square().sum()
        residual = log_p.exp_().scatter_add_(1, labels[:, None], features.new_full((count, 1), -1)).div_(count)
        gradient = torch.cat([torch.addmm(L2 * weight, features.T, residual), residual.sum(0, keepdim=True)])
        return loss.item(), gradient.double().flatten().cpu().numpy()

    start = np.zeros(shape[0] * shape[1])
    options = {"maxiter": ITERATIONS, "gtol": 1e-6}
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    parameters = torch.from_numpy(solution).to(features).view(shape)
    return parameters[:-1], parameters[-1]
