"""Open the set that a run learns from, and the loader of its batches: what pipeline.train_data is for .beton files.

train_data = open_dense_train_data(data, labels)
batches = open_dense_loader(train_data, data, device, seed=0)
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from pipeline.dense.dataset import DenseDataset, DenseLoader
from pipeline.dense.files import DenseSet, open_dense
from pipeline.errors import InputError
from pipeline.sampling.sampler import Sampler
from pipeline.spec import Data, PixelLabels


@final
@dataclass(frozen=True, eq=False)
class DenseTrainData:
    """What a method of dense prediction learns from.

    fingerprint  digests by which a resumed run recognises its data, as of pipeline.train_data.TrainData
    """

    found: DenseSet
    batches: tuple[int, int]
    fingerprint: dict[str, str | None]

    @property
    def pools(self) -> tuple[int, int]:
        """Count the images, all of them labelled, and the unlabelled ones: none."""
        return self.found.n, 0

    @property
    def label_counts(self) -> np.ndarray:
        """Count the pixels of each class, i64 [C]."""
        return self.found.counts

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of their numbers."""
        return self.found.classes

    @property
    def source(self) -> DenseSet:
        """Return what its images are read from, for messages and comparisons."""
        return self.found


def open_dense_train_data(data: Data, labels: PixelLabels) -> DenseTrainData:
    """Open the training set of a recipe. Raises InputError as `open_dense` does, and for settings of .beton files that
    would be left unread."""
    if data.split is not None:
        raise InputError(f"data.split is {data.split}, and sets of masks have no splits; leave --data.split out")
    if data.sizes is not None:
        raise InputError("data.sizes grows images of .beton files, and crops with masks have one size; leave it out")
    found = open_dense(data, labels, data.train)
    return DenseTrainData(found, (data.batch, 0), {"train": found.digest})


def open_dense_loader(
    train_data: DenseTrainData,
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
    sampler = Sampler(seed, range(train_data.found.n), None, data.batch, 0, repeats=data.repeats)
    return DenseLoader(
        DenseDataset(train_data.found, data.size, seed),
        sampler,
        device,
        step,
        micro=micro,
        chunks=ranks * micro,
        first_chunk=rank * micro,
        threads=data.threads,
        ahead=data.ahead,
        hang_timeout_s=data.hang_timeout_s,
    )
