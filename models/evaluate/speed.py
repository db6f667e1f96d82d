"""Time evaluation and prediction against the loader's evaluation pass.  python -m models.evaluate.speed FOLDER

FOLDER holds photographs, which are converted into a .beton with their original bytes. Three cases take turns on the
same images: the loader's evaluation pass alone, `accuracy`, and `predict` on the files. Their network costs nothing:
its scores are two pixels. The clock is CPU time (pipeline.bench.rounds).
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tyro.conf import Positional

from models.bench.timing import machine
from models.config.recipe import Encoder, Recipe
from models.evaluate.accuracy import Accuracy
from models.evaluate.class_probabilities import class_probabilities
from models.evaluate.evaluator import Files
from models.evaluate.predictions import predictions
from models.factory import method_class
from models.load import Loaded
from models.methods.supervised import Settings
from pipeline.bench.rounds import Turns, interleaved, rate
from pipeline.convert.conversion import Options as ConvertOptions
from pipeline.convert.conversion import convert
from pipeline.errors import InputError, command
from pipeline.evaluation.files import find_images, sweep_files
from pipeline.evaluation.sweep import sweep
from pipeline.flags import parse
from pipeline.spec import Data
from pipeline.store.beton import Beton, open_beton

LOADER, ACCURACY, PREDICT = "the loader's evaluation", "accuracy", "predict"
CLASSES = "a", "b"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    photographs: Positional[Path]
    """A folder of images of any kind, or of folders of them."""
    size: int = 224
    """Side of the network's input, in pixels."""
    batch: int = 64
    threads: int = 1
    rounds: int = 5
    json: bool = False


def blank(size: int, root: str, threads: int) -> Loaded:
    """Make a run whose network reads two pixels, so that the time is the evaluator's and not the network's."""
    data = Data(root=root, size=size, threads=threads, backend="ffcv")
    recipe = Recipe(Settings(), data, Encoder(None, width=32, depth=1, heads=1, patch=size), name="blank")
    method = method_class(recipe)(recipe, len(CLASSES)).eval()
    method.logits = lambda images: images[:, 0, 0, : len(CLASSES)].float()
    return Loaded(Path(root) / "blank", recipe, method, CLASSES, 0)


@contextmanager
def cases(a: Arguments, folder: Path) -> Generator[dict[str, Callable[[], int]]]:
    """Yield the three cases by name, on `folder`/train.beton and the files that it was made of."""
    loaded, beton = blank(a.size, str(folder), a.threads), open_beton(folder / "train.beton")
    paths, device, data = find_images([a.photographs]), torch.device("cpu"), loaded.recipe.data
    accuracy = Accuracy(Files(file="train.beton"), device="cpu", batch=a.batch)

    def alone() -> int:
        return sum(len(images) for images in sweep(data, beton, device, np.arange(beton.n), a.batch))

    def predicted() -> int:
        sweeping = sweep_files(paths, data, device, a.batch)
        return sum(len(list(predictions(loaded, shown, 1))) for shown in sweeping)

    yield {
        LOADER: alone,
        ACCURACY: lambda: len(class_probabilities(accuracy, loaded, beton).labels),
        PREDICT: predicted,
    }


def convert_photographs(photographs: Path, folder: Path) -> Beton:
    """Convert the photographs into `folder`/train.beton with their own bytes, by turns as images of two classes.

    Raises InputError if there are fewer than two.
    """
    paths = find_images([photographs])
    if len(paths) < len(CLASSES):
        raise InputError(f"{photographs}: expected {len(CLASSES)} images or more, found {len(paths)}")
    for number, path in enumerate(paths):
        link = folder / "images" / CLASSES[number % 2] / f"{number:06d}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    convert(folder / "images", folder / "train.beton", ConvertOptions(side=None))
    return open_beton(folder / "train.beton")


def shares(turns: Turns) -> dict[str, float]:
    """Return the rates of accuracy and predict as shares of the loader's: medians of the ratios of each round."""
    return {
        name: statistics.median(own.cpu / loader.cpu for own, loader in zip(turns[name], turns[LOADER], strict=True))
        for name in (ACCURACY, PREDICT)
    }


def main() -> None:
    """Measure, and print rates and shares, or JSON."""
    a = parse(Arguments, prog="python -m models.evaluate.speed", description=__doc__)
    if min(a.size, a.batch, a.threads, a.rounds) < 1:
        raise InputError("expected --size, --batch, --threads and --rounds of 1 or more")
    with tempfile.TemporaryDirectory() as made:
        n = convert_photographs(a.photographs, Path(made)).n
        with cases(a, Path(made)) as each:
            turns = interleaved(each, a.rounds)
    found, described = shares(turns), machine("cpu") | {"clock": "CPU time", "images": str(n)}
    if a.json:
        rates = {name: asdict(rate(turn)) for name, turn in turns.items()}
        print(
            json.dumps(
                {
                    "where": described,
                    "options": asdict(a) | {"photographs": str(a.photographs)},
                    "rates": rates,
                    "shares": found,
                }
            )
        )
        return
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    for name, turn in turns.items():
        r = rate(turn)
        line = f"{name:26s}{r.median:9,.0f} images a CPU-second ({r.low:,.0f} to {r.high:,.0f})"
        print(line + (f"   {found[name]:.3f} of the loader's" if name in found else ""))


if __name__ == "__main__":
    command(main)
