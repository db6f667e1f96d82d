"""Check every byte of .beton files:  python -m pipeline.store FILE.beton ..."""

import sys

from pipeline.errors import InputError, command
from pipeline.store.beton import open_beton


def main() -> None:
    """Check every chunk of the files named on the command line."""
    if len(sys.argv) < 2:
        raise InputError("expected: python -m pipeline.store FILE.beton ...")
    for name in sys.argv[1:]:
        beton = open_beton(name, verify=True)
        print(f"{name}: {beton.n} images, {beton.data.size / 1e6:.1f} MB, every chunk holds, digest {beton.digest}")


if __name__ == "__main__":
    command(main)
