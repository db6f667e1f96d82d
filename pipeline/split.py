"""Write which labels of a .beton may be seen.

python -m pipeline.split make BETON --fraction 0.1          # or --per-class 25
python -m pipeline.split import BETON LIST --name NAME      # a published list of file names
"""

from pathlib import Path

from tyro.extras import subcommand_cli_from_dict

from pipeline.errors import command
from pipeline.flags import in_one_line, later
from pipeline.labels.splits import import_list, make_split, save_split
from pipeline.store.beton import open_beton


def _make(beton: Path, /, fraction: float | None = None, per_class: int | None = None, seed: int = 0) -> None:
    """Draw a class-balanced split of a .beton file: a fraction of every class, or a number per class."""
    opened = open_beton(beton)
    print(save_split(opened, make_split(opened, fraction=fraction, per_class=per_class, seed=seed)))


def _import(beton: Path, names: Path, /, name: str) -> None:
    """Take the split of a .beton file from a published list of file names."""
    opened = open_beton(beton)
    print(save_split(opened, import_list(opened, names, name)))


def main() -> None:
    """The command line of this module."""
    with in_one_line():
        doors = {"make": later(_make), "import": later(_import)}
        asked = subcommand_cli_from_dict(doors, prog="python -m pipeline.split")
    asked()


if __name__ == "__main__":
    command(main)
