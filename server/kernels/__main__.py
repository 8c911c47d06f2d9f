"""`python -m server.kernels`: compile the library ahead, so that no job waits for a compiler.

Without options it is the library for this processor, in the user's cache. `--all` builds those for every kind of
processor, beside the code or in `--folder`: for images, which run on other machines than they are built on.
"""

import argparse
import sys
from pathlib import Path

from server.kernels.cpu.build import BUILT, TARGETS, Unusable, build, library


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.kernels", description=__doc__)
    parser.add_argument("--all", action="store_true", help="for every kind of processor, beside the code")
    parser.add_argument("--folder", type=Path, help="where to, instead")
    args = parser.parse_args()
    try:
        if args.all:
            folder = args.folder or BUILT
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # read by other users than its builder
            made = [build(target, folder) for target in TARGETS]
        else:
            made = [library(args.folder)]
    except Unusable as error:
        sys.exit(f"no own kernels: {error}")
    sys.stdout.writelines(f"{each.target}, {each.origin}: {each.path}\n" for each in made)


if __name__ == "__main__":
    main()
