"""Laws of the contrastive losses."""

import math

import pytest
import torch

from sslbook import losses
from sslbook.papers.geometry.theory import simplex


def views(n, d, noise=0.5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z1 = torch.randn(n, d, dtype=dtype, generator=generator)
    return z1, z1 + noise * torch.randn(n, d, dtype=dtype, generator=generator)


def naive_terms(z1, z2, beta):
    """l_i and the index of the nearest negative, literally from Eq. 1, one number at a time."""
    n, z = len(z1), [row / math.sqrt(sum(float(x) ** 2 for x in row)) for row in torch.cat([z1, z2]).double()]
    terms, nearest = [], []
    for i in range(n):
        others = {j: float(z[i].dot(z[j])) for j in range(2 * n) if j % n != i}
        positive = float(z[i].dot(z[n + i]))
        terms.append(-math.log(math.exp(beta * positive) / sum(math.exp(beta * s) for s in others.values())))
        nearest.append(max(others, key=others.get))
    return torch.tensor(terms, dtype=torch.float64), torch.tensor(nearest)


@pytest.mark.parametrize(("n", "d", "beta"), [(2, 1, 2.0), (3, 8, 0.5), (9, 4, 2.0), (6, 5, 10.0), (5, 3, -2.0)])
def test_info_nce_is_the_double_loop_of_equation_1(n, d, beta):
    z1, z2 = views(n, d)
    one, two = naive_terms(z1, z2, beta)[0], naive_terms(z2, z1, beta)[0]
    assert losses.info_nce(z1, z2, beta=beta).item() == pytest.approx(one.mean().item(), abs=1e-13)
    both = losses.info_nce(z1, z2, beta=beta, symmetric=True).item()
    assert both == pytest.approx(torch.cat([one, two]).mean().item(), abs=1e-13)


@pytest.mark.parametrize(("beta", "noise"), [(0.5, 1.0), (2.0, 0.5), (20.0, 0.5), (20.0, 30.0)])
def test_nt_xent_is_softplus_of_the_terms_of_equation_1(beta, noise):
    z1, z2 = views(7, 5, noise)
    terms = torch.cat([naive_terms(z1, z2, beta)[0], naive_terms(z2, z1, beta)[0]])
    expected = terms.exp().log1p().mean().item()
    assert losses.nt_xent(z1, z2, temperature=1 / beta).item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(("temperature", "noise"), [(2.0, 1.0), (0.2, 0.5), (0.05, 3.0)])
def test_cross_view_info_nce_is_the_double_loop_over_both_directions(temperature, noise):
    x, y = views(7, 5, noise)
    s = [[float(a.dot(b) / a.norm() / b.norm()) / temperature for b in y] for a in x]
    row, column = (
        sum(math.log(sum(map(math.exp, line))) - line[i] for i, line in enumerate(table)) / 7
        for table in (s, list(zip(*s)))
    )
    both = losses.cross_view_info_nce(x, y, temperature=temperature).item()
    assert both == pytest.approx((row + column) / 2, abs=1e-13)
    assert both == pytest.approx(losses.cross_view_info_nce(y, x, temperature=temperature).item(), abs=1e-14)
    assert min(row, column) > 0


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 10.0])
def test_the_upper_bound_is_the_double_loop_of_proposition_3_1(beta):
    z1, z2 = views(11, 4)
    bound, f = losses.info_nce_upper_bound(z1, z2, beta=beta), torch.nn.functional.normalize(torch.cat([z1, z2]))
    nearest = naive_terms(z1, z2, beta)[1]
    assert torch.equal(bound.nearest, nearest)
    assert bound.invariance.item() == pytest.approx(-(f[:11] * f[11:]).sum(1).mean().item(), abs=1e-14)
    assert bound.repulsion.item() == pytest.approx((f[:11] * f[nearest]).sum(1).mean().item(), abs=1e-14)
    total = beta * (bound.invariance + bound.repulsion) + math.log(20)
    assert bound.total.item() == pytest.approx(total.item(), abs=1e-14)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 0.5, 1.0])
def test_nt_xent_agrees_with_lightly(temperature):
    reference = pytest.importorskip("lightly.loss").NTXentLoss(temperature)
    z1, z2 = views(64, 16, dtype=torch.float32)
    assert losses.nt_xent(z1, z2, temperature=temperature).item() == pytest.approx(reference(z1, z2).item(), abs=1e-6)


@pytest.mark.parametrize(("n", "value"), [(64, 4.8363), (128, 5.5373), (256, 6.2344), (512, 6.9295), (1024, 7.6236)])
def test_equal_outputs_have_the_closed_form(n, value):
    z = torch.ones(n, 8)
    assert losses.info_nce(z, z).item() == pytest.approx(math.log(2 * (n - 1)), abs=1e-5)
    assert losses.info_nce_upper_bound(z, z).total.item() == pytest.approx(value, abs=1e-4)
    assert losses.nt_xent(z, z, temperature=0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-5)
    assert losses.cross_view_info_nce(z, z, temperature=0.5).item() == pytest.approx(math.log(n), abs=1e-5)


def test_a_simplex_of_128_images_has_the_closed_form():
    z = simplex(128)
    for value in (
        losses.info_nce(z, z),
        losses.info_nce(z, z, symmetric=True),
        losses.info_nce_upper_bound(z, z).total,
    ):
        assert value.item() == pytest.approx(-2 - 2 / 127 + math.log(254), abs=1e-12)
        assert value.item() == pytest.approx(3.5216, abs=1e-4)
    assert losses.nt_xent(z, z, temperature=0.5).item() == pytest.approx(3.5507, abs=1e-4)


