"""Image sets: labels, splits, refusal of damaged or hostile files, and the laws of `shapes`."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from matplotlib.path import Path as Outline

from sslbook import data
from sslbook.data import __main__ as fetch
from sslbook.data import official, shapes


def md5(content):
    return hashlib.md5(content).hexdigest()


def digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


def ids(images):
    return {image.tobytes() for image in images.numpy()}


def python2_pickle(values):
    """A pickle that names NumPy and the type of bytes as the files of 2009 do."""
    content = pickle.dumps(values, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return content.replace(b"X\x02\x00\x00\x00u1", b"C\x02u1")


def cifar_files(batch=None):
    random = np.random.RandomState(0)
    files = {"cifar-10-batches-py/batches.meta": python2_pickle({b"label_names": [b"cat", b"ship"]})}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        pixels = random.randint(0, 256, (50, 3072)).astype("u1")
        files[f"cifar-10-batches-py/{name}"] = python2_pickle({b"data": pixels, b"labels": [0, 1] * 25})
    return files | (batch or {})


def install_cifar(monkeypatch, folder, files):
    """Write `files`, and make their sums the official ones of CIFAR-10."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    parts = {"train": "data_batch", "test": "test_batch", "names": "meta"}
    sums = {part: {n: md5(c) for n, c in files.items() if word in n} for part, word in parts.items()}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in [*files.items(), ("../outside", b"escaped")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    known = official._OFFICIAL["cifar10"]._replace(
        address="http://127.0.0.1:9/", archives={"cifar-10-python.tar.gz": md5(stream.getvalue())}, files=sums
    )
    monkeypatch.setitem(official._OFFICIAL, "cifar10", known)
    return stream.getvalue()


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    install_cifar(monkeypatch, tmp_path, cifar_files())
    return tmp_path


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """A mirror on this machine that serves `{path: content}`, set as SSLBOOK_MIRROR; what was asked for is kept."""
    asked, servers = [], []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    def start(files):
        home = tmp_path / "mirror"
        for name, content in files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(content)
        server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(home)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("SSLBOOK_MIRROR", f"http://127.0.0.1:{server.server_port}")
        return asked

    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_pixels_and_labels_are_read_in_the_official_layout(cifar):
    test = data.load("cifar10", "test", cifar)
    batch = pickle.loads((cifar / "cifar-10-batches-py/test_batch").read_bytes())
    red, green, blue = batch[b"data"][7].reshape(3, 1024)
    assert np.array_equal(test.images[7].permute(1, 2, 0).reshape(-1, 3), np.stack([red, green, blue], 1))
    assert test.fine.tolist() == batch[b"labels"]
    assert torch.equal(test.coarse, test.fine) and test.names.coarse == ("cat", "ship")


def test_a_missing_file_is_named_with_the_command_that_mends_it(cifar):
    (cifar / "cifar-10-batches-py/data_batch_2").unlink()
    with pytest.raises(ValueError, match=r"data_batch_2 is missing; `make data DATASET=cifar10` fetches it.*\.$"):
        data.load("cifar10", "train", cifar)


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:60] + bytes([c[60] ^ 1]) + c[61:]])
def test_one_missing_or_altered_byte_is_found(cifar, damage):
    path = cifar / "cifar-10-batches-py/data_batch_1"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"data_batch_1 is truncated or altered .*`make data DATASET=cifar10`"):
        data.load("cifar10", "train", cifar)


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_pickle_does_not_run(monkeypatch, tmp_path):
    touched = tmp_path / "touched"
    hostile = pickle.dumps({b"data": Payload(f"touch {touched}"), b"labels": []})
    folder = tmp_path / "data"
    install_cifar(monkeypatch, folder, cifar_files())
    (folder / "cifar-10-batches-py/test_batch").write_bytes(hostile)
    with pytest.raises(ValueError, match="altered"):  # the sum alone stops it …
        data.load("cifar10", "test", folder)
    install_cifar(monkeypatch, folder, cifar_files({"cifar-10-batches-py/test_batch": hostile}))
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system"):  # … and so would the unpickler
        data.load("cifar10", "test", folder)
    assert not touched.exists()
    pickle.loads(hostile)
    assert touched.exists()  # the payload does bite where nothing stops it


