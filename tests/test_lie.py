"""Laws of generators, rotations, orbits and projectors trained on orbits."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import fourier_shift
from scipy.optimize import minimize
from torchvision.transforms.functional import rotate as torchvision_rotate

from sslbook import lie

PLANES = [(2 * a, 2 * a + 1) for a in range(8)]
"""Disjoint planes that fill 16 dimensions."""

FOUR = list(itertools.combinations(range(4), 2))
"""All planes of axes of one space of four dimensions; their six generators span its rotations."""

ANGLES = torch.tensor([0.0, 3.7, 45.1, 90.0, 133.3, 180.0, 270.0, 301.9, -20.3])


def images(n, channels=1, height=32, width=32, seed=0):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("rotation", lambda e: [[math.cos(e), -math.sin(e)], [math.sin(e), math.cos(e)]]),
        ("scaling", lambda e: [[math.exp(e), 0], [0, math.exp(e)]]),
        ("squeeze", lambda e: [[math.exp(e), 0], [0, math.exp(-e)]]),
        ("shear", lambda e: [[1, e], [0, 1]]),
    ],
)
def test_the_exponential_has_its_closed_form_and_is_a_one_parameter_group(name, closed):
    generator, epsilon = lie.plane_generator(name), torch.tensor([[0.0, 0.3], [-2.0, 4.0]], dtype=torch.float64)
    moves = lie.exp(generator, epsilon)
    expected = torch.tensor([[closed(e) for e in row] for row in epsilon.tolist()])
    assert moves.shape == (2, 2, 2, 2)
    assert torch.allclose(moves, expected.double(), atol=1e-6)
    assert torch.allclose(lie.exp(generator, 0.3) @ lie.exp(generator, -0.5), lie.exp(generator, -0.2), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """PyTorch's exponential of a matrix in half precision is of the order of 10³⁰."""
    shear = lie.exp(lie.plane_generator("shear").to(dtype), 0.5)
    assert shear.dtype == dtype and shear.tolist() == [[1, 0.5], [0, 1]]
    h, generators, amounts = torch.randn(3, 4), lie.plane_generators([(0, 1)], 4).float(), torch.full((3, 1), 0.3)
    moved, turn = lie.move(h, generators, amounts), lie.exp(generators[0], 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lie.move(h, generators, amounts), moved)
        assert torch.equal(lie.exp(generators[0], 0.3), turn)


@pytest.mark.parametrize("name", lie.PLANE)
def test_the_error_of_the_linearised_orbit_falls_with_the_square_of_epsilon(name):
    generator = lie.plane_generator(name)
    errors = [(lie.exp(generator, e) - torch.eye(2).double() - e * generator).norm().item() for e in (1e-2, 1e-3)]
    expected = 0.5 * (generator @ generator).norm().item()
    assert errors[0] == pytest.approx(1e-4 * expected, rel=1e-2, abs=1e-14)
    assert errors[1] == pytest.approx(1e-6 * expected, rel=1e-2, abs=1e-14)


def test_a_fitted_generator_moves_as_its_own_does():
    """The generator of shifts is found from one shift; what the vectors do not show stays where it is."""
    G, x = lie.shift_generator(7), torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = lie.fit(x, x @ lie.exp(G, 0.4).T, 0.4, penalty=1e-12)
    torch.testing.assert_close(found, G, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(lie.exp(found, 3.0), torch.eye(7).double().roll(3, 0), rtol=1e-6, atol=1e-7)
    flat = x[:3]
    assert torch.linalg.matrix_rank(lie.fit(flat, flat @ lie.exp(G, 0.4).T, 0.4), tol=1e-9) == 3
    assert lie.fit(x, x @ lie.exp(G, 0.4).T, 0.4, penalty=1e9).abs().max() < 1e-6


def test_the_exponential_of_a_random_generator_agrees_with_its_eigenvalues():
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, vectors = torch.linalg.eigh(matrix + matrix.T)
    expected = vectors @ (0.2 * values).exp().diag() @ vectors.T
    assert torch.allclose(lie.exp(matrix + matrix.T, 0.2), expected, atol=1e-10)


@pytest.mark.parametrize("size", [5, 33])
def test_the_shift_generator_of_odd_size_moves_a_signal_by_whole_pixels(size):
    generator = lie.shift_generator(size)
    assert torch.allclose(generator, -generator.T, atol=1e-12)
    signal = images(1, 1, 1, size).double().flatten()
    for pixels in (1, 2, -3):
        assert torch.allclose(lie.exp(generator, pixels) @ signal, signal.roll(pixels), atol=1e-10)


def test_the_shift_generator_moves_image_rows_by_parts_of_a_pixel():
    image = images(1)[0, 0].double()
    image = (
        image
        - torch.tensor([1.0, -1.0]).repeat(16) * (image @ torch.tensor([1.0, -1.0]).repeat(16).double())[:, None] / 32
    )
    moved = image @ lie.exp(lie.shift_generator(32), 0.4).T
    expected = np.fft.ifft2(fourier_shift(np.fft.fft2(image.numpy()), (0, 0.4))).real
    assert moved.numpy() == pytest.approx(expected, abs=1e-10)
    there_and_back = moved @ lie.exp(lie.shift_generator(32), -0.4).T
    assert torch.allclose(there_and_back, image, atol=1e-10)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (17, 24)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_rotation_is_that_of_pillow(size, mode):
    batch = images(len(ANGLES), 2, *size)
    rotated = lie.rotate(batch, ANGLES, interpolation=mode)
    resample = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}[mode]
    for image, angle, ours in zip(batch, ANGLES.tolist(), rotated, strict=True):
        for channel, got in zip(image, ours, strict=True):
            expected = np.asarray(Image.fromarray(channel.numpy()).rotate(angle, resample=resample))
            # Pillow rounds source coordinates to 1/65536 pixel when it takes the nearest.
            assert (np.abs(expected - got.numpy()) > 1e-5).mean() <= (0.003 if mode == "nearest" else 0)


