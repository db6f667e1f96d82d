"""Measure a run on other images of its classes, or of some of them: ImageNet-A, -R, -Sketch, and ImageNet-C's files."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.evaluate.evaluator import Evaluator, labels_of
from models.full_precision import full_precision
from models.load import Loaded, check_window
from pipeline.concurrency.transfer import to_device
from pipeline.errors import InputError
from pipeline.evaluation.corruptions.stream import CorruptionSpec
from pipeline.evaluation.files import sweep_files
from pipeline.sources.encode import Decoding
from pipeline.sources.folders import class_folders
from pipeline.sources.source import Files
from pipeline.spec import View
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import escape
from pipeline.text import count, some

SHOWN = 3  # files left out that are named


def shifted_error(evaluator: Evaluator, loaded: Loaded, path: Path) -> tuple[float, int]:
    """Measure the error, 0 to 1, and the number of images; a prediction is the best of the classes that the data has.

    path  a .beton file, or a folder of class folders, with the run's names of classes

    Raises InputError if there is none, if it holds classes that the run does not know, or no labelled image.
    """
    classes, batches = open_shift(evaluator, loaded, path)
    error, n = share_wrong(loaded, batches, columns_of(classes, loaded, path))
    if not n:
        raise InputError(f"{path}: none of its files is an image that can be read")
    return error, n


@torch.inference_mode()
def share_wrong(loaded: Loaded, batches: Iterable[tuple[Tensor, np.ndarray]], columns: np.ndarray) -> tuple[float, int]:
    """Measure the share of wrong predictions among the run's classes `columns` (i64 [K]), and count the images.

    batches  images u8 [n, 3, H, W] on the device; labels i64 [n], places in `columns`
    """
    device = next(loaded.method.parameters()).device
    among = to_device(columns, device)
    wrong, n = torch.zeros((), dtype=torch.int64, device=device), 0
    for images, labels in batches:
        with full_precision(device):
            predicted = restricted(loaded.method.logits(images), among)
        wrong += (predicted != to_device(labels, device)).sum()
        n += len(labels)
    return int(wrong) / max(n, 1), n


def restricted(scores: Tensor, columns: Tensor) -> Tensor:
    """Predict the best of some classes from scores [N, C]: its place in `columns` (i64 [K]), i64 [N]."""
    return scores[:, columns].argmax(1)


def columns_of(classes: Sequence[str], loaded: Loaded, path: Path) -> np.ndarray:
    """Return the place of each of a data set's classes among the run's: i64 [K].

    Raises InputError, which names some, for classes that the run does not know.
    """
    place = {name: i for i, name in enumerate(loaded.classes)}
    unknown = [name for name in classes if name not in place]
    if unknown:
        raise InputError(
            f"{path}: {loaded.path} does not know {len(unknown)} of its {count(len(classes), 'class')} "
            f"({some(unknown)}); name them as the run does ({some(loaded.classes)})"
        )
    return np.array([place[name] for name in classes], np.int64)


def open_shift(
    evaluator: Evaluator, loaded: Loaded, path: Path
) -> tuple[tuple[str, ...], Iterator[tuple[Tensor, np.ndarray]]]:
    """Open a data set: its class names, and batches of images u8 [n, 3, H, W] on the device with labels i64 [n].

    Raises InputError if there is none, or if it has no labels, or no names of classes.
    """
    if not path.exists():
        raise InputError(f"{path}: expected a .beton file or a folder of class folders, found nothing")
    if path.is_dir():
        found = _class_folders(path)
        if found.classes is None or not found.classes:
            raise InputError(f"{path}: expected class folders, found images alone")
        paths = [path / name for name in found.names]
        return found.classes, _files(evaluator, loaded, paths, found.labels)
    beton = open_beton(path)
    check_window(loaded, beton)
    known = labels_of(beton)
    ids = np.asarray(known.ids)
    if beton.manifest.classes is None:
        raise InputError(f"{path} has labels without names of classes; convert it from class folders")
    return beton.manifest.classes, paired(evaluator.images(loaded, beton, ids), known[ids])


def _class_folders(path: Path) -> Files:
    """Class folders of one level; raises InputError for others, with what `convert` can make of them."""
    try:
        return class_folders(path)
    except InputError as error:
        hint = (
            "" if " --" not in str(error) else "; these are flags of python -m pipeline.convert: give its .beton here"
        )
        raise InputError(f"{error}{hint}") from error


def paired(batches: Iterable[Tensor], labels: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield each batch of images with its labels, which are the next ones of `labels` (i64 [N])."""
    first = 0
    for images in batches:
        yield images, labels[first : first + len(images)]
        first += len(images)


def _files(
    evaluator: Evaluator, loaded: Loaded, paths: list[Path], labels: np.ndarray
) -> Iterator[tuple[Tensor, np.ndarray]]:
    data, device = evaluator.data_of(loaded), next(loaded.method.parameters()).device
    label = dict(zip(paths, labels.tolist(), strict=True))
    left_out: list[tuple[Path, str]] = []
    for shown in sweep_files(paths, data, device, evaluator.batch, Decoding(loaded.window)):
        left_out += shown.rejected
        if shown.paths:
            yield shown.images, np.array([label[path] for path in shown.paths], np.int64)
    if left_out:
        named = some([f"{escape(str(path))} ({why})" for path, why in left_out], SHOWN)
        print(f"left out: {len(left_out):,} of {count(len(paths), 'file')}: {named}", file=sys.stderr)


def corrupted_files(root: Path, wanted: CorruptionSpec) -> Path:
    """Return the path of one corruption and severity of ImageNet-C below `root`.

    It is NAME/SEVERITY/CLASS/, also one folder deeper, as its archives are named (noise/, blur/, ...), or
    NAME_SEVERITY.beton. Raises InputError if it is not there.
    """
    name, severity = wanted.name, str(wanted.severity)
    places = [root / f"{name}_{severity}.beton", root / name / severity, *sorted(root.glob(f"*/{name}/{severity}"))]
    for place in places:
        if place.exists():
            return place
    raise InputError(f"{root}: expected {name}/{severity}/ with class folders, or {name}_{severity}.beton; found none")


def already_cropped(loaded: Loaded) -> Loaded:
    """Return the run with an evaluation view for images that are crops already: scaled to its size, nothing cut off."""
    whole = View(crop="centre", filter=loaded.recipe.data.evaluate.filter, flip=False, short_side=1.0)
    return replace(loaded, recipe=replace(loaded.recipe, data=replace(loaded.recipe.data, evaluate=whole)))
