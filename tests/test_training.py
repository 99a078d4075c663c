import functools
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sslbook import data, files, hardware, runs, training
from sslbook.data import Data
from sslbook.methods import Batch, SimCLR
from sslbook.models import ResNet
from sslbook.optim import LARS, SGD, Adam
from sslbook.views import PerView, policy
from tests.laws import assert_stops_change_nothing, forked, same, weights
from tests.test_config import example

TINY = dict(data=Data("shapes", 96), encoder=ResNet(8, (1, 1)), method=SimCLR(widths=(4,)), batch_size=32, snapshots=2)


def tiny(**changes):
    return example(**(TINY | dict(epochs=4) | changes))


@pytest.fixture
def images():
    return data.load_train(TINY["data"])


def test_history_and_snapshots_are_what_was_declared(tmp_path, images):
    config = tiny()
    history, *_ = training.train(config, images, tmp_path)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4] and all(np.isfinite(row["loss"]) for row in history)
    assert history[-1]["learning_rate"] == config.optim.learning_rate_at(11, 12)
    assert {p.stem for p in (tmp_path / "snapshots").iterdir()} == {"00000", "00002", "00004"}
    initial = training.build(config, data.channel_statistics(images.images)).state_dict()
    assert same(weights(files.snapshot_path(tmp_path, 0)), initial)


def test_the_loop_is_the_textbook_loop(tmp_path, images):
    """One epoch against a plain transcription: permutation, views, loss, backward, step."""
    config = tiny(epochs=1)
    training.train(config, images, tmp_path)
    method = training.build(config, data.channel_statistics(images.images)).to(memory_format=torch.channels_last)
    optimizer = config.optim.build(method)
    generator = torch.Generator()
    generator.manual_seed(int(np.random.SeedSequence([config.seed, 1]).generate_state(1, np.uint64)[0] >> 1))
    order = torch.randperm(96, generator=generator)
    for step in range(3):
        batch = images.subset(order[32 * step : 32 * (step + 1)])
        views = config.views(torch.cat([batch.images, batch.images]), generator).view(2, 32, 3, 32, 32)
        optimizer.zero_grad()
        with hardware.autocast("cpu"):
            loss, _ = method.loss(Batch(views, batch.fine, (), torch.tensor((step + 1) / 3)))
        loss.backward()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = config.optim.learning_rate_at(step, 3)
        optimizer.step()
    assert same(weights(files.snapshot_path(tmp_path, 1)), method.state_dict())


def test_the_same_configuration_gives_the_same_bits_and_another_seed_others(tmp_path, images):
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        history, *_ = training.train(tiny(seed=seed), images, tmp_path / name)
        results.append((history, weights(files.snapshot_path(tmp_path / name, 4))))
    assert results[0][0] == results[1][0] and same(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]


@pytest.mark.parametrize("optimizer", [LARS(learning_rate=1.0), Adam(weight_decay=1e-2)], ids=["lars", "adam"])
def test_a_stopped_run_continues_to_the_same_bits(tmp_path, optimizer):
    assert_stops_change_nothing(tiny(optim=optimizer), tmp_path)


