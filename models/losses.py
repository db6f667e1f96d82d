"""Losses that several methods share, computed in f32 where the network ran in half precision."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.packed import compiled
from models.encoder.patches import IMAGENET, Normalisation, gather_patches, scale_and_shift, scaled
from pipeline.errors import InputError


def pixel_loss(
    predicted: Tensor,
    images: Tensor,
    ids: Tensor,
    patch: int,
    *,
    normalise: bool,
    absolute: bool = False,
    normalisation: Normalisation = IMAGENET,
    compiler: str | Callable | None = None,
) -> Tensor:
    """Compute the mean squared error of predicted patches (MAE section 3, "Reconstruction target"), or the absolute one
    (SimMIM).

    predicted  float [N, M, P]      decoder output; P = patch² · 3 in (y, x, channel) order
    images     u8    [N, 3, H, W]   0..255; or float, normalised as the encoder's input
    ids        i64   [N, M]         the patches that were predicted; MAE predicts the hidden ones (section 3)
    normalise  compare with each patch's own mean and spread, unbiased variance + 1e-6 (MAE Tab. 1d)

    compiler   back-end of torch.compile, which makes one pass of the gather, the norm and the mean; None: eagerly

    Raises InputError if M = 0, where nothing is hidden and the mean would be 0/0.
    """
    if ids.shape[1] == 0:
        raise InputError("no patch is hidden, so there is nothing to predict; choose a mask ratio above 0")
    predicted = at_least_f32(predicted)
    error = _error if compiler is None else compiled(_error, compiler)
    pair = scale_and_shift(normalisation, predicted, predicted.dtype)
    return error(predicted, images, ids, *pair, patch, normalise, absolute)


def _error(
    predicted: Tensor,
    images: Tensor,
    ids: Tensor,
    scale: Tensor,
    shift: Tensor,
    patch: int,
    normalise: bool,
    absolute: bool,
) -> Tensor:
    target = scaled(gather_patches(images, None, ids, patch), scale, shift).to(predicted.dtype)
    if normalise:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return (F.l1_loss if absolute else F.mse_loss)(predicted, target)


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the mean cross-entropy of logits float [N, classes] and labels i64 [N] (Semi-MAE eq. 1), or distributions
    float [N, classes].
    """
    logits = at_least_f32(logits)
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def pseudo_label_loss(
    logits: Tensor, targets: Tensor, n_all: int, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Compute the cross-entropy of the samples that passed, summed and divided by all N_u unlabelled ones (Semi-MAE
    eq. 2, where the indicator is inside the mean).

    logits   float [n, classes]   of the samples whose confidence reached the threshold; n may be 0
    targets  i64 [n]              their pseudo-labels; or float [n, classes], distributions
    n_all    N_u of this rank; with n in its place samples would count more, the fewer pass
    weights  float [n]            of the samples; all 1 when absent

    Raises InputError if n_all < 1.
    """
    if n_all < 1:
        raise InputError(f"the mean runs over all unlabelled images, and there are {n_all}")
    logits = at_least_f32(logits)
    if targets.is_floating_point():
        targets = targets.to(logits.dtype)
    each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return (each if weights is None else each * weights.to(each.dtype)).sum() / n_all


def at_least_f32(x: Tensor) -> Tensor:
    """Convert bfloat16 and half to f32 for a softmax or a mean; f32 and f64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
