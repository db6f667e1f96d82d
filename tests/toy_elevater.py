"""Toy archives of ELEVATER's sets: the same files, a few tiny images a class."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.elevater.catalogue import CATALOGUE, BenchmarkSet

Labelled = tuple[str, tuple[int, ...]]


def toy(name: str, classes: int = 2, each: int = 2) -> BenchmarkSet:
    """The facts of a set with a few classes, and `each` images of every class in every split."""
    facts = CATALOGUE[name]
    return replace(facts, classes=classes, images=dict.fromkeys(facts.images, classes * each))


def png(labels: Sequence[int], seed: int) -> bytes:
    """A tiny image whose colour channels say which of three classes it has, with noise."""
    pixels = np.random.default_rng(seed).integers(0, 40, (8, 8, 3), np.uint8)
    for label in labels:
        pixels[..., label % 3] += 160
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labelled(facts: BenchmarkSet, split: str) -> list[Labelled]:
    """Paths in the zip file, with a space, and labels; of a multi-label set each second image has the next, too."""
    made = []
    for i in range(facts.images[split]):
        label = i % facts.classes
        more = ((label + 1) % facts.classes,) if facts.multi_label and i % 2 else ()
        made.append((f"{split}/a b/{i}.png", (label, *more)))
    return made


def write_archive(facts: BenchmarkSet, root: Path, *, unpacked: bool = False) -> Path:
    """Write the archive of a set in `root`/classification; `unpacked`: folders in place of zip files."""
    folder = root / "classification" / facts.folder
    folder.mkdir(parents=True)
    names = [f"class {i}" for i in range(facts.classes)]
    if facts.class_names:
        (folder / facts.class_names).write_text("\n".join(names) + "\n")
    for number, (split, index) in enumerate(facts.index.items()):
        rows, packed = labelled(facts, split), f"{split}.zip"
        images = [(path, png(labels, 1000 * number + i)) for i, (path, labels) in enumerate(rows)]
        if unpacked:
            for path, blob in images:
                (folder / split / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / split / path).write_bytes(blob)
        else:
            with zipfile.ZipFile(folder / packed, "w") as file:
                for path, blob in images:
                    file.writestr(path, blob)
        text = coco(rows, names, packed) if index.endswith(".json") else lines(rows, packed)
        (folder / index).write_text(text)
    return folder


def lines(rows: Sequence[Labelled], packed: str) -> str:
    """The index as lines, an empty one at the end."""
    return "".join(f"{packed}@{path} {','.join(map(str, labels))}\n" for path, labels in rows) + "\n"


def coco(rows: Sequence[Labelled], names: Sequence[str], packed: str) -> str:
    """The index as JSON: ids from 1, categories and images in descending order."""
    images = [{"id": i, "file_name": path, "zip_file": packed, "width": 8.0} for i, (path, _) in enumerate(rows, 1)]
    annotations = [
        {"id": i, "image_id": i, "category_id": label + 1} for i, (_, labels) in enumerate(rows, 1) for label in labels
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    return json.dumps({"images": images[::-1], "annotations": annotations, "categories": categories[::-1]})