def train_often(config):
    """Train, with a checkpoint after each epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", functools.partial(training.train, checkpoint_seconds=0))
        runs.ensure(config, device="cpu")


def kill_until_done(config, folder, moments):
    """Train in a process that is killed each of `moments` seconds after its first new checkpoint, then let it end."""
    kills = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(folder))
        for moment in moments:
            before, process = files.checkpoints(folder / config.id)[:1], forked(train_often, config)
            while process.is_alive() and files.checkpoints(folder / config.id)[:1] == before:
                time.sleep(0.01)
            time.sleep(moment)
            kills += process.is_alive()
            process.kill()
            process.join()
        process = forked(train_often, config)
        process.join()
    assert process.exitcode == 0
    return kills


def assert_survives(monkeypatch, tmp_path, config, moments):
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path / "whole"))
    whole = runs.ensure(config, device="cpu")
    assert kill_until_done(config, tmp_path / "killed", moments) >= len(moments) - 1
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path / "killed"))
    killed = runs.find(config)
    assert killed.history.equals(whole.history)
    for epoch in config.snapshot_epochs:
        assert killed.snapshots[epoch].read_bytes() == whole.snapshots[epoch].read_bytes()
    assert not list((tmp_path / "killed").rglob("checkpoint*"))


def test_a_killed_run_ends_in_the_same_bits(monkeypatch, tmp_path):
    assert_survives(monkeypatch, tmp_path, tiny(epochs=12, snapshots=12), [0, 0.05])


@pytest.mark.slow
def test_a_run_survives_thirty_kills_at_random_moments(monkeypatch, tmp_path):
    moments = np.random.default_rng(0).uniform(0, 3, 30)
    assert_survives(monkeypatch, tmp_path, tiny(epochs=600, snapshots=300), moments)


def stop_after(config, images, folder, epochs):
    for _ in range(epochs):
        with pytest.raises(training.TimeLimit, match="continues from there"):
            training.train(config, images, folder, time_limit=0)


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path, images):
    config = tiny()
    whole, *_ = training.train(config, images, tmp_path / "whole")
    stop_after(config, images, tmp_path / "torn", 3)
    kept = files.checkpoints(tmp_path / "torn")
    assert [path.stem for path in kept] == ["checkpoint-00003", "checkpoint-00002"]
    kept[0].write_bytes(kept[0].read_bytes()[:-100])
    with pytest.warns(UserWarning, match="checkpoint-00003.*torn or altered; falling back"):
        history, *_ = training.train(config, images, tmp_path / "torn")
    assert history == whole


def test_torn_checkpoints_do_not_crowd_out_the_good_ones(tmp_path, images):
    stop_after(tiny(), images, tmp_path, 3)
    for path in files.checkpoints(tmp_path):
        path.write_bytes(b"torn" * 20)
    with pytest.warns(UserWarning, match="torn or altered"):
        stop_after(tiny(), images, tmp_path, 2)
    assert [path.stem for path in files.checkpoints(tmp_path)] == ["checkpoint-00002", "checkpoint-00001"]


def test_one_altered_bit_is_noticed(tmp_path, images):
    stop_after(tiny(), images, tmp_path, 1)
    (checkpoint,) = files.checkpoints(tmp_path)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history, *_ = training.train(tiny(), images, tmp_path)
    assert len(caught) == 1 and len(history) == 4  # from the start


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, images, monkeypatch):
    config = tiny(optim=SGD(learning_rate=1e-3, warmup=0.0))
    stop_after(config, images, tmp_path, 1)
    kept = files.checkpoints(tmp_path)[0].read_bytes()
    healthy = SimCLR.pair_loss
    monkeypatch.setattr(SimCLR, "pair_loss", lambda self, a, b: healthy(self, a, b) * float("nan"))
    with pytest.raises(
        training.Diverged, match=r"The loss became nan at epoch 2, step 1 of 3.* learning rate than 0.001"
    ):
        training.train(config, images, tmp_path)
    assert files.checkpoints(tmp_path)[0].read_bytes() == kept


def test_weights_that_are_not_finite_after_the_last_step_are_not_kept(tmp_path, images, monkeypatch):
    """The losses are taken before the steps, so they cannot tell."""
    config = tiny(epochs=2, optim=SGD(learning_rate=1e-3, warmup=0.0))
    stop_after(config, images, tmp_path, 1)
    kept, healthy, steps = files.checkpoints(tmp_path)[0].read_bytes(), SimCLR.pair_loss, iter(range(99))

    def loss(self, a, b):
        """In the last step a loss of finite value whose gradient is not a number."""
        return healthy(self, a, b) + ((0 * a).sum().sqrt() if next(steps) == 2 else 0)

    monkeypatch.setattr(SimCLR, "pair_loss", loss)
    with pytest.raises(training.Diverged, match=r"After epoch 2 the weights .* are not finite. The last good "):
        training.train(config, images, tmp_path)
    assert files.checkpoints(tmp_path)[0].read_bytes() == kept and not files.snapshot_path(tmp_path, 2).exists()


def test_the_newest_checkpoint_has_the_greatest_epoch_whatever_its_digits(tmp_path):
    for epoch in (99_999, 100_000, 9):
        (tmp_path / f"checkpoint-{epoch:05d}.safetensors").touch()
    assert [int(path.stem.split("-")[1]) for path in files.checkpoints(tmp_path)] == [100_000, 99_999, 9]


def test_a_checkpoint_of_other_weights_is_named(tmp_path, images):
    stop_after(tiny(), images, tmp_path, 1)
    with pytest.raises(files.Damaged, match=r"checkpoint-00001.safetensors cannot be read .*Missing key"):
        training.train(tiny(method=SimCLR(widths=(8, 4))), images, tmp_path)


def test_policies_for_another_number_of_views_are_refused(tmp_path, images):
    three = PerView((policy("small"), policy("weak"), policy("large")))
    with pytest.raises(ValueError, match="lists 3 policies, but the method takes 2 views; give each a policy"):
        training.train(tiny(views=three), images, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_batch_larger_than_the_data_is_refused(tmp_path, images):
    with pytest.raises(ValueError, match="batch size is 128, but there are only 96"):
        training.train(tiny(batch_size=128), images, tmp_path)


def test_no_epochs_keep_the_initial_weights(tmp_path, images):
    history, *_ = training.train(tiny(epochs=0), images, tmp_path)
    assert history == [] and files.snapshot_path(tmp_path, 0).exists()


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, b"after")
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


GROWTH = """
import pathlib, sys
from benchmarks.growth import peak
from sslbook import data, training
from sslbook.models import ResNet
from tests.test_training import tiny
folder = pathlib.Path(sys.argv[1])
for epochs in (3, 12):
    config = tiny(
        data=data.Data("shapes", 8), batch_size=8, encoder=ResNet(32, (1, 1, 1, 1)), epochs=epochs, snapshots=epochs
    )
    training.train(config, data.load_train(config.data), folder / str(epochs), checkpoint_seconds=0)
    print(peak())
