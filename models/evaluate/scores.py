"""What a run answers on labelled images, and what those answers are worth."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.distributed.precision import precision
from models.evaluate.base import Evaluator
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels
from pipeline.store.beton import Beton


class Answers(NamedTuple):
    """Class probabilities f32 [N, C] and labels i64 [N], on the host, of images `ids` i64 [N]."""

    probabilities: Tensor
    labels: Tensor
    ids: np.ndarray


@torch.inference_mode()
def answers(evaluator: Evaluator, loaded: Loaded, beton: Beton) -> Answers:
    """Every labelled image of a file through the classifier, nothing waiting for the device until the end.

    Raises InputError for a run without a classifier, and a file without labels.
    """
    if not loaded.method.has_classifier:
        raise InputError(
            f"{loaded.path} was trained by {loaded.recipe.name}, which has no classifier; measure it with knn or "
            "few_shot, or fine-tune it first"
        )
    known = known_labels(beton, None)
    ids = np.asarray(known.ids)
    if not len(ids):
        raise InputError(f"{beton.path} has no labelled image; convert it with labels")
    found = []
    for images in evaluator.images(loaded, beton, ids):
        with precision(loaded.recipe.run, images.device):
            found.append(loaded.method.logits(images).float().softmax(-1))
    return Answers(torch.cat(found).cpu(), torch.from_numpy(known[ids]), ids)


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[float, list[tuple[int, float, float]]]:
    """Expected calibration error (Guo et al. 2017, eq. 3), and (images, confidence, accuracy) of each bin of equal
    width that holds any."""
    confidence, classes = probabilities.double().max(1)
    right = (classes == labels).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    held = []
    for each in range(bins):
        inside = bin_of == each
        if (n := int(inside.sum())) > 0:
            held.append((n, float(confidence[inside].mean()), float(right[inside].mean())))
    return sum(n * abs(sure - hit) for n, sure, hit in held) / len(labels), held
