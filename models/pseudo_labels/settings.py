"""Pseudo: settings of pseudo-labels, which FixMatch and its descendants share; and the papers' own values."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.flags import BELOW_1, NOT_NEGATIVE, POSITIVE, SHARE

Kind = Literal["fixed", "flexmatch", "freematch", "softmatch", "adamatch"]
AlignTo = Literal["none", "uniform", "labels", "predictions"]


@dataclass(frozen=True)
class Pseudo:
    """Pseudo-labels of unlabelled images: which network gives them, and which of them count how much."""

    threshold: Annotated[float, SHARE] = 0.7
    """Confidence from which a pseudo-label counts (tau); adamatch: relative to that of the labelled images; freematch
    and softmatch learn theirs."""
    kind: Kind = "fixed"
    """Which pseudo-labels count. fixed: from the threshold on (FixMatch). flexmatch: lower for classes that are learned
    late. freematch: from a learned threshold for each class on. softmatch: all, weighted by a truncated Gaussian of
    their confidence. adamatch: from the threshold times the labelled images' mean confidence on."""
    momentum: Annotated[float, BELOW_1] = 0.999
    """Momentum of running statistics: freematch's (Table 5), softmatch's (section 4.1), adamatch's, the alignment's
    (USB)."""
    fairness: Annotated[float, NOT_NEGATIVE] = 0.0
    """freematch: weight of its fairness loss, relative to the pseudo-labelled one (w_f / w_u; 0.05, and 0.01 with
    the fewest labels, such as one a class on CIFAR-10)."""
    align: AlignTo = "none"
    """Distribution alignment: predictions are shifted until their running mean is uniform, the labels' mean
    (ReMixMatch), or that of the predictions on labelled images (AdaMatch)."""
    align_labels: bool = True
    """Let the alignment change labels, too (ReMixMatch, AdaMatch), and not their confidence alone (SoftMatch)."""
    teacher: Literal["self", "ema"] = "self"
    """Which network labels: the trained one in eval mode, or its moving average (optim.ema_decay)."""
    soft: bool = False
    """Use the teacher's distribution as label (UDA), not its most likely class."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """Temperature of soft labels: below 1 sharpens them."""
    smoothing: Annotated[float, BELOW_1] = 0.0
    """Label smoothing of the pseudo-labelled loss."""
    mixup: bool = False
    """Probabilistic pseudo mixup (Semi-ViT): strong views are mixed in pairs, in the ratio of their confidences; half
    of the pairs by a rectangle."""
    drop_rejected: Literal["auto", "on", "off"] = "auto"
    """Leave strong views of weight 0, which have no gradient, out of the network. auto: where that is exact: not with
    softmatch, which gives each a weight, nor in networks with batch norm. on: refuse recipes where it is not."""


FLEXMATCH = Pseudo(0.95, "flexmatch")  # Zhang et al. 2021, section 4
FREEMATCH = Pseudo(kind="freematch", fairness=0.05)  # Wang et al. 2023, Table 5; 0.001 in their USB's CIFAR-10 configs
SOFTMATCH = Pseudo(kind="softmatch", align="uniform", align_labels=False)  # Chen et al. 2023, section 3.2
ADAMATCH = Pseudo(0.9, "adamatch", align="predictions")  # Berthelot et al. 2022, authors' code; hard labels, as there
UDA = Pseudo(0.8, soft=True, temperature=0.4)  # Xie et al. 2020, authors' CIFAR-10 script for a GPU
SEMI_VIT = Pseudo(0.5, teacher="ema", mixup=True, smoothing=0.1)  # Cai et al. 2022, authors' code, ViT-B, 10 %
