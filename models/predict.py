"""Class names and confidences of any images, by a trained run.  python -m models.predict RUN IMAGES... [--out FILE]"""

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

from models.distributed.precision import precision
from models.load import Loaded, chosen_device, load_run
from pipeline.errors import InputError, command
from pipeline.evaluation.files import Shown, find_images, sweep_files
from pipeline.flags import parse
from pipeline.store.atomic_write import write_whole

NAMED = 5  # rejected files that are said one by one


@dataclass(frozen=True)
class Arguments:
    """Write what a trained run makes of image files into a CSV: file, class, confidence, one line an image."""

    run: Positional[Path]
    """A run folder, or one of its checkpoints."""
    images: Positional[tuple[Path, ...]]
    """Image files, and folders of them; what is no image is named and left out."""
    out: Path = Path("predictions.csv")
    top: int = 1
    """How many classes an image gets, the likeliest first."""
    batch: int = 256
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """Decoding threads; as many as this process may use cores when absent."""


@torch.inference_mode()
def predictions(loaded: Loaded, shown: Shown, top: int) -> Iterator[list[str]]:
    """A row for each image of a batch: path, then class name and confidence of the `top` likeliest classes."""
    if not shown.paths:
        return
    with precision(loaded.recipe.run, shown.images.device):
        likely = loaded.method.logits(shown.images).float().softmax(-1).topk(top)
    for path, values, classes in zip(shown.paths, likely.values.tolist(), likely.indices.tolist(), strict=True):
        named = ((loaded.classes[c], f"{v:.6f}") for v, c in zip(values, classes, strict=True))
        yield [str(path), *(cell for pair in named for cell in pair)]


def main() -> int:
    """Predict, write, and say how fast and what was left out. Raises InputError if no file was an image."""
    a = parse(Arguments, prog="python -m models.predict")
    device = chosen_device(a.device)
    paths = find_images(a.images)
    loaded = load_run(a.run, device)
    check(a, loaded)
    began, text, rejected, done = time.perf_counter(), io.StringIO(), [], 0
    writer = csv.writer(text, lineterminator="\n")
    header = [name for i in range(1, a.top + 1) for name in (f"class_{i}", f"confidence_{i}")]
    writer.writerow(["file", *(header if a.top > 1 else ("class", "confidence"))])
    for shown in sweep_files(paths, replace(loaded.recipe.data, threads=a.threads), device, a.batch):
        writer.writerows(predictions(loaded, shown, a.top))
        rejected += shown.rejected
        done += len(shown.paths)
    taken = time.perf_counter() - began
    for path, why in rejected[:NAMED]:
        print(f"left out: {path}: {why}", file=sys.stderr)
    if len(rejected) > NAMED:
        print(f"left out: {len(rejected) - NAMED} more", file=sys.stderr)
    if not done:
        raise InputError(f"none of {len(paths)} files is an image that can be read; nothing was written")
    write_whole(a.out, text.getvalue())
    print(f"{a.out}: {done:,} images in {taken:.1f} s, {done / taken:,.0f} img/s; {len(rejected)} left out")
    return 0


def check(a: Arguments, loaded: Loaded) -> None:
    """Raise InputError for a run that cannot name classes, or numbers that mean nothing."""
    if not loaded.method.has_classifier:
        raise InputError(
            f"{loaded.path} was trained by {loaded.recipe.name}, which has no classifier; fine-tune it first "
            f"(python train.py finetune:... --run.start {loaded.path})"
        )
    if a.batch < 1 or not 1 <= a.top <= len(loaded.classes):
        raise InputError(
            f"expected --batch of 1 or more and --top from 1 to {len(loaded.classes)}, got {a.batch} and {a.top}"
        )
    if not a.out.parent.is_dir():
        raise InputError(f"--out {a.out}: expected an existing folder, {a.out.parent} is none")


if __name__ == "__main__":
    command(main)
