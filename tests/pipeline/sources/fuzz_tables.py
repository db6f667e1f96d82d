"""Damage tables at random, and see that `from_csv` refuses or reads each of them.

python -m tests.pipeline.sources.fuzz_tables SECONDS FIRST_SEED [ONE_MORE_SEED ...]

A seed makes the same damaged table each time. Exits with 1 on the first exception other than InputError, on a message
of several lines, and on an image whose class is not the one in its own row.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

from pipeline.errors import InputError
from pipeline.sources.find import find
from pipeline.sources.reading import Reading

KEPT = (1088,)
"""Seeds that once ended in something else than a refusal in a line or a table that was read."""
FILES = [f"{name}{suffix}" for name in ("a", "b", "c", "é", "sub/d", "x,y", "1", "2") for suffix in (".jpg", ".png")]
HEADERS = ["path,label", "image_id;diagnosis", "label\tfilename", "file|class|split", "id,A,B", ",image,x", "a,b,c", ""]
CELLS = [
    "a.jpg", "a", "b.png", "sub\\d.jpg", "./a.jpg", "x,y.jpg", '"x,y.jpg"', "1", "2", "0", "-1", "nan", "", "cat",
    "dog", "NA", "1.0", "1e5", "9" * 30, "é", "e\u0301", " ", "gone.jpg", "../a.jpg", '"', "#", "True",
]  # fmt: skip
ENCODINGS = "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "utf-32"
BYTES = [
    b"\0", b"\xff", b'"', b"\n", b"\r", b",", b";", b"\t", b"\xef\xbb\xbf", b"\x1a", b"9" * 5000, b"[" * 5000, b"\x80",
]  # fmt: skip


def main() -> None:
    seconds, first, more = float(sys.argv[1]), int(sys.argv[2]), [*KEPT, *map(int, sys.argv[3:])]
    until, seed, read = time.monotonic() + seconds, first, 0
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder))
        for kept in more:
            read += check(kept, Path(folder))
        while time.monotonic() < until:
            print(f"\r{seed}", end="", flush=True)
            read += check(seed, Path(folder))
            seed += 1
    print(f"\n{seed - first + len(more)} tables, {read} read")


def lay(folder: Path) -> None:
    """Write the files that tables may name: the reader does not open them."""
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())


def check(seed: int, folder: Path) -> bool:
    """Whether the damaged table of a seed is read. Raises whatever the reader must not raise."""
    chance = random.Random(seed)
    (folder / "t.csv").write_bytes(damaged(chance))
    reading = chance.choice([Reading()] * 4 + [
        Reading(path_column="path", label_column="label"), Reading(label_column="2"), Reading(one_hot=("A", "B")),
        Reading(suffix=".png"), Reading(missing=("cat", "NA")), Reading(path_column="1"),
    ])  # fmt: skip
    try:
        source = find(folder / "t.csv", reading=reading)
    except InputError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            raise RuntimeError(f"seed {seed}: expected one line, got {str(error)[:300]!r}") from None
        return False
    names = [source.name(i) for i in range(len(source))]
    assert len(set(names)) == len(names)
    for i, name in enumerate(names):
        blob, label = source.read(i)
        assert blob == Path(name).name.encode() or blob == name.encode(), (seed, name)
        assert -1 <= label < len(source.classes or ()), (seed, name)
    return True


def damaged(chance: random.Random) -> bytes:
    """A table of some rows in some encoding, most often with a few bytes set, cut out or put in."""
    header = chance.choice(HEADERS)
    delimiter = next((each for each in ",;\t|" if each in header), ",")
    columns = header.count(delimiter) + 1
    rows = [delimiter.join(chance.choice(CELLS) for _ in range(columns)) for _ in range(chance.randrange(8))]
    if chance.random() < 0.5:
        rows = [delimiter.join([name, *(chance.choice(["cat", "dog", "1", ""]) for _ in range(columns - 1))])
                for name in chance.sample(FILES[:6], chance.randrange(1, 6))]  # fmt: skip
    text = chance.choice(["\n", "\r\n", "\r"]).join([header, *rows])
    blob = bytearray(text.encode(chance.choice(ENCODINGS), "replace"))
    for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
        at = chance.randrange(len(blob) + 1)
        blob[at : at + chance.choice([0, 0, 1, 3])] = chance.choice(BYTES)
    return bytes(blob)


if __name__ == "__main__":
    main()
