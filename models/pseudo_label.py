"""Pseudo-labels: what a teacher thinks an unlabelled image shows, and whether it is sure enough to be believed."""

from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.vit import look


class Pseudo(NamedTuple):
    """classes i64 [N]; passed bool [N]; rows i64 [n], the images that passed."""

    classes: Tensor
    passed: Tensor
    rows: Tensor


def pseudo_labels(teacher: VisionTransformer, weak: Tensor, threshold: float) -> Pseudo:
    """Label weak views u8 [N, 3, S, S] by the teacher's argmax where its probability is at least the threshold.

    FixMatch writes "greater or equal" (Sohn et al. 2020, eq. 4), Semi-MAE "greater": f32 tells them apart only at
    equality. Counting the rows is the step's one host sync: the shapes of what follows depend on it.
    """
    with torch.no_grad():
        confidence, classes = look(teacher, weak).float().softmax(-1).max(-1)
        passed = confidence >= threshold
        return Pseudo(classes, passed, passed.nonzero().squeeze(1))