@pytest.mark.parametrize("value", [np.array([{}]), np.zeros(3), np.float64(1), np.random.RandomState(0), len, {1}])
def test_the_unpickler_admits_bytes_and_plain_containers_only(value):
    plain = {b"data": np.arange(6, dtype="u1").reshape(2, 3), b"labels": [1, 2], b"names": (b"a", "b", None, 0.5)}
    rebuilt = official._unpickle(python2_pickle(plain))
    assert np.array_equal(rebuilt.pop(b"data"), plain.pop(b"data")) and rebuilt == plain
    with pytest.raises(ValueError, match=r"A pickle of images (asks for|holds) .*allowed\.$"):
        official._unpickle(python2_pickle([value]))


def test_download_verifies_unpacks_and_mends(monkeypatch, tmp_path, serve, capsys):
    root = tmp_path / "data"
    files = cifar_files()
    archive = install_cifar(monkeypatch, root, files)
    (root / "cifar-10-batches-py/test_batch").unlink()
    monkeypatch.setenv("SSLBOOK_DATA", str(root))
    asked = serve({"cifar-10-python.tar.gz": archive})
    assert fetch.main(["cifar10"]) == 0 and "is now complete" in capsys.readouterr().out
    assert len(asked) == 1
    assert {name: (root / name).read_bytes() for name in files} == files
    assert not (tmp_path / "outside").exists()
    assert fetch.main(["cifar10"]) == 0 and "was already complete" in capsys.readouterr().out
    (root / "cifar-10-batches-py/data_batch_1").write_bytes(b"altered")
    assert data.download("cifar10") and not data.download("cifar10")
    assert len(data.load("cifar10", "train")) == 90
    assert len(asked) == 1  # the archive on disk mends without the network


def test_of_three_downloads_at_once_one_fetches_and_none_complains(monkeypatch, tmp_path, serve):
    root, files = tmp_path / "data", cifar_files()
    archive = install_cifar(monkeypatch, tmp_path / "elsewhere", files)
    (root / ".download").mkdir(parents=True)
    (root / ".download/tmp1234").write_bytes(archive[:9])  # of one that was killed
    asked = serve({"cifar-10-python.tar.gz": archive})
    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(lambda _: data.download("cifar10", root), range(3))) == [False, False, True]
    assert len(asked) == 1 and {name: (root / name).read_bytes() for name in files} == files
    left = {path.name for path in root.rglob("*") if path.is_file()} - {Path(name).name for name in files}
    assert left <= {"cifar-10-python.tar.gz", ".download.lock"}


def test_a_file_is_unpacked_whole_or_not_at_all(monkeypatch, tmp_path, serve):
    files = cifar_files()
    archive = install_cifar(monkeypatch, tmp_path, files)
    serve({"cifar-10-python.tar.gz": archive})
    path = tmp_path / "cifar-10-batches-py/data_batch_1"
    path.write_bytes(b"altered")
    replace = os.replace

    def killed(source, target):
        assert Path(target) != path or Path(source).read_bytes() == files["cifar-10-batches-py/data_batch_1"]
        if Path(target) == path:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        data.download("cifar10", tmp_path)
    assert path.read_bytes() == b"altered" and len(list(path.parent.iterdir())) == len(files)
    monkeypatch.setattr(os, "replace", replace)
    assert data.download("cifar10", tmp_path) and path.read_bytes() != b"altered"


def test_an_altered_archive_is_not_unpacked(monkeypatch, tmp_path, serve, capsys):
    archive = install_cifar(monkeypatch, tmp_path / "elsewhere", cifar_files())
    monkeypatch.setenv("SSLBOOK_DATA", str(tmp_path / "data"))
    asked = serve({"cifar-10-python.tar.gz": archive[:-1]})
    assert fetch.main(["cifar10"]) == 1
    assert capsys.readouterr().err.count("SSLBOOK_MIRROR") == 1
    assert len(asked) == 3  # it tried again
    assert not (tmp_path / "data/cifar-10-batches-py").exists()


def test_an_address_that_does_not_answer_is_named(cifar, serve, monkeypatch):
    (cifar / "cifar-10-batches-py/test_batch").unlink()
    monkeypatch.delenv("SSLBOOK_MIRROR", raising=False)
    with pytest.raises(ValueError, match=r"^http://127.0.0.1:9/cifar-10-python.tar.gz could not be fetched"):
        data.download("cifar10", cifar)


