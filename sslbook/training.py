"""The one training loop: it knows `Config` and `Method`, and nothing of any paper.

Everything random in an epoch comes from the run's seed and the number of the epoch, and everything else is in the
checkpoint, so a run that was stopped at any moment continues to the same bits on a CPU with the same number of
threads. On a GPU atomic additions make it close, not equal.

Several processes can train one run (`torchrun --nproc-per-node=2 -m sslbook run …`). Each draws the order and the
views of whole batches, computes its share of the images, and sees the projections of all of them, so the run is the
same up to rounding and batch norm. Batch norm spans the processes on GPUs, by PyTorch's own `SyncBatchNorm`, which
`torch.compile` cannot trace: there only the views are compiled. On processors it sees the share of its process.
"""

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sslbook.checkpoints import resume, save_checkpoint, save_weights
from sslbook.config import Config, Part, require
from sslbook.data import ImageSet, channel_statistics, info
from sslbook.files import checkpoints, snapshot_path
from sslbook.hardware import autocast, keep_memory
from sslbook.methods import Batch, Method
from sslbook.processes import world


class Diverged(RuntimeError):
    """The loss or the weights are no longer numbers; checkpoints from before are kept."""


class TimeLimit(RuntimeError):
    """The time limit is near; the run stopped at a checkpoint, and continues from it when started again."""


