"""Views: agreement with torchvision on replayed draws, distributions, independence, reproducibility."""

import math
from itertools import permutations

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from sslbook import views
from sslbook.views import Policy

OPERATIONS = {
    "brightness": (views.brightness, TF.adjust_brightness),
    "contrast": (views.contrast, TF.adjust_contrast),
    "saturation": (views.saturation, TF.adjust_saturation),
    "hue": (views.hue, TF.adjust_hue),
}
STILL = Policy(crop=(1, 1), flip=0, jitter=(0, 0, 0, 0), grayscale=0, ratio=(1, 1))
EVERYTHING = Policy(crop=(0.08, 1), flip=0.5, jitter=(0.8, 0.8, 0.8, 0.5), jitter_probability=0.9, blur=0.5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=64, channels=3, size=(32, 32), seed=0):
    """Noise of every contrast; the first are black, white, one colour and of few colours, where hue has ties."""
    noise = torch.rand(n, channels, *size, generator=seeded(seed))
    depth = torch.rand(n, 1, 1, 1, generator=seeded(seed + 1))
    x = (255 * (depth * noise + (1 - depth) * noise[:, :, :1, :1])).round().to(torch.uint8)
    x[0], x[1], x[2] = 0, 255, x[2, :, :1, :1]
    x[3] = 255 * (x[3] > 127)
    return x


def test_crops_of_half_precision_are_those_of_float32():
    x, flip = images(8).float() / 255, torch.arange(8) % 2 == 0
    box = torch.tensor([[3, 5, 20, 17]] * 8)
    found = views.crop(x.half(), box, flip)
    assert found.dtype == torch.half
    torch.testing.assert_close(found.float(), views.crop(x, box, flip), rtol=0, atol=1e-3)


def replay(image, draws, i):
    """View i as torchvision's functional operations compute it from the draws, one image at a time."""
    size, channels = list(image.shape[-2:]), image.shape[0]
    x = TF.resized_crop(image.float() / 255, *draws.box[i].tolist(), size, antialias=True)
    x = TF.horizontal_flip(x) if draws.flip[i] else x
    for k in draws.order[i].tolist():
        x = list(OPERATIONS.values())[k][1](x, draws.factors[i, k].item())
    x = TF.rgb_to_grayscale(x, num_output_channels=channels) if draws.gray[i] else x
    return TF.gaussian_blur(x, [3, 3], [draws.sigma[i].item()] * 2) if draws.sigma[i] > 0 else x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_of_jitter_is_torchvisions(name, channels):
    ours, theirs = OPERATIONS[name]
    x = images(channels=channels) / 255
    factors = torch.linspace(-0.5, 0.5, len(x)) if name == "hue" else torch.linspace(0, 1.9, len(x))
    expected = torch.stack([theirs(image, f.item()) for image, f in zip(x, factors)])
    torch.testing.assert_close(ours(x, factors), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_is_torchvisions(channels):
    x = images(channels=channels) / 255
    torch.testing.assert_close(views.gray(x), TF.rgb_to_grayscale(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "window"), [(32, 3), (96, 9), (224, 23)])
def test_blur_is_torchvisions_over_a_tenth_of_the_image(size, window):
    x = torch.rand(3, 3, size, size, generator=seeded())
    sigma = torch.tensor([0.1, 0.7, 2.0])
    expected = torch.stack([TF.gaussian_blur(image, [window] * 2, [s.item()] * 2) for image, s in zip(x, sigma)])
    torch.testing.assert_close(views.blur(x, sigma), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (24, 40)])
def test_crop_is_torchvisions_with_antialiasing(size):
    x = images(size=size) / 255
    draws = Policy(crop=(0.01, 1), flip=0.5, jitter=(0, 0, 0, 0)).draw(len(x), size, seeded())
    expected = torch.stack(
        [TF.resized_crop(image, *box.tolist(), list(size), antialias=True) for image, box in zip(x, draws.box)]
    )
    unflipped = views.crop(x, draws.box, torch.zeros_like(draws.flip))
    torch.testing.assert_close(unflipped, expected, atol=5e-6, rtol=0)
    mirrored = torch.where(draws.flip[:, None, None, None], unflipped.flip(3), unflipped)
    assert 0 < draws.flip.sum() < len(x)
    assert torch.equal(views.crop(x, draws.box, draws.flip), mirrored)


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (28, 28)), (3, (24, 40))])
@pytest.mark.parametrize("policy", [*map(views.policy, ("large", "moderate", "small")), EVERYTHING])
def test_a_view_is_torchvisions_chain_on_the_same_draws(policy, channels, size):
    x = images(96, channels, size)
    draws = policy.draw(len(x), size, seeded())
    expected = torch.stack([replay(image, draws, i) for i, image in enumerate(x)])
    torch.testing.assert_close(policy.apply(x, draws), expected, atol=5e-5, rtol=0)


