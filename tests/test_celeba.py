"""The loader of CelebA, on a handful of drawn pictures in the layout of its authors."""

import numpy as np
import pytest
import torch
from PIL import Image

from sslbook import data
from sslbook.data import celeba

COLUMNS = ("Male", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Smiling")
# Of each image: split, hair colours, other attributes.
FACES = [
    (0, {"Blond_Hair"}, {"Male"}),
    (0, {"Black_Hair", "Brown_Hair"}, set()),
    (0, set(), {"Smiling"}),
    (1, {"Gray_Hair"}, {"Male", "Smiling"}),
    (2, {"Black_Hair"}, set()),
    (0, {"Brown_Hair"}, set()),
]


def picture(i):
    """A smooth picture of its own, so that JPEG changes it little."""
    rows, columns = np.mgrid[0:218, 0:178] / 218
    channels = [np.sin(i + 3 * rows), np.cos(i * columns + 2), rows * columns]
    return (127 + 100 * np.stack(channels, -1)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    images = tmp_path / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    rows, parts = [], []
    for i, (part, hair, others) in enumerate(FACES, 1):
        Image.fromarray(picture(i)).save(images / f"{i:06d}.jpg", quality=95)
        values = ("1" if name in hair | others else "-1" for name in COLUMNS)
        rows.append(f"{i:06d}.jpg  " + " ".join(values))
        parts.append(f"{i:06d}.jpg {part}")
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(COLUMNS), *rows, ""]))
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join([*parts, ""]))
    return tmp_path


def test_the_set_is_known_by_its_name_and_nothing_is_fetched(root, tmp_path_factory):
    assert torch.equal(data.load("celeba", "train", root).images, celeba.load("celeba", "train", root).images)
    assert data.download("celeba", root) is False
    (root / "celeba" / "img_align_celeba" / "000006.jpg").unlink()
    for place, file in ((root, "000006.jpg"), (tmp_path_factory.mktemp("empty"), "list_attr_celeba.txt")):
        with pytest.raises(ValueError, match=rf"{file} is missing. sslbook does not fetch CelebA: see https://mmlab"):
            data.download("celeba", place)


def test_classes_are_colours_of_hair_and_two_colours_are_none(root):
    train = celeba.load("celeba", "train", root)
    assert [celeba.HAIR[label] for label in train.fine] == ["blond", "other", "brown"]
    assert torch.equal(train.fine, train.coarse) and train.names.fine == celeba.HAIR
    for split, colour in (("validation", "gray"), ("test", "black")):
        assert [celeba.HAIR[label] for label in celeba.load("celeba", split, root).fine] == [colour]


def test_a_table_without_a_colour_is_named_with_it(root):
    table = root / "celeba" / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace("Black_Hair", "Dark_Hair"))
    with pytest.raises(ValueError, match=r"list_attr_celeba\.txt has no attribute Black_Hair; it is altered\."):
        celeba.load("celeba", "train", root)


def test_style_is_every_other_attribute(root):
    train = celeba.load("celeba", "train", root)
    assert {name: values.tolist() for name, values in train.factors.items()} == {
        "Male": [1, 0, 0],
        "Smiling": [0, 1, 0],
    }


def test_images_are_the_central_squares_as_torchvision_makes_them(root):
    transforms = pytest.importorskip("torchvision.transforms")
    resize = transforms.Compose([transforms.CenterCrop(178), transforms.Resize(64)])
    train = celeba.load("celeba", "train", root)
    assert train.images.dtype == torch.uint8 and train.images.shape == (3, *celeba.SETS["celeba"].shape)
    for image, i in zip(train.images, (1, 3, 6), strict=True):
        with Image.open(root / "celeba" / "img_align_celeba" / f"{i:06d}.jpg") as file:
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(resize(file)))


def damage(root, file, change):
    path = root / "celeba" / file
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda root: (root / "celeba/list_attr_celeba.txt").unlink(),
            "list_attr_celeba.txt is missing. sslbook does not",
        ),
        (
            lambda root: damage(root, "list_attr_celeba.txt", lambda b: b[:-80]),
            "should hold 6 rows.*truncated or altered",
        ),
        (lambda root: damage(root, "list_attr_celeba.txt", lambda b: b[:-3]), "1 or -1 for 6 attributes, and does not"),
        (lambda root: damage(root, "list_attr_celeba.txt", lambda b: b""), "has 0 lines; it is truncated"),
        (lambda root: damage(root, "list_eval_partition.txt", lambda b: b[:-13]), "no split for 1 images, 000006.jpg"),
        (
            lambda root: (root / "celeba/img_align_celeba/000003.jpg").unlink(),
            "000003.jpg is missing.*img_align_celeba.zip",
        ),
        (
            lambda root: damage(root, "img_align_celeba/000003.jpg", lambda b: b[:900]),
            "000003.jpg is no whole JPEG image",
        ),
        (
            lambda root: Image.new("RGB", (64, 64)).save(root / "celeba/img_align_celeba/000003.jpg"),
            "000003.jpg has 64×64 pixels; those of CelebA have 178×218",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_named_with_a_place_to_get_it(root, harm, sentence):
    harm(root)
    with pytest.raises(ValueError, match=sentence):
        celeba.load("celeba", "train", root)


def test_a_split_without_images_is_refused(root):
    damage(root, "list_eval_partition.txt", lambda b: b.replace(b"5.jpg 2", b"5.jpg 1"))
    with pytest.raises(ValueError, match="has no images for 'test'"):
        celeba.load("celeba", "test", root)
