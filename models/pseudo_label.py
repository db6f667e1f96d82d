"""Pseudo-labels: what a teacher thinks an unlabelled image shows, and whether it is sure enough to be believed."""

from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.losses import at_least_f32
from models.vit import Chosen, Whole, look
from pipeline.errors import InputError


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
        confidence, classes = at_least_f32(look(teacher, weak)).softmax(-1).max(-1)
        passed = confidence >= threshold
        return Pseudo(classes, passed, passed.nonzero().squeeze(1))


def confident(images: Tensor, pseudo: Pseudo, drop_rejected: bool) -> Chosen | Whole:
    """The strong views to encode: those whose pseudo-label passed, or all of them."""
    return Chosen(images, pseudo.rows) if drop_rejected else Whole(images)


def of_confident(logits: Tensor, pseudo: Pseudo, drop_rejected: bool) -> Tensor:
    """Logits [n, C] of the images that passed, from those of the group that `confident` made."""
    return logits if drop_rejected else logits[pseudo.rows]


def check_droppable(network: nn.Module) -> None:
    """Raise InputError if an image's output depends on the images beside it: then dropping some changes the rest.

    Nor is dropping exact for a loss that reads rejected images (soft weights, contrasts between all strong views); a
    method with such a loss encodes `Whole` groups.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"{name} is a {type(module).__name__}, which mixes the images of a batch, so rejected ones cannot be "
                "left out exactly; set --method.no-drop-rejected"
            )
