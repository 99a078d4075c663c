"""Laws of the matching gap and its solver."""

import itertools
import math
import warnings

import pytest
import torch

from sslbook import losses
from sslbook.losses.contrastive import _cross_view
from sslbook.losses.matching import _cost, _gap, _solve
from sslbook.papers.geometry.theory import simplex
from sslbook.tensors import unit
from tests.test_losses import views

TIGHT = {"tol": 1e-12, "max_iter": 10_000}
EPSILONS = [0.1, 0.3, 1.0]


def cosine_cost(x, y):
    return 1 - unit(x) @ unit(y).T


def gap(cost, epsilon, **settings):
    return _gap(cost, epsilon, **(TIGHT | settings)).item()


@pytest.mark.parametrize(("epsilon", "tol"), [(0.002, 0.1), (0.01, 1e-3), (0.1, 1e-9), (1.0, 1e-12)])
def test_the_plan_has_uniform_marginals_the_form_of_its_potentials_and_the_error_it_reports(epsilon, tol):
    cost = cosine_cost(*views(16, 8, 2.0))
    found = losses.sinkhorn(cost, epsilon, tol=tol)
    assert found.plan.sum(0).sub(1 / 16).abs().max() < 1e-15
    assert found.plan.sum(1).sub(1 / 16).abs().sum().item() == pytest.approx(found.error.item(), abs=1e-14)
    assert found.error <= tol
    expected = torch.exp((found.f[:, None] + found.g - cost) / epsilon)
    assert torch.allclose(found.plan, expected, rtol=1e-9, atol=1e-34)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("noise", [2.0, 4.0])
