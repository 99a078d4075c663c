"""What missing runs would cost, and the refusal to start them on a processor unasked."""

import torch

from sslbook import data, runs, training
from sslbook.config import Config, require

FAST = 790e12 / 3
"""Operations per second: a third of what an H200 reaches in products of bfloat16 matrices."""


CORE = 50e9
"""Operations per second of one processor core that multiplies bfloat16 in hardware: what the runs at `laptop` that are
shipped reached. Others are slower."""


def gpu_hours(config: Config) -> float:
    """Hours that a run is expected to take on an H200, from its arithmetic at the rate `FAST`: an estimate."""
    images = config.data.images or data.info(config.data.name).sizes["train"]
    return config.epochs * images * training.flop(config) / FAST / 3600


def require_affordable(configs: list[Config], device: str | None) -> None:
    """Raise `ValueError` if the missing ones of `configs` would take more than six minutes of a fast GPU, there is none
    here, and no `device` was named: then a processor must be asked for by name."""
    missing = sum(gpu_hours(config) for config in configs if runs.find(config) is None)
    require(
        missing < 0.1 or device is not None or torch.cuda.is_available(),
        f"The missing runs take about {missing:.1f} hours on a fast GPU, {FAST / CORE:.0f} times that on a processor "
        f"core; PyTorch sees no GPU here. The device 'cpu', given by name, starts them all the same.",
    )
