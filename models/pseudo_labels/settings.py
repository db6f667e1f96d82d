"""How unlabelled images come to their labels: the settings that FixMatch and its descendants share."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.flags import BELOW_1, NOT_NEGATIVE, POSITIVE, SHARE

Kind = Literal["fixed", "flexmatch", "freematch", "softmatch", "adamatch"]
Target = Literal["none", "uniform", "labels", "predictions"]


@dataclass(frozen=True)
class Pseudo:
    """A label for an unlabelled image: who gives it, when it is believed, and what it is compared with."""

    threshold: Annotated[float, SHARE] = 0.7
    """Confidence from which a pseudo-label is believed (tau); adamatch: relative to that of the labelled images;
    freematch and softmatch learn theirs."""
    kind: Kind = "fixed"
    """What is believed. fixed: from the threshold on (FixMatch). flexmatch: lower for classes that are learned late.
    freematch: a learned threshold for each class. softmatch: everything, weighted by a truncated Gaussian of its
    confidence. adamatch: the threshold times the labelled images' mean confidence."""
    momentum: Annotated[float, BELOW_1] = 0.999
    """Of running statistics: of freematch (Table 5), softmatch (section 4.1), adamatch and the alignment (USB)."""
    fairness: Annotated[float, NOT_NEGATIVE] = 0.0
    """freematch: weight of its fairness loss, relative to the pseudo-labelled one (w_f / w_u; 0.05, and 0.01 with
    the fewest labels, such as one a class on CIFAR-10)."""
    align: Target = "none"
    """Distribution alignment: guesses are tilted until their running mean is uniform, the labels' mean (ReMixMatch), or
    that of the predictions on labelled images (AdaMatch)."""
    align_labels: bool = True
    """Let the alignment change labels, too (ReMixMatch, AdaMatch); without, only whether they are believed
    (SoftMatch)."""
    teacher: Literal["self", "ema"] = "self"
    """Who labels: the network itself in eval mode, or its moving average (optim.ema_decay)."""
    soft: bool = False
    """Take the teacher's distribution for a label (UDA), not its most likely class."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """Of soft labels: below 1 sharpens them."""
    smoothing: Annotated[float, BELOW_1] = 0.0
    """Label smoothing of the pseudo-labelled loss."""
    mixup: bool = False
    """Probabilistic pseudo mixup (Semi-ViT): strong views are mixed in pairs, in the ratio of their confidences; half
    of the pairs by a rectangle."""
    drop_rejected: Literal["auto", "on", "off"] = "auto"
    """Leave strong views of no weight out of the network: they have exactly no gradient. auto: where that is so: not
    with softmatch, which gives each a weight, nor in networks with batch norm. on: refuse where it is not."""


FLEXMATCH = Pseudo(0.95, "flexmatch")  # Zhang et al. 2021, section 4
FREEMATCH = Pseudo(kind="freematch", fairness=0.05)  # Wang et al. 2023, Table 5; 0.001 in their USB's CIFAR-10 configs
SOFTMATCH = Pseudo(kind="softmatch", align="uniform", align_labels=False)  # Chen et al. 2023, section 3.2
ADAMATCH = Pseudo(0.9, "adamatch", align="predictions")  # Berthelot et al. 2022, authors' code; hard labels, as there
UDA = Pseudo(0.8, soft=True, temperature=0.4)  # Xie et al. 2020, authors' CIFAR-10 script for a GPU
SEMI_VIT = Pseudo(0.5, teacher="ema", mixup=True, smoothing=0.1)  # Cai et al. 2022, authors' code, ViT-B, 10 %
