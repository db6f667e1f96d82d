"""Rows of docs/data.md about the conversion itself, and about what it stored."""

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.convert.commit import lock_path
from pipeline.convert.conversion import Options, convert
from pipeline.labels.splits import load_split, splits
from pipeline.store.beton import open_beton
from pipeline.store.manifest import manifest_path
from tests.data_page.cases import Case, lay, row, stored
from tests.data_page.sources import THREE


@row("`--reencode` or `--keep-metadata`, with another store than JPEG")
def options_of_jpeg(root: Path) -> Iterator[Case]:
    source = lay(root, {"a.jpg": stored()})
    for name in ("reencode", "keep_metadata"):
        yield Case(source, options=Options(store="raw", **{name: True}))


@row("a name that exists")
def exists(root: Path) -> Iterator[Case]:
    source = lay(root / "set", THREE)

    def twice(out: Path) -> None:
        convert(source, out)
        before = out.read_bytes()
        try:
            convert(source, out, Options(seed=1))
        finally:
            assert out.read_bytes() == before
            for path in out.parent.iterdir():
                path.unlink()

    yield Case(instead=twice)


@row("the same, with `--overwrite`")
def overwritten(root: Path) -> Iterator[Case]:
    source = lay(root / "set", THREE)

    def again(out: Path) -> None:
        convert(source, out, Options(per_class=(1,)))
        convert(source, out, Options(seed=1, split=(0.5,), overwrite=True))
        assert splits(open_beton(out)) == ["0.50-1"]

    yield Case(instead=again)


@row("a name that another process is writing")
def locked(root: Path) -> Iterator[Case]:
    source = lay(root / "set", THREE)

    def beside_another(out: Path) -> None:
        out.parent.mkdir()
        with lock_path(out).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                convert(source, out)
            finally:
                lock_path(out).unlink()

    yield Case(instead=beside_another)


@row("more bad images than `--max-bad` allows")
def too_many_bad(root: Path) -> Iterator[Case]:
    yield Case(lay(root, {"a.jpg": stored(), "b.jpg": b""}), options=Options())


@row("more labels of a class asked for than it has images")
def too_many_labels(root: Path) -> Iterator[Case]:
    yield Case(lay(root, THREE | {"cat/4.jpg": stored()}), options=Options(per_class=(3,)))


def _changed(root: Path, change) -> Case:
    """A data set with a split that is written to another place, changed there, and read."""
    convert(lay(root / "set", THREE), root / "written" / "a.beton", Options(per_class=(1,)))

    def read(_: Path) -> None:
        beton = root / "written" / "a.beton"
        change(beton)
        load_split(open_beton(beton), "1-per-class")

    return Case(instead=read)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@row("a .beton that is cut short or damaged")
def damaged(root: Path) -> Iterator[Case]:
    yield _changed(root / "short", lambda beton: beton.write_bytes(beton.read_bytes()[:-1]))
    yield _changed(root / "index", lambda beton: _flip(beton, -5))
    yield _changed(root / "gone", lambda beton: manifest_path(beton).unlink())


@row("a manifest that was changed")
def changed_manifest(root: Path) -> Iterator[Case]:
    def change(beton: Path) -> None:
        path = manifest_path(beton)
        path.write_text(path.read_text().replace('"dog"', '"dig"'))

    yield _changed(root, change)


@row("a split that was changed")
def changed_split(root: Path) -> Iterator[Case]:
    def change(beton: Path) -> None:
        path = beton.with_name("a.split-1-per-class.json")
        path.write_text(path.read_text().replace('"labelled": [0', '"labelled": [1'))
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))

    yield _changed(root, change)


@row("a split of another file")
def other_split(root: Path) -> Iterator[Case]:
    def change(beton: Path) -> None:
        convert(root / "set", root / "other" / "a.beton", Options(seed=4, per_class=(1,)))
        shutil.copy(root / "other" / "a.split-1-per-class-4.json", beton.with_name("a.split-1-per-class.json"))

    yield _changed(root, change)