"""


def test_memory_does_not_grow_with_epochs_and_snapshots(tmp_path):
    """Of 9 epochs more, the weights alone would take 43 MB, the checkpoints twice as much."""
    command = [sys.executable, "-c", GROWTH, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
    few, many = map(float, output.split())
    assert many - few < 0.015


def test_floating_point_operations_of_resnet_18():
    """Two views, a forward pass and twice as much backwards, two operations for each of 0.5554e9 multiply-adds.

    Less the gradient of the first layer by the images, 64 · 27 · 32² multiply-adds a view, and more by the projector's.
    """
    assert training.flop(tiny(encoder=ResNet())) == pytest.approx(2 * 3 * 2 * 0.5554e9, rel=5e-3)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def stepper(config, images, device):
    """The method, and `train`'s step on all images as a function of the views' generator and the learning rate."""
    method = training.build(config, data.channel_statistics(images.images)).to(
        device, memory_format=torch.channels_last
    )
    step = training._step(config, method, config.optim.build(method), images.to(device), device)
    everything = torch.arange(len(images), device=device)
    return method, lambda generator, learning_rate: step(everything, generator, learning_rate, 1.0)[0]


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def seeded(device):
    return torch.Generator(device).manual_seed(1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_successive_steps_draw_different_views_and_a_seed_the_same(images, device):
    """At a learning rate of 0 nothing but the views can change the loss."""
    _, step = stepper(tiny(method=SimCLR(widths=(64,), beta=20.0)), images, device)
    generators = [seeded(device) for _ in range(2)]
    first, again = np.array([[float(step(generator, 0.0)) for _ in range(3)] for generator in generators])
    noise = np.abs(again - first).max()
    assert noise <= (0 if device == "cpu" else 1e-3) and np.diff(np.sort(first)).min() > 10 * noise


@pytest.mark.parametrize(
    ("device", "half", "tolerance"),
    [("cpu", False, 0.01), ("cpu", True, 0.2), pytest.param("cuda", True, 0.2, marks=needs_gpu)],
)
def test_a_step_is_that_of_float64(images, monkeypatch, device, half, tolerance):
    """Loss, and w − w' = gradient, for the same draws, in float32 and in bfloat16."""
    monkeypatch.setenv("SSLBOOK_PRECISION", hardware.PRECISIONS[half])
    config = tiny(optim=SGD(learning_rate=1.0, momentum=0.0, weight_decay=0.0))
    method, step = stepper(config, images, device)
    before = flat(method.parameters())
    loss = step(seeded(device), 1.0)
    moved = (before - flat(method.parameters())).double().cpu()

    exact = training.build(config, data.channel_statistics(images.images)).double()
    draws = config.views.draw(192, (32, 32), seeded(device), device)
    views = config.views.apply(images.images.repeat(2, 1, 1, 1), draws._make(draw.cpu() for draw in draws))
    value, _ = exact.loss(Batch(views.double().unflatten(0, (2, -1)), images.fine, (), torch.tensor(1.0)))
    gradient = flat(torch.autograd.grad(value, list(exact.parameters())))
    assert loss.item() == pytest.approx(value.item(), rel=tolerance / 100)
    assert (moved - gradient).norm() < tolerance * gradient.norm()


@needs_gpu
def test_on_a_gpu_a_step_waits_for_nothing(images):
    _, step = stepper(tiny(), images, "cuda")
    generator = seeded("cuda")
    step(generator, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for learning_rate in (1.0, 0.5):
            step(generator, learning_rate)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_on_a_gpu_a_run_is_close_to_itself(tmp_path, images):
    a, b = (training.train(tiny(), images, tmp_path / name, device="cuda")[0] for name in "ab")
    for x, y in zip(a, b, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-2)
