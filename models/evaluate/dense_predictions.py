"""Draw the predicted classes of image files: for each an overlay, and a PNG whose values are the classes' numbers.

draw_predictions(loaded, paths, Path("predictions"), batch=8)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from models.dense.drawing import index_png, overlay, palette, png
from models.evaluate.dense_pictures import legend, shown
from models.full_precision import full_precision
from models.load import Loaded
from models.methods.segment import Segment
from pipeline.dense.decoding import read_image
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole

OVERLAY, CLASSES, LEGEND = "-overlay.png", "-classes.png", "legend.png"
NAMES = "classes.txt"


class Drawn(NamedTuple):
    """How many images were drawn, and (path, reason) of those that are no images."""

    count: int
    rejected: list[tuple[Path, str]]


def draw_predictions(loaded: Loaded, paths: Sequence[Path], out: Path, batch: int) -> Drawn:
    """Write NAME-overlay.png and NAME-classes.png for each image into a folder, and the colours and names of classes.

    batch  windows that go through the network at once

    Raises InputError for two images of one name, whose pictures would replace each other.
    """
    method, rejected, done = loaded.method, [], 0
    assert isinstance(method, Segment)
    names = [path.stem for path in paths]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"two images are called {twice[0]}, and each makes {twice[0]}{OVERLAY}; predict them apart")
    for path in paths:
        try:
            image = read_image(path)
        except InputError as error:
            rejected.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        with full_precision(next(method.parameters()).device):
            classes = method.predict(image, batch).cpu().numpy()
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / f"{path.stem}{OVERLAY}", png(Image.fromarray(overlay(shown(image), classes))))
        write_whole(out / f"{path.stem}{CLASSES}", index_png(classes))
        done += 1
    if done:
        write_whole(out / LEGEND, png(legend(loaded.classes, palette())))
        write_whole(out / NAMES, "".join(f"{name}\n" for name in loaded.classes))
    return Drawn(done, rejected)
