"""The threshold that a recipe names."""

from models.pseudo import Pseudo
from models.thresholds.adamatch import AdaMatch
from models.thresholds.base import Threshold
from models.thresholds.fixed import Fixed
from models.thresholds.flexmatch import FlexMatch
from models.thresholds.freematch import FreeMatch
from models.thresholds.softmatch import SoftMatch


def threshold(s: Pseudo, classes: int) -> Threshold:
    """The threshold that `s` describes."""
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
