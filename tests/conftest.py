"""What all tests share."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from sslbook import data, pages

torch.set_num_threads(1)
pytest.register_assert_rewrite("tests.laws")


def pytest_configure(config):
    """The runs of the tests live as long as they do, in a folder that all their processes share."""
    if "SSLBOOK_RUNS" not in os.environ:
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        os.environ["SSLBOOK_RUNS"] = folder.name


@pytest.fixture
def real_data(request):
    """The folder with the official files of a data set (by `indirect` parameter; else CIFAR-100), or a named skip."""
    name = getattr(request, "param", "cifar100")
    root = data.folder()
    missing = [
        file for files in data.official._OFFICIAL[name].files.values() for file in files if not (root / file).is_file()
    ]
    if missing:
        pytest.skip(f"{name} is not in {root} (`make data DATASET={name}` fetches it)")
    return root


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """A folder of executed copies as `$SSLBOOK_EXECUTED` names it: every notebook at `smoke`, run once per session."""
    root = Path(__file__).parents[1]
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "executed"
    with FileLock(f"{folder}.lock"):
        for source in sorted((root / "notebooks").rglob("*.ipynb")):
            copy = folder / "smoke" / source.relative_to(root)
            if not copy.exists():
                pages.execute(source, "smoke", copy)
    return folder
