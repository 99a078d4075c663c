"""What all tests share."""

import contextlib
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock, Timeout

from sslbook import notebooks

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine takes its time
hypothesis.settings.load_profile("unhurried")
pytest.register_assert_rewrite("tests.laws")


def pytest_configure(config):
    """The runs of the tests live as long as they do, in a folder that all their processes share."""
    if "SSLBOOK_RUNS" not in os.environ:
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        os.environ["SSLBOOK_RUNS"] = folder.name


def pytest_collectstart(collector):
    """Processes that collect need PyTorch. The one that hands out the tests does not, and starts sooner without it."""
    import torch

    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)  # of xdist, without which there is one process
def pytest_xdist_auto_num_workers():
    """One process more than there are cores: at times one waits for a kernel or a browser."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def real_data(request):
    """The folder with the official files of a data set (by `indirect` parameter; else CIFAR-100), or a named skip."""
    from sslbook import data

    name = getattr(request, "param", "cifar100")
    root = data.folder()
    missing = [
        file for files in data.official._OFFICIAL[name].files.values() for file in files if not (root / file).is_file()
    ]
    if missing:
        pytest.skip(f"{name} is not in {root} (`make data DATASET={name}` fetches it)")
    return root


LONGEST = ["book", "notebooks", "explorers", "book_notebooks", "widgets", "accelerator", "training", "runs", "engine"]
"""The files that take longest. `book` builds the pages, for which `book_notebooks` would wait."""


def pytest_collection_modifyitems(items):
    """The longest files come first: all processes share in executing the notebooks, and end at about one time."""
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """A folder of executed copies as `$SSLBOOK_EXECUTED` names it: every notebook at `smoke`, run once per session."""
    root, worker = Path(__file__).parents[1], os.environ.get("PYTEST_XDIST_WORKER")
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if worker else folder) / "executed"
    sources = sorted((root / "notebooks").rglob("*.ipynb"))
    if worker:  # each begins elsewhere: neighbours train the same runs, and one would wait for the other
        start = int(worker[2:]) * len(sources) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        sources = sources[start:] + sources[:start]
    for timeout in (0, -1):  # copies that another process is making are waited for when all others are there
        for source in sources:
            copy = folder / "smoke" / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Timeout), FileLock(copy.with_suffix(".lock"), timeout=timeout):
                if not copy.exists():
                    notebooks.execute(source, "smoke", copy)
    return folder
