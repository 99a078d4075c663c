import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sslbook.data import Info
from sslbook.losses import info_nce, nt_xent
from sslbook.methods import Batch, SimCLR
from sslbook.models import Encoder, ResNet, projector
from sslbook.training import build
from tests.test_config import example


def about(channels, side=32):
    return Info((channels, side, side), 10, 10, {})


def encoder(part=None, channels=3):
    return (part or ResNet()).build(about(channels), torch.zeros(channels), torch.ones(channels))


def test_resnet18_with_the_cifar_stem_has_its_published_cost():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = encoder().eval()(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, 512)
    assert counter.get_total_flops() / 2 == pytest.approx(0.5554e9, rel=1e-4)  # multiply-adds; solo-learn's stem: 0.70


def test_resnet18_has_its_published_number_of_parameters():
    # torchvision's ResNet-18 without its classifier has 11,176,512; the 3×3 stem has 64·3·(49 − 9) weights fewer.
    assert sum(p.numel() for p in encoder().parameters()) == 11_176_512 - 64 * 3 * 40


def test_stages_halve_the_map_and_double_the_width():
    shapes, trunk = [], encoder(ResNet(16, (1, 1, 1, 1))).trunk
    x = torch.zeros(2, 3, 32, 32)
    for layer in trunk:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[0] == (16, 32, 32) and shapes[3:] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]


def test_features_are_never_negative_and_one_image_is_enough():
    features = encoder(ResNet(8, (1, 1)), channels=1).eval()(torch.rand(1, 1, 28, 28))
    assert features.shape == (1, 16) and (features >= 0).all() and features.any()


def test_the_encoder_normalises_each_channel():
    mean, std = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.3])
    torch.manual_seed(0)
    ours = ResNet(8, (1,)).build(about(3), mean, std).eval()
    torch.manual_seed(0)
    plain = encoder(ResNet(8, (1,))).eval()
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(ours(images), plain((images - mean[:, None, None]) / std[:, None, None]))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "images is a tensor of torch.uint8; it must be a floating-point"),
        (torch.zeros(1, 1, 8, 8), r"shape \(1, 1, 8, 8\); it must be \(N, 3, H, W\)"),
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\); it must be \(N, 3, H, W\)"),
    ],
)
def test_images_of_another_kind_are_refused_with_a_sentence(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        encoder(ResNet(8, (1,)))(images)


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.0]), ([0.5], [0.1, 0.1]), ([math.nan], [0.1]), ([0.5], [math.inf]), ([0.5], [-0.1])]
)
def test_images_that_cannot_be_normalised_are_refused_with_a_sentence(mean, std):
    with pytest.raises(ValueError, match=r"cannot be normalised\.|not a number; all must be finite\."):
        Encoder(torch.nn.Identity(), 1, torch.tensor(mean), torch.tensor(std))


def test_the_linear_projector_is_a_matrix():
    torch.manual_seed(0)
    g, h = projector(512, (128,)), torch.rand(5, 512)
    torch.testing.assert_close(g(h), h @ g[-1].weight.T)
    sigma = torch.linalg.svdvals(g[-1].weight)
    assert sigma[-1] > 0.28 and sigma[0] < 0.88  # PyTorch's default: [0.294, 0.858]


def test_the_mlp_projector_has_no_bias_at_its_end():
    assert [type(layer).__name__ for layer in projector(8, (16, 4))] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert projector(8, (16, 4))[-1].bias is None


def test_without_widths_there_is_no_head():
    h = torch.rand(5, 8)
    assert torch.equal(projector(8, ())(h), h)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_simclr_sees_both_views_in_one_batch(name):
    config = example(encoder=ResNet(8, (1,)), method=SimCLR(loss=name, widths=(4,)))
    method, views = build(config), torch.rand(2, 6, 3, 8, 8)
    loss, _ = method.loss(Batch(views, torch.zeros(6), (), torch.tensor(1.0)))
    z = method.projector(method.encoder(views.flatten(0, 1)))
    pair = (z[:6], z[6:])
    expected = info_nce(*pair, beta=2.0, symmetric=True) if name == "info_nce" else nt_xent(*pair, temperature=0.5)
    torch.testing.assert_close(loss, expected)
    split = [method.projector(method.encoder(view)) for view in views]
    assert not torch.allclose(torch.cat(split), z)  # batch norm couples the views: the joint forward is a choice


def test_weights_follow_from_the_seed_alone():
    torch.manual_seed(5)
    a = build(example(seed=1)).state_dict()
    before = torch.rand(1)
    b, c = build(example(seed=1)).state_dict(), build(example(seed=2)).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a["projector.0.weight"], c["projector.0.weight"])
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), before)  # the global stream is left alone
