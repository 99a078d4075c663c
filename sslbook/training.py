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
import ctypes
import datetime
import functools
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from sslbook.config import Config, require
from sslbook.data import channel_statistics
from sslbook.methods import Method


class Diverged(RuntimeError):
    """The loss is no longer a number; checkpoints from before are kept."""


class TimeLimit(RuntimeError):
    """The time limit is near; the run stopped at a checkpoint, and continues from it when started again."""


@dataclass(frozen=True)
class World:
    """The `size` processes that train a run together: this one has the number `rank`, and `local` on its machine.

    For one process alone each of these functions is the identity.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """The part of `whole` that is this process's, a view; sizes differ by 1 at most, the last are the smaller."""
        return whole.tensor_split(self.size, dim)[self.rank]

    def gather(self, part: Tensor, n: int) -> Tensor:
        """The whole (n, ·) whose shares are the processes' `part`s, with as many rows as `share` gives each.

        Backwards, the gradients of all processes are added and shared out. If each process computes the same loss of
        the whole, then the `average` of the gradients of the weights is the gradient of that loss.
        """
        return _Gather.apply(part, n, self) if self.size > 1 else part

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put in place of each tensor its mean over the processes, the same bits in all of them, in one exchange."""
        if self.size > 1:
            tensors = list(tensors)
            means = _add(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
            for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def agree(self, value: float = 0) -> float:
        """The first process's `value`, once all processes have come to ask for it."""
        if self.size == 1:
            return value
        return _add(torch.tensor(float(value) if self.rank == 0 else 0.0, dtype=torch.float64)).item()

    def in_turn(self, action: Callable):
        """`action()`, by one process after the other."""
        for rank in range(self.size):
            if rank == self.rank:
                result = action()
            self.agree()
        return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, n, processes):
        ctx.processes = processes
        whole = part.new_zeros(n, *part.shape[1:])
        processes.share(whole).copy_(part)
        return _add(whole)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.processes.share(_add(gradient.clone(memory_format=torch.contiguous_format))), None, None


def _add(tensor: Tensor) -> Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor


@functools.cache
def world() -> World:
    """The processes that `torchrun` started, which meet at the first call; else this process alone.

    They wait for each other as long as it takes: `torchrun` ends all when one fails.
    """
    rank, size, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if size < 2:
        return World()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=7))
    return World(rank, size, local)


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
) -> tuple[list[dict], float, float | None]:
    """Train on `images (N, C, H, W)` uint8; return the history, a row an epoch, the seconds spent, and the speed.

    The speed is in images per second, the median over the epochs trained here (None without any): all that is part
    of a step, but neither compilation nor the writing of weights.
    Weights are written below `directory` at `config.snapshot_epochs`, checkpoints at ends of epochs every
    `checkpoint_seconds`; two are kept, and the newest that is intact is continued. `time_limit` is in seconds.
    Raises `Diverged`, `TimeLimit`, `OSError` where the disk fails, and `ValueError` if the batch is larger than the
    data or too small for the processes.
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
    method = build(config, images.shape[1], channel_statistics(images))
    if processes.size > 1:
        method.gather = functools.partial(processes.gather, n=config.batch_size)
        if torch.device(device).type == "cuda":
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    method = method.to(device, memory_format=torch.channels_last)
    optimizer = config.optim.build(method)
    images = images.to(device)
    history, seconds = processes.in_turn(lambda: _resume(directory, method, optimizer))
    require(
        processes.agree(len(history)) == len(history),
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
            processes.average(value for name, value in method.named_buffers() if "running_" in name)
            if writes and epoch in config.snapshot_epochs:
                save_weights(snapshot_path(directory, epoch), method)
            now = time.monotonic()
            last = epoch == config.epochs
            late = time_limit is not None and not last and now + 1.2 * (now - began) - started > time_limit
            late = processes.agree(late)
            if writes and (last or late or now - saved >= checkpoint_seconds):
                _save_checkpoint(directory, method, optimizer, history, seconds + now - started)
                saved = time.monotonic()
            if late:
                processes.agree()  # the first one has written: the end of any other ends it too
                raise TimeLimit(
                    f"Stopped at the time limit after epoch {epoch} of {config.epochs}; "
                    "start the run again and it continues from there."
                )
    return history, seconds + time.monotonic() - started, float(np.median(speeds)) if speeds else None


@functools.lru_cache
def flop(config: Config, shape: tuple[int, int, int]) -> float:
    """Floating-point operations of a training step for one image of `shape (C, H, W)`: encoder and all views.

    Three times those of the forward pass, as the backward pass takes twice as many; the projector, the loss and the
    making of the views are left out.
    """
    method = build(config, shape[0]).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.encode(torch.zeros(1, *shape))
    return 3 * method.views * counter.get_total_flops()


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
    processes, k = world(), method.views
    apply, loss_of = config.views.apply, method.loss
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.compiler.reset()  # graphs of earlier runs count towards the number after which nothing is compiled
        apply, loss_of = torch.compile(apply), torch.compile(loss_of) if processes.size == 1 else loss_of

    def step(indices, generator, learning_rate, progress):
        draws = config.views.draw(k * len(indices), images.shape[-2:], generator, device)
        draws = draws._make(processes.share(d.unflatten(0, (k, -1)), 1).flatten(0, 1) for d in draws)
        views = apply(images[processes.share(indices)].repeat(k, 1, 1, 1), draws)
        with autocast(device):
            loss, logs = loss_of(views.unflatten(0, (k, -1)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average(p.grad for p in method.parameters() if p.grad is not None)
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
    world().average(values.values())
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


def _bar(config: Config, steps: int, done: int, writes: bool):
    images = steps * config.batch_size
    return tqdm(
        total=config.epochs * images,
        initial=done * images,
        disable=not (writes and sys.stderr.isatty()),
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
