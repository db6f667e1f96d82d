"""Open the set that a run learns from, and the loader of its batches: what pipeline.train_data is for .beton files.

train_data = open_dense_train_data(data, needs)
batches = train_data.open_loader(data, device, seed=0)
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from pipeline.dense.boxes import BoxSet, open_boxes
from pipeline.dense.dataset import BoxDataset, DenseDataset, DenseLoader, PixelDataset
from pipeline.dense.pixels import PixelSet, open_pixels
from pipeline.errors import InputError
from pipeline.sampling.sampler import Sampler
from pipeline.spec import Data, Needs, Size
from pipeline.train_data import AnyTrainData

DenseSet = PixelSet | BoxSet


@final
@dataclass(frozen=True, eq=False)
class DenseTrainData(AnyTrainData):
    """What a method of dense prediction learns from: images with masks, or with boxes."""

    found: DenseSet

    @property
    def pools(self) -> tuple[int, int]:
        """Count the images, all of them labelled, and the unlabelled ones: none."""
        return self.found.n, 0

    @property
    def label_counts(self) -> np.ndarray:
        """Count the pixels, or the objects, of each class, i64 [C]."""
        return self.found.counts

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of their numbers."""
        return self.found.classes

    @property
    def source(self) -> DenseSet:
        """Return what its images are read from, for messages and comparisons."""
        return self.found

    def notes(self) -> list[str]:
        """Say what is odd about the set and no error."""
        return self.found.notes()

    def open_loader(
        self,
        data: Data,
        device: torch.device,
        *,
        step: int = 0,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        micro: int = 1,
    ) -> DenseLoader:
        """Open the loader of one of `ranks` processes, which cuts its share of each step into `micro` micro-batches."""
        return DenseLoader(
            dense_dataset(self.found, data.size, seed),
            Sampler(seed, range(self.found.n), None, data.batch, 0, repeats=data.repeats),
            device,
            step,
            micro=micro,
            chunks=ranks * micro,
            first_chunk=rank * micro,
            threads=data.threads,
            ahead=data.ahead,
            hang_timeout_s=data.hang_timeout_s,
        )


def open_dense(data: Data, needs: Needs, name: str) -> DenseSet:
    """Open the set called `name` with what a method needs of it, classes of pixels or boxes of objects.

    Raises InputError as `open_pixels` and `open_boxes` do.
    """
    if needs.box_labels is not None:
        return open_boxes(data, needs.box_labels, name)
    assert needs.pixel_labels is not None
    return open_pixels(data, needs.pixel_labels, name)


def open_dense_train_data(data: Data, needs: Needs) -> DenseTrainData:
    """Open the training set of a recipe. Raises InputError as `open_dense` does, and for settings of .beton files that
    would be left unread."""
    if data.split is not None:
        raise InputError(
            f"data.split is {data.split}, and sets of masks or boxes have no splits; leave --data.split out"
        )
    if data.sizes is not None:
        raise InputError("data.sizes grows images of .beton files, and these crops have one size; leave it out")
    found = open_dense(data, needs, data.train)
    if isinstance(found, BoxSet) and not found.labels.empty:
        found = found.with_objects()
    return DenseTrainData(found, batches=(data.batch, 0), fingerprint={"train": found.digest})


def dense_dataset(found: DenseSet, size: Size, seed: int) -> DenseDataset:
    """Make the Dataset of a set's training views."""
    return BoxDataset(found, size, seed) if isinstance(found, BoxSet) else PixelDataset(found, size, seed)
