"""What an evaluator is: flags, and a `run` that measures a trained run and changes nothing."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from models.load import Loaded
from models.reporting.render import Block
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.open import open_data
from pipeline.spec import Data
from pipeline.store.beton import Beton, open_beton
from pipeline.text import some


class Result(NamedTuple):
    """Numbers for the journal (shares are 0 to 1), tables and pictures for the page; and for numbers that depend on
    the machine, which one it was."""

    values: dict[str, float]
    blocks: Sequence[Block] = ()
    machine: dict[str, str] | None = None


@dataclass(frozen=True)
class Files:
    """What is evaluated on; the run's own data where nothing else is said."""

    root: str | None = None
    """Folder of the .beton files."""
    file: str | None = None
    """File in it; the recipe's val when absent."""
    threads: int | None = None
    """Decoding threads; as many as this process may use cores when absent."""


@dataclass(frozen=True)
class Evaluator(ABC):
    """Measures one thing about a trained run; its fields are flags on the command line."""

    data: Files = field(default_factory=Files)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: int = 256
    """Images that go through the network at once."""

    @abstractmethod
    def run(self, loaded: Loaded) -> Result:
        """Measure. Raises InputError for a run or data that cannot be measured so."""

    def open(self, loaded: Loaded, file: str | None = None, *, same_classes: bool = True) -> Beton:
        """The file asked for, checked against the run's classes where both have any and they are to be the same.

        Raises InputError if it is missing or has other classes.
        """
        data = loaded.recipe.data
        name = file or self.data.file or data.val
        root = self.data.root or data.root
        beton = open_data(data, name) if root == data.root else open_beton(Path(root) / name)
        classes = beton.manifest.classes
        told_apart = same_classes and loaded.method.has_classifier
        if told_apart and classes is not None and tuple(classes) != loaded.classes:
            raise InputError(
                f"{beton.path} has {len(classes)} classes ({some(classes)}), {loaded.path} tells "
                f"{len(loaded.classes)} apart ({some(loaded.classes)}); give data of the same names"
            )
        return beton

    def data_of(self, loaded: Loaded) -> Data:
        """The recipe's data, decoded by as many threads as are asked for."""
        data = loaded.recipe.data
        return replace(data, threads=self.data.threads or data.threads)

    def images(self, loaded: Loaded, beton: Beton, ids: np.ndarray) -> Iterator[Tensor]:
        """The images `ids` (i64 [N]) in order, as the recipe evaluates them: u8 [n, 3, S, S] on the run's device."""
        device = next(loaded.method.parameters()).device
        return sweep(self.data_of(loaded), beton, device, ids, self.batch)