def test_no_batch_is_below_the_simplex():
    least = losses.info_nce(simplex(9), simplex(9)).item()
    assert all(losses.info_nce(*views(9, 8, noise, seed)).item() > least for noise in (0, 1) for seed in range(10))


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 10.0, 50.0])
@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_the_bound_lies_above_the_loss_by_at_most_log_of_the_negatives(beta, noise):
    z1, z2 = views(64, 16, noise)
    bound = losses.info_nce_upper_bound(z1, z2, beta=beta)
    gap = (bound.total - losses.info_nce(z1, z2, beta=beta)).item()
    assert -1e-12 <= gap <= math.log(126) + 1e-12
    assert bound.invariance >= -1 - 1e-12
    assert bound.repulsion >= -1 / 63


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_ignores_the_scale_of_the_projector(symmetric):
    h1, h2 = views(16, 12)
    w = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = losses.info_nce(h1 @ w, h2 @ w, symmetric=symmetric)
    (gradient,) = torch.autograd.grad(loss, w)
    assert losses.info_nce(h1 @ (100 * w), h2 @ (100 * w), symmetric=symmetric).item() == pytest.approx(loss.item())
    assert abs((w * gradient).sum().item()) < 1e-14 < gradient.norm().item()


def test_the_order_of_the_images_does_not_matter():
    z1, z2 = views(10, 4)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert losses.info_nce(z1[order], z2[order]).item() == pytest.approx(losses.info_nce(z1, z2).item(), abs=1e-14)
    here, there = (losses.info_nce_upper_bound(a, b).nearest for a, b in ((z1, z2), (z1[order], z2[order])))
    assert torch.equal(order[there % 10], (here % 10)[order])
    swapped = losses.nt_xent(z2, z1, temperature=0.1).item()
    assert swapped == pytest.approx(losses.nt_xent(z1, z2, temperature=0.1).item(), abs=1e-14)


FUNCTIONS = {
    "info_nce": losses.info_nce,
    "symmetric": lambda z1, z2: losses.info_nce(z1, z2, symmetric=True),
    "nt_xent": lambda z1, z2: losses.nt_xent(z1, z2, temperature=0.2),
    "cross_view": lambda z1, z2: losses.cross_view_info_nce(z1, z2, temperature=0.2),
    "bound": lambda z1, z2: losses.info_nce_upper_bound(z1, z2).total,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name):
    z1, z2 = (z.requires_grad_() for z in views(5, 3))
    assert torch.autograd.gradcheck(FUNCTIONS[name], (z1, z2))


def compute_in_float32(loss, *tensors):
    """Half precision is promoted whatever autocast says; double precision stays."""
    expected = loss(*(z.float() for z in tensors))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(*tensors)
    assert inside.dtype == torch.float32
    assert inside.item() == loss(*tensors).item() == expected.item()
    assert loss(*(z.double() for z in tensors)).dtype == torch.float64


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    compute_in_float32(FUNCTIONS[name], *(z.to(dtype) for z in views(32, 16)))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0])
def test_low_temperatures_and_duplicates_stay_finite(temperature, noise):
    z1, z2 = views(16, 8, noise, dtype=torch.float32)
    z1[1] = z1[0]
    z1.requires_grad_()
    loss = losses.nt_xent(z1, z2, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss + losses.info_nce(z1, z2, beta=1 / temperature, symmetric=True), z1)
    expected = naive_nt_xent(z1.detach().double(), z2.double(), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-5 / temperature)
    assert gradient.isfinite().all()


def naive_nt_xent(z1, z2, temperature):
    f = torch.nn.functional.normalize(torch.cat([z1, z2]))
    logits = (f @ f.T / temperature).fill_diagonal_(-math.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(f)).roll(len(z1))).item()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_zero_row_has_similarity_zero_and_a_finite_gradient(name):
    z1, z2 = views(6, 4)
    z1[2] = 0
    z1.requires_grad_()
    value = FUNCTIONS[name](z1, z2)
    # An orthogonal direction, in a space of one more dimension, has the same similarities.
    padded = torch.cat([z1, torch.eye(6)[:, 2:3]], 1), torch.cat([z2, torch.zeros(6, 1)], 1)
    assert value.item() == pytest.approx(FUNCTIONS[name](*padded).item(), abs=1e-14)
    assert torch.autograd.grad(value, z1)[0].isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_loss_compiles_to_one_graph_of_the_same_value(name):
    z1, z2 = views(8, 4, dtype=torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    assert compiled(z1, z2).item() == pytest.approx(FUNCTIONS[name](z1, z2).item(), abs=1e-6)


def test_bad_input_is_refused_with_a_sentence():
    z1, z2 = views(4, 3)
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(3, 3\)"):
        losses.info_nce(z1, z2[:3])
    with pytest.raises(ValueError, match="holds 1 image"):
        losses.nt_xent(z1[:1], z2[:1], temperature=0.5)
    with pytest.raises(ValueError, match="beta is -1"):
        losses.info_nce_upper_bound(z1, z2, beta=-1.0)
    with pytest.raises(ValueError, match="temperature is 0"):
        losses.nt_xent(z1, z2, temperature=0)
    with pytest.raises(ValueError, match="temperature is -1"):
        losses.cross_view_info_nce(z1, z2, temperature=-1)