def test_an_unknown_set_and_shapes_download_nothing(capsys):
    assert fetch.main(["cifar1000"]) == 1 and "allowed are cifar100" in capsys.readouterr().err
    assert fetch.main(["shapes"]) == 0 and "nothing to fetch" in capsys.readouterr().out


def test_idx_archives_become_one_channel_images(monkeypatch, tmp_path, serve):
    random = np.random.RandomState(0)
    archives, sums, files = {}, {}, {"train": {}, "test": {}}
    pixels = {}
    for word, part, number in (("train", "train", 40), ("t10k", "test", 10)):
        pixels[part] = random.randint(0, 256, (number, 28, 28)).astype("u1")
        for kind, array in (("images-idx3", pixels[part]), ("labels-idx1", np.arange(number, dtype="u1") % 10)):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
            name = f"MNIST/raw/{word}-{kind}-ubyte"
            archives[f"{name}.gz"] = gzip.compress(content)
            files[part][name] = md5(content)
            sums[f"{name}.gz"] = md5(archives[f"{name}.gz"])
    monkeypatch.setitem(official._OFFICIAL, "mnist", official._Official("http://127.0.0.1:9/", sums, files))
    serve(archives)
    assert data.download("mnist", tmp_path)
    test = data.load("mnist", "test", tmp_path)
    assert torch.equal(test.images, torch.from_numpy(pixels["test"])[:, None])
    assert test.fine.tolist() == list(range(10)) and test.fine.dtype == torch.int64
    assert [len(data.load("mnist", split, tmp_path)) for split in data.SPLITS] == [36, 4, 10]
    binary = data.load("binarised_mnist", "train", tmp_path)
    grey = data.load("mnist", "train", tmp_path)
    assert set(binary.images.unique().tolist()) == {0, 255} and torch.equal(binary.fine, grey.fine)
    assert torch.equal(binary.images, data.load("binarised_mnist", "train", tmp_path).images)
    for low in range(0, 250, 50):  # white as often as the grey value says, and always where it is 255
        tone = (grey.images >= low) & (grey.images < low + 50)
        expected = grey.images[tone].double().mean() / 255
        assert (binary.images[tone] == 255).double().mean() == pytest.approx(expected.item(), abs=0.02)
    assert (binary.images[grey.images == 0] == 0).all() and (binary.images[grey.images == 255] == 255).all()


def test_an_unknown_name_split_or_size_is_refused():
    with pytest.raises(ValueError, match=r"'imagenet' is unknown; allowed are cifar100, .*, rsscn7\."):
        data.load("imagenet", "train")
    with pytest.raises(ValueError, match=r"'val' is unknown; allowed are train, validation, test\."):
        data.load("shapes", "val")
    with pytest.raises(ValueError, match="'imagenet' is unknown"):
        data.Data("imagenet")
    for name, images in (("cifar100", 45_001), ("shapes", 4001), ("shapes", 0)):
        with pytest.raises(ValueError, match=rf"Data.images is {images}; {name} has 1 … "):
            data.Data(name, images)


@pytest.mark.parametrize("shares", [[1] * 10, [1, 2, 3, 4], [1, 500], [5]])
def test_every_prefix_of_the_balanced_order_has_the_classes_in_proportion(shares):
    labels = torch.arange(len(shares)).repeat_interleave(torch.tensor(shares) * 20)
    order = data.balanced_order(labels, seed=3)
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    assert not torch.equal(order, data.balanced_order(labels, seed=4))
    found = torch.nn.functional.one_hot(labels[order], len(shares)).cumsum(0)
    share = labels.bincount() / len(labels)
    expected = torch.arange(1, len(labels) + 1)[:, None] * share
    assert ((found - expected).abs() <= (1 + len(shares) * share) / 2 + 1e-4).all()


def test_a_part_of_train_is_fixed_balanced_and_nested():
    whole = data.load("shapes", "train")
    small, large = (data.load_train(data.Data("shapes", images)) for images in (120, 600))
    assert torch.equal(small.images, large.images[:120]) and small.fine.bincount().tolist() == [10] * 12
    assert torch.equal(small.factors["hue"], large.factors["hue"][:120])
    assert ids(large.images) < ids(whole.images)
    assert torch.equal(data.load_train(data.Data("shapes")).images, whole.images)
    assert digest(small.fine) == "48e1ae35736eb660"


