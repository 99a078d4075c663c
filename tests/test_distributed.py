"""Several processes for one run: the loss of shared projections is that of the whole, and the run is the same run."""

import itertools
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from sslbook import checkpoints, data, files, losses, methods, runs, training
from sslbook.optim import SGD
from sslbook.papers.geometry import PAPER
from sslbook.processes import world
from tests.laws import in_parts, same, together, weights
from tests.test_training import TINY, tiny

LOSSES = [
    ("info_nce", dict(beta=2.0)),
    ("info_nce", dict(beta=2.0, symmetric=True)),
    ("info_nce_upper_bound", dict(beta=2.0)),
    ("nt_xent", dict(temperature=0.1)),
    ("cross_view_info_nce", dict(temperature=0.1)),
    ("matching_gap", dict(epsilon=0.2)),
    ("multi_matching_gap", dict(epsilon=0.2)),
    ("vicreg", {}),
    ("barlow_twins", {}),
]
OF_PLANS = {"sinkhorn"}
UNEQUAL = tiny(batch_size=33, optim=SGD(learning_rate=0.05))


def test_no_loss_is_forgotten():
    """The terms of variational bounds, and losses with targets, are tested with the methods that use them."""
    functions = {name for name in losses.__all__ if name.islower()} - OF_PLANS
    elsewhere = ("variational", "targets")
    functions -= {name for name in functions if getattr(losses, name).__module__.endswith(elsewhere)}
    assert functions <= {name for name, _ in LOSSES}


def losses_of_shares(folder):
    """How far loss(gather(share(z))) and the mean of its gradients over the processes are from loss(z) and its own."""
    processes, far = world(), {}
    for n, index in itertools.product((8, 7), range(len(LOSSES))):
        name, options = LOSSES[index]
        whole = torch.randn(2, n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        assert len(processes.share(whole[0])) == (4 if processes.rank == 0 else n - 4)
        values, gradients = [], []
        for view in (lambda z: z, lambda z: processes.gather(processes.share(z), len(z))):
            z = whole.clone().requires_grad_()
            views = [view(z[0]), view(z[1])]
            views = [torch.stack(views)] if name == "multi_matching_gap" else views
            value = getattr(losses, name)(*views, **options)
            value = getattr(value, "total", value)
            value.backward()
            values.append(value.detach())
            gradients.append(z.grad)
        processes.average(gradients[1:])
        differences = [(values[1] - values[0]).abs(), (gradients[1] - gradients[0]).abs().max(), gradients[0].norm()]
        far[f"{index}-{n}"] = torch.stack(differences)
    safetensors.torch.save_file(far, folder / f"losses-{processes.rank}")


def frozen(method):
    """Batch norm that leaves the batch alone: what is left must not depend on the number of processes."""
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return method


def train_frozen(config, folder):
    """In float32 on every processor: bfloat16 would round shares of a batch otherwise than the whole."""
    build = training.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build", lambda *arguments: frozen(build(*arguments)))
        patch.setenv("SSLBOOK_PRECISION", "float32")
        training.train(config, data.load_train(config.data), folder)


def work_together(folder):
    """All that two processes do here; each one's last weights of a run are kept as `<name>-<rank>`."""
    losses_of_shares(folder)
    rank, built, build = world().rank, [], training.build
    training.build = lambda *arguments: built.append(build(*arguments)) or built[-1]

    def keep(name):
        checkpoints.save_weights(folder / f"{name}-{rank}", built[-1])

    train_frozen(UNEQUAL, folder / "frozen")
    keep("frozen")
    os.environ["SSLBOOK_RUNS"] = str(folder / "parts")
    assert in_parts(lambda **limit: runs.ensure(tiny(), device="cpu", **limit))[1] == 3
    keep("parts")
    os.environ["SSLBOOK_RUNS"] = str(folder / "whole")
    runs.ensure(tiny(), device="cpu")
    keep("whole")
    healthy = methods.SimCLR.pair_loss
    methods.SimCLR.pair_loss = lambda self, a, b: healthy(self, a, b) * (float("nan") if rank == 1 else 1)
    with pytest.raises(training.Diverged, match="became nan at epoch 1, step 1 of 3"):
        runs.ensure(tiny(seed=5), device="cpu")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    together(work_together, folder)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("images", [8, 7])
@pytest.mark.parametrize("index", range(len(LOSSES)), ids=[name for name, _ in LOSSES])
def test_the_loss_of_shares_and_its_gradients_are_those_of_the_whole(shared, index, images, rank):
    value, gradient, size = weights(shared / f"losses-{rank}")[f"{index}-{images}"]
    assert value < 1e-10 and gradient < 1e-10 < 1e-3 < size


def test_the_run_of_two_processes_is_the_run_of_one(shared, tmp_path):
    train_frozen(UNEQUAL, tmp_path)
    start, alone = (weights(files.snapshot_path(tmp_path, epoch)) for epoch in (0, 4))
    together = weights(files.snapshot_path(shared / "frozen", 4))
    for name, value in start.items():
        if "weight" in name:
            path = (alone[name] - value).norm()
            assert path > 0 and (together[name] - alone[name]).norm() < 1e-3 * path, name


@pytest.mark.parametrize("name", ["frozen", "parts", "whole"])
def test_the_processes_agree_to_the_bit(shared, name):
    first, second = (weights(shared / f"{name}-{rank}") for rank in (0, 1))
    assert same(first, second)


def test_a_stopped_run_of_two_processes_continues_to_the_same_bits(shared, monkeypatch):
    found = []
    for name in ("whole", "parts"):
        monkeypatch.setenv("SSLBOOK_RUNS", str(shared / name))
        found.append(runs.find(tiny()))
    whole, parts = found
    assert whole.history.equals(parts.history) and len(whole.history) == 4
    assert same(weights(whole.snapshots[4]), weights(parts.snapshots[4]))
    assert [fact["processes"] for fact in (whole.provenance, *parts.provenance["earlier"])] == [2] * 4


def test_torchrun_makes_one_record(tmp_path, monkeypatch):
    config = PAPER.plan("fig1", "smoke", seeds=[1])[0].config
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sslbook"]
    command += [
        "run",
        "--paper",
        "geometry",
        "--profile",
        "smoke",
        "--figure",
        "fig1",
        "--id",
        config.id,
        "--device",
        "cpu",
    ]
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=600)
    run = runs.find(config)
    assert {path.name for path in tmp_path.iterdir()} == {config.id, f"{config.id}.lock"}
    assert len(run.history) == config.epochs and set(run.snapshots) == set(config.snapshot_epochs)
    assert run.provenance["processes"] == 2 and not files.checkpoints(run.path)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_two_gpus_batch_norm_spans_both(tmp_path):
    together(train_on_gpus, tmp_path)
    training.train(tiny(), data.load_train(TINY["data"]), tmp_path / "alone", device="cuda")
    shared = weights(files.snapshot_path(tmp_path / "shared", 4))
    for name, value in weights(files.snapshot_path(tmp_path / "alone", 4)).items():
        if "running_mean" in name:
            torch.testing.assert_close(shared[name], value, rtol=0.1, atol=0.02, msg=name)


def train_on_gpus(folder):
    device = f"cuda:{world().rank}"
    training.train(tiny(), data.load_train(TINY["data"]), folder / "shared", device=device)
