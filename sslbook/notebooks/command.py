"""The command `sslbook notebook`. The batch calls it as `python -m sslbook.notebooks.command`, which does not load
PyTorch: that takes seconds at each notebook."""

import argparse
import ast
import sys

from sslbook.config import require
from sslbook.files import allow_all_characters
from sslbook.notebooks.engine import execute


def declare(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of the command."""
    parser.add_argument("path", help="the notebook")
    parser.add_argument("--profile", default="laptop", choices=("smoke", "laptop", "paper"), help="the scale")
    parser.add_argument("--output", help="where the executed copy goes; None: below _build/executed")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="parameters",
        help="a parameter of the notebook; a list as '[0, 1]'",
    )


def run(options: argparse.Namespace) -> int:
    """Execute a notebook, print where its copy is, and return 0. Raises as `execute` does."""
    values = {name: _literal(value) for name, value in options.parameters}
    taken = sorted({"profile", "output", "path"} & set(values))
    require(not taken, f"-p takes no {', '.join(taken)}: `sslbook notebook PATH --profile … --output …` names them.")
    print(execute(options.path, options.profile, options.output, **values))
    return 0


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main() -> int:
    """The command alone; a failure is one sentence on standard error and an exit code other than 0."""
    allow_all_characters()
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    declare(parser)
    try:
        return run(parser.parse_args())
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
