"""Fetches an image set: `python -m sslbook.data cifar100`."""

import argparse
import sys

from sslbook.data import SETS, download, folder, shapes
from sslbook.files import allow_all_characters


def main(arguments=None) -> int:
    allow_all_characters()
    parser = argparse.ArgumentParser(prog="python -m sslbook.data", description="Fetch an image set and verify it.")
    parser.add_argument("name", help=f"one of {', '.join(SETS)}")
    name = parser.parse_args(arguments).name
    try:
        fetched = download(name)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if name in shapes.SETS:
        print(f"{name} is computed when it is needed; there is nothing to fetch.")
    else:
        print(f"{name} {'is now' if fetched else 'was already'} complete in {folder()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
