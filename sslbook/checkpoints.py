"""What a run writes: weights, and checkpoints from which it goes on."""

import hashlib
import json
import warnings
from pathlib import Path

import safetensors.torch
from torch import Tensor
from torch.nn import Module

from sslbook.files import checkpoints, reading, write_whole


def save_weights(path: Path, method: Module) -> None:
    """Write all state of `method` as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in method.state_dict().items()}))


def save_checkpoint(directory: Path, method: Module, optimizer, history: list[dict], seconds: float) -> None:
    """Everything needed to go on, in one safetensors file with its SHA-256 behind; the two newest are kept."""
    tensors = {f"method.{name}": value.cpu().contiguous() for name, value in method.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.cpu().contiguous() for name, value in state.items()}
    content = safetensors.torch.save(tensors, {"history": json.dumps(history), "seconds": repr(seconds)})
    path = directory / f"checkpoint-{len(history):05d}.safetensors"
    write_whole(path, content + hashlib.sha256(content).digest())
    for old in checkpoints(directory)[2:]:
        old.unlink()


def resume(directory: Path, method: Module, optimizer) -> tuple[list[dict], float]:
    """Load the newest intact checkpoint; the history so far and the seconds spent on it."""
    for path in checkpoints(directory):
        content = path.read_bytes()
        content, digest = content[:-32], content[-32:]
        if hashlib.sha256(content).digest() != digest:
            warnings.warn(f"{path} is torn or altered; falling back to the checkpoint before it.", stacklevel=2)
            path.unlink()  # it must not count as one of the two that are kept
            continue
        with reading(path, directory):
            tensors, metadata = load(content)
            weights = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
            method.load_state_dict(weights)
            state: dict[int, dict] = {}
            for key, value in tensors.items():
                if key.startswith("optimizer."):
                    _, index, name = key.split(".", 2)
                    state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            return json.loads(metadata["history"]), float(metadata["seconds"])
    return [], 0.0


def load(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. It takes bytes and not a path: if another process
    cut a file that is mapped into memory, this one would crash."""
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})
