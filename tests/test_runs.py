import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pandas as pd
import pytest
import torch

from sslbook import cli, data, files, hardware, papers, runs, training
from sslbook.models import ResNet
from sslbook.papers.geometry import PAPER
from sslbook.papers.paper import Paper, Planned
from tests.laws import forked
from tests.test_training import tiny

POINTS = str(Path(__file__).parents[1] / "notebooks" / "matching-gap" / "points.ipynb")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(runs, "RECORDS", tmp_path / "records")
    return tmp_path / "runs"


def test_a_run_is_trained_once_and_found_again(folder):
    assert runs.find(tiny()) is None
    run = runs.ensure(tiny(), device="cpu")
    written = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    again = runs.ensure(tiny(), device="cpu")
    assert again.path == run.path and {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == written
    assert not files.checkpoints(run.path)
    assert set(run.provenance) >= {"hardware", "precision", "threads", "torch", "commit", "date", "seconds"}


def test_the_speed_of_a_run_is_recorded(folder, monkeypatch):
    config = tiny(epochs=8)
    facts = runs.ensure(config, device="cpu").provenance
    assert 0.5 * 96 * 8 / facts["seconds"] < facts["images_per_second"] and facts["share_of_peak"] is None
    assert facts["processes"] == 1
    monkeypatch.setitem(hardware.PEAK, hardware.name("cpu"), training.flop(config) * 1000)
    monkeypatch.setenv("SSLBOOK_PRECISION", "float32")  # the peak is that of bfloat16
    assert runs._speed(config, "cpu", 250.04) == {"images_per_second": 250.0, "share_of_peak": None}
    monkeypatch.setenv("SSLBOOK_PRECISION", "bfloat16")
    assert runs._speed(config, "cpu", 250.04) == {"images_per_second": 250.0, "share_of_peak": 0.25}
    assert runs._speed(config, "cpu", None) == {"images_per_second": None, "share_of_peak": None}


def test_the_history_survives_its_file_exactly(folder):
    config = tiny()
    run = runs.ensure(config, device="cpu")
    direct, *_ = training.train(config, data.load_train(config.data), folder / "direct")
    assert run.history.equals(pd.DataFrame(direct))


def test_weights_come_back_as_they_were(folder):
    run = runs.ensure(tiny(), device="cpu")
    assert not run.encoder().training and set(run.snapshots) == {0, 2, 4}
    first, last = run.method(0).state_dict(), run.method().state_dict()
    assert not torch.equal(first["projector.0.weight"], last["projector.0.weight"])
    with pytest.raises(ValueError, match="keeps no weights of epoch 3; it keeps"):
        run.method(3)


def train_and_tell(folder, name):
    """Begin together with the other process; leave a file if this one trains, and the sum of the losses."""
    (folder / f"ready-{name}").touch()
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.005)
    inner = training.train
    training.train = lambda *a, **k: (folder / f"trained-{name}").touch() or inner(*a, **k)
    total = runs.ensure(tiny(epochs=2), device="cpu").history.loss.sum()
    (folder / f"sum-{name}").write_text(repr(float(total)))


def test_two_processes_train_a_run_once(folder, tmp_path):
    both = [forked(train_and_tell, tmp_path, name) for name in "ab"]
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("trained-*"))) == 1  # the other waited and read
    assert (tmp_path / "sum-a").read_text() == (tmp_path / "sum-b").read_text()


def test_an_edited_configuration_is_refused(folder):
    run = runs.ensure(tiny(), device="cpu")
    path = run.path / "config.json"
    path.write_text(path.read_text().replace('"epochs": 4', '"epochs": 5'))
    with pytest.raises(ValueError, match=r"is not the configuration .* \(edited, or of another recipe\)"):
        runs.find(tiny())
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        runs.find(tiny())


def test_an_unfinished_run_of_another_recipe_is_refused(folder):
    config = tiny()
    (folder / config.id).mkdir(parents=True)
    (folder / config.id / "config.json").write_text(json.dumps(config.to_dict() | {"recipe": 0}))
    with pytest.raises(ValueError, match="another recipe"):
        runs.ensure(config, device="cpu")


