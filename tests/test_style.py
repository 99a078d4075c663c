"""Laws of measured style, and of the probes that look for it."""

import math

import numpy as np
import pytest
import torch

from sslbook import views
from sslbook.metrics import augmentation_factors, linear_probe, mlp_probe, ridge_probe, stroke_factors
from sslbook.metrics.probes import PENALTIES


def blob(uu, uv, vv, size=41, at=(0.0, 0.0)):
    """A Gaussian spot with these second moments, u to the right and v upwards from the centre."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    u, v = axis - at[0], -axis[:, None] - at[1]
    inverse = torch.linalg.inv(torch.tensor([[uu, uv], [uv, vv]], dtype=torch.float64))
    form = inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v
    return torch.exp(-form / 2)[None, None]


@pytest.mark.parametrize("shear", [-0.6, 0.0, 0.4])
def test_a_shear_adds_to_the_slant(shear):
    uu, uv, vv = 4.0, 1.5, 9.0
    sheared = blob(uu + 2 * shear * uv + shear**2 * vv, uv + shear * vv, vv)
    assert stroke_factors(sheared)["slant"].item() == pytest.approx(uv / vv + shear, abs=1e-4)


@pytest.mark.parametrize("degrees", [-80, -30, 0, 10, 45, 89])
def test_the_rotation_is_the_angle_from_the_vertical(degrees):
    angle = math.radians(degrees)
    axis = torch.tensor([-math.sin(angle), math.cos(angle)])  # the vertical, turned anticlockwise
    (uu, uv), (_, vv) = (4 * torch.eye(2) + 12 * torch.outer(axis, axis)).tolist()
    assert stroke_factors(blob(uu, uv, vv))["rotation"].item() == pytest.approx(degrees, abs=0.1)


def bar(width, degrees, size=64, length=40):
    """A stroke with antialiased edges, drawn from its distance to a segment."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    angle = math.radians(degrees)
    along = -axis[:, None] * math.cos(angle) - axis * math.sin(angle)
    across = axis * math.cos(angle) - axis[:, None] * math.sin(angle)
    return ((width / 2 - across.abs() + 0.5).clamp(0, 1) * (length / 2 - along.abs() + 0.5).clamp(0, 1))[None, None]


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("degrees", [0, 20, 45, 90])
def test_the_thickness_is_the_width_of_a_long_stroke_however_it_lies(width, degrees):
    expected = 2 * width * 40 / (2 * width + 2 * 40)  # twice the area over the perimeter
    found = stroke_factors(bar(width, degrees))["thickness"].item()
    assert found == pytest.approx(expected, rel=0.1) and found == pytest.approx(width, rel=0.2)


def test_strokes_do_not_depend_on_brightness_or_place():
    images = torch.cat([blob(4, 1.5, 9), 0.3 * blob(4, 1.5, 9), blob(4, 1.5, 9, at=(3.0, -2.0))])
    for values in stroke_factors(images).values():
        torch.testing.assert_close(values, values[:1].expand(3), rtol=1e-3, atol=1e-3)


def test_a_stroke_in_one_row_has_no_slant():
    rows = torch.zeros(40, 1, 28, 28, dtype=torch.float64)
    for i, row in enumerate(rows):
        row[0, 9, i % 20 :] = torch.rand(28 - i % 20, generator=torch.Generator().manual_seed(i)).double()
    assert stroke_factors(rows)["slant"].isnan().all()


def test_what_shows_no_stroke_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="1 of 2 images are black"):
        stroke_factors(torch.cat([bar(3, 0), torch.zeros(1, 1, 64, 64)]))
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\)"):
        stroke_factors(torch.ones(1, 3, 8, 8))


POLICY = views.Policy(crop=(0.3, 1), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=1, blur=0.5)


def test_where_the_crop_lies_is_read_off_the_view():
    """A view of a ramp in x and y: its mean is where the crop's centre is, its slope how large it is."""
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8)
    plane = ramp.expand(1, 1, 64, 64)
    shifts = views.Policy(crop=(0.3, 0.9), flip=0.5, jitter=(0, 0, 0, 0), grayscale=0)
    draws = shifts.draw(200, (64, 64), torch.Generator().manual_seed(0))
    factors = augmentation_factors(draws, (64, 64))
    for image, name in ((plane, "x"), (plane.mT, "y")):
        seen = shifts.apply(image.expand(200, 1, 64, 64).contiguous(), draws).mean((1, 2, 3)) - 0.5
        mirrored = (1 - 2 * factors["flip"]) if name == "x" else 1
        torch.testing.assert_close(factors[name] * mirrored, seen, rtol=0, atol=0.01)
    assert 0.25 < factors["area"].min() < factors["area"].max() < 0.95
    torch.testing.assert_close((draws.box[:, 3] / draws.box[:, 2]).log(), factors["ratio"])


@pytest.mark.parametrize(("mirror", "name", "along"), [("flip", "x", 2), ("vertical", "y", 1)])
def test_a_dot_in_the_view_moves_against_the_crop_with_or_without_a_mirror(mirror, name, along):
    """Without mirroring x and y, half of the views would say the opposite, and no regression would find it."""
    image = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    image[..., 31:33, 31:33] = 255
    shifts = views.Policy(crop=(0.5, 0.5), ratio=(1, 1), flip=0, jitter=(0, 0, 0, 0), grayscale=0)
    shifts = shifts.replace(**{mirror: 0.5})
    draws = shifts.draw(300, (64, 64), torch.Generator().manual_seed(0))
    seen = shifts.apply(image.expand(300, 1, 64, 64).contiguous(), draws)[:, 0]
    places = (seen.sum(3 - along) * torch.linspace(-0.5, 0.5, 64)).sum(1) / seen.sum((1, 2))
    factors = augmentation_factors(draws, (64, 64))
    assert torch.corrcoef(torch.stack([places, factors[name]]))[0, 1] < -0.99
    unmirrored = factors[name] * (1 - 2 * factors[mirror])
    assert torch.corrcoef(torch.stack([places, unmirrored]))[0, 1].abs() < 0.2