def test_a_third_of_a_turn_of_hue_permutes_the_channels():
    x = images() / 255
    third = torch.full((len(x),), 1 / 3)
    torch.testing.assert_close(views.hue(x, third), x.roll(1, dims=1), atol=2e-6, rtol=0)
    torch.testing.assert_close(views.hue(x, -third), x.roll(-1, dims=1), atol=2e-6, rtol=0)


def test_hue_keeps_the_greatest_and_the_least_channel_and_turns_back():
    x = images() / 255
    shift = torch.linspace(-0.5, 0.5, len(x))
    turned = views.hue(x, shift)
    torch.testing.assert_close(turned.amax(1), x.amax(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.amin(1), x.amin(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(views.hue(turned, -shift), x, atol=5e-6, rtol=0)


def test_the_policies_are_those_of_table_2():
    expected = {
        "large": ((0.08, 1.0), 0.5, (0.4, 0.4, 0.4, 0.1)),
        "moderate": ((0.5, 1.0), 0.5, (0.2, 0.2, 0.2, 0.05)),
        "small": ((0.9, 1.0), 0.0, (0.04, 0.04, 0.04, 0.01)),
    }
    for name, (share, flip, jitter) in expected.items():
        policy = views.policy(name)
        assert (policy.crop, policy.flip, policy.jitter) == (share, flip, pytest.approx(jitter))
        assert (policy.jitter_probability, policy.grayscale, policy.blur) == (0.8, 0.2, 0.0)
        assert policy.ratio == (3 / 4, 4 / 3)


@pytest.mark.parametrize(("size", "rounding"), [(32, 1e-6), (28, 4e-6)])
def test_a_policy_that_changes_nothing_returns_the_image(size, rounding):
    x = images(size=(size, size))
    torch.testing.assert_close(STILL(x), x / 255, atol=rounding, rtol=0)


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_float32_in_the_unit_interval_whatever_the_strength(n, channels):
    policy = EVERYTHING.replace(jitter=(5, 5, 5, 0.5))
    x = images(channels=channels)[-n:]
    before = x.clone()
    view = policy(x, seeded())
    assert view.dtype == torch.float32 and view.shape == x.shape
    assert view.min() >= 0 and view.max() <= 1
    assert torch.equal(x, before)


def test_no_two_images_share_a_draw():
    x = images()[-1:].expand(512, -1, -1, -1)
    draws = views.policy("large").draw(512, (32, 32), seeded())
    jittered = draws.factors[:, 0] != 1
    assert len(draws.factors[jittered].unique(dim=0)) == jittered.sum() > 380
    assert len(views.policy("large").apply(x, draws).flatten(1).unique(dim=0)) == 512


def test_a_view_does_not_depend_on_the_other_images():
    x, draws = images(), EVERYTHING.draw(64, (32, 32), seeded())
    together = EVERYTHING.apply(x, draws)
    for part in (torch.tensor([5]), torch.arange(60, 10, -3)):
        alone = EVERYTHING.apply(x[part], views.Draws(*(value[part] for value in draws)))
        torch.testing.assert_close(alone, together[part], atol=1e-6, rtol=0)


def test_the_generator_decides_and_its_state_continues_the_stream():
    policy, x, generator = views.policy("large"), images(), seeded(3)
    first = policy(x, generator)
    state = generator.get_state()
    second = policy(x, generator)
    assert not torch.equal(first, second)
    assert torch.equal(policy(x, seeded(3)), first)
    assert torch.equal(policy(x, torch.Generator().set_state(state)), second)


def test_without_a_generator_the_default_one_decides():
    policy, x = views.policy("large"), images()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = policy(x), policy(x)
        torch.manual_seed(1)
        assert torch.equal(policy(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["large", "small"])
def test_crops_are_distributed_as_torchvisions(name):
    policy = views.policy(name)
    ours = policy.draw(4000, (32, 32), seeded()).box
    theirs = v2.RandomResizedCrop(32, scale=policy.crop, ratio=policy.ratio)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        params = [theirs.make_params([torch.zeros(3, 32, 32)]) for _ in range(4000)]
    theirs = torch.tensor([[p[k] for k in ("top", "left", "height", "width")] for p in params])
    for statistic in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 0.001
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= 32).all() and (ours[:, 2:] > 0).all()


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (32, 32)])
def test_where_no_try_fits_the_central_crop_is_torchvisions(size):
    narrow = (1, 1) if size[0] != size[1] else (2, 2)
    box = Policy(crop=(1, 1), flip=0, jitter=(0, 0, 0, 0), ratio=narrow).draw(3, size, seeded()).box
    expected = v2.RandomResizedCrop(size, scale=(1, 1), ratio=narrow).make_params([torch.zeros(3, *size)])
    assert box.tolist() == [[expected[k] for k in ("top", "left", "height", "width")]] * 3


def test_factors_are_uniform_orders_equally_likely_and_events_as_probable_as_stated():
    n = 20_000
    policy = Policy(crop=(0.5, 1), flip=0.3, jitter=(0.4, 0.2, 1.5, 0.1), grayscale=0.1, blur=0.4, sigma=(0.5, 1.5))
    draws = policy.draw(n, (32, 32), seeded())
    jittered = draws.factors[:, 0] != 1
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand((~jittered).sum(), 4)
    assert torch.equal(draws.factors[~jittered], neutral)
    ranges = [(0.6, 1.4), (0.8, 1.2), (0.0, 2.5), (-0.1, 0.1), (0.5, 1.5)]
    for values, (low, high) in zip([*draws.factors[jittered].T, draws.sigma[draws.sigma > 0]], ranges):
        assert stats.kstest(values.double(), "uniform", args=(low, high - low)).pvalue > 0.001
    correlation = torch.corrcoef(draws.factors[jittered].T) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(n)
    code = draws.order @ torch.tensor([64, 16, 4, 1])
    counts = [int((code == a * 64 + b * 16 + c * 4 + d).sum()) for a, b, c, d in permutations(range(4))]
    assert sum(counts) == n and stats.chisquare(counts).pvalue > 0.001
    for event, probability in ((draws.flip, 0.3), (jittered, 0.8), (draws.gray, 0.1), (draws.sigma > 0, 0.4)):
        assert stats.binomtest(int(event.sum()), n, probability).pvalue > 0.001


def test_the_whole_chain_is_one_graph_whose_chance_is_not_frozen():
    x, generator = images(), seeded()
    compiled = torch.compile(EVERYTHING.apply, backend="eager", fullgraph=True)
    for _ in range(2):
        draws = EVERYTHING.draw(len(x), (32, 32), generator)
        torch.testing.assert_close(compiled(x, draws), EVERYTHING.apply(x, draws), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"crop": (0, 1)}, r"Policy.crop is \(0.0, 1.0\); .* 0 < least ≤ greatest ≤ 1\."),
        ({"crop": (0.9, 0.5)}, r"Policy.crop is \(0.9, 0.5\)"),
        ({"crop": (0.5, math.nan)}, r"Policy.crop"),
        ({"ratio": (0, 1)}, r"Policy.ratio is \(0.0, 1.0\)"),
        ({"sigma": (1, math.inf)}, r"Policy.sigma\[1\] is inf; it must be finite"),
        ({"flip": 1.5}, r"Policy.flip is 1.5; it must be a finite number of at least 0 and of at most 1\."),
        ({"grayscale": -0.1}, r"Policy.grayscale is -0.1"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, r"hue in 0 … 0.5\."),
        ({"jitter": (-0.1, 0.1, 0.1, 0.1)}, r"brightness, contrast and saturation must be at least 0"),
    ],
)
def test_a_value_out_of_range_is_named_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        STILL.replace(**change)


