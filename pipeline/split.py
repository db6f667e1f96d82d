"""Write which labels of a .beton may be seen.

python -m pipeline.split make BETON --fraction 0.1          # or --per-class 25
python -m pipeline.split make BETON --per-class 500 --imbalance 100      # the first class has 500, the last 5
python -m pipeline.split import BETON LIST --name NAME      # a published list of file names
"""

from pathlib import Path

from tyro.extras import subcommand_cli_from_dict

from pipeline.errors import command
from pipeline.flags import in_one_line, later
from pipeline.labels.published_list import import_list
from pipeline.labels.splits import Tail, describe, make_split, save_split
from pipeline.store.beton import open_beton


def _make(
    beton: Path,
    /,
    fraction: float | None = None,
    per_class: int | None = None,
    imbalance: float = 1.0,
    unlabelled_imbalance: float | None = None,
    unlabelled_per_class: int | None = None,
    seed: int = 0,
) -> None:
    """Draw a split of a .beton file: a fraction of every class, a number per class, or a long tail.

    Args:
        fraction: Share of each class to label.
        per_class: Labels of each class; with an imbalance, of the largest.
        imbalance: Labels of the first class over those of the last; they fall exponentially between the two, in the
            order of the classes. Negative: from the last class to the first.
        unlabelled_imbalance: Leave images out, until the unlabelled ones have this imbalance.
        unlabelled_per_class: Unlabelled images of the largest class; as many as every class permits when absent.
        seed: Seed of the draw.
    """
    opened, tail = open_beton(beton), Tail(imbalance, unlabelled_imbalance, unlabelled_per_class)
    split = make_split(opened, fraction=fraction, per_class=per_class, seed=seed, tail=tail)
    path = save_split(opened, split)
    print(describe(opened, split), path, sep="\n")
    if (asked := abs(imbalance)) > (k := per_class or 1):
        print(f"the smallest class has 1 label, where {k} / {asked:g} were asked for: the imbalance is {k}")


def _import(beton: Path, names: Path, /, name: str) -> None:
    """Take the split of a .beton file from a published list of file names."""
    opened = open_beton(beton)
    split = import_list(opened, names, name)
    path = save_split(opened, split)
    print(describe(opened, split), path, sep="\n")


def main() -> None:
    """The command line of this module."""
    with in_one_line():
        doors = {"make": later(_make), "import": later(_import)}
        asked = subcommand_cli_from_dict(doors, prog="python -m pipeline.split")
    asked()


if __name__ == "__main__":
    command(main)
