"""Balance: settings by which the losses of a method take classes with few labels into account.

One rule for labels and pseudo-labels: each loss adds tau log pi to the logits, pi being the class distribution of the
images that it is of. The network's own scores then are those of equally frequent classes (Menon et al. 2021, section
4.2), and these are what is evaluated, and what labels the unlabelled images: pseudo-labels come from scores that are
balanced already, and are not adjusted a second time. DebiasPL (Wang et al. 2022) adds a log distribution to the strong
views, too, and takes it off the weak ones; it estimates the distribution from the predictions on unlabelled images, and
here `unlabelled` says which one it is.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.losses import ClassBalance
from pipeline.errors import InputError
from pipeline.flags import NOT_NEGATIVE, SHARE


@dataclass(frozen=True)
class Balance:
    """Classes with many and with few labels: what the losses do about the difference."""

    kind: Literal["none", "logit_adjustment", "weights"] = "none"
    """logit_adjustment: the logarithm of each class's share of the known labels is added to its logit in training alone
    (Menon et al. 2021, eq. 10), so that the network itself scores all classes alike. weights: images of classes with
    few labels count more (Cui et al. 2019)."""
    tau: Annotated[float, NOT_NEGATIVE] = 1.0
    """logit_adjustment: factor of the logarithm; 1 is the balanced softmax (Ren et al. 2020)."""
    beta: Annotated[float, SHARE] = 1.0
    """weights: 1 is the inverse number of labels, below it the inverse effective number (Cui et al.: 0.9 to 0.9999)."""
    unlabelled: Literal["labels", "uniform"] = "labels"
    """Which class distribution the unlabelled images are taken to have. labels: that of the labels, so that the
    pseudo-labelled loss is balanced as the labelled one is. uniform: all classes alike, so that it is not."""

    def of_unlabelled(self, balance: ClassBalance | None) -> ClassBalance | None:
        """Return the terms of the classes for the pseudo-labelled loss, of those for the labelled one."""
        return balance if self.unlabelled == "labels" else None


def build_balance(settings: Balance, classes: int, *, unlabelled: bool = True) -> ClassBalance | None:
    """Build the terms of the classes; None for kind none, whose losses are computed without.

    unlabelled  whether the method learns from unlabelled images

    Raises InputError for a setting that would have no effect.
    """
    s, usual = settings, Balance()
    for name, kind in (("tau", "logit_adjustment"), ("beta", "weights")):
        if getattr(s, name) != getattr(usual, name) and s.kind != kind:
            raise InputError(
                f"method.balance.{name} is of balance {kind}, and method.balance.kind is {s.kind}; add "
                f"--method.balance.kind {kind}, or leave it out"
            )
    if s.unlabelled != usual.unlabelled and (s.kind == "none" or not unlabelled):
        why = f"method.balance.kind is {s.kind}" if unlabelled else "this method has no loss of unlabelled images"
        raise InputError(f"method.balance.unlabelled is {s.unlabelled}, and {why}; leave it out")
    if s.kind == "none":
        return None
    tau, beta = (s.tau, None) if s.kind == "logit_adjustment" else (None, s.beta)
    return ClassBalance(classes, tau=tau, beta=beta)