def build(config: Config, statistics: tuple[Tensor, Tensor] | None = None) -> Method:
    """The method with the initial weights that `config.seed` decides; `statistics`: mean and std (C,) of images."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return _built(config.data.name, config.encoder, config.method, statistics)


def _built(name: str, encoder: Part, method: Part, statistics: tuple[Tensor, Tensor] | None = None) -> Method:
    about = info(name)
    mean, std = statistics or (torch.zeros(about.shape[0]), torch.ones(about.shape[0]))
    return method.build(encoder.build(about, mean, std), about)


def train(
    config: Config,
    images: ImageSet,
    directory: Path,
    *,
    device: str = "cpu",
    time_limit: float | None = None,
    checkpoint_seconds: float = 60,
) -> tuple[list[dict], float, float | None]:
    """Train on `images`; return the history, a row for each epoch, the seconds spent, and the speed.

    The speed is in images per second, the median over the epochs trained here (None without any): all that is part
    of a step, but neither compilation nor the writing of weights.
    Weights are written below `directory` at `config.snapshot_epochs`, checkpoints at ends of epochs every
    `checkpoint_seconds`; two are kept, and the newest that is intact is continued. `time_limit` is in seconds; at
    least one epoch is trained, whatever it is. Raises `Diverged`, `TimeLimit`, `OSError` where the disk fails, and
    `ValueError` if the batch is larger than the data or too small for the processes, or policies are given for another
    number of views.
    """
    steps = len(images) // config.batch_size
    require(
        steps > 0 or config.epochs == 0,
        f"The batch size is {config.batch_size}, but there are only {len(images)} images to train on.",
    )
    processes = world()
    require(
        config.batch_size >= processes.size,
        f"The batch size is {config.batch_size}, too small to be shared by {processes.size} processes.",
    )
    started = time.monotonic()
    keep_memory()
    method = build(config, channel_statistics(images.images))
    policies = getattr(config.views, "views", ())
    require(
        len(policies) in (0, method.views),
        f"config.views lists {len(policies)} policies, but the method takes {method.views} views; give each a policy.",
    )
    if processes.size > 1:
        method.gather = functools.partial(processes.gather, n=config.batch_size)
        if torch.device(device).type == "cuda":
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    method = method.to(device, memory_format=torch.channels_last)
    optimizer = config.optim.build(method)
    images = images.to(device)
    history, seconds = processes.in_turn(lambda: resume(directory, method, optimizer))
    require(
        processes.broadcast(len(history)) == len(history),
        f"Process {processes.rank} sees other checkpoints than the first; {directory} must be one folder for all.",
    )
    writes = processes.rank == 0
    if writes and not history:
        save_weights(snapshot_path(directory, 0), method)
    step, speeds = _step(config, method, optimizer, images, device), []
    saved = time.monotonic()
    with _bar(config, steps, len(history), writes) as bar:
        for epoch in range(len(history) + 1, config.epochs + 1):
            began = time.monotonic()
            history.append({"epoch": epoch} | _epoch(config, images, steps, epoch, step, bar, directory))
            speeds.append(steps * config.batch_size / (time.monotonic() - began))
            lost = [name for name, weights in method.named_parameters() if not weights.isfinite().all()]
            if lost:
                raise Diverged(f"After epoch {epoch} the weights {lost[0]} are not finite.{_advice(config, directory)}")
            processes.average(value for name, value in method.named_buffers() if "running_" in name)
            if writes and epoch in config.snapshot_epochs:
                save_weights(snapshot_path(directory, epoch), method)
            now = time.monotonic()
            last = epoch == config.epochs
            late = time_limit is not None and not last and now + 1.2 * (now - began) - started > time_limit
            late = processes.broadcast(late)
            if writes and (last or late or now - saved >= checkpoint_seconds):
                save_checkpoint(directory, method, optimizer, history, seconds + now - started)
                saved = time.monotonic()
            if late:
                processes.barrier()  # the first one has written: the end of any other ends it too
                raise TimeLimit(
                    f"Stopped at the time limit after epoch {epoch} of {config.epochs}; "
                    "start the run again and it continues from there."
                )
    return history, seconds + time.monotonic() - started, float(np.median(speeds)) if speeds else None


def flop(config: Config) -> float:
    """Floating-point operations of a training step for one image: all that is computed forwards and backwards.

    Counted on a batch of four images, in which the loss between images is as good as nothing. The making of the views
    and the optimiser are left out.
    """
    return _flop(config.data.name, config.encoder, config.method)


@functools.lru_cache
def _flop(name: str, encoder: Part, method: Part) -> float:
    from torch.utils.flop_counter import FlopCounterMode  # here, because it imports Triton

    with torch.random.fork_rng(devices=[]):
        network, n, shape = _built(name, encoder, method), 4, info(name).shape
    generator = torch.Generator().manual_seed(0)
    views, labels = torch.rand(network.views, n, *shape, generator=generator), torch.zeros(n, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        loss, _ = network.loss(Batch(views, labels, network.draw(n, generator, "cpu"), torch.tensor(1.0)))
        loss.backward()
    return counter.get_total_flops() / n


def _step(config: Config, method: Method, optimizer, images: ImageSet, device: str) -> Callable:
    """One update: `(indices, generator, learning rate, progress) -> (loss, logs)`, all tensors left on the device."""
    processes, k = world(), method.views
    apply, loss_of = config.views.apply, method.loss
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.compiler.reset()  # graphs of earlier runs count towards the number after which nothing is compiled
        apply, loss_of = torch.compile(apply), torch.compile(loss_of) if processes.size == 1 else loss_of

    def step(indices, generator, learning_rate, progress):
        draws = config.views.draw(k * len(indices), images.images.shape[-2:], generator, device)
        draws = draws._make(processes.share(d.unflatten(0, (k, -1)), 1).flatten(0, 1) for d in draws)
        noise = tuple(processes.share(tensor) for tensor in method.draw(len(indices), generator, device))
        own = processes.share(indices)
        views = apply(images.images[own].repeat(k, 1, 1, 1), draws).unflatten(0, (k, -1))
        with autocast(device):
            loss, logs = loss_of(Batch(views, images.fine[own], noise, torch.full((), progress, device=device)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average(p.grad for p in method.parameters() if p.grad is not None)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        method.after_step(progress)
        return loss.detach(), {name: value.detach() for name, value in logs.items()}

    return step


def _epoch(config: Config, images: ImageSet, steps: int, epoch: int, step: Callable, bar, directory: Path) -> dict:
    """Train one epoch (from 1), without its incomplete last batch, and return the means of loss and logs."""
    device = images.images.device
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
    order = torch.randperm(len(images), generator=generator, device=device)
    rows = []
    for i, indices in enumerate(order.split(config.batch_size)[:steps]):
        done = (epoch - 1) * steps + i
        learning_rate = config.optim.learning_rate_at(done, config.epochs * steps)
        loss, logs = step(indices, generator, learning_rate, (done + 1) / (config.epochs * steps))
        rows.append({"loss": loss} | logs)
        bar.update(config.batch_size)
    values = {name: torch.stack([row[name] for row in rows]).double() for name in rows[0]}
    world().average(values.values())
    finite = torch.stack([value.isfinite() for value in values.values()]).all(0)
    if not finite.all():
        i = int((~finite).int().argmax())
        found = {name: value[i].item() for name, value in values.items()}
        wrong = " and ".join(f"{name} became {value}" for name, value in found.items() if not np.isfinite(value))
        raise Diverged(f"The {wrong} at epoch {epoch}, step {i + 1} of {steps}.{_advice(config, directory)}")
    means = {name: value.mean().item() for name, value in values.items()}
    bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
    return means | {"learning_rate": learning_rate}


def _advice(config: Config, directory: Path) -> str:
    kept = f"The last good checkpoint is kept in {directory}" if checkpoints(directory) else "No checkpoint yet"
    return f" {kept}; a smaller learning rate than {config.optim.learning_rate:g} may help."


@contextlib.contextmanager
def _bar(config: Config, steps: int, done: int, writes: bool):
    """How far the run is, shown on the terminal if there is one."""
    images, terminal = steps * config.batch_size, _terminal() if writes else None
    about = {"total": config.epochs * images, "initial": done * images, "desc": f"run {config.id}"}
    look = {"unit": "images", "unit_scale": True, "mininterval": 1, "disable": terminal is None}
    with terminal or contextlib.nullcontext(), tqdm(file=terminal, **about, **look) as bar:
        yield bar


def _terminal():
    """The terminal behind standard error, or None.

    What the kernel of a notebook writes to standard error goes into the notebook. The number of that file is the one
    that the kernel was started with: the terminal in which papermill or JupyterLab runs.
    """
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, it is no file, or it is closed
        return None
    return open(os.dup(number), "w", errors="backslashreplace") if os.isatty(number) else None
