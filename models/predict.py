"""Name the class of any images, by a trained run.  python -m models.predict RUN IMAGES... [--out FILE]

A run of segmentation draws the classes of their pixels over them instead, into the folder --out; one of detection
draws the objects that it finds, and lists them in detections.json.

With --next N: name the N images, of these or of the run's own without a label, whose label would help it most.

`pipeline.convert` and this command list folders and read images by the same code, and reject for the same reasons.
"""

import csv
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from models.evaluate.predictions import predictions
from models.load import Loaded, chosen_device
from models.pretrained.judged import load_judged
from pipeline.errors import InputError, command
from pipeline.evaluation.files import Given, find_files, sweep_files
from pipeline.flags import parse
from pipeline.sources.encode import Decoding
from pipeline.sources.levels import Window, check_window
from pipeline.store.atomic_write import check_folder_writable, check_writable, write_whole
from pipeline.store.image_size import MAX_PIXELS, MAX_SIDE
from pipeline.store.sample_names import escape
from pipeline.text import count, some

OUT, NEXT, FOLDER = Path("predictions.csv"), Path("next.csv"), Path("predictions")
WINDOWS = 8
"""Windows of a segmentation that go through the network at once, unless --batch is fewer."""


@dataclass(frozen=True)
class Arguments:
    """Write what a trained run makes of image files into a CSV: file, class, confidence, one line an image; or with
    `next` which of them to label."""

    run: Positional[Path]
    """A run folder, or one of its checkpoints; or with `recipe` released weights."""
    images: Positional[tuple[Path, ...]] = ()
    """Image files, and folders of them; what is no image is named and left out. With `next` none: the images of the
    run's training file that have no known label."""
    out: Path | None = None
    """The CSV to write, predictions.csv when absent, or next.csv; in names of files a backslash is written as two, and
    a byte that is no UTF-8 as \\xe9. Of a run of segmentation a folder for NAME-overlay.png and NAME-classes.png, whose
    values are class numbers, and of one of detection for NAME-boxes.png and detections.json; predictions when
    absent."""
    next: int | None = None
    """Choose so many images to label next: a typical image of each cluster without a label, then uncertain ones. Their
    picture is written beside the CSV."""
    top: int = 1
    """How many classes an image gets, the likeliest first."""
    score: float | None = None
    """Of a run of detection: objects that are less likely are not drawn, 0.3 when absent; detections.json has all."""
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


def main() -> int:
    """Predict, write, and say how fast and what was left out. Raises InputError if no file was an image."""
    a = parse(Arguments, prog="python -m models.predict")
    device = chosen_device(a.device)
    if not a.images and a.next is None:
        raise InputError("expected images: python -m models.predict RUN IMAGES..., or --next N of the run's own")
    given = find_files(a.images) if a.images else None
    loaded = load_judged(str(a.run), a.recipe, device)
    check(a, loaded)
    if loaded.note:
        print(loaded.note)
    decoding = Decoding(a.window or loaded.window, max_pixels=a.max_pixels)
    if draws(loaded):
        assert given is not None  # as checked above
        return draw(a, loaded, given)
    if a.next is not None:
        return choose_next(a, a.next, loaded, given, decoding)
    assert given is not None  # as checked above
    return predict(a, loaded, given, decoding)


def predict(a: Arguments, loaded: Loaded, given: Given, decoding: Decoding) -> int:
    """Write a line for each image."""
    device, out = chosen_device(a.device), a.out or OUT
    began, text, done, rejected = time.perf_counter(), io.StringIO(), 0, list(given.rejected)
    writer = csv.writer(text, lineterminator="\n")
    header = [name for i in range(1, a.top + 1) for name in (f"class_{i}", f"confidence_{i}")]
    writer.writerow(["file", *(header if a.top > 1 else ("class", "confidence"))])
    data = replace(loaded.recipe.data, threads=a.threads)
    for shown in sweep_files(given.paths, data, device, a.batch, decoding):
        writer.writerows(predictions(loaded, shown, a.top))
        rejected += shown.rejected
        done += len(shown.paths)
    taken = time.perf_counter() - began
    n = left_out(given, rejected)
    if not done:
        raise InputError(f"of {count(len(given.paths), 'file')} none is an image that can be read; nothing was written")
    write_whole(out, text.getvalue())
    print(f"{escape(str(out))}: {count(done, 'image')} in {taken:.1f} s, {done / taken:,.0f} img/s; {n:,} left out")
    return 0


