"""Check every byte of .beton files:  python -m pipeline.store FILE.beton ..."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.store.beton import open_beton
from pipeline.text import count


@dataclass(frozen=True)
class Arguments:
    """Check every chunk of .beton files against the SHA-256 in their manifests."""

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE.beton ...")] = ()
    """Files to check, one after another."""


def main() -> None:
    """Check the files that the command line names. Raises InputError for the first that does not hold."""
    files = parse(Arguments, prog="python -m pipeline.store").files
    if not files:
        raise InputError("expected: python -m pipeline.store FILE.beton ...")
    for path in files:
        beton = open_beton(path, verify=True)
        held = f"{count(beton.n, 'image')}, {beton.data.size / 1e6:.1f} MB"
        print(f"{path}: {held}, every chunk holds, digest {beton.digest}")


if __name__ == "__main__":
    command(main)
