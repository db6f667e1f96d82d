"""Open the data of one run: a file, the labels that may be seen, the pools, and the LoaderSpec of its loader.

train_data = open_train_data(data, needs)
spec = loader_spec(train_data, data, needs, patch=16, total_steps=1000)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, Self, final

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.labels.known import Labels, no_labels
from pipeline.labels.splits import Split, known_labels, load_split
from pipeline.loader import LoaderSpec
from pipeline.open import open_data
from pipeline.sampling.resolution import check_sizes, distinct_sizes, size_at
from pipeline.sampling.sampler import Pool, SampleIds, Sampler, rest, shares
from pipeline.sources.levels import Window, window_of
from pipeline.spec import Data, Needs, View, both_sides
from pipeline.store.beton import Beton
from pipeline.text import some
from pipeline.views.plan import ViewSpec, draw, evaluation_spec


class ImageSource(Protocol):
    """What images are read from: its place, the number of its images, and the digest by which it is recognised."""

    @property
    def path(self) -> Path: ...
    @property
    def n(self) -> int: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class AnyTrainData(ABC):
    """What a run learns from, of whatever kind of files.

    batches      images of a step from the labelled and the unlabelled pool, over all devices
    fingerprint  digests of the files, and of a split, by which a resumed run recognises its data;
                 models.training.preflight adds those of the files to evaluate on
    """

    batches: tuple[int, int]
    fingerprint: dict[str, str | None]

    @property
    @abstractmethod
    def source(self) -> ImageSource:
        """Return what its images are read from, for messages and comparisons."""

    @property
    @abstractmethod
    def pools(self) -> tuple[int, int]:
        """Count the images in the labelled and the unlabelled pool; 0 where the method reads none."""

    @property
    @abstractmethod
    def label_counts(self) -> np.ndarray:
        """Count what is known of each class, images, pixels or objects: i64 [C]; zeros where no label is read."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Return the class names in label order; empty for a file without labels."""

    @property
    def window(self) -> Window | None:
        """Return what was black and white of pixels with more than 8 bits; None where nothing said so."""
        return None

    def recognised_by(self, digests: dict[str, str]) -> Self:
        """Return the same data with further digests in its fingerprint."""
        return replace(self, fingerprint=self.fingerprint | digests)

    def notes(self) -> list[str]:
        """Say, a line each, what is odd about the files and no error."""
        return []