def draw(a: Arguments, loaded: Loaded, given: Given) -> int:
    """Draw the classes of each image's pixels over it, or its objects."""
    from models.evaluate.box_pictures import SCORE  # here, because a run of classes does without them
    from models.evaluate.box_predictions import draw_detections
    from models.evaluate.box_validator import IMAGES
    from models.evaluate.dense_predictions import draw_predictions

    began, out = time.perf_counter(), a.out or FOLDER
    if detects(loaded):
        score = SCORE if a.score is None else a.score
        drawn = draw_detections(loaded, given.paths, out, min(a.batch, IMAGES), score)
    else:
        drawn = draw_predictions(loaded, given.paths, out, min(a.batch, WINDOWS))
    taken, n = time.perf_counter() - began, left_out(given, [*given.rejected, *drawn.rejected])
    if not drawn.count:
        raise InputError(f"of {count(len(given.paths), 'file')} none is an image that can be read; nothing was written")
    say_turned(given.paths, drawn.rejected)
    print(f"{escape(str(out))}: {count(drawn.count, 'image')} in {taken:.1f} s; {n:,} left out")
    return 0


def say_turned(paths: Sequence[Path], rejected: Sequence[tuple[Path, str]]) -> None:
    """Name the images that viewers turn by EXIF, on stderr: a run learned pixels as stored, and predicts them so."""
    from pipeline.dense.decoding import header_of  # here, as above

    refused = {path for path, _ in rejected}
    turned = [escape(str(path)) for path in paths if path not in refused and header_of(path).turn != 1]
    if turned:
        print(
            f"turned by EXIF: {count(len(turned), 'image')}, drawn and measured as stored, not as viewers show them; "
            f"turn the pixels first for the other: {some(turned)}",
            file=sys.stderr,
        )


def draws(loaded: Loaded) -> bool:
    """Say whether a run gives classes of pixels, or objects."""
    return loaded.method.needs(loaded.recipe).pixel_labels is not None or detects(loaded)


def detects(loaded: Loaded) -> bool:
    """Say whether a run gives objects."""
    return loaded.method.needs(loaded.recipe).box_labels is not None


def choose_next(a: Arguments, budget: int, loaded: Loaded, given: Given | None, decoding: Decoding) -> int:
    """Write which images to label next, and their picture."""
    from models.active.next_labels import NextLabels, write  # here, because predictions do without it

    asking = NextLabels(loaded, replace(loaded.recipe.data, threads=a.threads), a.batch)
    if given is None:
        candidates = asking.own()
    else:
        candidates = asking.files(given.paths, decoding)
        left_out(given, [*given.rejected, *candidates.rejected])
    print(write(asking.choose(candidates, budget), a.out or NEXT))
    return 0


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
    if a.score is not None and not detects(loaded):
        raise InputError("--score is of runs of detection, which draw objects; leave it out")
    if draws(loaded):
        check_drawing(a, loaded)
    elif a.next is not None:
        check_next(a)
    elif not loaded.method.has_classifier:
        raise InputError(
            f"{loaded.no_classifier}; fine-tune it first (python train.py finetune:... --run.start {loaded.path})"
        )
    elif not 1 <= a.top <= len(loaded.classes):
        raise InputError(f"expected --top from 1 to {len(loaded.classes)}, got {a.top}")
    if a.batch < 1:
        raise InputError(f"--batch: expected 1 or more, got {a.batch}")
    check_window(a.window)
    if not 1 <= a.max_pixels <= MAX_SIDE**2:
        raise InputError(f"--max-pixels: expected 1 to {MAX_SIDE**2}, got {a.max_pixels}")
    if not draws(loaded):
        check_writable(a.out or (OUT if a.next is None else NEXT))


def check_drawing(a: Arguments, loaded: Loaded) -> None:
    """Raise InputError for weights without a decoder or heads, flags of class names, a score that is no share, and a
    folder that is a file."""
    objects = detects(loaded)
    if loaded.origin:
        decoder, heads = (
            "decoder; train one first (train.py segment:...)",
            "heads; train them first (train.py detect:...)",
        )
        lacking = heads if objects else decoder
        raise InputError(f"{loaded.path} brings an encoder and no {lacking}")
    asked = [flag for flag, given in (("--next", a.next is not None), ("--top", a.top != 1)) if given]
    if asked:
        drawn = "its objects" if objects else "those of its pixels"
        raise InputError(f"{asked[0]} is of runs that name a class of an image; this one draws {drawn}")
    if a.window is not None:
        learned = "boxes" if objects else "masks"
        raise InputError(f"--window is of runs that read a .beton; {learned} are learned from images of 8 bits")
    if a.score is not None and not 0 <= a.score <= 1:
        raise InputError(f"--score: expected a share from 0 to 1, got {a.score}")
    check_folder_writable(a.out or FOLDER)


def check_next(a: Arguments) -> None:
    """Raise InputError for a number of images that means nothing, and for files that cannot be written."""
    from models.active.next_labels import picture_path

    if a.next is not None and a.next < 1:
        raise InputError(f"--next: expected 1 or more images, got {a.next}")
    if a.top != 1:
        raise InputError(f"--next names one class of each image, got --top {a.top}; drop one of the two")
    out = a.out or NEXT
    if out.suffix.lower() == ".png":
        raise InputError(f"--out {out}: expected the name of a CSV; the picture is written beside it, as .png")
    check_writable(picture_path(out))


if __name__ == "__main__":
    command(main)