def test_the_factors_are_those_that_were_drawn():
    draws = POLICY.draw(50, (32, 32), torch.Generator().manual_seed(0))
    factors = augmentation_factors(draws, (32, 32))
    named = torch.stack([factors[name] for name in ("brightness", "contrast", "saturation", "hue")], 1)
    assert torch.equal(named, draws.factors) and torch.equal(factors["blur"], draws.sigma)
    assert torch.equal(factors["flip"].bool(), draws.flip) and torch.equal(factors["gray"].bool(), draws.gray)
    assert all(values.shape == (50,) and values.dtype == torch.float32 for values in factors.values())


def regression(n=300, d=5, t=2, noise=0.0, seed=0):
    """Three sets of features and noisy linear targets."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d, t, generator=generator)
    sets = []
    for _ in range(3):
        x = torch.randn(n, d, generator=generator)
        sets += [x, x @ weight + 2 + noise * torch.randn(n, t, generator=generator)]
    return sets


def test_linear_targets_are_found_exactly_and_noise_is_not():
    assert (ridge_probe(*regression()) > 1 - 1e-6).all()
    whole = torch.arange(12)[:, None]
    assert ridge_probe(*[whole, 2.0 * whole] * 3).item() == pytest.approx(1)
    features, targets = regression(seed=1)[::2], regression()[1::2]
    independent = ridge_probe(*(values for pair in zip(features, targets, strict=True) for values in pair))
    assert (independent.abs() < 0.05).all()


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_the_ridge_is_the_best_of_scikit_learn_s_on_validation(noise):
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import StandardScaler

    sets = [values.double().numpy() for values in regression(n=25, d=12, noise=noise)]
    scale = StandardScaler().fit(sets[0])
    train, validation, test = (scale.transform(x) for x in sets[::2])
    for target in range(2):
        fits = [linear_model.Ridge(alpha=p * 25).fit(train, sets[1][:, target]) for p in PENALTIES]
        errors = [np.square(fit.predict(validation) - sets[3][:, target]).sum() for fit in fits]
        expected = r2_score(sets[5][:, target], fits[int(np.argmin(errors))].predict(test))
        found = ridge_probe(*map(torch.from_numpy, sets))[target].item()
        assert found == pytest.approx(expected, abs=1e-5)


def test_each_target_has_its_own_penalty():
    one, two = regression(noise=0.2, n=20), regression(noise=9.0, n=20)
    both = [torch.cat([a, b], 1) if i % 2 else a for i, (a, b) in enumerate(zip(one, two, strict=True))]
    torch.testing.assert_close(ridge_probe(*both)[:2], ridge_probe(*one))


def test_units_of_features_and_targets_do_not_matter():
    sets = regression(noise=0.7)
    changed = [100 * y - 3 if i % 2 else y * torch.tensor([1e-3, 1, 5, 80, 2]) + 9 for i, y in enumerate(sets)]
    torch.testing.assert_close(ridge_probe(*changed), ridge_probe(*sets), rtol=1e-3, atol=1e-4)


def test_products_of_features_are_found_by_the_quadratic_ridge_alone():
    sets = regression()
    for i in (0, 2, 4):
        sets[i + 1] = torch.stack([sets[i][:, 0] * sets[i][:, 1], sets[i][:, 2] ** 2], 1)
    assert (ridge_probe(*sets) < 0.1).all() and (ridge_probe(*sets, quadratic=True) > 1 - 1e-6).all()


def quadrants(n, seed):
    """Points in the plane whose class is the sign of x·y, which no line separates."""
    points = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return points, (points.prod(1) > 0).long()


def test_a_hidden_layer_finds_classes_that_no_line_separates():
    train, validation, test = quadrants(2000, 0), quadrants(500, 1), quadrants(1000, 2)
    assert linear_probe(*train, *test) < 0.65
    assert mlp_probe(*train, *validation, *test, hidden=16, epochs=40) > 0.95


def test_the_network_is_decided_by_its_seed_and_its_pass_by_the_validation_set():
    train, validation, test = quadrants(300, 0), quadrants(100, 1), quadrants(200, 2)
    state = torch.get_rng_state()
    first = mlp_probe(*train, *validation, *test, epochs=5, seed=1)
    assert first == mlp_probe(*train, *validation, *test, epochs=5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    # Where validation says the opposite of the truth, the pass that is worst on the truth is taken.
    points, labels = validation
    good = mlp_probe(*train, *validation, *validation, epochs=30, hidden=16)
    bad = mlp_probe(*train, points, 1 - labels, *validation, epochs=30, hidden=16)
    assert bad < 0.7 < good


def test_probes_refuse_what_does_not_match_with_a_sentence():
    sets = regression()
    with pytest.raises(ValueError, match=r"shapes \(300, 5\) and \(299, 2\)"):
        ridge_probe(*sets[:3], sets[3][1:], *sets[4:])
    with pytest.raises(ValueError, match=r"The targets \[1\] have one value only"):
        ridge_probe(sets[0], sets[1] * torch.tensor([1.0, 0.0]), *sets[2:])
    train, test = quadrants(30, 0), quadrants(20, 1)
    with pytest.raises(ValueError, match="each feature needs one"):
        mlp_probe(*train, test[0], test[1][1:], *test)