def test_a_shipped_record_is_found_without_weights(folder, monkeypatch):
    run = runs.ensure(tiny(), device="cpu")
    arrays = run.measured("some", 1, lambda run: {"twice": torch.tensor(run.history.loss.to_numpy()) * 2})
    record = run.ship()
    assert record.parent == runs.RECORDS and sorted(p.name for p in record.iterdir()) == [
        "config.json",
        "history.csv",
        "provenance.json",
        "some.safetensors",
    ]
    monkeypatch.setenv("SSLBOOK_RUNS", str(folder / "elsewhere"))
    found = runs.find(tiny())
    assert found.path == record and not found.snapshots and found.history.equals(run.history)
    assert found.ship() == record

    def never(run):
        raise AssertionError

    assert torch.equal(found.measured("some", 1, never)["twice"], arrays["twice"])
    with pytest.raises(ValueError, match="no measurements `some` of version 2"):
        found.measured("some", 2, never)
    with pytest.raises(ValueError, match="keeps none"):
        found.method()


def test_measurements_of_another_version_are_made_anew(folder):
    run = runs.ensure(tiny(), device="cpu")
    made = []
    for version in (1, 1, 2):
        run.measured("some", version, lambda run: made.append(1) or {"n": torch.tensor(float(len(made)))})
    assert len(made) == 2 and run.measured("some", 2, None)["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--profile", "smoke", "--id", "nothing"], "No run of these options has the identity nothing"),
        (["run", "--profile", "smoke", "--figure", "fig99"], "The figure 'fig99' is unknown; did you mean fig9"),
        (["run", "--profile", "smoke", "--dataset", "imagenet"], "dataset is 'imagenet'; allowed are"),
        (["run", "--profile", "smoke", "--seeds", "-1"], "seeds is [-1]; allowed are"),
        (["run", "--profile", "smoke", "--device", "gpu"], "device is 'gpu'; allowed here are None, cpu"),
        (["verdicts", "no such"], "The claim 'no such' is unknown; known are fig1-order"),
        (["verdicts", "fig1-colapse"], "The claim 'fig1-colapse' is unknown; did you mean fig1-collapse"),
        (["notebook", "x.ipynb", "-p", "profile", "smoke"], "-p takes no profile: `sslbook notebook PATH --profile"),
        (
            ["notebook", POINTS, "--profile", "smoke", "-p", "seeds", "5"],
            "seeds is 5; points.ipynb takes list[int] or None.",
        ),
    ],
)
def test_a_failure_is_one_sentence_and_an_exit_code(folder, capsys, arguments, sentence, tmp_path):
    output = ["--output", str(tmp_path / "copy.ipynb")] if POINTS in arguments else []
    assert cli.main([*arguments, *output]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and "Traceback" not in error


def test_paper_scale_without_a_gpu_is_refused_with_its_cost(folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["run", "--profile", "paper"]) == 1
    assert cli.main(["run", "--profile", "paper", "--id", PAPER.plan("main", "paper")[0].config.id]) == 1
    assert "hours on a fast GPU" in capsys.readouterr().err and not folder.exists()


def test_a_precision_is_asked_for_by_name(folder, capsys, monkeypatch):
    monkeypatch.setenv("SSLBOOK_PRECISION", "bfloat16")  # which the command replaces, and the test's end restores
    planned = [each._replace(config=each.config.replace(epochs=0)) for each in PAPER.plan("main", "smoke")[:2]]
    monkeypatch.setitem(PAPER.plans, "main", lambda profile: planned)
    options = ["run", "--paper", "geometry", "--profile", "smoke", "--id", planned[0].config.id]
    assert cli.main([*options, "--precision", "float32"]) == 0
    (folder_of_run,) = (path for path in folder.iterdir() if path.is_dir())
    assert json.loads((folder_of_run / "provenance.json").read_text())["precision"] == "float32"
    assert cli.main([*options, "--precision", "bfloat16"]) == 1
    assert f"is there in float32; move '{folder_of_run}' away" in capsys.readouterr().err
    assert cli.main(options) == 1  # the variable asks, too
    assert "is there in float32" in capsys.readouterr().err
    monkeypatch.setenv("SSLBOOK_PRECISION", "float16")
    before = sorted(folder.iterdir())
    assert cli.main([*options[:-1], planned[1].config.id]) == 1
    assert "SSLBOOK_PRECISION is 'float16'; allowed are float32, bfloat16" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_the_status_of_runs_is_told_by_a_process_that_has_loaded_nothing_else(folder):
    run = runs.ensure(PAPER.plan("main", "smoke")[0].config.replace(epochs=0), device="cpu")
    command = [sys.executable, "-m", "sslbook", "status"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith(run.config.id) and "finished" in told and "not readable" not in told


def test_waiting_counts_towards_the_time_limit(folder, monkeypatch):
    @contextlib.contextmanager
    def busy(device):
        time.sleep(0.3)
        yield "cpu"

    limits = []
    monkeypatch.setattr(hardware, "claim_device", busy)
    monkeypatch.setattr(training, "train", lambda *a, time_limit, **k: limits.append(time_limit) or ([], 0.0, None))
    for limit in (None, 100):
        runs.ensure(tiny(seed=limit or 0), time_limit=limit)
    assert limits[0] is None and 0 < limits[1] < 99.7


def test_the_time_limit_ends_the_wait_for_another_process_that_has_the_run(folder):
    folder.mkdir()
    held = filelock.FileLock(folder / f"{tiny().id}.lock")
    with held, pytest.raises(training.TimeLimit, match="Another process has the run"):
        runs.ensure(tiny(), device="cpu", time_limit=0.2)


def test_an_attempt_that_trained_nothing_leaves_no_mark(folder, monkeypatch):
    """Else its precision would count as that of a part of the run."""

    def no_data(data):
        raise ValueError("There is no data.")

    with monkeypatch.context() as patch:
        patch.setattr(data, "load_train", no_data)
        patch.setenv("SSLBOOK_PRECISION", "bfloat16")
        with pytest.raises(ValueError, match="no data"):
            runs.ensure(tiny(), device="cpu")
    monkeypatch.setenv("SSLBOOK_PRECISION", "float32")
    run = runs.ensure(tiny(), device="cpu")
    assert run.provenance["precision"] == "float32" and "earlier" not in run.provenance


def test_a_run_of_no_epochs_has_an_empty_history(folder):
    history = runs.ensure(tiny(epochs=0), device="cpu").history
    assert history.empty and {"epoch", "loss"} <= set(history)


def test_missing_data_and_a_full_disk_are_named(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SSLBOOK_DATA", str(tmp_path / "empty"))
    assert cli.main(["run", "--paper", "geometry", "--dataset", "mnist", "--seeds", "1"]) == 1
    assert "make data DATASET=mnist" in capsys.readouterr().err

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_whole", full)
    assert cli.main(["run", "--paper", "geometry", "--profile", "smoke", "--seeds", "1"]) == 1
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["nan", "-1"])
def test_a_time_limit_that_is_no_time_is_named_with_what_is_allowed(limit, capsys):
    assert cli.main(["run", f"--time-limit={limit}"]) == 1
    assert f"--time-limit is {float(limit)}; it must be a finite number of at least 0." in capsys.readouterr().err


def test_the_command_line_lists_trains_and_reports(folder, capsys, monkeypatch):
    plan = {"main": lambda profile: [Planned(tiny(encoder=ResNet(8, (1,))), {"size": "tiny"})]}
    small = Paper("small", "Small", plan, lambda run, device: ({"n": torch.ones(())} for _ in run.snapshots), None, ())
    monkeypatch.setattr(papers, "names", lambda: ["small"])
    monkeypatch.setattr(papers, "paper", lambda name: small)
    assert cli.main(["list", "--profile", "smoke", "--missing"]) == 0
    listed = capsys.readouterr().out
    assert "missing" in listed and "0.00 min on a fast GPU or 0.0 hours of a processor core (263 and 0.05 TF" in listed
    assert cli.main(["run", "--profile", "smoke", "--time-limit", "0"]) == cli.STOPPED
    assert "continues from there" in capsys.readouterr().err
    assert cli.main(["status"]) == 0
    assert re.search(r"shapes SimCLR .* seed \d+  stopped or running, checkpoint of epoch 1", capsys.readouterr().out)
    assert cli.main(["run", "--profile", "smoke", "--ship"]) == 0
    assert cli.main(["status"]) == 0 and "finished" in capsys.readouterr().out
    assert cli.main(["list", "--profile", "smoke", "--missing"]) == 0
    said = capsys.readouterr()
    assert not said.out and said.err == "No run of these options is missing.\n"
