"""Write and read what is known of a .beton file: the JSON `<file>.beton.json` beside it, with a checksum.

manifest = read_manifest(Path("train.beton"))
manifest.n, manifest.classes

The digest is the file's identity. It covers the header, the metadata (sizes and labels), the allocation table, the
class names, the sample names and the SHA-256 of every chunk, so a split or a checkpoint that quotes it means exactly
these pixels, labels and order.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final, get_type_hints

from pipeline.errors import InputError
from pipeline.store.checksummed_json import content, to_text
from pipeline.store.json_types import typed

FORMAT = 2
IDENTITY = 1  # of what a digest covers; splits and checkpoints quote digests, so it changes with that only
CHUNK_BYTES = 64 << 20


@final
@dataclass(frozen=True)
class Manifest:
    """Facts about one .beton file. Sides are pixels, `stored_kb` is kB (1000 bytes) a sample.

    classes             names in label order, or None where the file has no labels
    class_counts        labelled samples of each class, in label order
    rejected            (name, reason) of every image that is not in the .beton
    ignored             how many of the source's files are no images, by suffix
    index_sha256        of header, metadata and allocation table; a large one is not read at once
                        (pipeline.store.integrity)
    pixels              `total` of all images, and of the `largest`
    deep                `images` with 16 bits, how many of them use a `narrow` part of these, and the lowest and highest
                        value of them all, `low` and `high`; None where every image has 8 bits
    kinds               images of each kind of source file, by what was done: passed through, re-encoded, resized
    n_first_frames      images of which the first frame or page is stored, and more were there
    dropped_bytes       metadata that JPEGs which passed through are stored without
    notes               what the source said of how it was read: columns, missing labels, classes without an image
    decode_images_per_s images one core decodes in a second, measured by `measured_decode`, else 105 MB/s / mean bytes
    """

    format: int
    n: int
    classes: tuple[str, ...] | None
    class_counts: tuple[int, ...]
    n_unlabelled: int
    bytes: int
    digest: str
    chunk_sha256: tuple[str, ...]
    names_sha256: str
    rejected: tuple[tuple[str, str], ...]
    n_passed_through: int
    n_re_encoded: int
    n_resized: int
    stored_kb: dict[str, float]
    side: dict[str, float]
    decode_images_per_s: float
    measured_decode: bool
    versions: dict[str, str]
    arguments: dict[str, Any]
    seconds: float
    ignored: dict[str, int]
    index_sha256: str
    pixels: dict[str, int]
    deep: dict[str, int] | None
    kinds: dict[str, dict[str, int]]
    n_first_frames: int
    dropped_bytes: int
    notes: tuple[str, ...]


NAMED = {
    "stored_kb": {"mean", "p50", "p99"}, "side": {"min", "mean", "max"}, "pixels": {"total", "largest"},
    "deep": {"images", "narrow", "low", "high"},
}  # fmt: skip


def manifest_path(beton: Path) -> Path:
    """train.beton -> train.beton.json."""
    return beton.with_name(beton.name + ".json")


def identity(
    index_sha256: str, classes: tuple[str, ...] | None, names_sha256: str, chunk_sha256: tuple[str, ...]
) -> str:
    """The digest of a file from the hashes of its parts; hex, 64 digits."""
    parts = [IDENTITY, index_sha256, None if classes is None else list(classes), names_sha256, list(chunk_sha256)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def to_json(manifest: Manifest) -> str:
    """The text of `<file>.beton.json`, its checksum included. Raises ValueError if `read_manifest` would refuse it."""
    text = to_text(asdict(manifest), indent=1)
    _manifest(content(text.encode(), FORMAT))  # now, while nothing is written
    return text


def read_manifest(beton: Path, path: Path | None = None) -> Manifest:
    """The manifest of a .beton file: the one beside it, or `path`.

    Raises InputError if it is missing, of another format version, changed since it was written, or says what cannot
    be; all of it in one line.
    """
    path = path or manifest_path(beton)
    if not path.is_file():
        raise InputError(f"{beton} has no manifest {path.name} beside it; run pipeline.convert again")
    try:
        return _manifest(content(path.read_bytes(), FORMAT))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a manifest ({error}); run pipeline.convert again") from None


def _manifest(found: dict[str, Any]) -> Manifest:
    """Raises ValueError if a field is missing, unknown, of another type, or says what cannot be."""
    hints = get_type_hints(Manifest)
    if wrong := sorted(found.keys() ^ {each.name for each in fields(Manifest)}):
        raise ValueError(f"missing or unknown: {', '.join(wrong)[:200]}")
    made = Manifest(**{name: typed(value, hints[name], name) for name, value in found.items()})
    for name, keys in NAMED.items():
        if getattr(made, name) is not None and not keys <= getattr(made, name).keys():
            raise ValueError(f"{name}: expected {', '.join(sorted(keys))}")
    hashes = (made.digest, made.names_sha256, made.index_sha256, *made.chunk_sha256)
    if not all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes):
        raise ValueError("expected hashes of 64 hexadecimal digits")
    counts = (*made.class_counts, made.n_unlabelled)
    if min(made.n, made.bytes) < 1 or min(counts) < 0 or sum(counts) != made.n:
        raise ValueError(f"expected labelled and unlabelled images to be {made.n} together, got {sum(counts)}")
    names = made.classes or ()
    if len(made.class_counts) != len(names):
        raise ValueError(f"expected a count for each of {len(names)} classes, got {len(made.class_counts)}")
    return made
