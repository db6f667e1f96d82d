"""What a .beton file is known to hold: the JSON `<file>.beton.json` beside it, written before the file gets its name.

The digest is the file's identity. It covers the header, the metadata (sizes and labels), the allocation table, the
class names, the sample names and the SHA-256 of every chunk, so a split or a checkpoint that quotes it means exactly
these pixels, labels and order.
"""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

FORMAT = 1
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Manifest:
    """Facts about one .beton file. Sides are pixels, `stored_kb` is kB (1000 bytes) a sample.

    classes             names in label order, or None where the file has no labels
    class_counts        labelled samples of each class, in label order
    rejected            (name, reason) of every image that is not in the .beton
    ignored             how many of the source's files are no images, by suffix
    index_sha256        of header, metadata and allocation table; a large one is not read at once (pipeline.store.integrity)
    pixels              `total` of all images, and of the `largest`
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
    ignored: dict[str, int] = field(default_factory=dict)
    index_sha256: str | None = None
    pixels: dict[str, int] | None = None


def manifest_path(beton: Path) -> Path:
    """train.beton -> train.beton.json."""
    return beton.with_name(beton.name + ".json")


def identity(
    index_sha256: str, classes: tuple[str, ...] | None, names_sha256: str, chunk_sha256: tuple[str, ...]
) -> str:
    """The digest of a file from the hashes of its parts; hex, 64 digits."""
    parts = [FORMAT, index_sha256, None if classes is None else list(classes), names_sha256, list(chunk_sha256)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def to_json(manifest: Manifest) -> str:
    """The text of `<file>.beton.json`."""
    return json.dumps(asdict(manifest), indent=1) + "\n"


def read_manifest(beton: Path) -> Manifest:
    """The manifest beside a .beton file.

    Raises InputError if it is missing, is not JSON, has another format version, or lacks a field.
    """
    path = manifest_path(beton)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{beton} has no manifest {path.name} beside it; run pipeline.convert again") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a manifest ({error}); run pipeline.convert again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        came = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise InputError(f"{path}: expected a manifest of format {FORMAT}, got {came}; run pipeline.convert again")
    required = {each.name for each in fields(Manifest) if each.default is each.default_factory is MISSING}
    wrong = sorted((required - found.keys()) | (found.keys() - {each.name for each in fields(Manifest)}))
    if wrong:
        raise InputError(f"{path}: missing or unknown: {', '.join(wrong)}; run pipeline.convert again")
    return _typed(found)


def _typed(found: dict[str, Any]) -> Manifest:
    """JSON has lists where the dataclass has tuples."""
    tuples = {name: tuple(found[name]) for name in ("class_counts", "chunk_sha256")}
    classes = None if found["classes"] is None else tuple(found["classes"])
    rejected = tuple((name, reason) for name, reason in found["rejected"])
    return Manifest(**{**found, **tuples, "classes": classes, "rejected": rejected})
