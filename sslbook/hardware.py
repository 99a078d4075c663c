"""The machine: its name, the devices to compute on, precision, memory, and what its GPUs reach at most."""

import contextlib
import ctypes
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import filelock
import torch

from sslbook.config import require
from sslbook.processes import world

PEAK = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}
"""Dense bfloat16 operations per second in NVIDIA's data sheets, by the name that the driver gives."""


def name(device: str = "cpu") -> str:
    """The GPU's name, or the processor's with the number of its cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    found = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{found}, {os.cpu_count()} cores"


def default() -> str:
    """The type of the device that computes where none is named: "cuda" if PyTorch sees a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


PRECISIONS = ("float32", "bfloat16")


def precision(device: str = "cpu") -> str:
    """What forward passes run in: the one of `PRECISIONS` that `SSLBOOK_PRECISION` names.

    Without that variable it is bfloat16 on GPUs and on processors that multiply it in hardware, else float32. Raises
    `ValueError` for another name.
    """
    asked = os.environ.get("SSLBOOK_PRECISION")
    if asked:
        require(asked in PRECISIONS, f"SSLBOOK_PRECISION is {asked!r}; allowed are {', '.join(PRECISIONS)}.")
        return asked
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


def autocast(device: str, name: str | None = None):
    """Forward passes on `device` in the precision `name`; None: the device's own."""
    half = (name or precision(device)) == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half)


def keep_memory() -> None:
    """Let glibc's allocator keep freed memory: else each step maps and unmaps its activations, a third of its time.

    Options of `mallopt`: trim threshold, top padding, most mapped blocks, most arenas. Without glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0), (-8, 1)):
            mallopt(option, value)


def check_device(name: str | None) -> None:
    """Raise `ValueError` unless `name` is None or a device that PyTorch can train on here."""
    count = torch.cuda.device_count()
    allowed = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    require(name is None or name in allowed, f"device is {name!r}; allowed here are None, {', '.join(allowed)}.")


@contextlib.contextmanager
def claim_device(name: str | None):
    """The device to compute on; a GPU is locked meanwhile, and without a number the first free one is taken.

    On it convolutions in float32 are computed in float32; PyTorch's default would round their inputs to TF32.

    Under `torchrun` each process has the GPU of its own number on its machine.
    """
    processes = world()
    if processes.size > 1 and name != "cpu" and torch.cuda.is_available():
        require(
            name in (None, "cuda"), f"device is {name!r}; for several processes allowed are None, 'cuda' and 'cpu'."
        )
        name = f"cuda:{processes.local}"
    check_device(name)
    if name == "cpu" or not torch.cuda.is_available():
        yield "cpu"
        return
    torch.backends.cudnn.allow_tf32 = False
    indices = range(torch.cuda.device_count()) if name in (None, "cuda") else [torch.device(name).index]
    # For everyone: the other user of a machine must not fail on a lock that is not theirs.
    locks = {i: filelock.FileLock(Path(tempfile.gettempdir(), f"sslbook-{_uuid(i)}.lock"), mode=0o666) for i in indices}
    waited = False
    while True:
        for i, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                yield f"cuda:{i}"
            finally:
                lock.release()
            return
        if not waited:
            print("Every GPU is in use by another run; waiting for one.", file=sys.stderr)
            waited = True
        time.sleep(5)


def _uuid(index: int) -> str:
    return str(torch.cuda.get_device_properties(index).uuid)
