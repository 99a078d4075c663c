"""The one training loop: it knows `Config` and `Method`, and nothing of any paper.

Everything random in an epoch comes from the run's seed and the number of the epoch, and everything else is in the
checkpoint, so a run that was stopped at any moment continues to the same bits on a CPU with the same number of
threads. On a GPU atomic additions make it close, not equal.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from tqdm import tqdm

from sslbook.config import Config, require
from sslbook.data import channel_statistics
from sslbook.methods import Method


class Diverged(RuntimeError):
    """The loss is no longer a number; checkpoints from before are kept."""


class TimeLimit(RuntimeError):
    """The time limit is near; the run stopped at a checkpoint, and continues from it when started again."""


def build(config: Config, channels: int, statistics: tuple[Tensor, Tensor] | None = None) -> Method:
    """The method with the initial weights that `config.seed` decides; `statistics` are the images' mean and std."""
    mean, std = statistics or (torch.zeros(channels), torch.ones(channels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.method.build(config.encoder.build(channels, mean, std))


def train(
    config: Config,
    images: Tensor,
    directory: Path,
    *,
    device: str = "cpu",
    time_limit: float | None = None,
    checkpoint_seconds: float = 60,
    progress: bool | None = None,
) -> tuple[list[dict], float]:
    """Train on `images (N, C, H, W)` uint8; return the history, a row an epoch, and the seconds spent.

    Weights are written below `directory` at `config.snapshot_epochs`, checkpoints at ends of epochs every
    `checkpoint_seconds`; two are kept, and the newest that is intact is continued. `time_limit` is in seconds.
    Raises `Diverged`, `TimeLimit`, or `OSError` where the disk fails.
    """
    steps = len(images) // config.batch_size
    require(
        steps > 0 or config.epochs == 0,
        f"The batch size is {config.batch_size}, but there are only {len(images)} images to train on.",
    )
    started = time.monotonic()
    keep_memory()
    method = build(config, images.shape[1], channel_statistics(images)).to(device, memory_format=torch.channels_last)
    optimizer = config.optim.build(method)
    images = images.to(device)
    history, seconds = _resume(directory, method, optimizer)
    if not history:
        save_weights(snapshot_path(directory, 0), method)
    step = _step(config, method, optimizer, images, device)
    saved = time.monotonic()
    with _bar(config, steps, len(history), progress) as bar:
        for epoch in range(len(history) + 1, config.epochs + 1):
            began = time.monotonic()
            history.append({"epoch": epoch} | _epoch(config, images, steps, epoch, step, bar, directory))
            if epoch in config.snapshot_epochs:
                save_weights(snapshot_path(directory, epoch), method)
            now = time.monotonic()
            last = epoch == config.epochs
            late = time_limit is not None and not last and now + 1.2 * (now - began) - started > time_limit
            if last or late or now - saved >= checkpoint_seconds:
                _save_checkpoint(directory, method, optimizer, history, seconds + now - started)
                saved = time.monotonic()
            if late:
                raise TimeLimit(
                    f"Stopped at the time limit of {time_limit:g} s after epoch {epoch} of {config.epochs}; "
                    f"start the run again and it continues from there."
                )
    return history, seconds + time.monotonic() - started


def uses_bfloat16(device: str) -> bool:
    """Whether forward passes run in bfloat16: on GPUs, and on processors that multiply it in hardware."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: str):
    """The precision of forward passes on `device`: bfloat16 where it is fast, else float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=uses_bfloat16(device))


def keep_memory() -> None:
    """Let glibc's allocator keep freed memory: else each step maps and unmaps its activations, a third of its time.

    Options of `mallopt`: trim threshold, top padding, most mapped blocks, most arenas. Without glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0), (-8, 1)):
            mallopt(option, value)


def _step(config: Config, method: Method, optimizer, images: Tensor, device: str) -> Callable:
    """One update: `(indices, generator, learning rate, progress) -> (loss, logs)`, all tensors left on the device."""
    on_gpu = torch.device(device).type == "cuda"
    compiled = torch.compile if on_gpu else lambda function: function
    apply, loss_of = compiled(config.views.apply), compiled(method.loss)
    k = method.views

    def step(indices, generator, learning_rate, progress):
        batch = images[indices].repeat(k, 1, 1, 1)
        views = apply(batch, config.views.draw(len(batch), batch.shape[-2:], generator, device))
        with autocast(device):
            loss, logs = loss_of(views.unflatten(0, (k, -1)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        method.after_step(progress)
        return loss.detach(), {name: value.detach() for name, value in logs.items()}

    return step


def _epoch(config: Config, images: Tensor, steps: int, epoch: int, step: Callable, bar, directory: Path) -> dict:
    """Train one epoch (from 1), without its incomplete last batch, and return the means of loss and logs."""
    generator = torch.Generator(images.device)
    generator.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
    order = torch.randperm(len(images), generator=generator, device=images.device)
    rows = []
    for i, indices in enumerate(order.split(config.batch_size)[:steps]):
        done = (epoch - 1) * steps + i
        learning_rate = config.optim.learning_rate_at(done, config.epochs * steps)
        loss, logs = step(indices, generator, learning_rate, (done + 1) / (config.epochs * steps))
        rows.append({"loss": loss} | logs)
        bar.update(config.batch_size)
    values = {name: torch.stack([row[name] for row in rows]).double() for name in rows[0]}
    for i, loss in enumerate(values["loss"].tolist()):
        if not np.isfinite(loss):
            kept = f"The last good checkpoint is kept in {directory}" if checkpoints(directory) else "No checkpoint yet"
            raise Diverged(
                f"The loss became {loss} at epoch {epoch}, step {i + 1} of {steps}. {kept}; a smaller learning rate "
                f"than {config.optim.learning_rate:g} may help."
            )
    means = {name: value.mean().item() for name, value in values.items()}
    bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
    return means | {"learning_rate": learning_rate}


def _bar(config: Config, steps: int, done: int, progress: bool | None):
    images = steps * config.batch_size
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(
        total=config.epochs * images,
        initial=done * images,
        disable=not shown,
        unit="images",
        unit_scale=True,
        desc=f"run {config.id}",
        mininterval=1,
    )


def snapshot_path(directory: Path, epoch: int) -> Path:
    """Where the weights after `epoch` lie."""
    return directory / "snapshots" / f"{epoch:05d}.safetensors"


def save_weights(path: Path, method: Method) -> None:
    """Write all state of `method` as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in method.state_dict().items()}))


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _save_checkpoint(directory: Path, method: Method, optimizer, history: list[dict], seconds: float) -> None:
    """Everything needed to go on, in one safetensors file with its SHA-256 behind; the two newest are kept."""
    tensors = {f"method.{name}": value.cpu().contiguous() for name, value in method.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.cpu().contiguous() for name, value in state.items()}
    content = safetensors.torch.save(tensors, {"history": json.dumps(history), "seconds": repr(seconds)})
    path = directory / f"checkpoint-{len(history):05d}.safetensors"
    write_whole(path, content + hashlib.sha256(content).digest())
    for old in checkpoints(directory)[2:]:
        old.unlink()


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted(directory.glob("checkpoint-*.safetensors"), reverse=True)


def _resume(directory: Path, method: Method, optimizer) -> tuple[list[dict], float]:
    """Load the newest intact checkpoint; the history so far and the seconds spent on it."""
    for path in checkpoints(directory):
        content = path.read_bytes()
        content, digest = content[:-32], content[-32:]
        if hashlib.sha256(content).digest() != digest:
            warnings.warn(f"{path} is torn or altered; falling back to the checkpoint before it.", stacklevel=2)
            path.unlink()  # it must not count as one of the two that are kept
            continue
        tensors = safetensors.torch.load(content)
        method.load_state_dict({k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")})
        state: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        metadata = _metadata(content)
        return json.loads(metadata["history"]), float(metadata["seconds"])
    return [], 0.0


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]
