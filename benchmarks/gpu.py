"""The first minutes on a GPU: is all of it right, and how fast is it? `python -m benchmarks.gpu` needs the core alone.

It compares a step of every method with float64 on the processor, times SimCLR at paper scale, stops and continues a
run, makes a smoke record of each paper, and then trains the most valuable missing records until the time is over. What
it finds stands in `gpu.json` and `gpu.md` beside this file. Without a GPU it does the same at a toy size, and trains
no records.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import safetensors.torch
import torch
import torch._dynamo

from sslbook import data, files, hardware, papers, runs, training
from sslbook.config import Config
from sslbook.methods import Batch

HERE = Path(__file__).parent
TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.2}
"""Greatest relative error of a gradient, by precision."""


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=600, metavar="SECONDS", help="for all of it (600)")
    parser.add_argument("--folder", type=Path, default=HERE, help="where gpu.json and gpu.md go (beside this file)")
    options = parser.parse_args(arguments)
    started, device = time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[dict] = []
    for part in (right, fast, resumed, records):
        try:
            for row in part(device):
                rows.append({"part": part.__doc__.split(":")[0], **row})
                print(line(rows[-1]), flush=True)
        except Exception as error:  # the other parts are worth as much as before
            stopped = {"what": f"{type(error).__name__}: {error}", "right": False}
            rows.append({"part": part.__doc__.split(":")[0], **stopped})
            print(line(rows[-1]), flush=True)
    facts = runs.provenance(device) | {"rows": rows, "seconds": round(time.monotonic() - started)}
    options.folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(options.folder / "gpu.json", json.dumps(facts, indent=1).encode())
    files.write_whole(options.folder / "gpu.md", table(facts).encode())
    if device == "cuda":
        train_missing(options.time_limit - (time.monotonic() - started))
    return int(not all(row.get("right", True) for row in rows))


def kinds() -> dict[str, Config]:
    """A smoke run of each method."""
    planned = (p for paper in map(papers.paper, papers.names()) for p in paper.plan("main", "smoke"))
    return {type(config.method).__name__: config for config, _ in planned}


def right(device: str) -> Iterator[dict]:
    """Right: gradients of a step of every method beside those of float64 on the processor, for the same chance."""
    for name, config in kinds().items():
        images = data.load_train(config.data).subset(range(config.batch_size))
        k, generator = training.build(config).views, torch.Generator().manual_seed(0)
        draws = config.views.draw(k * len(images), images.images.shape[-2:], generator, "cpu")
        views = config.views.apply(images.images.repeat(k, 1, 1, 1), draws).unflatten(0, (k, -1))
        noise = training.build(config).draw(len(images), generator, "cpu")
        exact = _gradient(config, views.double(), images.fine, noise, torch.float64, "cpu")
        half = hardware.precision(device) == "bfloat16"
        for dtype in (torch.float32, torch.bfloat16) if half else (torch.float32,):
            found = _gradient(config, views, images.fine, noise, dtype, device)
            error = float((found - exact).norm() / exact.norm())
            yield {
                "what": f"{name}, {str(dtype).removeprefix('torch.')}",
                "value": error,
                "unit": "relative error of the gradient",
                "right": error < TOLERANCE[dtype],
            }


def _gradient(config: Config, views, labels, noise, dtype, device) -> torch.Tensor:
    method = training.build(config).to(device, dtype if dtype == torch.float64 else torch.float32)
    noise = tuple(tensor.to(device, views.dtype) for tensor in noise)
    progress = torch.ones((), device=device, dtype=views.dtype)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, _ = method.loss(Batch(views.to(device), labels.to(device), noise, progress))
    loss.backward()
    return torch.cat([p.grad.double().flatten().cpu() for p in method.parameters() if p.grad is not None])


def fast(device: str) -> Iterator[dict]:
    """Fast: steps of SimCLR at paper scale, compiled and not, and what of them the views take."""
    profile, sizes, steps = ("paper", (512, 1024, 2048), 20) if device == "cuda" else ("smoke", (16,), 2)
    config = papers.paper("geometry").plan("main", profile)[0].config
    images = (data.load_train if device == "cpu" else _random)(config.data)
    for size in sizes:
        sized = config.replace(batch_size=size)
        for name, eager in (("compiled", False), ("eager", True)):
            if device == "cpu" and not eager:
                continue
            step, views = _timed(sized, images, device, steps, eager)
            rate = size / step
            yield {"what": f"batch {size}, {name}", "value": rate, "unit": "images/s"}
            yield {"what": f"batch {size}, {name}, views", "value": views / step, "unit": "share of a step"}
            peak = hardware.PEAK.get(hardware.name(device))
            if peak:
                share = rate * training.flop(sized) / peak
                yield {"what": f"batch {size}, {name}", "value": share, "unit": "share of the peak in bfloat16"}


def _random(of: data.Data) -> data.ImageSet:
    """Random pixels of the size of a set: time does not depend on what they show, and nothing need be fetched."""
    about = data.info(of.name)
    pixels = torch.randint(0, 256, (8192, *about.shape), dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % about.classes
    return data.ImageSet(pixels, labels, labels, data.Names((), ()))


def _timed(config: Config, images, device: str, steps: int, eager: bool) -> tuple[float, float]:
    """Median seconds of a step and of its views."""
    images = images.to(device)
    method = training.build(config, data.channel_statistics(images.images)).to(
        device, memory_format=torch.channels_last
    )
    generator = torch.Generator(device).manual_seed(0)
    indices = torch.arange(config.batch_size, device=device)
    with torch._dynamo.config.patch(disable=eager):
        step = training._step(config, method, config.optim.build(method), images, device)
        apply = torch.compile(config.views.apply) if device == "cuda" else config.views.apply
        batch = images.images[indices].repeat(method.views, 1, 1, 1)

        def make_views():
            apply(batch, config.views.draw(len(batch), batch.shape[-2:], generator, device))

        take_step = functools.partial(step, indices, generator, 0.1, 0.5)
        return _seconds(take_step, device, steps), _seconds(make_views, device, steps)


def _seconds(function, device: str, steps: int) -> float:
    found = []
    for i in range(steps + 3):
        began = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        found += [time.perf_counter() - began] if i >= 3 else []
    return statistics.median(found)


def resumed(device: str) -> Iterator[dict]:
    """Resumed: how far a run that was stopped after each epoch ends from one that was not."""
    for name, config in kinds().items():
        images, ends = data.load_train(config.data), []
        for stops in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                done = False
                while not done:
                    with contextlib.suppress(training.TimeLimit):
                        limit = 0 if stops else None
                        training.train(config, images, Path(folder), device=device, time_limit=limit)
                        done = True
                ends.append(safetensors.torch.load_file(files.snapshot_path(Path(folder), config.epochs)))
        gap = max(float((a.double() - ends[1][key].double()).abs().max()) for key, a in ends[0].items())
        yield {
            "what": name,
            "value": gap,
            "unit": "greatest difference of a weight",
            "right": device != "cpu" or gap == 0,
        }


def records(device: str) -> Iterator[dict]:
    """Records: a smoke run of each paper, trained and measured."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, SSLBOOK_RUNS=folder):
        for name in papers.names():
            paper, began = papers.paper(name), time.monotonic()
            frame = paper.frame(paper.obtain(paper.plan("main", "smoke")[:1], device=device))
            whole = bool(frame.select_dtypes("number").notna().all(axis=None))
            yield {"what": name, "value": time.monotonic() - began, "unit": "seconds", "right": whole}


