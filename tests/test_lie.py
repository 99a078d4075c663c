"""Laws of generators, rotations and orbits."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import fourier_shift
from torchvision.transforms.functional import rotate as torchvision_rotate

from sslbook import lie

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


@pytest.mark.parametrize("name", lie.PLANE)
def test_the_error_of_the_linearised_orbit_falls_with_the_square_of_epsilon(name):
    generator = lie.plane_generator(name)
    errors = [(lie.exp(generator, e) - torch.eye(2).double() - e * generator).norm().item() for e in (1e-2, 1e-3)]
    expected = 0.5 * (generator @ generator).norm().item()
    assert errors[0] == pytest.approx(1e-4 * expected, rel=1e-2, abs=1e-14)
    assert errors[1] == pytest.approx(1e-6 * expected, rel=1e-2, abs=1e-14)


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


def test_bad_input_is_refused_with_a_sentence():
    for sentence, call in {
        "known are rotation, scaling": lambda: lie.plane_generator("twist"),
        "must be a square matrix": lambda: lie.exp(torch.zeros(2, 3), 1.0),
        "size is 0": lambda: lie.shift_generator(0),
        "must be \\(N, C, H, W\\)": lambda: lie.rotate(torch.zeros(3, 4), 10),
        "'bicubic'": lambda: lie.rotate(images(1), 10, interpolation="bicubic"),
        "torch.uint8": lambda: lie.rotate(images(1).byte(), 10, interpolation="bilinear"),
        "at least 2": lambda: lie.orbit_rank(10, samples=1),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()