@final
@dataclass(frozen=True, eq=False)
class TrainData(AnyTrainData):
    """What a method may learn from of a .beton file.

    split       name of the split, or None
    labels      those that the split shows; no other label is read into the process
    labelled    ids of the labelled pool, or None where the method reads no labels
    unlabelled  ids of the unlabelled pool, or None where the method reads none of it
    """

    beton: Beton
    split: str | None
    labels: Labels
    labelled: Pool | None
    unlabelled: Pool | None

    @property
    def source(self) -> Beton:
        """Return what its images are read from, for messages and comparisons."""
        return self.beton

    @property
    def pools(self) -> tuple[int, int]:
        """Count the images in the labelled and the unlabelled pool; 0 where the method reads none."""
        labelled, unlabelled = (0 if pool is None else len(pool) for pool in (self.labelled, self.unlabelled))
        return labelled, unlabelled

    @property
    def label_counts(self) -> np.ndarray:
        """Count the known labels of each class, i64 [C]; zeros where the method reads none."""
        known = self.labels
        if len(known.values) == known.n:  # every label of the file, which the manifest has counted
            return np.array(self.beton.manifest.class_counts, np.int64)
        return np.bincount(known.values, minlength=len(self.classes))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in label order; empty for a file without labels."""
        return self.beton.manifest.classes or ()

    @property
    def window(self) -> Window | None:
        """Return what was black and white of pixels with more than 8 bits; None where nothing said so."""
        return window_of(self.beton.manifest)


def open_train_data(data: Data, needs: Needs) -> TrainData:
    """Open the training file of a recipe and hide the labels that its split does not show.

    Raises InputError if file, split or labels are missing or do not fit each other, or a pool is empty.
    """
    beton = open_data(data, data.train)
    split = load_split(beton, data.split) if data.split and needs.labelled else None
    labels = known_labels(beton, split) if needs.labelled else no_labels(beton.n)
    labelled, unlabelled = labels.ids, _unlabelled(beton.n, labels, split, data.unlabelled == "rest")
    if needs.labelled and not len(labelled):
        raise InputError(f"{beton.path} has no labelled image and the method needs some; see data.split")
    empty = [label for label, count in enumerate(beton.manifest.class_counts) if not count]  # a split has every other
    if needs.labelled and empty:
        classes = beton.manifest.classes or ()  # where counts are there are names
        raise InputError(
            f"{beton.path}: expected a known label of every class, {len(empty)} of {len(classes)} have "
            f"none ({some([classes[each] for each in empty])}); convert it with an image of each that has a label, or "
            "without these classes"
        )
    if needs.unlabelled and not len(unlabelled):
        raise InputError(f"data.unlabelled is rest, but every image of {beton.path} has a known label; set data.split")
    return TrainData(
        beton,
        data.split if split else None,
        labels,
        labelled if needs.labelled else None,
        unlabelled if needs.unlabelled else None,
        batches=shares(data.batch, data.ratio, needs.labelled, needs.unlabelled),
        fingerprint={"train": beton.digest, "split": split.digest if split else None, "unlabelled": data.unlabelled},
    )


def _unlabelled(n: int, labels: Labels, split: Split | None, without_labelled: bool) -> Pool:
    """The unlabelled pool of a file of n images: those that a split names, or every image; with or without the labelled
    ones."""
    if split is not None and split.unlabelled is not None:
        return split.unlabelled if without_labelled else np.union1d(split.unlabelled, split.labelled)
    return rest(n, labels.ids) if without_labelled else range(n)


def loader_spec(
    train_data: TrainData,
    data: Data,
    needs: Needs,
    *,
    patch: int,
    total_steps: int,
    labels_only_steps: int = 0,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
    micro: int = 1,
) -> LoaderSpec:
    """Describe the batches of one of `ranks` processes, which cuts its share of each step into `micro`
    micro-batches."""
    pools = train_data.labelled, train_data.unlabelled
    sampler = Sampler(seed, *pools, *train_data.batches, labels_only_steps, data.repeats)
    return LoaderSpec(
        sampler,
        train_data.labels,
        *_stream_specs(data, needs, patch),
        seed,
        chunks=ranks * micro,
        first_chunk=rank * micro,
        micro=micro,
        size_at=partial(size_at, total_steps=total_steps, data=data) if data.sizes else None,
    )


def check_views(train_data: TrainData, data: Data, needs: Needs, patch: int) -> None:
    """Draw the views and masks of one image, so that what cannot be drawn raises InputError before a run begins."""
    check_sizes(data, patch)
    streams = [spec for spec in _stream_specs(data, needs, patch) if spec is not None]
    specs = [replace(spec, size=size) for spec in streams for size in distinct_sizes(data)]
    first = SampleIds(np.zeros(1, np.int64), np.zeros(1, np.int64))
    for spec in [*specs, evaluation_spec(data)]:
        try:
            draw(spec, first, train_data.beton.heights[:1], train_data.beton.widths[:1], 0)
        except InputError as error:
            if spec.size == both_sides(data.size):
                raise
            raise InputError(f"data.sizes holds {both_sides(spec.size)[0]}, at which {error}") from error


def _stream_specs(data: Data, needs: Needs, patch: int) -> tuple[ViewSpec | None, ViewSpec | None]:
    return (
        labelled_spec(data, patch, needs.labelled_visible) if needs.labelled else None,
        unlabelled_spec(data, patch, needs.strong, needs.unlabelled_visible) if needs.unlabelled else None,
    )


def labelled_spec(data: Data, patch: int, visible: bool) -> ViewSpec:
    """Describe the one view of the labelled stream, with its visible patches where they are asked for."""
    view = data.weak if data.labelled_view == "weak" else data.strong
    return ViewSpec({"images": (view, rng.LABELLED)}, data.size, data.mask if visible else None, patch)


def unlabelled_spec(data: Data, patch: int, strong: bool, visible: bool) -> ViewSpec:
    """Describe the weak view of the unlabelled stream, with a strong one and the weak one's visible patches where they
    are asked for."""
    views: dict[str, tuple[View, int]] = {"weak": (data.weak, rng.WEAK)}
    if strong:
        views["strong"] = (data.strong, rng.STRONG)
    return ViewSpec(views, data.size, data.mask if visible else None, patch)