def test_value_and_gradient_agree_with_pot(epsilon, noise):
    solve = pytest.importorskip("ot.batch").solve_batch
    costs = torch.stack([cosine_cost(*views(12, 8, noise, seed)) for seed in range(3)])
    theirs = solve(costs, epsilon, reg_type="entropy", method="log_sinkhorn", max_iter=10_000, tol=1e-12)
    ours = losses.sinkhorn(costs, epsilon, **TIGHT)
    assert torch.allclose(ours.f.mean(1) + ours.g.mean(1), theirs.value, rtol=0, atol=1e-9)
    assert torch.allclose(ours.plan, theirs.plan, rtol=0, atol=1e-9)
    for cost, value, plan in zip(costs, theirs.value, theirs.plan):
        cost.requires_grad_()
        loss = _gap(cost, epsilon, **TIGHT)
        assert loss.item() == pytest.approx((cost.trace() / 12 - epsilon * math.log(12) - value).item(), abs=1e-9)
        (gradient,) = torch.autograd.grad(loss, cost)
        assert torch.allclose(gradient, torch.eye(12).double() / 12 - plan, rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_the_gap_is_epsilon_times_the_divergence_of_the_pairing_from_the_plan(epsilon, noise):
    x, y = views(12, 8, noise)
    plan = losses.sinkhorn(cosine_cost(x, y), epsilon, **TIGHT).plan
    divergence = torch.log(1 / 12 / plan.diagonal()).mean().item()
    assert losses.matching_gap(x, y, epsilon=epsilon, **TIGHT).item() == pytest.approx(epsilon * divergence, abs=1e-12)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_half_a_sinkhorn_step_is_info_nce_and_every_further_one_only_lowers_it_to_the_gap(epsilon, noise):
    x, y = views(12, 8, noise)
    cost = cosine_cost(x, y)
    matching = losses.matching_gap(x, y, epsilon=epsilon, **TIGHT).item()
    for c, info_nce in zip((cost, cost.T), _cross_view(x, y, epsilon)):
        g, values = torch.zeros(12), []
        for _ in range(4):
            f = -epsilon * (math.log(12) + ((g - c) / epsilon).logsumexp(1))
            values.append((c.trace() / 12 - epsilon * math.log(12) - f.mean() - g.mean()).item())
            c, f, g = c.T, g, f
        assert values[0] == pytest.approx(epsilon * info_nce.item(), abs=1e-13)
        assert all(after <= before + 1e-15 for before, after in itertools.pairwise(values))
        assert -1e-12 <= matching <= values[-1] + 1e-12


@pytest.mark.parametrize("epsilon", [0.0, *EPSILONS])
def test_a_cost_of_one_image_alone_does_not_count(epsilon):
    cost = cosine_cost(*views(12, 4, 2.0))
    a, b = (torch.randn(12, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    assert gap(cost + a[:, None] + b, epsilon) == pytest.approx(gap(cost, epsilon), abs=1e-12)
    assert gap(cost.T, epsilon) == pytest.approx(gap(cost, epsilon), abs=1e-12)
    assert gap(3 * cost, 3 * epsilon) == pytest.approx(3 * gap(cost, epsilon), abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, *EPSILONS])
def test_each_named_cost_has_the_gap_of_its_formula(epsilon):
    x, y = (z / 3 for z in views(8, 4, 2.0))
    formulas = {
        "cosine": cosine_cost(x, y),
        "sqeuclidean": torch.cdist(x, y) ** 2,
        "circular_variance": 1 - (unit(x)[:, None] + unit(y)).div(2).norm(dim=2) ** 2,
    }
    for name, cost in formulas.items():
        found = losses.matching_gap(x, y, epsilon=epsilon, cost=name, **TIGHT).item()
        assert found == pytest.approx(gap(cost, epsilon), abs=1e-12)
    moved = losses.matching_gap(x + 9, y - 7, epsilon=epsilon, cost="sqeuclidean", **TIGHT).item()
    assert moved == pytest.approx(gap(formulas["sqeuclidean"], epsilon), abs=1e-10)


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_the_gap_does_not_decrease_in_epsilon_and_starts_from_the_exact_one(noise):
    x, y = views(16, 8, noise)
    epsilons = [0.0, 0.002, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]
    values = [losses.matching_gap(x, y, epsilon=e, tol=1e-3).item() for e in epsilons]
    assert all(low <= high + 2e-3 for low, high in itertools.pairwise(values))
    assert -1e-9 <= values[1] - values[0] <= 0.002 * math.log(16) + 2e-3  # the entropy of a plan is at most 2 log N


def test_the_exact_gap_is_the_best_of_all_permutations_and_has_their_gradient():
    cost = cosine_cost(*views(6, 3, 2.0)).requires_grad_()
    orders = [list(order) for order in itertools.permutations(range(6))]
    best = min(orders, key=lambda order: cost[range(6), order].sum().item())
    loss = _gap(cost, 0, **TIGHT)
    assert loss.item() == pytest.approx((cost.trace() - cost[range(6), best].sum()).item() / 6, abs=1e-15)
    assert loss > 0
    pairing = torch.eye(6, dtype=torch.float64)
    assert torch.allclose(torch.autograd.grad(loss, cost)[0], (pairing - pairing[best]) / 6)


@pytest.mark.parametrize("n", [1, 2, 64])
@pytest.mark.parametrize("epsilon", [0.0, 0.02, 1.0])
def test_collapse_costs_epsilon_log_n_and_has_no_gradient(n, epsilon):
    x = torch.ones(n, 8).requires_grad_()
    loss = losses.matching_gap(x, x.detach(), epsilon=epsilon)
    assert loss.item() == pytest.approx(epsilon * math.log(n), abs=1e-6)
    assert torch.autograd.grad(loss, x)[0].abs().max() < 1e-6


def test_exact_matching_sees_the_pairing_however_near_to_collapse():
    x, y = views(32, 8, 0.1, dtype=torch.float32)
    assert losses.matching_gap(1 + 1e-4 * x, 1 + 1e-4 * y, epsilon=0.0) < 1e-10
    wrong = losses.matching_gap(1 + 1e-4 * x, 1 + 1e-4 * y.roll(1, 0), epsilon=0.0)
    assert wrong > 1e-9


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_a_simplex_has_the_closed_form(epsilon):
    n, z = 16, simplex(16)
    expected = epsilon * math.log1p((n - 1) * math.exp(-(1 + 1 / (n - 1)) / epsilon))
    assert losses.matching_gap(z, z, epsilon=epsilon, **TIGHT).item() == pytest.approx(expected, abs=1e-12)


def test_without_the_entropy_the_gap_would_be_negative_and_its_gradient_another():
    x, y = views(16, 8, 1.0)
    cost, direction = cosine_cost(x, y), cosine_cost(*views(16, 8, seed=1))

    def sharp(cost):
        return (cost.trace() / 16 - (losses.sinkhorn(cost, 0.2, **TIGHT).plan * cost).sum()).item()

    slope = (sharp(cost + 1e-4 * direction) - sharp(cost - 1e-4 * direction)) / 2e-4
    plan = losses.sinkhorn(cost, 0.2, **TIGHT).plan
    assert sharp(cost) < -0.01
    assert abs(slope - (((torch.eye(16) / 16 - plan) * direction).sum())) > 0.01


def test_the_gradient_for_the_squared_distance_does_not_hold_the_point_itself():
    x, y = ((z / 2).requires_grad_() for z in views(12, 4, 2.0))
    (gradient,) = torch.autograd.grad(losses.matching_gap(x, y, epsilon=0.5, cost="sqeuclidean", **TIGHT), x)
    plan = losses.sinkhorn(torch.cdist(x, y) ** 2, 0.5, **TIGHT).plan
    assert torch.allclose(gradient, 2 * (plan @ y - y / 12), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cost", ["cosine", "sqeuclidean", "circular_variance"])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_gradients_are_those_of_finite_differences(cost, epsilon):
    x, y = ((z / 3).requires_grad_() for z in views(5, 2, 2.0))
    assert torch.autograd.gradcheck(lambda x, y: losses.matching_gap(x, y, epsilon=epsilon, cost=cost, **TIGHT), (x, y))


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.3])
def test_a_loose_tolerance_overestimates_by_at_most_the_error_times_the_range_of_the_cost(epsilon):
    cost = cosine_cost(*views(32, 8, 2.0))
    exact = gap(cost, epsilon, tol=1e-7)
    for tol in (0.3, 0.1, 1e-2, 1e-3):
        error = losses.sinkhorn(cost, epsilon, tol=tol).error * (cost.max() - cost.min())
        assert -1e-9 <= gap(cost, epsilon, tol=tol) - exact <= error


@pytest.mark.parametrize("epsilon", [0.01, *EPSILONS])
def test_float32_has_the_value_and_gradient_of_float64(epsilon):
    x, y = views(64, 16, 0.7)
    results = []
    for dtype in (torch.float64, torch.float32):
        z = x.to(dtype).requires_grad_()
        loss = losses.matching_gap(z, y.to(dtype), epsilon=epsilon)
        results.append((loss.item(), torch.autograd.grad(loss, z)[0].double()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    assert torch.allclose(results[0][1], results[1][1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.2])
def test_half_precision_and_autocast_change_neither_value_nor_gradient(dtype, epsilon):
    x, y = (z.to(dtype) for z in views(32, 16))
    found = []
    for autocast, promoted in ((False, True), (False, False), (True, False)):
        z = (x.float() if promoted else x).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = losses.matching_gap(z, y, epsilon=epsilon)
        assert loss.dtype == torch.float32
        found.append((loss.item(), torch.autograd.grad(loss, z)[0].to(dtype)))
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][1], found[2][1])


def test_a_batch_with_leading_dimensions_is_solved_one_by_one():
    costs = torch.stack([cosine_cost(*views(9, 4, noise)) for noise in range(1, 7)]).view(2, 3, 9, 9)
    together = losses.sinkhorn(costs, 0.1, **TIGHT)
    assert together.plan.shape == costs.shape
    assert together.f.shape == together.g.shape == (2, 3, 9)
    assert together.error.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.allclose(together.plan[i, j], losses.sinkhorn(costs[i, j], 0.1, **TIGHT).plan, rtol=0, atol=1e-12)


def test_nothing_but_the_plan_is_left_behind():
    cost = cosine_cost(*views(8, 4)).requires_grad_()
    before = cost.detach().clone()
    found = losses.sinkhorn(cost, 0.1)
    assert torch.is_grad_enabled()
    assert torch.equal(cost, before)
    assert not any(part.requires_grad for part in found)


def test_not_a_number_stays_so_and_ends_at_once():
    x, y = views(8, 4)
    x[3, 2] = math.nan
    x.requires_grad_()
    with warnings.catch_warnings(action="error"):
        for epsilon in (0.0, 0.1):
            loss = losses.matching_gap(x, y, epsilon=epsilon)
            assert loss.isnan()
            assert torch.autograd.grad(loss, x)[0].isnan().any()
        good = cosine_cost(*views(8, 4))
        found = losses.sinkhorn(torch.stack([torch.full_like(good, math.nan), good]), 0.1)
    assert found.plan[0].isnan().all()
    assert torch.equal(found.plan[1], losses.sinkhorn(good, 0.1).plan)
    assert found.error[1] <= 1e-3


def test_duplicates_and_zero_rows_are_finite_down_to_a_small_epsilon():
    x, y = views(12, 4, dtype=torch.float32)
    x[1], y[1], x[2] = x[0], y[0], 0
    x.requires_grad_()
    for epsilon in (0.001, 0.01, 0.1):
        loss = losses.matching_gap(x, y, epsilon=epsilon)
        assert loss >= epsilon * math.log(2) / 6 - 1e-6  # nothing tells the two duplicates apart
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_a_solver_that_has_not_converged_says_so():
    x, y = views(64, 8, 1.0)
    with pytest.warns(UserWarning, match=r"stopped after 10 iterations with a marginal error of .* tolerance of 1e-08"):
        losses.matching_gap(x, y, epsilon=0.01, tol=1e-8, max_iter=10)


@pytest.mark.filterwarnings("ignore:Sinkhorn stopped")
def test_there_are_as_many_iterations_as_are_asked_for():
    cost = 1 - views(16, 4, 1.0)[0] @ views(16, 4, 1.0)[1].T
    for count in (1, 5, 15, 20):
        plan = losses.sinkhorn(cost, 0.01, tol=0, max_iter=count)
        assert int(plan.iterations) == count and (plan.plan.sum(0) - 1 / 16).abs().max() < 1e-6
    with pytest.raises(ValueError, match="max_iter is 0; it must be a whole number of at least 1"):
        losses.sinkhorn(cost, 0.01, max_iter=0)


@pytest.mark.parametrize(("k", "epsilon"), [(2, 0.1), (3, 0.1), (2, 0.0)])
def test_the_loss_compiles_to_one_graph_of_the_same_value_and_gradient(k, epsilon):
    z = torch.stack([*views(8, 4, dtype=torch.float32)] * 2)[:k].requires_grad_()

    def loss(z):
        z = torch.tanh(z)
        if k == 2:
            return losses.matching_gap(*z, epsilon=epsilon)
        return losses.multi_matching_gap(z, epsilon=epsilon)

    torch.compiler.reset()
    (expected,) = torch.autograd.grad(loss(z), z)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(z)
    assert compiled.item() == pytest.approx(loss(z).item(), abs=1e-6)
    assert torch.allclose(torch.autograd.grad(compiled, z)[0], expected, atol=1e-6)


def circular_variance(z):
    """1 − ‖mean of one row of each view‖² for every choice of rows, literally."""
    k, n = z.shape[:2]
    cost = torch.empty((n,) * k, dtype=z.dtype)
    for index in itertools.product(range(n), repeat=k):
        cost[index] = 1 - torch.stack([z[a, i] for a, i in enumerate(index)]).mean(0).norm() ** 2
    return cost


def naive_multi_gap(cost, epsilon):
    """The gap by cyclic log-sum-exp updates of one potential for each view."""
    k, n = cost.ndim, len(cost)
    potentials = [torch.zeros([n if a == axis else 1 for a in range(k)], dtype=cost.dtype) for axis in range(k)]
    for _, axis in itertools.product(range(500), range(k)):
        others = [a for a in range(k) if a != axis]
        logits = (sum(p for a, p in enumerate(potentials) if a != axis) - cost) / epsilon
        potentials[axis] = -epsilon * (math.log(n) + logits.logsumexp(others, keepdim=True))
    plan = ((sum(potentials) - cost) / epsilon).exp()
    diagonal = torch.stack([plan[(i,) * k] for i in range(n)])
    return plan, epsilon * (torch.log(1 / n / diagonal) / n).sum().item()


def several(k, n, d=3, noise=2.0):
    generator = torch.Generator().manual_seed(k)
    base = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return unit(base + noise * torch.randn(k, n, d, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize(("k", "n"), [(2, 6), (3, 5), (4, 4)])
@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_several_views_have_the_gap_of_a_naive_solver_and_uniform_marginals(k, n, epsilon):
    z = several(k, n)
    plan, expected = naive_multi_gap(circular_variance(z), epsilon)
    assert losses.multi_matching_gap(z, epsilon=epsilon, **TIGHT).item() == pytest.approx(expected, abs=1e-11)
    found, *_ = _solve(_cost(z, 2 / k**2)[None], epsilon, *TIGHT.values())
    assert torch.allclose(found[0], plan, rtol=0, atol=1e-11)
    for axis in range(k):
        assert found[0].sum([a for a in range(k) if a != axis]).sub(1 / n).abs().max() < 1e-12


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_circular_variance_is_the_mean_squared_distance_of_the_pairs(k):
    z = several(k, 3)
    pairs = [
        (torch.cdist(z[a], z[b]) ** 2).view([3 if axis in (a, b) else 1 for axis in range(k)])
        for a, b in itertools.combinations(range(k), 2)
    ]
    assert torch.allclose(circular_variance(z), sum(pairs) / k**2, rtol=0, atol=1e-15)


def test_two_views_among_several_are_the_gap_of_two():
    z = several(2, 12)
    expected = losses.matching_gap(*z, epsilon=0.1, cost="circular_variance", **TIGHT).item()
    assert losses.multi_matching_gap(z, epsilon=0.1, **TIGHT).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("k", [3, 4])
def test_several_views_are_equal_among_themselves_and_collapse_has_the_closed_form(k):
    z = several(k, 5)
    value = losses.multi_matching_gap(z, epsilon=0.1, **TIGHT).item()
    assert losses.multi_matching_gap(z.flip(0), epsilon=0.1, **TIGHT).item() == pytest.approx(value, abs=1e-12)
    collapsed = losses.multi_matching_gap(torch.ones(k, 5, 3), epsilon=0.1).item()
    assert value > 0
    assert collapsed == pytest.approx(0.1 * (k - 1) * math.log(5), abs=1e-6)


@pytest.mark.parametrize(("k", "n"), [(3, 5), (4, 3)])
def test_the_slope_along_any_direction_is_that_of_a_central_difference(k, n):
    z, direction = several(k, n).requires_grad_(), several(k, n).roll(1, 1)

    def loss(z):
        return losses.multi_matching_gap(z, epsilon=0.1, **TIGHT)

    (gradient,) = torch.autograd.grad(loss(z), z)
    slope = (loss(z + 1e-5 * direction) - loss(z - 1e-5 * direction)).item() / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6)


def test_bad_input_is_refused_with_a_sentence():
    x, y = views(4, 3)
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(3, 3\)"):
        losses.matching_gap(x, y[:3], epsilon=0.1)
    with pytest.raises(ValueError, match=r"epsilon is -0\.1; it must be a finite number of at least 0"):
        losses.matching_gap(x, y, epsilon=-0.1)
    with pytest.raises(ValueError, match="epsilon is 1e-40; it must be 0 or at least 1e-30"):
        losses.matching_gap(x, y, epsilon=1e-40)
    with pytest.raises(ValueError, match="cost is 'dot'; allowed are 'cosine', 'sqeuclidean', 'circular_variance'"):
        losses.matching_gap(x, y, epsilon=0.1, cost="dot")
    with pytest.raises(ValueError, match="holds 0 image"):
        losses.matching_gap(x[:0], y[:0], epsilon=0.1)
    with pytest.raises(ValueError, match=r"shape \(4, 3\); it must be \(\.\.\., N, N\)"):
        losses.sinkhorn(x, 0.1)
    with pytest.raises(ValueError, match="epsilon is nan"):
        losses.sinkhorn(x @ y.T, math.nan)
    with pytest.raises(ValueError, match="epsilon is 0; it must be a finite number of at least 1e-30"):
        losses.multi_matching_gap(torch.stack([x, y]), epsilon=0)
    with pytest.raises(ValueError, match=r"shape \(4, 3\); it must be \(k, N, D\)"):
        losses.multi_matching_gap(x, epsilon=0.1)
    with pytest.raises(ValueError, match="4 views of 256 images need a cost tensor of 4,294,967,296 entries"):
        losses.multi_matching_gap(torch.ones(4, 256, 2), epsilon=0.1)
