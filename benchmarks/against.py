"""The options of benchmarks that measure this checkout and, in turn, that of an earlier commit."""

import argparse
from pathlib import Path

ROOT = Path(__file__).parent.parent


def parse(description: str | None) -> tuple[argparse.Namespace, list[Path]]:
    """The options `rounds` and `json`; and the checkouts: this one, then that of `--against` if it is given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="A checkout of another commit.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    return given, [ROOT, *([given.against.resolve()] if given.against else [])]
