"""Class probabilities that a run's classifier gives to every labelled image of a file."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.evaluate.evaluator import Evaluator, labels_of
from models.full_precision import full_precision
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.store.beton import Beton


class ClassProbabilities(NamedTuple):
    """Class probabilities f32 [N, C] and labels i64 [N], on the host, of images `ids` i64 [N]."""

    probabilities: Tensor
    labels: Tensor
    ids: np.ndarray


def probabilities(loaded: Loaded, images: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the softmax f32 [N, C] of a run's scores, divided by a temperature, of u8 images [N, 3, H, W]."""
    with full_precision(images.device):
        return (loaded.method.logits(images).float() / temperature).softmax(-1)


@torch.inference_mode()
def class_probabilities(evaluator: Evaluator, loaded: Loaded, beton: Beton) -> ClassProbabilities:
    """Run the classifier on every labelled image of a file; results are copied from the device once, at the end.

    Raises InputError for a run without a classifier, and a file without labels.
    """
    if not loaded.method.has_classifier:
        raise InputError(f"{loaded.no_classifier}; measure it with knn or few_shot, or fine-tune it first")
    known = labels_of(beton)
    ids = np.asarray(known.ids)
    found = []
    for images in evaluator.images(loaded, beton, ids):
        found.append(probabilities(loaded, images))
    return ClassProbabilities(torch.cat(found).cpu(), torch.from_numpy(known[ids]), ids)