def test_rotation_agrees_with_torchvision_on_tensors():
    batch = images(len(ANGLES))
    expected = torch.cat([torchvision_rotate(x[None], a) for x, a in zip(batch, ANGLES.tolist(), strict=True)])
    assert (expected != lie.rotate(batch, ANGLES)).double().mean() < 0.005


def test_quarter_turns_are_exact_and_one_angle_serves_all():
    batch = (255 * images(3, 3)).byte()
    for quarter in range(-4, 5):
        assert torch.equal(lie.rotate(batch, 90 * quarter), torch.rot90(batch, quarter, (2, 3)))
        smooth = lie.rotate(batch.double(), 90.0 * quarter, interpolation="bilinear")
        assert torch.allclose(smooth, torch.rot90(batch, quarter, (2, 3)).double(), atol=1e-10)


def test_rotation_there_and_back_restores_a_smooth_image_inside():
    grid = torch.linspace(-3, 3, 64, dtype=torch.float64)
    image = torch.exp(-((grid[:, None] - 0.7) ** 2) - grid**2)[None, None]
    back = lie.rotate(lie.rotate(image, 31.0, interpolation="bilinear"), -31.0, interpolation="bilinear")
    assert (back - image).abs().max() < 0.01 < (lie.rotate(image, 31.0, interpolation="bilinear") - image).abs().max()


TABLE = {  # degrees: nearest, mean and deviation; bilinear with the thresholds 1e-10 and 1e-3
    0: (0, 0, 0, 0),
    30: (7.8, 4.2, 16.4, 8.0),
    90: (22.2, 10.7, 41.4, 20.2),
    180: (41.4, 19.3, 81.6, 34.2),
    360: (78.0, 38.0, 157.6, 56.6),
}


@pytest.mark.parametrize("degrees", TABLE)
def test_the_rank_of_an_orbit_is_that_of_rotations_by_pillow(degrees):
    nearest, deviation, bilinear, coarse = TABLE[degrees]
    ranks = [lie.orbit_rank(degrees, seed=seed) for seed in range(5)]
    # A pixel on the edge between two may go either way, see above: one rank in five may differ by one.
    assert np.mean(ranks) == pytest.approx(nearest, abs=0.21)
    assert np.std(ranks) == pytest.approx(deviation, abs=0.45)
    for threshold, expected in ((1e-10, bilinear), (1e-3, coarse)):
        options = {"interpolation": "bilinear", "threshold": threshold}
        assert np.mean([lie.orbit_rank(degrees, seed=s, **options) for s in range(5)]) == pytest.approx(
            expected, abs=0.05
        )


def test_the_rank_of_an_orbit_grows_with_the_angle_and_is_bounded():
    means = [np.mean([lie.orbit_rank(a, samples=100, seed=s) for s in range(5)]) for a in (0, 15, 60, 180, 360)]
    assert means == sorted(means)
    assert means[0] == 0
    assert lie.orbit_rank(360, samples=7, interpolation="bilinear") == 6
    # A pixel of a 2 × 2 image visits at most the four pixels, and the covariance loses one dimension to the mean.
    assert lie.orbit_rank(360, size=2) <= 4


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained(planes, degrees, width, name="rotation", **options):
    """The first and the last row of a training on rotations (or others) of 16 dimensions."""
    generators = lie.plane_generators(planes, 16, name)
    return lie.train_projector(generators, math.radians(degrees), width=width, **options).iloc[[0, -1]]


