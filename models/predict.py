"""Name the class of any images, by a trained run.  python -m models.predict RUN IMAGES... [--out FILE]

`pipeline.convert` and this command list folders and read images by the same code, and reject for the same reasons.
"""

import csv
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from tyro.conf import Positional

from models.full_precision import full_precision
from models.load import Loaded, chosen_device
from models.pretrained.judged import load_judged
from pipeline.errors import InputError, command
from pipeline.evaluation.files import Given, Shown, find_files, sweep_files
from pipeline.flags import parse
from pipeline.sources.encode import Decoding
from pipeline.sources.levels import Window, check_window, stored_window
from pipeline.store.atomic_write import check_writable, write_whole
from pipeline.store.image_size import MAX_PIXELS, MAX_SIDE
from pipeline.store.sample_names import escape, printable
from pipeline.text import count


@dataclass(frozen=True)
class Arguments:
    """Write what a trained run makes of image files into a CSV: file, class, confidence, one line an image."""

    run: Positional[Path]
    """A run folder, or one of its checkpoints; or with `recipe` released weights."""
    images: Positional[tuple[Path, ...]]
    """Image files, and folders of them; what is no image is named and left out."""
    out: Path = Path("predictions.csv")
    """The CSV to write; in names of files a backslash is written as two, and a byte that is no UTF-8 as \\xe9."""
    top: int = 1
    """How many classes an image gets, the likeliest first."""
    batch: int = 256
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """Decoding threads; as many as this process may use cores when absent."""
    window: Window | None = None
    """Values shown as black and white where pixels have more than 8 bits; those of the training data when absent."""
    max_pixels: int = MAX_PIXELS
    """Largest image that is read, as in pipeline.convert."""
    recipe: str | None = None
    """Of released weights (what run.start takes): the recipe whose size and view of an image they get, with its flags
    in one string, as they follow train.py."""


@torch.inference_mode()
def predictions(loaded: Loaded, shown: Shown, top: int) -> Iterator[list[str]]:
    """Give a row for each image of a batch: path, then class name and confidence of the `top` likeliest classes."""
    if not shown.paths:
        return
    with full_precision(shown.images.device):
        likely = loaded.method.logits(shown.images).float().softmax(-1).topk(top)
    for path, values, classes in zip(shown.paths, likely.values.tolist(), likely.indices.tolist(), strict=True):
        named = ((printable(loaded.classes[c]), f"{v:.6f}") for v, c in zip(values, classes, strict=True))
        yield [escape(str(path)), *(cell for pair in named for cell in pair)]


def main() -> int:
    """Predict, write, and say how fast and what was left out. Raises InputError if no file was an image."""
    a = parse(Arguments, prog="python -m models.predict")
    device = chosen_device(a.device)
    given = find_files(a.images)
    loaded = load_judged(str(a.run), a.recipe, device)
    check(a, loaded)
    if loaded.note:
        print(loaded.note)
    began, text, done, rejected = time.perf_counter(), io.StringIO(), 0, list(given.rejected)
    writer = csv.writer(text, lineterminator="\n")
    header = [name for i in range(1, a.top + 1) for name in (f"class_{i}", f"confidence_{i}")]
    writer.writerow(["file", *(header if a.top > 1 else ("class", "confidence"))])
    data = replace(loaded.recipe.data, threads=a.threads)
    decoding = Decoding(a.window or trained_window(loaded), max_pixels=a.max_pixels)
    for shown in sweep_files(given.paths, data, device, a.batch, decoding):
        writer.writerows(predictions(loaded, shown, a.top))
        rejected += shown.rejected
        done += len(shown.paths)
    taken = time.perf_counter() - began
    n = left_out(given, rejected)
    if not done:
        raise InputError(f"of {count(len(given.paths), 'file')} none is an image that can be read; nothing was written")
    write_whole(a.out, text.getvalue())
    print(f"{escape(str(a.out))}: {count(done, 'image')} in {taken:.1f} s, {done / taken:,.0f} img/s; {n:,} left out")
    return 0


def trained_window(loaded: Loaded) -> Window | None:
    """The window of the training data, where that is here and was made with one."""
    try:
        return stored_window(Path(loaded.recipe.data.root) / loaded.recipe.data.train)
    except InputError:
        return None


def left_out(given: Given, rejected: list[tuple[Path, str]]) -> int:
    """Name each file that was rejected and count the others that are no images, on stderr; -> how many in all."""
    for path, why in rejected:
        print(f"left out: {escape(str(path))}: {why}", file=sys.stderr)
    if given.ignored:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(given.ignored.items()))
        print(f"left out, since they are no images: {kinds}", file=sys.stderr)
    return len(rejected) + given.ignored.total()


def check(a: Arguments, loaded: Loaded) -> None:
    """Raise InputError for a run that cannot name classes, or numbers that mean nothing."""
    if not loaded.method.has_classifier:
        raise InputError(
            f"{loaded.no_classifier}; fine-tune it first (python train.py finetune:... --run.start {loaded.path})"
        )
    if a.batch < 1 or not 1 <= a.top <= len(loaded.classes):
        raise InputError(
            f"expected --batch of 1 or more and --top from 1 to {len(loaded.classes)}, got {a.batch} and {a.top}"
        )
    check_window(a.window)
    if not 1 <= a.max_pixels <= MAX_SIDE**2:
        raise InputError(f"--max-pixels: expected 1 to {MAX_SIDE**2}, got {a.max_pixels}")
    check_writable(a.out)


if __name__ == "__main__":
    command(main)
