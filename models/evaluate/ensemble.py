"""Average what several runs' classifiers say of every image of a file: soft labels for unlabelled images."""

from collections.abc import Iterable, Sequence
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.evaluate.class_probabilities import probabilities
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.sources.classes import difference
from pipeline.text import count

Average = Literal["probabilities", "labels"]
ROWS = 1 << 14
"""Rows that are rounded at once."""


@final
class Ensemble:
    """The mean over runs of class probabilities, or of one-hot labels, of n images.

    ensemble = Ensemble(beton.n, classes, "probabilities")
    for loaded in runs:
        ensemble.add(loaded, sweep_decodable(loaded.recipe.data, beton, device, np.arange(beton.n), 256), device)
    ensemble.mean()                     # f16 [n, C]

    average      probabilities: each run's softmax. labels: 1 for each run's likeliest class, so that a run that is
                 surer than the others weighs no more than they do
    temperature  of each run's softmax: scores are divided by it
    predicted    i32 [n] for each run: its likeliest class, -1 for an image that did not decode

    It takes 6 bytes of host memory for each image and class.
    """

    def __init__(self, n: int, classes: Sequence[str], average: Average, temperature: float = 1.0) -> None:
        self.classes, self.average, self.temperature = tuple(classes), average, temperature
        self._total = np.zeros((n, len(self.classes)), np.float32)
        self.predicted: list[np.ndarray] = []

    @torch.inference_mode()
    def add(self, loaded: Loaded, batches: Iterable[tuple[np.ndarray, Tensor]], device: torch.device) -> None:
        """Add a run, by name of its classes: batches of ids i64 [n] and images u8 [n, 3, H, W] in the run's own view.

        The run is on the device meanwhile, and on the host afterwards. Raises InputError for another set of classes.
        """
        columns = torch.from_numpy(columns_of(loaded, self.classes)).to(device)
        method, predicted = loaded.method.to(device), np.full(len(self._total), -1, np.int32)
        for ids, images in batches:
            given = probabilities(loaded, images, self.temperature)[:, columns]
            likeliest = given.argmax(-1)
            if self.average == "labels":
                given = F.one_hot(likeliest, len(self.classes)).float()
            self._total[ids] += given.cpu().numpy()
            predicted[ids] = likeliest.cpu().numpy()
        method.to("cpu")
        self.predicted.append(predicted)

    @property
    def seen(self) -> np.ndarray:
        """How many runs saw each image, i64 [n]; an image that does not decode is seen by none."""
        return (np.stack(self.predicted) >= 0).sum(0)

    @property
    def undecodable(self) -> np.ndarray:
        """The ids of images that no run saw, i64."""
        return np.flatnonzero(self.seen == 0)

    def mean(self) -> np.ndarray:
        """Return the means over the runs that saw an image, f16 [n, C]; uniform where none did."""
        seen = self.seen
        mean = np.empty(self._total.shape, np.float16)
        for first in range(0, len(mean), ROWS):
            rows = slice(first, first + ROWS)
            share = self._total[rows] / np.maximum(seen[rows], 1)[:, None]
            mean[rows] = np.where(seen[rows, None] > 0, share, 1 / len(self.classes))
        return mean

    def agreement(self) -> float:
        """Return the share of the images that all runs saw of which all name the same class."""
        predicted = np.stack(self.predicted)
        predicted = predicted[:, (predicted >= 0).all(0)]
        return float((predicted == predicted[0]).all(0).mean()) if predicted.size else 0.0


def columns_of(loaded: Loaded, classes: Sequence[str]) -> np.ndarray:
    """Return the place in a run's scores of each class, by name: i64 [C].

    Raises InputError for a run without a classifier, and one of other classes.
    """
    if not loaded.method.has_classifier:
        raise InputError(f"{loaded.no_classifier}; fine-tune it first")
    if set(classes) != set(loaded.classes):
        told = difference(classes, loaded.classes, "to label", "in the run")
        raise InputError(
            f"{loaded.path} tells {count(len(loaded.classes), 'class')} apart, expected the {len(classes)} to label: "
            f"{told}; leave that run out, or convert images of its classes alone"
        )
    place = {name: i for i, name in enumerate(loaded.classes)}
    return np.array([place[name] for name in classes], np.int64)