def test_moves_in_disjoint_planes_turn_each_by_its_own_angle():
    h, angle = normal(50, 16), normal(50, 8, seed=1)
    moved = lie.move(h, lie.plane_generators(PLANES, 16), angle)
    turned = torch.view_as_complex(h.view(50, 8, 2)) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(moved, torch.view_as_real(turned).flatten(1), atol=1e-12)


def test_moves_of_generators_that_do_not_commute_are_exponentials_of_their_sum():
    h, amounts, generators = normal(5, 4), normal(5, 6, seed=1), lie.plane_generators(FOUR, 4)
    moved = lie.move(h, generators, amounts)
    for before, after, amount in zip(h, moved, amounts, strict=True):
        total = sum(a * g for a, g in zip(amount, generators, strict=True))
        assert torch.allclose(after, lie.exp(total, 1.0) @ before, atol=1e-12)
    assert torch.allclose(moved.norm(dim=1), h.norm(dim=1), atol=1e-12)
    assert torch.allclose(lie.move(moved, generators, -amounts), h, atol=1e-12)


@pytest.mark.parametrize(("name", "rank"), [("rotation", 2), ("scaling", 2), ("squeeze", 2), ("shear", 1)])
def test_directions_add_up_over_disjoint_planes_and_not_within_a_space(name, rank):
    apart, together = lie.plane_generators(PLANES[:5], 16, name), lie.plane_generators(FOUR, 16, name)
    assert torch.linalg.matrix_rank(torch.cat(list(apart), 1)) == 5 * rank
    assert torch.linalg.matrix_rank(torch.cat(list(together), 1)) == (3 if name == "shear" else 4)
    assert torch.equal(apart[0] @ apart[3], apart[3] @ apart[0])


@pytest.mark.parametrize("name", lie.PLANE)
def test_a_projector_with_the_generators_in_its_kernel_is_invariant(name):
    generators = lie.plane_generators(PLANES[:3], 16, name)
    free = torch.linalg.svd(torch.cat(list(generators), 1)).U[:, 3 if name == "shear" else 6 :]
    w = free @ normal(free.shape[1], 8)
    h = normal(100, 16, seed=1)
    assert lie.generator_norm(w, generators) < 1e-12
    assert torch.allclose(lie.move(h, generators, normal(100, 3, seed=2)) @ w, h @ w, atol=1e-10)


def test_a_linear_projector_is_invariant_exactly_on_left_eigenspaces():
    """Wᵀexp(εG)h ∥ Wᵀh for all h if and only if WᵀG = μWᵀ: within one eigenspace of Gᵀ, not across two."""
    basis, values = normal(6, 6), torch.tensor([0.7, 0.7, 0.7, -0.4, -0.4, 0.0]).double()
    generator = basis @ values.diag() @ torch.linalg.inv(basis)
    left = torch.linalg.inv(basis).T  # column j is the left eigenvector of value j
    h = normal(200, 6, seed=1)
    moved = lie.move(h, generator[None], torch.full((200, 1), 0.9).double())
    within, across = left[:, :3] @ normal(3, 2, seed=2), left[:, 2:4]
    assert lie.generator_norm(within, generator[None]) > 0.1
    assert torch.allclose(moved @ within, math.exp(0.9 * 0.7) * h @ within, atol=1e-10)
    assert torch.cosine_similarity(moved @ across, h @ across).min() < 0.9


def test_the_size_of_a_generator_is_one_for_a_random_projector():
    generators = lie.plane_generators(FOUR[:3], 12, "shear")
    sizes = torch.tensor([lie.generator_norm(normal(12, 5, seed=s), generators) for s in range(1500)])
    assert sizes.square().mean() == pytest.approx(1, abs=0.04)
    orthogonal = torch.linalg.qr(normal(12, 12)).Q
    assert lie.generator_norm(7 * orthogonal, 3 * generators) == pytest.approx(1, abs=1e-12)
    direction = torch.zeros(12, 1).double().index_fill(0, torch.tensor(0), 1)
    assert lie.generator_norm(direction, lie.plane_generators([(0, 1)], 12, "shear")) == pytest.approx(math.sqrt(12))


@pytest.mark.parametrize("seed", range(8))
def test_arc_of_a_full_turn_is_the_part_of_the_circle_inside_the_picture(seed):
    generator = np.random.default_rng(seed)
    radius = math.hypot(*(generator.integers(0, 32) - 15.5 for _ in range(2)))
    length = lie.arc_length(360, seed=seed)
    assert lie.arc_length(0, seed=seed) == 0
    # Outside are the four parts of a circle of radius r with half the angle acos(16/r).
    outside = 8 * radius * math.acos(min(1, 16 / radius))
    assert length == pytest.approx(2 * math.pi * radius - outside, rel=5e-3)


