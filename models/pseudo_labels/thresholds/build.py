"""Build the threshold that a recipe names."""

from models.pseudo_labels.settings import Pseudo
from models.pseudo_labels.thresholds.adamatch import AdaMatch
from models.pseudo_labels.thresholds.flexmatch import FlexMatch
from models.pseudo_labels.thresholds.freematch import FreeMatch
from models.pseudo_labels.thresholds.softmatch import SoftMatch
from models.pseudo_labels.thresholds.threshold import Fixed, Threshold


def build_threshold(s: Pseudo, classes: int) -> Threshold:
    """Build the threshold of these settings: build_threshold(Pseudo(0.95), classes=10)."""
    match s.kind:
        case "fixed":
            return Fixed(s.threshold)
        case "flexmatch":
            return FlexMatch(s.threshold, classes)
        case "freematch":
            return FreeMatch(classes, s.momentum, s.fairness)
        case "softmatch":
            return SoftMatch(classes, s.momentum)
        case "adamatch":
            return AdaMatch(s.threshold, s.momentum)
