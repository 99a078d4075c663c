"""The command line: `sslbook run · list · status · verdicts · notebook`, thin over the library."""

import argparse
import json
import sys

import filelock
import torch

from sslbook import claims, papers, runs, training
from sslbook.config import Config, require

STOPPED = 75
"""Exit code of a run that its time limit ended at a checkpoint: start it again to go on."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a failure is one sentence on standard error and an exit code other than 0."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except training.TimeLimit as stop:
        print(stop, file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("Interrupted; a started run goes on from its last checkpoint when it is started again.", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        print(f"The device is out of memory ({str(error).splitlines()[0]}); choose a smaller batch.", file=sys.stderr)
        return 1
    except (ValueError, training.Diverged) as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, filelock.Timeout) as error:
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
        command.add_argument("--paper", default="geometry", choices=papers.PAPERS, help="whose runs")
        command.add_argument("--figure", default="main", help="a figure of the paper, or main: its main runs")
        command.add_argument("--profile", default="laptop", choices=papers.PROFILES, help="the scale")
        command.add_argument("--dataset", help="instead of the profile's own")
        command.add_argument("--seeds", type=int, nargs="+", help="instead of the profile's own")

    run = add("run", _run, "train the runs behind a figure that are missing, and measure them")
    which(run)
    run.add_argument("--id", help="only the run of this identity (see `sslbook list`)")
    run.add_argument("--device", help="cpu, cuda, cuda:1, …; None: a free GPU where there is one")
    run.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop at a checkpoint before this much time")
    run.add_argument("--ship", action="store_true", help="copy each finished run, without weights, to book/records")
    listing = add("list", _list, "list the runs behind a figure: identity, policy, seed, state, and cost if missing")
    which(listing)
    listing.add_argument("--missing", action="store_true", help="only those that are neither here nor shipped")
    add("status", _status, "say how far each local run is")
    verdicts = add("verdicts", _verdicts, "print the verdict on each claim, with what was measured")
    verdicts.add_argument("claims", nargs="*", metavar="claim", help="claims to judge; none: all")
    verdicts.add_argument("--profile", default="laptop", choices=papers.PROFILES, help="the scale")
    notebook = add("notebook", _notebook, "execute a notebook for the book")
    notebook.add_argument("path", help="the notebook")
    notebook.add_argument("--profile", default="laptop", choices=papers.PROFILES, help="the scale")
    notebook.add_argument("--output", help="where the executed copy goes; None: below _build/executed")
    notebook.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="parameters",
        help="a parameter of the notebook; a list as '[0, 1]'",
    )
    return parser


def _configs(options) -> list[Config]:
    return papers.module(options.paper).configs(options.figure, options.profile, options.dataset, options.seeds)


def _run(options) -> int:
    figure = _configs(options)
    papers.require_affordable(figure, options.device)  # whole: a batch asks for its runs one by one
    configs = [config for config in figure if options.id in (None, config.id)]
    require(bool(configs), f"No run of these options has the identity {options.id}; `sslbook list` shows them.")
    for run in papers.obtain(configs, device=options.device, time_limit=options.time_limit):
        if training.world().rank > 0:
            continue
        papers.module(options.paper).measure(run, options.device)
        where = run.ship() if options.ship else run.path
        print(f"{run.config.id}  {papers.describe(run.config)}  {where}")
    return 0


def _list(options) -> int:
    left = 0.0
    for config in _configs(options):
        run = runs.find(config)
        if run is not None and options.missing:
            continue
        state = "missing" if run is None else "shipped" if run.path.is_relative_to(runs.RECORDS) else "here"
        hours = papers.gpu_hours(config) if run is None else 0.0
        left += hours
        cost = f"  ~{60 * hours:.2g} min on a fast GPU" if run is None else f"  took {run.provenance['seconds']:.0f} s"
        print(f"{config.id}  {state:8}{papers.describe(config)}{cost}")
    if left:
        print(f"left: about {left:.2g} hours on a fast GPU (at {papers.FAST / 1e12:.0f} TFLOP/s; an estimate)")
    return 0


def _status(options) -> int:
    for path in sorted(runs.folder().glob("*/config.json")):
        finished = (path.parent / "history.csv").exists()
        state = "finished" if finished else "no checkpoint yet"
        checkpoints = training.checkpoints(path.parent)
        if checkpoints and not finished:
            state = f"stopped or running, checkpoint of epoch {int(checkpoints[0].stem.split('-')[1])}"
        try:
            what = papers.describe(Config.from_dict(json.loads(path.read_text())))
        except ValueError as error:
            what = f"not readable: {error}"
        print(f"{path.parent.name}  {what}  {state}")
    return 0


def _verdicts(options) -> int:
    for verdict in claims.verdicts(options.profile, *options.claims):
        print(f"{verdict.claim.id} ({verdict.claim.where}): {verdict.status}", flush=True)
        for o in verdict.outcomes:
            said = f"{o.mean:.4g} ({o.low:.4g} to {o.high:.4g}) over {o.seeds} seeds"
            print(f"    {o.test.says}: {said}, must exceed {o.test.threshold:g}: {o.state}")
        if verdict.violation is not None:
            print(f"    violation by the counter-example: {verdict.violation:.4g}")
        if verdict.claim.reason:
            print(f"    {verdict.claim.reason}")
    return 0


def _notebook(options) -> int:
    import ast

    from sslbook import pages

    def literal(text: str):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    values = {name: literal(value) for name, value in options.parameters}
    taken = sorted({"profile", "output", "path"} & set(values))
    require(not taken, f"-p takes no {', '.join(taken)}: `sslbook notebook PATH --profile … --output …` names them.")
    print(pages.execute(options.path, options.profile, options.output, **values))
    return 0