@pytest.mark.parametrize("width", [3, 8])
def test_optimal_energies_are_those_of_a_general_solver(width):
    costs, beta = normal(8).abs().mul(0.3).numpy(), 1.7
    best = minimize(
        lambda p: beta * costs @ p + beta**2 / 2 * p @ p,
        np.full(8, 1 / 8),
        bounds=[(0, 1 if c <= sorted(costs)[width - 1] else 0) for c in costs],
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert lie.optimal_energies(costs, width, beta).numpy() == pytest.approx(best.x, abs=1e-5)


def test_costly_directions_fade_out_linearly_and_are_gone_from_beta_over_the_number_of_free_ones_on():
    for cost in (0.0, 0.02, 0.1, 0.15, 1.0):
        energies = lie.optimal_energies([cost, 0] + 12 * [0] + [0, cost], 16)
        assert energies.sum() == pytest.approx(1, abs=1e-12)
        assert 16 * energies[[0, -1]] == pytest.approx(2 * [max(0, 1 - 14 * cost / 2)], abs=1e-12)
    assert lie.optimal_energies([1, 1, 0, 0, 0], 3).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert lie.optimal_energies(16 * [1.0], 4).count_nonzero() == 4
    assert lie.optimal_energies([1e17, 2e17], 2).tolist() == [1, 0]


@pytest.mark.parametrize("degrees", [15, 30, 45, 90])
def test_training_puts_the_generator_where_theory_says(degrees):
    loss_of_cosine = 1 - math.sin(math.radians(degrees)) / math.radians(degrees)
    energies = lie.optimal_energies(2 * [loss_of_cosine] + 14 * [0.0], 16)
    size = trained(PLANES[:1], degrees, 16)["size"].iloc[-1]
    assert size == pytest.approx(math.sqrt(8 * energies[:2].sum()), abs=0.08)


@pytest.mark.parametrize(
    ("planes", "width", "limit"),
    [
        (PLANES[:1], 16, 14),
        (PLANES[:4], 16, 8),
        (PLANES[:6], 8, 4),
        (PLANES[:4], 8, 8),
        (FOUR[:2], 16, 13),
        (FOUR, 16, 12),
    ],
)
def test_training_on_half_turns_ends_in_the_kernel_and_keeps_the_rank_that_is_free(planes, width, limit):
    side = torch.cat(list(lie.plane_generators(planes, 16)), 1)
    start, end = trained(planes, 180, width).to_dict("records")
    assert limit == min(width, 16 - torch.linalg.matrix_rank(side))
    assert start["size"] > 0.5 > 0.05 > end["size"]
    assert end["rank"] == pytest.approx(limit, abs=0.2)
    assert start["similarity"] < 0.9 < 0.999 < end["similarity"]


def test_training_loses_one_direction_to_a_shear_and_none_to_the_scaling_of_everything():
    assert trained(PLANES[:1], 90, 16, "shear")["rank"].iloc[-1] == pytest.approx(15, abs=0.3)
    history = lie.train_projector(torch.eye(16)[None], 1.0, width=16)
    assert history["size"].to_numpy() == pytest.approx(np.ones(61), abs=1e-5)
    assert history["similarity"].to_numpy() == pytest.approx(np.ones(61), abs=1e-5)
    assert history["rank"].iloc[-1] > 15.5


def test_training_is_decided_by_its_seed():
    first, again, other = (trained(PLANES[:2], 60, 8, seed=s, n=32, steps=5) for s in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first["size"] != other["size"]).all()


def test_bad_input_is_refused_with_a_sentence():
    for sentence, call in {
        "allowed are 'rotation', 'scaling'": lambda: lie.plane_generator("twist"),
        "must be a square matrix": lambda: lie.exp(torch.zeros(2, 3), 1.0),
        "size is 0": lambda: lie.shift_generator(0),
        "must have 4 axes": lambda: lie.rotate(torch.zeros(3, 4), 10),
        "'bicubic'": lambda: lie.rotate(images(1), 10, interpolation="bicubic"),
        "torch.uint8": lambda: lie.rotate(images(1).byte(), 10, interpolation="bilinear"),
        "at least 2": lambda: lie.orbit_rank(10, samples=1),
        "pairs of two different axes in 0 … 3": lambda: lie.plane_generators([(0, 1), (2, 4)], 4),
        "planes are \\[\\]": lambda: lie.plane_generators([], 4),
        "must be \\(N, D\\), \\(m, D, D\\) and \\(N, m\\)": lambda: lie.move(
            torch.zeros(5, 4), torch.zeros(2, 4, 4), torch.zeros(5, 1)
        ),
        "width is 0": lambda: lie.optimal_energies([0.0, 0.0], 0),
        "All of x is 0": lambda: lie.fit(torch.zeros(4, 2), torch.zeros(4, 2), 0.1),
        "reach is -1": lambda: lie.train_projector(torch.zeros(1, 4, 4), -1),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()
