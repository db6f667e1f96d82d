"""Losses that several methods share, computed in f32 where the network ran in half precision."""

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@final
class ClassBalance(nn.Module):
    """Terms of the classes in a cross-entropy, by the number of known labels of each.

    balance = ClassBalance(10, tau=1.0)            # or beta=0.999
    balance.set_label_counts(torch.tensor([50, 32, ...]))
    loss = label_loss(logits, labels, 0.1, balance)

    tau   logit adjustment: tau log pi_c is added to the logit of class c, pi_c being its share of the labels (Menon et
          al. 2021, eq. 10; tau 1 is the balanced softmax of Ren et al. 2020). None: nothing is added.
    beta  weights of images by their class: (1 - beta) / (1 - beta^n_c), the inverse of the effective number of labels
          (Cui et al. 2019, eq. 2 and 5), at beta 1 its limit 1 / n_c. They are scaled to a mean of 1 over the labelled
          images, so that the learning rate keeps its meaning; Cui et al. let them add up to C. None: no weights.

    offsets f32 [C] and weights f32 [C], or None, follow from the counts and are in no checkpoint. A class without a
    known label, whose logarithm and weight would be infinite, counts as if it had one.
    """

    def __init__(self, classes: int, *, tau: float | None = None, beta: float | None = None) -> None:
        super().__init__()
        self.classes, self.tau, self.beta = classes, tau, beta
        self.said: str | None = None
        self.register_buffer("offsets", None if tau is None else torch.zeros(classes), persistent=False)
        self.register_buffer("weights", None if beta is None else torch.ones(classes), persistent=False)

    @torch.no_grad()
    def set_label_counts(self, counts: Tensor) -> None:
        """Set the numbers of known labels of each class, i64 [C]. Raises InputError for another number of classes."""
        if counts.shape != (self.classes,):
            raise InputError(f"expected label counts of {self.classes} classes, got a tensor of {tuple(counts.shape)}")
        self.said = f"from {int(counts.min()):,} to {int(counts.max()):,} known labels a class"
        if without := int((counts == 0).sum()):
            self.said += f", and {without:,} without any, which count as if they had one"
        n = counts.double().clamp_min(1)
        if self.offsets is not None:
            self.offsets.copy_(self.tau * (n / n.sum()).log())
        if self.weights is not None and self.beta is not None:
            each = 1 / n if self.beta == 1 else (1 - self.beta) / (1 - self.beta**n)
            self.weights.copy_(each * n.sum() / (each * n).sum())

    def cross_entropy(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Compute the cross-entropy of each sample, float [N], of logits float [N, C] and classes i64 [N] or
        distributions float [N, C].

        Of a distribution, as of a mixture or a smoothed label, each class has its own weight, as in torch:
        - sum_c w_c q_c log p_c. Raises InputError before `set_label_counts`.
        """
        if self.said is None:
            raise InputError("the balance of classes needs their labels; call set_label_counts(counts) before training")
        logits = logits if self.offsets is None else logits + self.offsets
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        return F.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=smoothing)

    def describe(self) -> str:
        """Describe in a line what the losses do about the classes, and the label counts."""
        kind = f"logit adjustment, tau {self.tau:g}" if self.beta is None else f"class weights, beta {self.beta:g}"
        return f"balance: {kind}, {self.said}"


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0, balance: ClassBalance | None = None) -> Tensor:
    """Compute the mean cross-entropy of logits float [N, classes] and labels i64 [N] (Semi-MAE eq. 1), or distributions
    float [N, classes].

    balance  terms of the classes; with weights the sum is divided by N, not by the weights of these labels, so that
             a step's loss is the same in any number of micro-batches
    """
    logits = at_least_f32(logits)
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
    if balance is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return balance.cross_entropy(logits, labels, smoothing).mean()


def pseudo_label_loss(
    logits: Tensor,
    targets: Tensor,
    n_all: int,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    balance: ClassBalance | None = None,
) -> Tensor:
    """Compute the cross-entropy of the samples that passed, summed and divided by all N_u unlabelled ones (Semi-MAE
    eq. 2, where the indicator is inside the mean).

    logits   float [n, classes]   of the samples whose confidence reached the threshold; n may be 0
    targets  i64 [n]              their pseudo-labels; or float [n, classes], distributions
    n_all    N_u of this rank; with n in its place samples would count more, the fewer pass
    weights  float [n]            of the samples; all 1 when absent
    balance  terms of the classes

    Raises InputError if n_all < 1.
    """
    if n_all < 1:
        raise InputError(f"the mean runs over all unlabelled images, and there are {n_all}")
    logits = at_least_f32(logits)
    if targets.is_floating_point():
        targets = targets.to(logits.dtype)
    if balance is None:
        each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    else:
        each = balance.cross_entropy(logits, targets, smoothing)
    return (each if weights is None else each * weights.to(each.dtype)).sum() / n_all


def at_least_f32(x: Tensor) -> Tensor:
    """Convert bfloat16 and half to f32 for a softmax or a mean; f32 and f64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
