"""The command line: `sslbook run · list · status · verdicts · notebook`, thin over the library."""

import argparse
import os
import sys
import time

import torch

import sslbook.notebooks.command as notebook
from sslbook import files, hardware, ledger, papers, runs, training
from sslbook.config import require, require_known, require_number
from sslbook.papers import Paper, Planned
from sslbook.processes import world

STOPPED = 75
"""Exit code of a run that its time limit ended at a checkpoint: start it again to go on."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a failure is one sentence on standard error and an exit code other than 0."""
    files.allow_all_characters()
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has read enough, as in `sslbook list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except training.TimeLimit as stop:
        print(stop, file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("Interrupted; a started run goes on from its last checkpoint when it is started again.", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        print(f"The device is out of memory ({str(error).splitlines()[0]}); choose a smaller batch.", file=sys.stderr)
        return 1
    except (ValueError, ArithmeticError, training.Diverged) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"A file could not be written or read: {error}. Finished runs are untouched.", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sslbook", description="Train, list and judge the runs behind the book.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, function, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        command.set_defaults(command=function)
        return command

    def which(command: argparse.ArgumentParser) -> None:
        command.add_argument("--paper", choices=papers.names(), help="whose runs; None: those of all papers")
        command.add_argument("--figure", default="main", help="a figure of the paper, or main: its main runs")
        command.add_argument("--profile", default="laptop", choices=papers.PROFILES, help="the scale")
        command.add_argument("--dataset", help="instead of the profile's own")
        command.add_argument("--seeds", type=int, nargs="+", help="instead of the profile's own")

    run = add("run", _run, "train the runs behind a figure that are missing, and measure them")
    which(run)
    run.add_argument("--id", help="only the run of this identity (see `sslbook list`)")
    run.add_argument("--device", help="cpu, cuda, cuda:1, …; None: a free GPU where there is one")
    run.add_argument(
        "--precision", choices=hardware.PRECISIONS, help="of forward passes; None: bfloat16 where it is fast"
    )
    run.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="stop at a checkpoint before this time is over"
    )
    run.add_argument("--ship", action="store_true", help="copy each finished run, without weights, to book/records")
    listing = add("list", _list, "list the runs behind a figure: identity, state, labels, seed, and what they cost")
    which(listing)
    listing.add_argument("--missing", action="store_true", help="only those that are neither here nor shipped")
    add("status", _status, "say how far each local run is")
    verdicts = add("verdicts", _verdicts, "print the verdict on each claim, with what was measured")
    verdicts.add_argument("claims", nargs="*", metavar="claim", help="claims to judge; none: all")
    verdicts.add_argument("--profile", default="laptop", choices=papers.PROFILES, help="the scale")
    notebook.declare(add("notebook", notebook.run, "execute a notebook for the book"))
    return parser


def _planned(options) -> list[tuple[Paper, list[Planned]]]:
    chosen = [papers.paper(name) for name in ([options.paper] if options.paper else papers.names())]
    require_known("figure", options.figure, dict.fromkeys(name for paper in chosen for name in paper.plans))
    asked = options.figure, options.profile, options.dataset, options.seeds
    return [(paper, paper.plan(*asked)) for paper in chosen if options.figure in paper.plans]


def _run(options) -> int:
    if options.precision:
        os.environ["SSLBOOK_PRECISION"] = options.precision
    asked = os.environ.get("SSLBOOK_PRECISION") and hardware.precision()
    if options.time_limit is not None:
        require_number("--time-limit", options.time_limit, least=0)
    figure, started = _planned(options), time.monotonic()
    chosen = [(paper, [p for p in planned if options.id in (None, p.config.id)]) for paper, planned in figure]
    require(
        any(planned for _, planned in chosen),
        f"No run of these options has the identity {options.id}; `sslbook list` shows them."
        if options.id
        else "These options plan no runs; `sslbook list` shows those that there are.",
    )
    for (paper, planned), (_, wanted) in zip(figure, chosen, strict=True):
        if len(paper.find(wanted)) < len(wanted):  # then of the figure as a whole: a batch asks for its runs one by one
            paper.require_trainable(planned, options.device)
    for paper, planned in chosen:
        left = options.time_limit and options.time_limit - (time.monotonic() - started)
        for run, labels in paper.obtain(planned, device=options.device, time_limit=left):
            if world().rank > 0:
                continue
            made_in = run.provenance["precision"]
            require(
                not asked or asked == made_in,
                f"Run {run.config.id} is there in {made_in}; move '{run.path}' away to train it in {asked}.",
            )
            paper.arrays(run, options.device)
            where = run.ship() if options.ship else run.path
            print(f"{run.config.id}  {papers.describe(run.config, labels)}  {where}")
    return 0


def _list(options) -> int:
    left = 0.0
    for config, labels in (each for _, planned in _planned(options) for each in planned):
        try:
            run = runs.find(config)
            took = run and run.provenance["seconds"]
        except files.Damaged as error:
            print(f"{config.id}  damaged  {papers.describe(config, labels)}  {error}")
            continue
        if run is not None and options.missing:
            continue
        state = "missing" if run is None else "shipped" if run.path.is_relative_to(runs.RECORDS) else "here"
        hours = papers.gpu_hours(config) if run is None else 0.0
        left += hours
        cost = f"  ~{_either(hours)}" if run is None else f"  took {took:.0f} s"
        print(f"{config.id}  {state:8}{papers.describe(config, labels)}{cost}")
    if left:
        print(f"left: about {_either(left)} ({papers.FAST / 1e12:.0f} and {papers.CORE / 1e12:.2g} TFLOP/s; estimates)")
    elif options.missing:
        print("No run of these options is missing.", file=sys.stderr)
    return 0


def _either(hours: float) -> str:
    """Hours of a fast GPU, and what they are on a processor, in words."""
    short = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.2f} min"
    core = hours * papers.FAST / papers.CORE
    return f"{short} on a fast GPU or {core:,.{int(core < 10)}f} hours of a processor core"


def _status(options) -> int:
    for name in papers.names():
        papers.paper(name)  # which registers the parts that configurations of its runs name
    for path in runs.local():
        try:
            config, state = runs.state(path)
            print(f"{path.name}  {papers.describe(config)}  {state}")
        except ValueError as error:
            print(f"{path.name}  not readable: {error}")
    return 0


def _verdicts(options) -> int:
    damaged: list[ValueError] = []
    for found in papers.verdicts(options.profile, *options.claims, damaged=damaged.append).values():
        for verdict in found:
            verdict_and_scale = f"{verdict.status} {verdict.scale}".strip()
            print(f"{verdict.claim.id} ({verdict.claim.where}): {verdict_and_scale}", flush=True)
            for row in ledger.rows([verdict]):
                value = f": {row.value(4)}" if row.mean is not None else ""
                over = f" over {row.seeds} {row.unit}, must exceed {row.limit(6)}: {row.state}" if row.seeds else ""
                print(f"    {row.test}{value}{over}")
            if verdict.claim.age:
                print(f"    {verdict.claim.age}")
    for error in damaged:
        print(f"The claims that need this file are not decided: {error}", file=sys.stderr)
    return 1 if damaged else 0
