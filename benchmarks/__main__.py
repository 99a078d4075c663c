"""`python -m benchmarks`: one table of ratios, ours beside what one would otherwise use."""

import datetime

import torch

from benchmarks import losses, step, views
from sslbook import runs


def main():
    print(
        f"{datetime.date.today().isoformat()} · {runs.hardware()} · {torch.get_num_threads()} threads · "
        f"torch {torch.__version__} · medians of repeats, taking turns in one process\n"
    )
    print("| what | ours, ms | beside | theirs, ms | ratio |\n|---|---|---|---|---|")
    for module in (views, losses, step):
        for r in module.rows():
            print(f"| {r['what']} | {r['ours_ms']:.1f} | {r['theirs']} | {r['theirs_ms']:.1f} | {r['ratio']:.1f}× |")


if __name__ == "__main__":
    main()
