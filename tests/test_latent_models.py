"""Laws of the encoders and decoders of latent-variable models."""

import pytest
import torch

from sslbook.data import Info
from sslbook.methods import SimCLR, VICReg
from sslbook.models import MLP, ConvDecoder, GaussianResNet, MLPDecoder, ResNet
from sslbook.models.gaussian import _transposed
from sslbook.models.resnet import _conv

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "celeba": (3, 64, 64)}
SMALL = [
    (MLP(3, (20, 9)), MLPDecoder((9, 20)), (1, 8, 12)),
    (GaussianResNet(3, 8, (8, 9)), ConvDecoder(9, (8,)), (3, 8, 12)),
]


def about(shape):
    return Info(shape, 10, 10, {})


def encoder(part, shape):
    return part.build(about(shape), torch.full(shape[:1], 0.3), torch.full(shape[:1], 0.5))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("set_name", "part", "decoder", "counts", "published"),
    [
        ("mnist", MLP(), MLPDecoder(), (2_831_020, 2_826_784), (2.83, 2.83)),
        ("cifar10", GaussianResNet(), ConvDecoder(), (969_856, 8_984_387), (0.97, 8.98)),
        ("celeba", GaussianResNet(), ConvDecoder(), (1_756_288, 9_383_747), (1.76, 9.38)),
    ],
)
def test_the_networks_are_as_large_as_the_released_ones(set_name, part, decoder, counts, published):
    shape = SHAPES[set_name]
    found = parameters(encoder(part, shape)), parameters(decoder.build(part.dim, about(shape)))
    assert found == counts and tuple(round(n / 1e6, 2) for n in found) == published


@pytest.mark.parametrize(("part", "decoder", "shape"), SMALL)
def test_features_are_the_posterior_means_and_linear_in_what_lies_before(part, decoder, shape):
    model, images = encoder(part, shape).eval(), torch.rand(5, *shape)
    mean, log_variance = model.posterior(images)
    before = model.before(images)
    torch.testing.assert_close(model(images), mean)
    torch.testing.assert_close(torch.cat([mean, log_variance], 1), before @ model.head.weight.T + model.head.bias)
    assert mean.shape == log_variance.shape == (5, part.dim) and before.ndim == 2


@pytest.mark.parametrize(("part", "decoder", "shape"), SMALL)
def test_the_encoder_normalises_its_images(part, decoder, shape):
    model, images = encoder(part, shape).eval(), torch.rand(5, *shape)
    shifted = model(images)
    model.mean.zero_()
    model.std.fill_(1)
    torch.testing.assert_close(model((images - 0.3) / 0.5), shifted)


@pytest.mark.parametrize(("part", "decoder", "shape"), SMALL)
def test_decoders_give_images_of_the_shape_of_the_set_in_either_layout_of_memory(part, decoder, shape):
    model, z = decoder.build(part.dim, about(shape)).eval(), torch.randn(4, part.dim)
    images = model(z)
    assert images.shape == (4, *shape)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(z), images, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [SimCLR(widths=(4,)), VICReg(widths=(6, 4))])
@pytest.mark.parametrize(("part", "decoder", "shape"), SMALL)
def test_methods_without_a_decoder_train_the_same_encoders(method, part, decoder, shape):
    model = encoder(part, shape)
    z1, z2 = method.build(model, about(shape)).projector(model(torch.rand(8, *shape))).chunk(2)
    method.pair_loss(z1, z2).backward()
    weights = [p.grad for name, p in model.named_parameters() if not name.startswith("head")]
    assert all(gradient.any() for gradient in weights)
    mean, log_variance = model.head.weight.grad.chunk(2)
    assert mean.any() and not log_variance.any()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_transposed_convolutions_are_the_adjoints_of_those_of_the_encoder(size, stride):
    down, up = _conv(4, 6, size, stride).double(), _transposed(6, 4, size, stride).double()
    up.weight = down.weight
    x, y = torch.randn(2, 4, 8, 12).double(), torch.randn(2, 6, 8 // stride, 12 // stride).double()
    assert up(y).shape == x.shape
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def test_the_residual_encoder_keeps_where_things_are():
    """A dot that moves changes the latents; an average over space hardly sees it."""
    dots = torch.zeros(2, 3, 32, 32)
    dots[0, :, 10:12, 10:12] = dots[1, :, 18:20, 18:20] = 1
    torch.manual_seed(0)
    changes = {}
    for part in (GaussianResNet(8, 8, (8, 8)), ResNet(8, (1, 1))):
        first, second = part.build(about((3, 32, 32)), torch.zeros(3), torch.ones(3)).eval()(dots)
        changes[type(part)] = ((first - second).norm() / first.norm()).item()
    assert changes[GaussianResNet] > 20 * changes[ResNet]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MLP(0), "MLP.dim is 0; it must be a finite number of at least 1"),
        (lambda: MLP(widths=()), r"MLP.widths is \(\); it must list one width or more, each at least 1"),
        (lambda: GaussianResNet(stem=3), "GaussianResNet.stem is 3; it must be a finite number of at least 8"),
        (lambda: ConvDecoder(widths=(64, 4)), r"ConvDecoder.widths is \(64, 4\); .* each at least 8"),
        (lambda: encoder(GaussianResNet(), (1, 28, 28)), "by 8, but the images are 28×28; both sides"),
        (lambda: ConvDecoder().build(4, about((3, 40, 64))), "by 16, but the images are 40×64"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_weights_that_were_saved_of_a_residual_network_keep_their_names():
    names = [name for name, _ in encoder(ResNet(8, (1,)), (3, 8, 8)).named_parameters() if name.endswith("weight")]
    convolutions = ["trunk.0", "trunk.1", *(f"trunk.3.residual.{i}" for i in (0, 1, 3, 4))]
    assert names == [f"{name}.weight" for name in convolutions]