def test_cifar100_is_the_official_set_in_three_disjoint_parts(real_data):
    train, validation, test = (data.load("cifar100", split) for split in data.SPLITS)
    assert [len(train), len(validation), len(test)] == [45_000, 5_000, 10_000]
    assert train.fine.bincount().tolist() == [450] * 100 and validation.fine.bincount().tolist() == [50] * 100
    official = torchvision.datasets.CIFAR100(real_data, train=False)
    assert np.array_equal(test.images.permute(0, 2, 3, 1), official.data) and test.fine.tolist() == official.targets
    assert test.names.fine == tuple(official.classes)
    official = torchvision.datasets.CIFAR100(real_data, train=True)
    part = torch.ones(50_000, dtype=bool)
    part[data.balanced_order(torch.tensor(official.targets), seed=0)[:5_000]] = False
    for ours, mask in ((train, part), (validation, ~part)):
        assert np.array_equal(ours.images.permute(0, 2, 3, 1), official.data[mask])
        assert torch.equal(ours.fine, torch.tensor(official.targets)[mask])
    assert digest((~part).nonzero()) == "e4a911d661feaa1d"


def test_each_fine_class_of_cifar100_lies_in_one_coarse_class_of_five(real_data):
    pairs = set()
    for split in ("validation", "test"):
        part = data.load("cifar100", split)
        pairs |= set(zip(part.fine.tolist(), part.coarse.tolist()))
    assert sorted(fine for fine, _ in pairs) == list(range(100))
    assert np.bincount([coarse for _, coarse in pairs]).tolist() == [5] * 20
    family = {part.names.fine[fine] for fine, coarse in pairs if part.names.coarse[coarse] == "trees"}
    assert family == {"maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"}


@pytest.mark.parametrize(
    ("real_data", "official"),
    [("mnist", torchvision.datasets.MNIST), ("fashion_mnist", torchvision.datasets.FashionMNIST)],
    indirect=["real_data"],
    ids=["mnist", "fashion_mnist"],
)
def test_one_channel_sets_are_the_official_ones(real_data, official, request):
    name = request.node.callspec.id
    train, validation, test = (data.load(name, split) for split in data.SPLITS)
    expected = official(real_data, train=False)
    assert torch.equal(test.images[:, 0], expected.data) and torch.equal(test.fine, expected.targets)
    expected = official(real_data, train=True).targets
    assert (len(train), len(validation)) == (54_000, 6_000)
    assert torch.equal(train.fine.bincount() + validation.fine.bincount(), expected.bincount())
    assert ((validation.fine.bincount() - expected.bincount() / 10).abs() <= 1).all()
    assert test.images.shape[1:] == (1, 28, 28)


def test_channel_statistics_are_those_of_float64():
    images = data.load("shapes", "validation").images
    mean, deviation = data.channel_statistics(images)
    exact = images.double() / 255
    torch.testing.assert_close(mean, exact.mean((0, 2, 3)).float())
    torch.testing.assert_close(deviation, exact.std((0, 2, 3), correction=0).float())


def test_a_subset_is_a_copy_and_a_set_moves_whole():
    part = data.load("shapes", "test")
    some = part.subset([3, 1])
    assert torch.equal(some.images[1], part.images[1]) and some.factors["x"][0] == part.factors["x"][3]
    assert len(part.subset(part.coarse == 2)) == (part.coarse == 2).sum()
    assert len(part.subset([])) == len(part.balanced(0, seed=0)) == 0
    with pytest.raises(ValueError, match="n is -1; it must be a whole number of at least 0"):
        part.balanced(-1, seed=0)
    some.images.zero_(), part.images.zero_()
    assert data.load("shapes", "test").images.any()
    moved = part.to("meta")
    assert {v.device.type for v in (moved.images, moved.fine, moved.coarse, *moved.factors.values())} == {"meta"}


def drawn(**factors):
    """The twelve classes, drawn with the same factors, in the middle of their ranges unless given."""
    middle = {name: sum(ends) / 2 for name, ends in shapes.FACTORS.items()} | {"rotation": 20.0, "background": 0.1}
    return shapes.render(torch.arange(12), {k: torch.full((12,), v) for k, v in (middle | factors).items()}).int()


def test_shapes_are_the_same_on_every_machine():
    found = [digest(data.load("shapes", split).images) for split in data.SPLITS]
    assert found == ["5111b358a4f16cc8", "459f8f65e177593a", "34c49b952c9d675d"]


