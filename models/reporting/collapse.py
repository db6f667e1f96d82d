"""Warn while a run trains that its pseudo-labels fail: nearly all pass and few classes are left, or next to none pass.

watch = CollapseWatch(asdict(recipe.method), length)
watch.after_row(step, counts)                   # one line, or None
watch.after_evaluation({"top1": 0.1})
"""

from typing import final

import torch
from torch import Tensor

from models.optim.schedule import RunLength
from models.reporting.pseudo_label_stats import FEW, THRESHOLDS, PseudoLabelCounts
from pipeline.text import percent

NEARLY_ALL, FEW_CLASSES = 0.9, 0.25
"""Collapse: at least NEARLY_ALL pass, and the effective number of predicted classes is at most FEW_CLASSES of all."""
A_CLASS = 10  # pseudo-labels for each class that a share and an entropy are read from, at least
EARLY = 0.2  # of the steps with pseudo-labels, in which few may pass, as the network has learned little
LEARN_FIRST = "more --optim.labels-only-epochs, or pre-trained weights (--run.start)"


@final
class CollapseWatch:
    """Reads the counts of pseudo-labels at each row of the journal, and gives each of its two warnings once.

    A process that resumes a run may repeat a warning, as no state of the watch is in the checkpoint.
    """

    def __init__(self, method: dict, length: RunLength) -> None:
        """Take a recipe's method settings as a dictionary; pseudo-labels of no weight in the loss are not watched."""
        self.length, self.settings = length, method.get("pseudo", {})
        self.given = set() if method.get("lambda_u", 1) else {"collapse", "none"}
        self.passed: float | None = None
        self.classes = 0
        self._before: tuple[Tensor, Tensor] | None = None

    def begin(self, counts: PseudoLabelCounts) -> None:
        """Read shares of what is counted from now on."""
        self._before = counts.predicted.clone(), counts.passed.clone()

    def after_row(self, step: int, counts: PseudoLabelCounts) -> str | None:
        """Return a warning, in one line, if one is due after `step` steps."""
        before = self._before or (torch.zeros_like(counts.predicted), torch.zeros_like(counts.passed))
        predicted, passed = counts.predicted - before[0], counts.passed - before[1]
        images = int(predicted.sum())
        if images < A_CLASS * counts.classes:
            return None
        self.begin(counts)
        self.passed, self.classes = int(passed.sum()) / images, counts.classes
        effective = effective_classes(predicted)
        if self.passed >= NEARLY_ALL and effective <= max(1.1, FEW_CLASSES * counts.classes):
            return self._collapse(f"they are of about {effective:.1f} of {counts.classes} classes")
        first = self.length.labels_only_steps
        late = step - first >= EARLY * (self.length.total_steps - first)
        return self._none(step, images) if self.passed < FEW and late else None

    def after_evaluation(self, values: dict[str, float]) -> str | None:
        """Return a warning, in one line, if nearly all pseudo-labels passed and val's accuracy is that of chance.

        A threshold of 0, with which every one passes (selftrain), makes that no sign of a collapse.
        """
        if self.settings.get("threshold") == 0:
            return None
        top1 = values.get("top1", values.get("top1_raw"))  # the latter where the weights alone are judged
        if self.passed is None or self.passed < NEARLY_ALL or top1 is None:
            return None
        chance = 1 / self.classes
        if top1 > min(1.5 * chance, chance + 0.05):
            return None
        return self._collapse(f"val top1 is {percent(top1)}, and chance {percent(chance)}")

    def _collapse(self, what: str) -> str | None:
        assert self.passed is not None  # a row has said so
        known = self.settings.get("kind") in THRESHOLDS
        cure = "a higher --method.pseudo.threshold" if known else "another --method.pseudo.kind"
        cure += ", --method.pseudo.align uniform" if self.settings.get("align") == "none" else ""
        return self._once("collapse", f"pseudo-labels collapse: {percent(self.passed)} pass, but {what}; "
                          f"try a lower --optim.lr, {cure}, {LEARN_FIRST}")  # fmt: skip

    def _none(self, step: int, images: int) -> str | None:
        assert self.passed is not None
        known = self.settings.get("kind") in THRESHOLDS
        what = f"the threshold of {self.settings['threshold']:g}" if known else "the threshold"
        cure = "a lower --method.pseudo.threshold" if known else "another --method.pseudo.kind"
        return self._once("none", f"pseudo-labels: {percent(self.passed)} of the last {images:,} passed {what}, after "
                          f"{step:,} of {self.length.total_steps:,} steps; try {cure}, {LEARN_FIRST}")  # fmt: skip

    def _once(self, kind: str, line: str) -> str | None:
        if kind in self.given:
            return None
        self.given.add(kind)
        return line


def effective_classes(counts: Tensor) -> float:
    """Compute exp(entropy) of counts i64 [C], not all zero: C if all are equal, 1 if one class has all."""
    shares = counts[counts > 0].double() / counts.sum()
    return float((-(shares * shares.log()).sum()).exp())
