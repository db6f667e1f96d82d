"""Prepare data sets of ELEVATER from archives that are there:  python -m pipeline.elevater SET FOLDER OUT"""

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from pipeline.convert.conversion import Options
from pipeline.elevater.catalogue import CATALOGUE, BenchmarkSet
from pipeline.elevater.prepare import archive_folder, prepare, read_prepared
from pipeline.errors import InputError, command
from pipeline.flags import later, parse
from pipeline.text import did_you_mean, table

ALL = "all"


def main() -> None:
    """The command line of this module."""

    @later
    def door(
        name: Annotated[str | None, arg(metavar="SET")] = None,
        folder: Annotated[Path | None, arg(metavar="FOLDER")] = None,
        out: Annotated[Path | None, arg(metavar="OUT")] = None,
        /,
        options: Options = Options(max_bad=0),  # noqa: B008 -- frozen, and what tyro shows as the defaults
        list: bool = False,
        differing: bool = False,
    ) -> None:
        """Write data sets of ELEVATER as OUT/SET/train.beton, test.beton and val.beton. Nothing is downloaded.

        Args:
            name: a name of --list, or "all" for each whose archive is there
            folder: the set's archive as ELEVATER's toolkit downloads it, or the folder that holds `classification`
            out: folder for the sets, a folder each; `few_shot --suite elevater=OUT` measures on all of them
            options: how images are stored; splits are not drawn here
            list: print the sets, their metrics and the published numbers of classes and images
            differing: go on where classes or images are not as many as published
        """
        if list:
            print(listed(), end="")
            return
        if name is None or folder is None or out is None:
            raise InputError("expected SET FOLDER OUT, as in: python -m pipeline.elevater dtd downloads data/elevater")
        options.check()
        if any(options.draws()):
            raise InputError("--split, --per-class: the shots are drawn by few_shot; leave them out")
        several(chosen(name, folder), folder, out, options, differing=differing)

    parse(door, config=(OmitArgPrefixes,), prog="python -m pipeline.elevater")()


def listed() -> str:
    """Make the table of the sets."""
    rows = [("set", "metric", "classes", "train", "val", "test", "archive")]
    for each in CATALOGUE.values():
        numbers = [f"{each.images[split]:,}" if split in each.images else "-" for split in ("train", "val", "test")]
        rows.append((each.name, each.metric, f"{each.classes}", *numbers, f"classification/{each.folder}"))
    return table(rows, aligned=True)


def chosen(name: str, folder: Path) -> list[BenchmarkSet]:
    """Return the set of a name, or with "all" those whose archives are in the folder; absent ones are said."""
    if name != ALL:
        if name not in CATALOGUE:
            raise InputError(f"{name}: no set of ELEVATER{did_you_mean(name, [*CATALOGUE])}; see --list")
        return [CATALOGUE[name]]
    there = [each for each in CATALOGUE.values() if (at := archive_folder(each, folder)) and at != folder]
    absent = [each.name for each in CATALOGUE.values() if each not in there]
    if not there:
        raise InputError(f"{folder}: expected archives in classification, as classification/dtd_20211007, found none")
    if absent:
        print(f"not there, and left out: {', '.join(absent)}")
    return there


def several(sets: list[BenchmarkSet], folder: Path, out: Path, options: Options, *, differing: bool) -> None:
    """Prepare sets one after another, and say what became of each; those that are whole already are kept.

    Raises InputError for one set at once; of several the others are prepared first.
    """
    failed: list[str] = []
    for each in sets:
        place = out / each.name
        made = None if options.overwrite else read_prepared(place)
        if made and all((place / f"{split}.beton").is_file() for split in made.images):
            print(f"{each.name}: prepared already, {place}")
            continue
        try:
            made = prepare(each, folder, place, options, differing=differing)
        except InputError as error:
            if len(sets) == 1:
                raise
            print(f"{each.name}: not prepared: {error}")
            failed.append(each.name)
            continue
        images = ", ".join(f"{n:,} {split}" for split, n in made.images.items())
        print(f"{each.name}: {images}, {made.metric}; {place}", *made.differs, sep="\n  differs: ")
    if failed:
        raise InputError(f"{len(failed)} of {len(sets)} sets were not prepared, see above: {', '.join(failed)}")


if __name__ == "__main__":
    command(main)
