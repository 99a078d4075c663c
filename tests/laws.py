"""What holds for every training: stopped runs continue to the same bits, and two processes train as one."""

import itertools
import os
import pickle
import socket
import time

import pytest
import safetensors.torch
import torch

from sslbook import files, training
from sslbook.data import load_train
from sslbook.processes import world


def weights(path):
    return safetensors.torch.load_file(path)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def in_parts(train):
    """What `train(time_limit=0)` returns when it is called until it ends, and how often it was stopped before."""
    for stops in itertools.count():
        try:
            return train(time_limit=0), stops
        except training.TimeLimit:
            continue


def assert_stops_change_nothing(config, folder):
    """Stopped after each epoch, the run of `config` has the history and the last weights of the whole run."""
    images = load_train(config.data)
    expected, *_ = training.train(config, images, folder / "whole")
    (history, *_), stops = in_parts(lambda **limit: training.train(config, images, folder / "parts", **limit))
    assert stops == config.epochs - 1 and history == expected
    assert same(*(weights(files.snapshot_path(folder / kind, config.epochs)) for kind in ("whole", "parts")))


PRELOADED = ["sslbook.runs", "pytest", "scipy.stats", "sklearn.cluster"]
"""What processes of tests find imported. No papers: the environment says where they are."""


def forked(work, *arguments):
    """`work(*arguments)`, begun in a process of its own, forked from a server that has imported PyTorch."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_begin, args=(dict(os.environ), pickle.dumps((work, arguments))), daemon=True)
    process.start()
    return process


def _begin(environment, pickled):
    os.environ |= environment
    torch.set_num_threads(1)
    work, arguments = pickle.loads(pickled)  # only now: the environment says where runs and papers are
    work(*arguments)


def together(work, *arguments, seconds=600):
    """`work(*arguments)` in two processes that meet as those of `torchrun` do; a traceback of either is raised here.

    They are forked as by `forked`, because the import of PyTorch takes longer than most of the work.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.set_forkserver_preload(PRELOADED)
    given = dict(os.environ), port, pickle.dumps((work, arguments))
    spawned = {"nprocs": 2, "join": False, "start_method": "forkserver"}
    context = torch.multiprocessing.start_processes(_start, given, **spawned)
    deadline = time.monotonic() + seconds
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "The processes wait for each other."
    finally:
        for process in context.processes:
            process.kill()


def _start(rank, environment, port, pickled):
    ranks = dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    _begin(environment | ranks | dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)), pickled)
    torch.distributed.destroy_process_group()


def train_each(configs, folder):
    """In float32 on every processor: bfloat16 would round shares of a batch otherwise than the whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_PRECISION", "float32")
        for name, config in configs.items():
            training.train(config, load_train(config.data), folder / f"{name}-{world().size}")


def assert_two_train_as_one(configs, folder, tolerances):
    """Two processes, started once for all the named `configs`, end with the weights of one process.

    Each sees its own share of images and of noise, and its batch norm would too: the configurations have none.
    `tolerances(name)` are those of `torch.testing.assert_close`.
    """
    together(train_each, configs, folder)
    train_each(configs, folder)
    for name, config in configs.items():
        start, alone = (weights(files.snapshot_path(folder / f"{name}-1", epoch)) for epoch in (0, config.epochs))
        shared = weights(files.snapshot_path(folder / f"{name}-2", config.epochs))
        assert alone.keys() == shared.keys() and not same(start, alone)
        for key, value in alone.items():
            torch.testing.assert_close(shared[key], value, **tolerances(name), msg=f"{name} {key}")
