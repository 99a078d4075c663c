"""Laws of public checkpoints: they become torchvision's network whatever their layout, and no code of a file runs."""

import dataclasses
import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from sslbook.models import CHECKPOINTS, pretrained, resized
from sslbook.models.pretrained import IMAGENET, PLAIN, _load, _trunk

TINY = (8, (2, 1))
CONVERTED = {"simclr-v1", "simclr-v2", "byol"}
each = pytest.mark.parametrize("name", CHECKPOINTS)


def load(name, path, **changes):
    """As `pretrained`, of the tiny network; without a digest, which no file made here can have."""
    return _load(name, dataclasses.replace(CHECKPOINTS[name], **{"digest": None} | changes), path, *TINY)


@pytest.fixture(scope="module")
def weights():
    """Tensors of a tiny network by torchvision's names, none at its initial value."""
    generator = torch.Generator().manual_seed(0)
    drawn = {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in _trunk(*TINY).state_dict().items()}
    drawn |= {k: 0.5 + v.square() for k, v in drawn.items() if k.endswith("running_var")}
    return drawn | {k: torch.tensor(7) for k in drawn if k.endswith("num_batches_tracked")}


HEADS = {
    "module.encoder_q.": ["module.encoder_q.fc.0.weight", "module.encoder_k.conv1.weight", "module.queue"],
    "module.encoder.": ["module.head.0.weight", "module.head_jig.fc1.weight"],
    "module.": ["module.projection_head.0.weight", "module.prototypes.prototypes0.weight"],
    "": ["fc.weight", "fc.bias"],
}


def layout(name, weights):
    """What the published file of a name holds, by the scripts that wrote it: heads, and wrappers if there are some."""
    prefix = CHECKPOINTS[name].prefix
    tensors = {prefix + k: v for k, v in weights.items()} | {k: torch.ones(3) for k in HEADS[prefix]}
    if prefix == "module.encoder.":
        return {"model": tensors, "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]}, "epoch": 200}
    return tensors if prefix == "module." else {"state_dict": tensors, "arch": "resnet50", "epoch": 200}


@each
@pytest.mark.parametrize("new_format", [True, False])
def test_every_published_layout_gives_the_same_network(name, new_format, weights, tmp_path):
    """In PyTorch's format of 2020, too, in which many of these files were written."""
    torch.save(layout(name, weights), tmp_path / "x.pth.tar", _use_new_zipfile_serialization=new_format)
    encoder = load(name, tmp_path / "x.pth.tar")
    found = encoder.trunk.state_dict()
    assert found.keys() == weights.keys() and all(torch.equal(found[k], v) for k, v in weights.items())
    assert not encoder.training and encoder.dim == 64
    expected = PLAIN if name.startswith("simclr") else IMAGENET
    torch.testing.assert_close((encoder.mean.flatten(), encoder.std.flatten()), tuple(map(torch.tensor, expected)))


@pytest.mark.parametrize("name", ["moco-v1", "infomin", "swav", "byol"])
def test_a_copy_as_safetensors_is_read_with_the_published_names_or_torchvision_s(name, weights, tmp_path):
    bare = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    for prefix in ("", CHECKPOINTS[name].prefix):
        path = tmp_path / "copy.safetensors"
        safetensors.torch.save_file({prefix + k: v for k, v in bare.items()}, path)
        # The digest of the published file says nothing of a copy.
        found = load(name, path, digest="md5 00000000").trunk.state_dict()
        assert all(torch.equal(found[k], v) for k, v in bare.items())
        assert all(v == 0 for k, v in found.items() if k not in bare)


def test_the_network_is_torchvision_s_resnet50_with_the_normalisation_inside(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().eval()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    torch.save({f"module.{k}": v for k, v in theirs.state_dict().items()}, tmp_path / "swav.pth.tar")
    before = torch.get_rng_state()
    ours = pretrained("swav", tmp_path / "swav.pth.tar")
    assert torch.equal(torch.get_rng_state(), before)  # the global stream is left alone
    images, theirs.fc = torch.rand(2, 3, 224, 224), torch.nn.Identity()
    with torch.no_grad():
        expected, found = theirs(TF.normalize(images, *IMAGENET)), ours(images)
    assert found.shape == (2, 2048) == (2, ours.dim) and expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (300, 240), (100, 333), (224, 301)])
def test_images_are_resized_as_torchvision_and_pillow_do(size):
    # Less than the whole range: Pillow clips after each of two passes, PyTorch not at all.
    pixels = torch.randint(80, 176, (2, 3, *size), dtype=torch.uint8)
    ours = resized(pixels / 255)
    theirs = TF.resize(pixels / 255, 224, interpolation=TF.InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(ours, TF.center_crop(theirs, 224).clamp(0, 1))
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    pillow = TF.center_crop(TF.resize(image, 224, interpolation=TF.InterpolationMode.BICUBIC), 224)
    assert (ours[0] - torch.from_numpy(np.array(pillow)).permute(2, 0, 1) / 255).abs().max() < 1.5 / 255


def test_images_of_the_size_stay_and_gray_ones_are_repeated(weights, tmp_path):
    images = torch.rand(2, 1, 224, 224)
    assert resized(images) is images
    torch.save(layout("swav", weights), tmp_path / "x.pth")
    encoder = load("swav", tmp_path / "x.pth")
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), encoder(images.expand(2, 3, 224, 224)))
        small = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(encoder(small), encoder(resized(small)))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"tensor of torch.uint8; it must be a floating-point"),
        (torch.zeros(1, 2, 32, 32), r"\(1, 2, 32, 32\); it must be \(N, 1, H, W\) or \(N, 3, H, W\)"),
        (torch.zeros(3, 32, 32), r"\(3, 32, 32\)"),
        (torch.full((1, 3, 32, 32), 255.0), r"values of 255 … 255; they must lie in 0 … 1"),
        (torch.full((1, 3, 32, 32), torch.nan), r"values of nan"),
    ],
)
def test_images_that_are_none_are_refused(images, sentence, weights, tmp_path):
    torch.save(layout("swav", weights), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=sentence):
        load("swav", tmp_path / "x.pth")(images)