def train_missing(seconds: float) -> None:
    """Train and ship missing runs of the profile `paper`, one seed of each kind first, until the time is over.

    What a run that fails says goes to standard error, and the next one starts; the exit code does not change.
    """
    started = time.monotonic()
    planned = [(paper, p) for paper in map(papers.paper, papers.names()) for p in paper.plan("main", "paper")]
    for paper, each in sorted(planned, key=lambda pair: pair[1].config.seed):
        if runs.find(each.config) is None:
            try:
                left = seconds - (time.monotonic() - started)
                for run, labels in paper.obtain([each], device="cuda", time_limit=left):
                    paper.arrays(run, "cuda")
                    print(f"{run.ship()}  {papers.describe(run.config, labels)}", flush=True)
            except training.TimeLimit as stopped:
                print(stopped, file=sys.stderr)
                return
            except (ValueError, training.Diverged) as failed:
                print(failed, file=sys.stderr)


def line(row: dict) -> str:
    value = f"{row['value']:.3g} {row['unit']}" if "value" in row else ""
    verdict = {True: "right", False: "WRONG"}.get(row.get("right"), "")
    return " | ".join(("", row["part"], row["what"], value, verdict, "")).strip()


def table(facts: dict) -> str:
    head = f"{facts['hardware']} · {facts['precision']} · torch {torch.__version__} · commit {facts['commit']}"
    lines = [head, "", "| Part | What | Found | |", "|---|---|---|---|", *map(line, facts["rows"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
