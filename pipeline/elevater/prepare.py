"""Write one of ELEVATER's data sets as train.beton, test.beton and, where it has one, val.beton.

prepare(CATALOGUE["dtd"], Path("elevater"), Path("data/elevater/dtd"), Options(max_bad=0))
read_prepared(Path("data/elevater/dtd")).metric

Nothing is downloaded. Classes and images of each split are counted and compared with the published numbers before
anything is written; `elevater.json`, written at the end, says that a set is whole, and by which metric it is measured.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final, get_args

from pipeline.convert.conversion import Options, convert
from pipeline.elevater.archive import Archive, open_archive
from pipeline.elevater.catalogue import CATALOGUE, BenchmarkSet, Metric, Split
from pipeline.errors import InputError
from pipeline.labels.multi_label import save_multi_labels
from pipeline.store.atomic_write import write_whole
from pipeline.store.beton import Beton, open_beton
from pipeline.store.checksummed_json import content, to_text
from pipeline.store.sample_names import escape, read_names
from pipeline.text import count, some

FACTS = "elevater.json"
FORMAT = 1


@final
@dataclass(frozen=True)
class Prepared:
    """A data set that was prepared: its name, its metric, the images and the digest of each split's .beton, and what
    differs from the published numbers, a line each."""

    name: str
    metric: Metric
    images: dict[str, int]
    digests: dict[str, str]
    differs: tuple[str, ...]


def archive_folder(facts: BenchmarkSet, given: Path) -> Path | None:
    """Find a set's archive: `given` itself, or in it, or in its folder `classification`; None where it is in none."""
    places = given, given / facts.folder, given / "classification" / facts.folder
    named = [place for place in places if (place / facts.index["train"]).is_file()]
    if named[:1] == [given] and given.resolve().name != facts.folder and len(named) > 1:
        return named[1]
    return named[0] if named else None


def prepare(facts: BenchmarkSet, given: Path, out: Path, options: Options, *, differing: bool = False) -> Prepared:
    """Convert the splits of a data set into the folder `out`.

    given      the folder of its archive, or one that the toolkit has downloaded to
    differing  go on where classes or images are not as many as published; the differences are kept in `elevater.json`

    Raises InputError if the archive is not there, cannot be read, or differs.
    """
    folder = archive_folder(facts, given)
    if folder is None:
        raise InputError(
            f"{escape(str(given))}: expected {facts.name} as ELEVATER's toolkit downloads it, with "
            f"{facts.index['train']} in it or in classification/{facts.folder}, found none; the original archive of "
            "the data set has another layout, whose splits are not checked here"
        )
    archives: dict[Split, Archive] = {split: open_archive(facts, folder, split) for split in facts.index}
    differs = differences(facts, archives)
    if differs and not differing:
        raise InputError(f"{facts.name}: {'; '.join(differs)}; go on all the same with --differing")
    betons = {split: _converted(facts, archive, out / f"{split}.beton", options) for split, archive in archives.items()}
    made = Prepared(
        facts.name,
        facts.metric,
        {split: beton.n for split, beton in betons.items()},
        {split: beton.digest for split, beton in betons.items()},
        (*differs, *_lost(archives, betons)),
    )
    try:
        write_whole(out / FACTS, to_text({"format": FORMAT, **asdict(made)}, indent=1))
    except OSError as error:
        raise InputError(f"{out / FACTS} cannot be written: {error.strerror or error}") from None
    return made


def differences(facts: BenchmarkSet, archives: dict[Split, Archive]) -> list[str]:
    """List how classes and images differ from the published numbers, both numbers in each line."""
    found = []
    first = archives["train"].classes or ()
    for split, archive in archives.items():
        if archive.classes != first:
            raise InputError(f"{facts.name}: {facts.index[split]} names other classes than {facts.index['train']}")
        if len(archive) != (published := facts.images[split]):
            absent = [name for name, _ in archive.rejected]
            lost = f" ({count(len(absent), 'listed file')} not there: {some(absent)})" if absent else ""
            found.append(f"expected {count(published, f'{split} image')}, found {len(archive):,}{lost}")
    if len(first) != facts.classes:
        found.append(f"expected {count(facts.classes, 'class')}, found {len(first):,}")
    learned = {label for labels in archives["train"].labels_of_image for label in labels}
    if len(learned) < len(first):
        found.append(f"expected train images of {count(len(first), 'class')}, found them of {len(learned):,}")
    return found


def read_prepared(folder: Path) -> Prepared | None:
    """Return what `elevater.json` in a folder says; None where there is none.

    Raises InputError if it was changed or says what cannot be.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    try:
        found = content(path.read_bytes(), FORMAT)
        made = Prepared(
            found["name"], found["metric"], dict(found["images"]), dict(found["digests"]), tuple(found["differs"])
        )
        if (
            made.name not in CATALOGUE
            or made.metric not in get_args(Metric)
            or not {"train", "test"} <= {*made.digests}
        ):
            raise ValueError(f"{made.name}, {made.metric}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); prepare the data set again") from None
    return made


def _converted(facts: BenchmarkSet, archive: Archive, out: Path, options: Options) -> Beton:
    """Convert one split, and write the labels beside it where an image may have several."""
    convert(archive, out, options)
    beton = open_beton(out)
    if facts.multi_label:
        labels = {archive.name(i): found for i, found in enumerate(archive.labels_of_image)}
        save_multi_labels(beton, [labels[name] for name in read_names(beton)])
    return beton


def _lost(archives: dict[Split, Archive], betons: dict[Split, Beton]) -> list[str]:
    """Name what the converter rejected, which --max-bad has allowed."""
    pairs = ((split, len(archive), betons[split].n) for split, archive in archives.items())
    return [f"{split}: {count(found - kept, 'image')} of {found:,} cannot be decoded" for split, found, kept in pairs
            if kept < found]  # fmt: skip
