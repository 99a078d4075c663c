"""One module per paper: its configurations, its measurements, and the tidy frames behind its figures."""

from sslbook.config import require

PROFILES = ("smoke", "laptop", "paper")


def check(profile: str, dataset: str | None = None, seeds=None, device: str | None = None) -> None:
    """Raise `ValueError` with the allowed values if a notebook parameter is not one of them."""
    from sslbook.data import SETS

    require(profile in PROFILES, f"profile is {profile!r}; allowed are {', '.join(map(repr, PROFILES))}.")
    require(
        dataset is None or dataset in SETS, f"dataset is {dataset!r}; allowed are None, {', '.join(map(repr, SETS))}."
    )
    require(
        seeds is None or (len(seeds) > 0 and all(isinstance(seed, int) and seed >= 0 for seed in seeds)),
        f"seeds is {seeds!r}; allowed are None or a list of integers of at least 0.",
    )
    require(
        device is None or device == "cpu" or device.split(":")[0] == "cuda",
        f"device is {device!r}; allowed are None, 'cpu', 'cuda', 'cuda:0', 'cuda:1', ….",
    )
