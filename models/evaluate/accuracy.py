"""Accuracy of a run's classifier: top-1, top-5, per class, confused with what, and how far its confidence is right."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.base import Evaluator, Result
from models.evaluate.scores import answers, calibration
from models.load import Loaded
from models.method import Method
from models.reporting.figures import confusions
from models.reporting.render import Block, Picture, Table
from pipeline.text import percent

WORST = 20  # classes, and pairs of classes, that the page lists


@torch.no_grad()
def hits(method: Method, batches: Iterable[Tensor], labels: Tensor) -> Tensor:
    """How many images' class is the best guess, and among the five best, of how many: f64 [3], on the device.

    batches  u8 [n, 3, S, S], every image once, in the order of labels (i64 [N])
    """
    counts = torch.zeros(3, dtype=torch.float64, device=labels.device)
    first = 0
    for images in batches:
        scores = method.logits(images)
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        hit = best == labels[first : first + len(images), None]
        counts[:2] += torch.stack([hit[:, 0].sum(), hit.any(1).sum()])
        counts[2] += len(images)
        first += len(images)
    return counts


@final
@dataclass(frozen=True)
class Accuracy(Evaluator):
    """Top-1 and top-5, per class, confusions, calibration."""

    bins: int = 15
    """Of the calibration error."""

    def run(self, loaded: Loaded) -> Result:
        """top1, top5, mean per-class accuracy, expected calibration error, mean negative log-likelihood."""
        found = answers(self, loaded, self.open(loaded))
        n, classes = found.probabilities.shape
        best = found.probabilities.topk(min(5, classes), dim=1).indices
        hit = best == found.labels[:, None]
        confusion = confusion_of(found.labels, best[:, 0], classes)
        error, bins = calibration(found.probabilities, found.labels, self.bins)
        likelihood = found.probabilities.double().gather(1, found.labels[:, None]).clamp_min(1e-12)
        held = confusion.sum(1) > 0
        each = confusion.diagonal()[held] / confusion.sum(1)[held]
        values = {"images": float(n), "top1": float(hit[:, 0].double().mean())}
        values |= {"top5": float(hit.any(1).double().mean())} if classes > 5 else {}
        values |= {"per_class": float(each.mean()), "calibration_error": error, "nll": float(-likelihood.log().mean())}
        return Result(values, page(confusion, bins, loaded.classes))


def confusion_of(labels: Tensor, guessed: Tensor, classes: int) -> np.ndarray:
    """i64 [C, C]: images of the row's class that were called the column's."""
    return torch.bincount(labels * classes + guessed, minlength=classes**2).view(classes, classes).numpy()


def page(confusion: np.ndarray, bins: list[tuple[int, float, float]], names: tuple[str, ...]) -> list[Block]:
    """The classes that go worst, what they are taken for, and confidence beside accuracy."""
    images = confusion.sum(1)
    accuracy = np.where(images > 0, confusion.diagonal() / np.maximum(images, 1), np.inf)
    worst = [c for c in np.argsort(accuracy, kind="stable") if images[c]][:WORST]
    rows = [(names[c], percent(accuracy[c]), str(images[c])) for c in worst]
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:WORST]
    pairs = [(names[i], names[j], str(wrong[i, j])) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
             if wrong[i, j]]  # fmt: skip
    blocks: list[Block] = []
    if png := confusions(confusion, names):
        blocks.append(Picture("Confusions", "Rows: what it is; columns: what it was called.", png))
    blocks.append(Table(("class, worst first", "accuracy", "images"), rows))
    if pairs:
        blocks.append(Table(("class", "called", "images"), pairs))
    sure = [(percent(confidence), percent(right), f"{n:,}") for n, confidence, right in bins]
    return [*blocks, Table(("mean confidence", "accuracy", "images"), sure)]
