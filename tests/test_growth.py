"""Laws of what is benchmarked: memory is linear in the number of features where time is quadratic; steps are taken."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import step

ROOT = Path(__file__).parents[1]


def peaks(what, *sizes):
    """Peak memory in GB of a process that finds the neighbours of N×128 features in themselves, after each N."""
    command = [sys.executable, "-m", "benchmarks.growth", what, *map(str, sizes)]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [float(line.split()[1]) for line in lines]


def test_the_memory_of_neighbours_grows_with_the_features_not_with_their_square():
    """All similarities of 10,000 features are 0.8 GB; what is held of them is the same at 5,000 and at 10,000."""
    few, many = peaks("knn", 5_000, 10_000)
    features = 8 * 128 * (10_000 - 5_000) / 1e9
    assert many - few < 8 * features + 0.05


def test_the_memory_of_nnk_and_its_metrics_grows_with_the_features_alone():
    """All candidates of 2,000 more queries, 50×128 in float64, are 0.1 GB, their kernels 0.04 GB, with copies more."""
    few, many = peaks("nnk", 1_500, 3_500)
    kept = 2_000 * (50 * (8 + 8 + 1) + 4 * 128 * 50) / 1e9  # neighbourhoods, and at most 50 tangents each
    assert many - few < 2 * kept


@pytest.mark.slow
@pytest.mark.parametrize("what", ["knn", "nnk"])
def test_neighbours_among_50000_features_fit_in_4_gb(what):
    assert peaks(what, 50_000)[0] < 4


def test_the_steps_that_are_timed_beside_each_other_can_be_taken():
    ours, _ = step.laptop()[2]()
    assert ours.isfinite() and step.plain()().isfinite()