def test_an_unknown_policy_and_images_of_another_kind_are_named_in_a_sentence():
    with pytest.raises(ValueError, match=r"The policy is 'huge'; allowed are 'large', 'moderate', 'small'."):
        views.policy("huge")
    with pytest.raises(ValueError, match=r"Images are torch.float32 of shape \(4, 3, 8, 8\); a policy takes uint8"):
        STILL(torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match=r"of shape \(4, 2, 8, 8\)"):
        STILL(torch.zeros(4, 2, 8, 8, dtype=torch.uint8))


def test_a_vertical_mirror_turns_images_upside_down_and_leaves_the_other_draws_alone():
    x = images()
    assert torch.equal(STILL.replace(vertical=1.0)(x, seeded()), x.flip(2).float() / 255)
    half = EVERYTHING.replace(vertical=0.5)
    plain, mirrored = (policy.draw(4000, (32, 32), seeded()) for policy in (EVERYTHING, half))
    assert all(torch.equal(a, b) for a, b in zip(plain[:-1], mirrored[:-1], strict=True))
    assert not plain.vertical.any() and abs(mirrored.vertical.float().mean() - 0.5) < 0.03


def test_half_precision_turns_a_gray_image_into_itself():
    gray = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float16)
    assert torch.equal(views.hue(gray, torch.tensor([0.1, -0.3]).half()), gray)


def test_no_crop_is_without_height_or_width():
    for ratio in ((100, 200), (1 / 200, 1 / 100)):
        box = views.Policy(crop=(0.9, 1), flip=0, jitter=(0, 0, 0, 0), ratio=ratio).draw(64, (32, 32)).box
        assert (box[:, 2:] >= 1).all()
