"""Interface of an evaluator: flags, and a `run` that measures a trained run without changing it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from torch import Tensor

from models.load import Loaded, check_window, chosen_device
from models.pretrained.judged import load_judged
from models.reporting.render import Block
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.flags import AT_LEAST_1
from pipeline.labels.known import Labels
from pipeline.labels.splits import known_labels
from pipeline.open import open_data
from pipeline.sources.classes import difference, how_to_agree
from pipeline.spec import Data
from pipeline.store.beton import Beton, open_beton
from pipeline.text import count, some


class Result(NamedTuple):
    """Numbers for the log (shares are 0 to 1), tables and pictures for the page, and a description of the machine where
    numbers depend on it.

    text  what is printed in place of the list of numbers, such as a table; each line ended
    """

    values: dict[str, float]
    blocks: Sequence[Block] = ()
    machine: dict[str, str] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Files:
    """Data to evaluate on; the run's own data by default."""

    root: str | None = None
    """Folder of the .beton files."""
    file: str | None = None
    """File in it; the recipe's val when absent."""
    threads: Annotated[int | None, AT_LEAST_1] = None
    """Decoding threads; as many as this process may use cores when absent."""


@dataclass(frozen=True)
class Evaluator(ABC):
    """Interface of an evaluator, which measures one aspect of a trained run; its fields are flags.

    The name on the command line, `python -m models.evaluate accuracy RUN`, is that of its file. In Python:

        values = Accuracy(batch=64).run(load_run(Path("runs/semi_mae-digits"))).values
    """

    data: Files = field(default_factory=Files)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: Annotated[int, AT_LEAST_1] = 256
    """Images that go through the network at once."""
    recipe: str | None = None
    """Of released weights (what run.start takes) in place of a run: the recipe on whose data, size and evaluation view
    they are judged, with its flags in one string, as they follow train.py."""

    def load(self, path: Path) -> Loaded:
        """Load what is to be measured, a run or with `recipe` released weights, on the device that the flags name."""
        return load_judged(str(path), self.recipe, chosen_device(self.device))

    @abstractmethod
    def run(self, loaded: Loaded) -> Result:
        """Measure. Raises InputError for a run or data that this evaluator cannot measure."""

    def open(self, loaded: Loaded, file: str | None = None, *, same_classes: bool = True) -> Beton:
        """Open `file`, or the one that the flags name, and compare its classes with the run's where both have any.

        Raises InputError if it is missing, if the run learned from image files and no .beton is named, or if
        `same_classes` and it has other classes.
        """
        data = loaded.recipe.data
        name = file or self.data.file or data.val
        root = self.data.root or data.root
        needs = loaded.method.needs(loaded.recipe)
        if needs.image_files and root == data.root:
            own = "segment" if needs.pixel_labels is not None else "detect"
            raise InputError(
                f"{loaded.path} learned from image files, expected a .beton of images with one label each: --data.root "
                f"FOLDER --data.file FILE.beton; `python -m models.evaluate {own} RUN` judges it on its own"
            )
        beton = open_data(data, name) if root == data.root else open_beton(Path(root) / name)
        check_window(loaded, beton)
        classes = beton.manifest.classes
        compared = same_classes and loaded.method.has_classifier
        if compared and classes is not None and tuple(classes) != loaded.classes:
            raise InputError(
                f"{beton.path} has {count(len(classes), 'class')} ({some(classes)}), {loaded.path} tells "
                f"{len(loaded.classes)} apart ({some(loaded.classes)}): "
                f"{difference(classes, loaded.classes, f'in {beton.path.name}', 'in the run')}; "
                f"{how_to_agree(classes, loaded.classes, Path(data.root) / data.train)}"
            )
        return beton

    def data_of(self, loaded: Loaded) -> Data:
        """Return the recipe's data, decoded by as many threads as the flags ask for."""
        data = loaded.recipe.data
        return replace(data, threads=self.data.threads or data.threads)

    def images(self, loaded: Loaded, beton: Beton, ids: np.ndarray) -> Iterator[Tensor]:
        """Yield the images `ids` (i64 [N]) in order, in the recipe's evaluation view: u8 [n, 3, H, W] on the run's
        device."""
        device = next(loaded.method.parameters()).device
        return sweep(self.data_of(loaded), beton, device, ids, self.batch)


def labels_of(beton: Beton) -> Labels:
    """Return every label of a file. Raises InputError if it has none."""
    labels = known_labels(beton, None)
    if not len(labels.ids):
        raise InputError(f"{beton.path} has no labelled image; convert it with labels")
    return labels
