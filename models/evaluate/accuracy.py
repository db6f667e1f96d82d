"""Accuracy of a run's classifier: top-1, top-5, per class, confusions, and the calibration of its confidence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.class_probabilities import class_probabilities
from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.intervals import LEVEL, shown, wilson, with_interval
from models.evaluate.paired import open_other, paired
from models.load import Loaded
from models.method import Method
from models.reporting.figures import RECALL, confusions, recalls
from models.reporting.render import Block, Picture, Table
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, check_bounds
from pipeline.labels.long_tail import uneven
from pipeline.spec import Needs
from pipeline.text import percent
from pipeline.train_data import open_train_data

WORST = 20  # classes, and pairs of classes, that the page lists


@torch.no_grad()
def hits(method: Method, batches: Iterable[Tensor], labels: Tensor, classes: int = 0) -> Tensor:
    """Count the images whose class has the highest score, those whose class is among the five highest, and all images;
    then, of each of `classes`, those whose class has the highest score.

    batches  u8 [n, 3, H, W], every image once, in the order of labels (i64 [N])

    Returns f64 [3 + classes], on the device of the labels.
    """
    counts = torch.zeros(3 + classes, dtype=torch.float64, device=labels.device)
    first = 0
    for images in batches:
        scores = method.logits(images)
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        hit = best == labels[first : first + len(images), None]
        counts[:2] += torch.stack([hit[:, 0].sum(), hit.any(1).sum()])
        counts[2] += len(images)
        if classes:
            counts[3:].index_add_(0, labels[first : first + len(images)], hit[:, 0].double())
        first += len(images)
    return counts


@final
@dataclass(frozen=True)
class Accuracy(Evaluator):
    """Top-1 and top-5 with intervals, per class, confusions, calibration; against another run on the same images."""

    against: str | None = None
    """Another run, or one of its checkpoints: the difference in top-1 on the same images, with its interval and
    McNemar's test."""
    bins: Annotated[int, AT_LEAST_1] = 15
    """Of the calibration error."""

    def run(self, loaded: Loaded) -> Result:
        """Measure top1, top5, balanced accuracy (the mean of the classes' recalls), the lowest recall, expected
        calibration error, mean negative log-likelihood.

        top1_low and top1_high, and so for top5, are the ends of Wilson's 95 % interval. With `against` there are
        top1_against, top1_difference, ... (models.evaluate.paired), too.
        """
        check_bounds(self, "--")
        beton = self.open(loaded)
        other = open_other(self, loaded, self.against)
        found = class_probabilities(self, loaded, beton)
        n, classes = found.probabilities.shape
        best = ranked(found.probabilities)
        hit = best == found.labels[:, None]
        confusion = confusion_of(found.labels, best[:, 0], classes)
        error, bins = calibration(found.probabilities, found.labels, self.bins)
        likelihood = found.probabilities.double().gather(1, found.labels[:, None]).clamp_min(1e-12)
        held = confusion.sum(1) > 0
        each = confusion.diagonal()[held] / confusion.sum(1)[held]
        values = {"images": float(n)} | with_interval("top1", int(hit[:, 0].sum()), n)
        values |= with_interval("top5", int(hit.any(1).sum()), n) if classes > 5 else {}
        values |= {"balanced": float(each.mean()), "lowest_recall": float(each.min())}
        values |= {"calibration_error": error, "nll": float(-likelihood.log().mean())}
        blocks = page(confusion, bins, loaded.classes, label_counts(loaded))
        if other is None:
            return Result(values, blocks)
        theirs = class_probabilities(self, other.run, beton)
        right = ranked(theirs.probabilities)[:, 0] == theirs.labels
        more, table = paired(loaded, other, {"top1": hit[:, 0]}, {"top1": right})
        return Result(values | more, [*table, *blocks])


def ranked(probabilities: Tensor) -> Tensor:
    """List the classes of the five highest probabilities f32 [N, C], or of all, the highest first: i64 [N, k]."""
    return probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[float, list[tuple[int, float, float]]]:
    """Compute the expected calibration error (Guo et al. 2017, eq. 3) of probabilities f32 [N, C] and labels i64 [N].

    Returns it with (images, confidence, accuracy) of each bin of equal width that holds any image.
    """
    confidence, classes = probabilities.double().max(1)
    right = (classes == labels).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    held = []
    for each in range(bins):
        inside = bin_of == each
        if (n := int(inside.sum())) > 0:
            held.append((n, float(confidence[inside].mean()), float(right[inside].mean())))
    return sum(n * abs(sure - hit) for n, sure, hit in held) / len(labels), held


def confusion_of(labels: Tensor, predicted: Tensor, classes: int) -> np.ndarray:
    """Count the images of each class (row) for which each class (column) was predicted: i64 [C, C]."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).numpy()


def label_counts(loaded: Loaded) -> np.ndarray | None:
    """Count the labels of each class that a run learned from, i64 [C]; None where its training data is not at hand, and
    for released weights."""
    data = loaded.recipe.data
    try:
        train = open_train_data(data, Needs(labelled=True)) if not loaded.origin else None
    except InputError:
        return None
    return train.label_counts if train is not None and train.classes == loaded.classes else None


def page(
    confusion: np.ndarray,
    bins: list[tuple[int, float, float]],
    names: tuple[str, ...],
    labels: np.ndarray | None = None,
) -> list[Block]:
    """Show the confusions, the classes of the lowest recall, the most frequent confusions, and the calibration.

    labels  i64 [C], those of each class that were learned from; where they are uneven recall is drawn against them
    """
    images = confusion.sum(1)
    accuracy = np.where(images > 0, confusion.diagonal() / np.maximum(images, 1), np.inf)
    worst = [c for c in np.argsort(accuracy, kind="stable") if images[c]][:WORST]
    right = confusion.diagonal()
    rows = [
        (names[c], percent(accuracy[c]), shown(wilson(int(right[c]), int(images[c]))), str(images[c]),
         *([] if labels is None else [f"{labels[c]:,}"]))
        for c in worst
    ]  # fmt: skip
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:WORST]
    pairs = [(names[i], names[j], str(wrong[i, j])) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
             if wrong[i, j]]  # fmt: skip
    blocks: list[Block] = []
    if png := confusions(confusion, names):
        blocks.append(Picture("Confusions", "Rows: the true class; columns: the predicted one.", png))
    if labels is not None and uneven(labels):
        recall = [float(each) if held else None for each, held in zip(accuracy, images, strict=True)]
        blocks += [Picture(*RECALL, png, wide=True)] if (png := recalls(recall, labels, names)) else []
    head = "class, worst first", "recall", f"{percent(LEVEL, decimals=0)} interval", "images"
    blocks.append(Table(head if labels is None else (*head, "labels learned from"), rows))
    if pairs:
        blocks.append(Table(("class", "predicted as", "images"), pairs))
    sure = [(percent(confidence), percent(right), f"{n:,}") for n, confidence, right in bins]
    return [*blocks, Table(("mean confidence", "accuracy", "images"), sure)]
