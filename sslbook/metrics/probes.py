"""Probes of frozen features: what can be read off them, by a linear map, a ridge regression or a small network."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from sslbook.config import require, require_choice, require_number
from sslbook.metrics.neighbors import labelled
from sslbook.tensors import finite, measuring, power_of_two, promoted

L2 = 1e-3
"""Our choice, the same for every encoder: the penalty of the probe on features of unit variance."""
ITERATIONS = 100
PENALTIES = tuple(10.0**k for k in range(-6, 2))
"""Those among which `ridge_probe` chooses, on features of unit variance."""


@measuring
def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, penalty: float = L2
) -> float:
    """Accuracy, in [0, 1], on `test` of multinomial logistic regression fitted to `train`.

    Features are standardised by the mean and deviation of `train`. The fit minimises the mean cross-entropy +
    (`penalty`/2)‖W‖², biases free, from 0 by full-batch L-BFGS with at most `ITERATIONS` iterations. Nothing is random
    and nothing is chosen by looking at `test`. `penalty` is at least 0.

    `train` is (M, D) and `test` (N, D), with labels of any integer type. A test label unknown to the training labels
    counts as an error.

    **Raises** `ValueError` if shapes do not match, a label is no integer, a feature is not finite or the penalty is
    negative.

    >>> x, y = torch.eye(2).repeat(4, 1), torch.arange(2).repeat(4)
    >>> metrics.linear_probe(x, y, x, y)
    1.0
    """
    require_number("The penalty", penalty, least=0)
    train, train_labels, test, test_labels = labelled(train=(train, train_labels), test=(test, test_labels))
    train, test = _standardised(train, test, dtype=torch.float32)
    classes, train_labels = train_labels.unique(return_inverse=True)
    weight, bias = _fit(train, train_labels, penalty)
    predicted = classes[(test @ weight + bias).argmax(1)]
    return (predicted == test_labels).double().mean().item()


@measuring
def ridge_probe(
    train: Tensor,
    train_targets: Tensor,
    validation: Tensor,
    validation_targets: Tensor,
    test: Tensor,
    test_targets: Tensor,
    *,
    quadratic: bool = False,
) -> Tensor:
    """R² on `test` of ridge regressions of T real targets, (T,): 1 is exact, 0 as good as the mean of the targets.

    The fit minimises the mean squared error + penalty · ‖w‖², biases free, exactly; of `PENALTIES` the one with the
    least squared error on `validation` is taken, for each target its own. With μ the mean over `test`,
    R² = 1 − Σ (y − ŷ)²/Σ (y − μ)²; it can be negative.

    Features are (M, D), standardised by `train`; targets are (M, T). With `quadratic` all products of two features join
    them, and all are standardised again.

    **Raises** `ValueError` if shapes do not match, a number is not finite, or a target has one value only in `train` or
    `test`.

    >>> x = torch.linspace(-1, 1, 9)[:, None]
    >>> metrics.ridge_probe(x, 2 * x, x, 2 * x, x, 2 * x)
    tensor([1.])
    """
    sets = [
        (promoted(finite(name, x, 2)), finite(f"{name}_targets", y, 2))
        for name, x, y in (
            ("train", train, train_targets),
            ("validation", validation, validation_targets),
            ("test", test, test_targets),
        )
    ]
    (train, train_targets), _, (test, test_targets) = sets
    require_choice("quadratic", quadratic, (False, True))
    for x, y in sets:
        require(
            len(x) == len(y) and (x.shape[1], y.shape[1]) == (train.shape[1], train_targets.shape[1]),
            f"Features and targets have the shapes {tuple(x.shape)} and {tuple(y.shape)}; they must be (M, D) and "
            "(M, T), with the same D and T in all sets.",
        )
    for y in (train_targets, test_targets):
        constant = (y == y[0]).all(0).nonzero().flatten().tolist()
        require(not constant, f"The targets {constant} have one value only; there is nothing to predict.")
    features = _standardised(*(x for x, _ in sets), dtype=torch.float64)
    if quadratic:
        i, j = torch.triu_indices(train.shape[1], train.shape[1], device=train.device)
        features = _standardised(*(torch.cat([x, x[:, i] * x[:, j]], 1) for x in features), dtype=torch.float64)
    targets = [y.double() * power_of_two(train_targets.double().abs().amax(0)) for _, y in sets]
    targets = [y - targets[0].mean(0) for y in targets]
    gram, along = (features[0].T @ x / len(train) for x in (features[0], targets[0]))
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factors = (torch.linalg.cholesky(gram + penalty * identity) for penalty in PENALTIES)
    weights = torch.stack([torch.cholesky_solve(along, factor) for factor in factors])
    best = (features[1] @ weights - targets[1]).square().sum(1).argmin(0)
    chosen = weights[best, :, torch.arange(len(best), device=best.device)].T
    residual, spread = features[2] @ chosen - targets[2], targets[2] - targets[2].mean(0)
    return (1 - residual.square().sum(0) / spread.square().sum(0)).float()


@measuring
def mlp_probe(
    train: Tensor,
    train_labels: Tensor,
    validation: Tensor,
    validation_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    hidden: int | None = None,
    epochs: int = 50,
    seed: int = 0,
) -> float:
    """Accuracy, in [0, 1], on `test` of a network with one hidden layer of `hidden` units, by default D.

    Adam at a rate of 1e-3 minimises the cross-entropy in batches of 256 for `epochs` passes, and the weights after the
    pass with the highest accuracy on `validation` are taken, the first among equals.

    Features (M, D) are standardised by `train`; labels are integers of any type. `seed` decides the initial weights and
    the order; the global stream of chance is left alone.

    **Raises** `ValueError` if shapes do not match, a label is no integer, a feature is not finite, or `hidden` or
    `epochs` is below 1.
    """
    train, train_labels, validation, validation_labels, test, test_labels = labelled(
        train=(train, train_labels), validation=(validation, validation_labels), test=(test, test_labels)
    )
    hidden = train.shape[1] if hidden is None else hidden
    for name, value, least in (("hidden", hidden, 1), ("epochs", epochs, 1), ("seed", seed, 0)):
        require_number(name, value, least=least, whole=True)
    train, validation, test = _standardised(train, validation, test, dtype=torch.float32)
    classes, train_labels = train_labels.unique(return_inverse=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(nn.Linear(train.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, len(classes)))
        orders = [torch.randperm(len(train)) for _ in range(epochs)]
    network = network.to(train.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def accuracy(features: Tensor, labels: Tensor) -> float:
        return (classes[network(features).argmax(1)] == labels).double().mean().item()

    best, result = -1.0, 0.0
    for order in orders:
        for indices in order.to(train.device).split(256):
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                nn.functional.cross_entropy(network(train[indices]), train_labels[indices]).backward()
            optimizer.step()
        if (reached := accuracy(validation, validation_labels)) > best:
            best, result = reached, accuracy(test, test_labels)
    return result


def _standardised(train: Tensor, *others: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """All with the mean and deviation of `train` taken out, in `dtype`."""
    largest = train.abs().amax(0)
    # The squares of very large features would overflow, those of very small ones vanish.
    power = power_of_two(largest.masked_fill(largest < torch.finfo(train.dtype).tiny, 1))
    train, *others = ((features * power).to(dtype) for features in (train, *others))
    mean, deviation = train.mean(0), train.std(0, correction=0)
    # Of a constant feature only rounding is left; dividing by it would make noise a feature.
    deviation = deviation.masked_fill(deviation <= 1e-6 * mean.abs(), 1)
    return [(features - mean) / deviation for features in (train, *others)]


def _fit(features: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The weights (D, C) and biases (C,) of the probe of `labels` 0 … C − 1."""
    count, classes = len(features), int(labels.max()) + 1
    shape = (features.shape[1] + 1, classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).to(features).view(shape)
        weight, bias = parameters[:-1], parameters[-1]
        log_p = torch.addmm(bias, features, weight).log_softmax(1)
        loss = -log_p.gather(1, labels[:, None]).double().mean() + penalty / 2 * weight.double().square().sum()
        residual = log_p.exp_().scatter_add_(1, labels[:, None], features.new_full((count, 1), -1)).div_(count)
        gradient = torch.cat([torch.addmm(penalty * weight, features.T, residual), residual.sum(0, keepdim=True)])
        return loss.item(), gradient.double().flatten().cpu().numpy()

    start = np.zeros(shape[0] * shape[1])
    options = {"maxiter": ITERATIONS, "gtol": 1e-6}
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    parameters = torch.from_numpy(solution).to(features).view(shape)
    return parameters[:-1], parameters[-1]