def test_factors_of_shapes_fill_their_ranges_whatever_the_class():
    train = data.load("shapes", "train")
    assert train.fine.bincount().tolist() == [334] * 4 + [333] * 8
    assert torch.equal(train.coarse, train.fine // 3) and (len(train.names.fine), len(train.names.coarse)) == (12, 4)
    for name, (low, high) in shapes.FACTORS.items():
        values = (train.factors[name] - low) / (high - low)
        assert 0 <= values.min() < 0.01 and 0.99 < values.max() <= 1
        means = torch.stack([values[train.fine == label].mean() for label in range(12)])
        assert ((means - 0.5).abs() < 4 * (1 / 12 / 333) ** 0.5).all()


def test_all_shapes_have_the_area_of_their_disk_and_none_is_cut():
    for scale in shapes.FACTORS["scale"]:
        images = drawn(scale=scale, x=4.0, y=-4.0)
        ground, peak = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        area = ((images - ground) / (peak - ground)).mean(1).sum((1, 2))
        assert ((area / (torch.pi * scale**2) - 1).abs() < 0.03).all()
    for rotation in range(0, 360, 15):
        images = drawn(scale=6.5, x=4.0, y=4.0, rotation=float(rotation))
        rim = torch.cat([images[..., 0], images[..., -1], images[..., 0, :], images[..., -1, :]], -1)
        assert (rim == images[..., :1, 0]).all()


def test_moving_turning_and_mirroring_a_shape_moves_turns_and_mirrors_the_image():
    def same(a, b):
        return (a - b).abs().max() <= 1

    assert same(drawn(x=2.0), drawn(x=1.0).roll(1, -1)) and same(drawn(y=2.0), drawn(y=1.0).roll(1, -2))
    assert same(drawn(rotation=110.0), drawn(rotation=20.0).rot90(1, (2, 3)))
    assert same(drawn(rotation=-20.0, x=-3.0), drawn(rotation=20.0, x=3.0).flip(-1))
    assert same(drawn(light=0.6), (drawn(light=1.0) * 0.6).round())
    assert same(drawn(hue=1.0, background=1.0), drawn(hue=0.0, background=0.0))


def test_an_unknown_shape_or_a_missing_factor_is_refused():
    with pytest.raises(ValueError, match=r"\[12\] are no shapes; allowed are 0 … 11\."):
        shapes.render(torch.tensor([3, 12]), {})
    with pytest.raises(ValueError, match=r"missing: background, .*, y\."):
        shapes.render(torch.tensor([3]), {"x": torch.zeros(1)})


def test_outlines_are_signed_distances():
    u, v = torch.rand(2, 4000, generator=torch.Generator().manual_seed(0)).mul(5).sub(2.5).numpy()
    for name, distance in shapes._OUTLINES.items():
        d = distance(u, v)
        step = np.hypot(u - u[::-1], v - v[::-1])
        assert (np.abs(d - d[::-1]) <= step + 1e-5).all(), name  # a distance changes no faster than its argument
        if isinstance(distance, partial):
            corners = distance.keywords["vertices"]
            assert np.array_equal(d < 0, Outline([*corners, corners[0]], closed=True).contains_points(np.c_[u, v]))
            t = np.linspace(0, 1, 500)[:, None, None]
            outline = (corners * (1 - t) + np.roll(corners, -1, 0) * t).reshape(-1, 2)
            brute = np.hypot(u[:200, None] - outline[:, 0], v[:200, None] - outline[:, 1]).min(1)
            assert np.allclose(np.abs(d[:200]), brute, atol=6e-3), name


def test_colour_means_tell_nothing_of_the_class():
    train, test = data.load("shapes", "train"), data.load("shapes", "test")
    colours = [part.images.float().mean((2, 3)) for part in (train, test)]
    nearest = torch.cdist(*reversed(colours)).argmin(1)
    accuracy = (train.fine[nearest] == test.fine).float().mean()
    assert abs(accuracy - 1 / 12) < 4 * (1 / 12 * 11 / 12 / 1000) ** 0.5


def test_a_shape_is_brighter_than_its_ground_in_grey_too():
    turns = torch.linspace(0, 1, 13)
    grey = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for hue in turns.tolist():
        for background in turns.tolist():
            image = (drawn(hue=hue, background=background, light=0.6)[:1] * grey).sum(1)[0]
            assert image[16, 16] > image[0, 0] + 8
