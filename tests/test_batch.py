"""Laws of the batch: killed jobs end, finished ones never run again, a cluster is asked for what a run needs."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from sslbook import hardware, papers, runs
from sslbook.papers.geometry import PAPER

ROOT = Path(__file__).parents[1]
CONFIGS = [config for config, _ in PAPER.plan("main", "smoke")[:2]]
NAMES = [config.id for config in CONFIGS]
TARGETS = [f"_build/finished/{name}" for name in NAMES]


def batch(folder, *arguments):
    """Snakemake in `folder` as `make` calls it, in a process group of its own; what it says goes to `log`."""
    options = ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--nolock", "--rerun-incomplete"]
    environment = {"SSLBOOK_RUNS": str(folder / "runs"), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *options, "--rerun-triggers", "mtime", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=open(folder / "log", "a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def until(found, seconds=600):
    """Wait for `found()` to be true and return it."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "What the test waits for does not happen."
        time.sleep(0.02)
    return value


def training(group, name):
    """The processes (at most one) of this process group that train the run `name`."""
    lines = subprocess.run(["ps", "-eww", "-o", "pid=,pgid=,args="], capture_output=True, text=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in lines]
    command = f"{sys.executable} -m sslbook run"
    return [int(p) for p, g, args in rows if int(g) == group and args.startswith(command) and name in args]


def started(folder):
    return all((folder / "runs" / name / "snapshots" / "00000.safetensors").exists() for name in NAMES)


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_batch_survives_kills_of_its_jobs_and_of_itself(tmp_path, monkeypatch):
    """Jobs reach their time limit after each epoch; Snakemake is killed, then one of its jobs, and nothing is lost."""
    options = ["--cores", "2", *TARGETS, "--config", "profile=smoke", "--set-resources", "train:runtime=0"]
    groups = []
    try:
        first = batch(tmp_path, *options)
        groups.append(first.pid)
        until(lambda: started(tmp_path))
        first.kill()  # its jobs stay behind and hold the locks of their runs
        first.wait()
        second = batch(tmp_path, *options)
        groups.append(second.pid)
        until(lambda: '"earlier"' in (tmp_path / "runs" / NAMES[0] / "provenance.json").read_text())  # goes on
        os.kill(training(second.pid, NAMES[0])[0], signal.SIGKILL)
        assert second.wait(600) == 0, (tmp_path / "log").read_text()
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
    log = (tmp_path / "log").read_text()
    assert "Trying to restart job" in log and log.count("Stopped at the time limit after epoch 1 of 2") >= 2

    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path / "whole"))
    for config in CONFIGS:
        whole, survived = runs.ensure(config, device="cpu"), tmp_path / "runs" / config.id
        for name in ("history.csv", "snapshots/00002.safetensors"):
            assert (survived / name).read_bytes() == (whole.path / name).read_bytes()
        assert not list(survived.glob("checkpoint*"))

    before = contents(tmp_path / "runs")
    assert batch(tmp_path, *options).wait(600) == 0
    assert "Nothing to be done" in (tmp_path / "log").read_text()[len(log) :]
    assert contents(tmp_path / "runs") == before


def test_a_deleted_run_is_trained_again(tmp_path):
    """The note of a finished job is worth nothing without its run, and everything with it."""
    note = tmp_path / TARGETS[0]
    note.parent.mkdir(parents=True)
    note.touch()
    assert batch(tmp_path, "-n", "--cores", "1", TARGETS[0], "--config", "profile=smoke").wait(600) == 0
    assert not note.exists() and re.search(r"train +1\n", (tmp_path / "log").read_text())


def test_the_profile_for_slurm_asks_for_a_gpu_and_for_more_time_than_the_run_takes(tmp_path):
    config = PAPER.plan("main", "paper")[0].config
    options = ["--profile", ROOT / "profiles" / "slurm", "--executor", "local", "--cores", "8", "-n", "-p"]
    job = batch(tmp_path, *options, f"_build/finished/{config.id}", "--config", "profile=paper", "ship=yes")
    assert job.wait(600) == 0
    log = (tmp_path / "log").read_text()
    minutes, limit = (int(re.search(pattern, log)[1]) for pattern in (r"runtime=(\d+)", r"--time-limit (\d+)"))
    assert "gpu=1" in log and "mem_mb=16000" in log and "OMP_NUM_THREADS=4" in log
    assert f"sslbook run --profile paper --paper geometry --figure main  --id {config.id}" in log
    assert f"--time-limit {limit} --ship" in log
    assert limit == 0.9 * 60 * minutes and papers.gpu_hours(config) * 3600 < limit / 2


def test_each_job_takes_a_gpu_that_is_free_and_waits_when_there_is_none(tmp_path, monkeypatch):
    class Waiting(Exception):
        pass

    def wait(seconds):
        raise Waiting

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(hardware, "_uuid", str)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(time, "sleep", wait)
    with hardware.claim_device(None) as first:
        with hardware.claim_device(None) as second:
            assert (first, second) == ("cuda:0", "cuda:1")
            assert [lock.stat().st_mode & 0o777 for lock in tmp_path.glob("*.lock")] == [0o666] * 2
            with pytest.raises(Waiting), hardware.claim_device(None):
                pass
        with hardware.claim_device(None) as third:
            assert third == second
