"""Say on one screen what a conversion made of its source, so that a wrong table or folder is seen at once.

print(summary(open_beton("train.beton"), ["0.10"]))

Long lists are folded: what is not named is counted. The manifest beside the file holds all of it.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.labels.splits import known_labels, load_split
from pipeline.store.beton import Beton
from pipeline.store.manifest import Manifest, manifest_path
from pipeline.store.sample_names import printable, read_name
from pipeline.text import count, some

WIDTH = 110
LABEL = 11  # characters of what a line is about
ALL_NAMED = 12  # classes, up to which each is named with its count
FEWEST, MOST = 5, 3  # classes that are named of more
EXAMPLES = 3  # images that are named with their class
REASONS, NAMED = 8, 3  # why files were left out, and names for each reason
SKIPPED = "left out"  # what a source's notes on files that it did not take begin with
HOW = {
    "passed through": "kept as they were", "decoded": "stored as they decode", "re-encoded": "re-encoded",
    "resized": "resized",
}  # fmt: skip


def summary(beton: Beton, splits: Sequence[str]) -> str:
    """A conversion in a line for each subject; `splits` are the names of those that it wrote."""
    found = beton.manifest
    lines = [f"{printable(str(beton.path))}: {count(found.n, 'image')}, {found.bytes / 1e6:,.1f} MB"]
    for label, parts in (
        ("source", [_source(found)]),
        ("read as", [note for note in found.notes if not note.startswith(SKIPPED)]),
        ("classes", [classes(found)]),
        ("labels", _labels(beton)),
        ("files", _files(found)),
        ("left out", _left_out(beton)),
        ("pixels", [_pixels(found)]),
        ("range", _range(found)),
        ("decoding", [_decoding(found)]),
        ("splits", _splits(beton, splits)),
    ):
        lines += [line for part, head in zip(parts, _heads(label), strict=False) for line in _wrapped(head, part)]
    return "\n".join(lines)


def _heads(label: str) -> Iterator[str]:
    yield label
    while True:
        yield ""


def _wrapped(head: str, text: str) -> list[str]:
    indent = len(text) - len(text.lstrip())
    first, rest = f"{head:{LABEL}s}" + " " * indent, " " * (LABEL + indent + 2 * (indent > 0))
    return textwrap.wrap(
        text.strip(), WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _source(found: Manifest) -> str:
    added = found.arguments.get("unlabelled")
    return str(found.arguments.get("source")) + (f", and {added} without labels" if added else "")


def classes(found: Manifest) -> str:
    """The classes with their counts: each of a few; of many the smallest and the largest, and how many are between."""
    if found.classes is None:
        return "none: no image has a label"
    counts, names, n = found.class_counts, found.classes, len(found.classes)
    each = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)]
    if n <= ALL_NAMED:
        return f"{n}, numbered from 0: {', '.join(each)}"
    order = sorted(range(n), key=lambda i: counts[i])
    empty, between = sum(count == 0 for count in counts), n - FEWEST - MOST
    parts = [f"{n:,}, numbered from 0, {names[0]}, to {n - 1}, {names[-1]}"]
    parts += [f"{empty:,} without an image"] if empty else []
    parts += [
        f"fewest: {', '.join(each[i] for i in order[:FEWEST])}",
        f"{between:,} between, half of all have up to {int(np.median(counts)):,}",
        f"most: {', '.join(each[i] for i in order[-MOST:])}",
    ]
    return "; ".join(parts)


def _labels(beton: Beton) -> Iterator[str]:
    """How many images have a label, and a few images with theirs."""
    found, n_labelled = beton.manifest, beton.n - beton.manifest.n_unlabelled
    added = ", those of --unlabelled among them" if found.arguments.get("unlabelled") else ""
    missing = f", {found.n_unlabelled:,} without one{added}" if found.n_unlabelled else ""
    yield f"{count(n_labelled, 'image')} with a label{missing}"
    if n_labelled:
        labels = known_labels(beton, None)
        ids = labels.ids[:EXAMPLES] if isinstance(labels.ids, np.ndarray) else range(min(EXAMPLES, beton.n))
        classes = found.classes or ()  # where labels are there are names
        yield "such as " + ", ".join(f"{read_name(beton, i)}: {classes[labels[i]]}" for i in ids)


def _files(found: Manifest) -> Iterator[str]:
    kinds = sorted(found.kinds.items(), key=lambda item: -sum(item[1].values()))
    each = (
        f"{sum(how.values()):,} {kind} ({', '.join(f'{how[key]:,} {said}' for key, said in HOW.items() if key in how)})"
        for kind, how in kinds
    )
    yield ", ".join(each)
    if found.dropped_bytes:
        dropped = found.dropped_bytes / 1e3
        size = f"{dropped:,.1f} kB" if dropped < 1000 else f"{dropped / 1e3:,.1f} MB"
        yield f"{size} of metadata dropped from JPEG files (--keep-metadata keeps it)"
    if found.n_first_frames:
        yield f"{count(found.n_first_frames, 'file')} with several frames or pages: the first is stored"


def _left_out(beton: Beton) -> Iterator[str]:
    """The rejected files by reason, and how many others of each suffix; that nothing was left out is said, too."""
    found = beton.manifest
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, reason in found.rejected:
        groups.setdefault(re.sub(r"\d+", "#", reason), []).append((name, reason))  # sizes and places differ, not why
    ignored = sum(found.ignored.values())
    others = f"; {count(ignored, 'other file')}: {_counted(found.ignored)}" if ignored else ""
    yield f"{len(found.rejected):,} of {count(found.n + len(found.rejected), 'image')}{others}"
    for note in found.notes:
        if note.startswith(SKIPPED):
            yield f"  {note.removeprefix(f'{SKIPPED}: ')}"
    order = sorted(groups.values(), key=len, reverse=True)
    for group in order[:REASONS]:
        yield f"  {len(group):,}: {group[0][1]} ({some([name for name, _ in group], NAMED)})"
    if order[REASONS:]:
        more, path = sum(map(len, order[REASONS:])), manifest_path(beton.path)
        yield f"  {more:,} more for {len(order) - REASONS:,} other reasons: all of them in {path}"


def _counted(ignored: dict[str, int]) -> str:
    each = [f"{count:,} {suffix}" for suffix, count in sorted(ignored.items(), key=lambda item: -item[1])]
    more = f" and {len(each) - ALL_NAMED} other kinds" if len(each) > ALL_NAMED else ""
    return ", ".join(each[:ALL_NAMED]) + more


def _pixels(found: Manifest) -> str:
    kb, side = found.stored_kb, found.side
    return (
        f"longer sides of {side['min']:.0f} to {side['max']:.0f}, mean {side['mean']:.0f}; "
        f"{kb['mean']:.1f} kB an image, 99 % below {kb['p99']:.1f}"
    )


def _range(found: Manifest) -> Iterator[str]:
    deep, window = found.deep, found.arguments.get("window")
    if not deep:
        return
    shown = f"{window[0]:g} to {window[1]:g}" if isinstance(window, list | tuple) else "0 to 65535"
    shown = "each image's own lowest to highest" if window == "auto" else shown
    images = count(deep["images"], "image")
    yield f"{images} of 16 bits, values {deep['low']} to {deep['high']}; black to white: {shown}"
    if deep["narrow"] and window is None:
        yield (
            f"warning: of these {deep['narrow']:,} use under an eighth of 0 to 65535, and are stored as dark or flat "
            f"as that; convert again with --window {deep['low']} {deep['high']}, or --window auto for each image's "
            "own, and val and test with the same"
        )


def _decoding(found: Manifest) -> str:
    origin = "measured" if found.measured_decode else "from the mean size"
    rate = f"{found.decode_images_per_s:,.0f} images/s"
    return f"a core decodes about {rate} ({origin}); written in {found.seconds:.1f} s"


def _splits(beton: Beton, names: Sequence[str]) -> Iterator[str]:
    if not names:
        yield "none"
    for name in names:
        yield f"{name}: {count(load_split(beton, name).labelled.size, 'label')}"