class Code:
    """A pickle of it runs a command when it is read by `pickle`, or by `torch.load` as it was."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_the_code_is_not_run(how, weights, tmp_path):
    mark, path = tmp_path / "run", tmp_path / "x.pth"
    held = layout("moco-v2", weights) | {"settings": Code(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Code(mark)))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=how == "zip")
    for name in ("moco-v2", "byol"):
        with pytest.raises(
            ValueError, match=r"(asks for \w+\.mkdir|other things)\), and no code of a file is run"
        ) as refusal:
            load(name, path)
        assert "\n" not in str(refusal.value) and not mark.exists()
        assert ("asks for" in str(refusal.value)) == (how != "pickle")
    if how != "pickle":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.exists()  # it was code


@each
def test_a_file_in_another_format_is_refused_with_what_must_be_done(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("model.ckpt-1.index", "tensors")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"experiment_state": np.ones(3)}))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "x.safetensors").write_bytes(b"abc")
    for path in (tmp_path / "x.zip", tmp_path / "x.pkl", tmp_path / "empty", tmp_path / "x.safetensors"):
        with pytest.raises(ValueError, match="is no checkpoint of tensors alone") as refusal:
            pretrained(name, path)
        assert ("must be converted first, as by" in str(refusal.value)) == (name in CONVERTED)
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_with_the_address_and_an_unknown_name_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"is no file; pirl is published at https://www.*/PIRL.pth, and nothing"):
        pretrained("pirl", tmp_path / "PIRL.pth")
    with pytest.raises(ValueError, match="is no file"):
        pretrained("pirl", tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint is 'dino'; allowed are 'insdis', .* 'supervised'\."):
        pretrained("dino", tmp_path / "x.pth")


@each
def test_tensors_that_are_missing_unknown_or_of_another_shape_are_named(name, weights, tmp_path):
    prefix, path = CHECKPOINTS[name].prefix, tmp_path / "x.pth"

    def refusal(tensors):
        torch.save({"state_dict": {prefix + k: v for k, v in tensors.items()}}, path)
        with pytest.raises(ValueError) as error:
            load(name, path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    fewer = {k: v for k, v in weights.items() if not k.startswith("layer2.0.conv") and k != "bn1.bias"}
    assert "lacks bn1.bias, layer2.0.conv1.weight, layer2.0.conv2.weight and 1 more of the 72" in refusal(fewer)
    assert "it holds layer9.weight besides the 72 tensors" in refusal(weights | {"layer9.weight": torch.ones(1)})
    wide = refusal(weights | {"conv1.weight": torch.ones(16, 3, 7, 7)})
    assert (
        "conv1.weight" in wide and "shape (16, 3, 7, 7); a ResNet-50 has real numbers of the shape (8, 3, 7, 7)" in wide
    )
    assert "bn1.bias" in refusal(weights | {"bn1.bias": torch.ones(8, dtype=torch.long)})
    assert "not a number" in refusal(weights | {"bn1.bias": torch.full((8,), torch.nan)})


def test_another_network_and_what_is_no_dictionary_of_tensors_are_refused(weights, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), path)
    with pytest.raises(ValueError, match=r"no checkpoint of swav: it lacks .*layer1\.0\.conv3\.weight.*of a ResNet-50"):
        pretrained("swav", path)
    for held, kind in (([torch.ones(2)], "list"), (torch.ones(2), "Tensor"), ({0: torch.ones(2)}, "dict")):
        torch.save(held, path)
        with pytest.raises(ValueError, match=rf"holds a {kind}; a checkpoint of swav holds tensors by name"):
            load("swav", path)
    torch.save({f"module.{k}": v for k, v in weights.items()} | {"conv1.weight": weights["conv1.weight"]}, path)
    with pytest.raises(ValueError, match=r"holds conv1\.weight twice, with and without 'module\.'"):
        load("swav", path)


def test_the_digest_of_the_published_file_is_asked_for_where_one_is_stated(weights, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(layout("moco-v2", weights), path)
    right = hashlib.md5(path.read_bytes()).hexdigest()[:8]
    assert load("moco-v2", path, digest=f"md5 {right}").dim == 64
    with pytest.raises(ValueError, match=rf"md5 of .* with {right}, that of the published moco-v2 with a04e12f8"):
        load("moco-v2", path, digest=CHECKPOINTS["moco-v2"].digest)
    stated = {name for name, checkpoint in CHECKPOINTS.items() if checkpoint.digest}
    assert stated == {"moco-v1", "moco-v2", "supervised"}


def test_the_table_has_fourteen_models_one_of_them_with_labels():
    assert len(CHECKPOINTS) == 14 and len({c.address for c in CHECKPOINTS.values()}) == 14
    assert [name for name, c in CHECKPOINTS.items() if not c.label_is_ours] == ["supervised"]
    assert {name for name, c in CHECKPOINTS.items() if c.convert} == CONVERTED
    assert all(c.address.startswith("https://") for c in CHECKPOINTS.values())
