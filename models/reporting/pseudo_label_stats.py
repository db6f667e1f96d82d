"""Count pseudo-labels for the report: by class, those that passed, and those of known truth that were right."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, final

import torch
from torch import Tensor

from models.distributed.process_group import World, sum_over_ranks
from models.method import PseudoLabelStats
from pipeline.text import percent

FEW, LAST_SHARE = 0.01, 0.1
THRESHOLDS = "fixed", "flexmatch", "adamatch"
"""The kinds (models.pseudo_labels.settings) that have the threshold as a setting; the others learn theirs."""


def few_passed(rows: Sequence[dict], recipe: dict) -> str | None:
    """A warning, in one line, if fewer than FEW of the pseudo-labels passed in the last tenth of a run's rows.

    None for a run whose pseudo-labels have no weight in the loss.
    """
    passed = [row["pseudo"]["passed"] for row in rows if "passed" in row.get("pseudo", {})]
    method = recipe.get("method", {})
    if not passed or not method.get("lambda_u", 1):
        return None
    share, settings = fmean(passed[-max(1, round(LAST_SHARE * len(passed))) :]), method.get("pseudo", {})
    if share >= FEW:
        return None
    known = settings.get("kind") in THRESHOLDS
    what, field = (f"the threshold of {settings['threshold']:g}", "threshold") if known else ("the threshold", "kind")
    return (
        f"pseudo-labels: {percent(share)} passed {what} at the end, so that they taught next to nothing; train for "
        f"longer, or see --method.pseudo.{field}"
    )


@final
class PseudoLabelCounts:
    """Counts over the run, i64 on the host: predicted [C], passed [C], confusion [C, C] (true class, predicted class).

    counts = PseudoLabelCounts(classes=10)
    counts.count(stats_of_some_steps, world)
    counts.interval()                           # {"passed": 0.4}

    oracle  maps ids i64 [N] to true labels i64 [N], -1 where unknown; the confusion counts the passed pseudo-labels
            whose truth it knows. The counts are not used in training. None: there is no confusion
    """

    def __init__(self, classes: int, oracle: Callable[[Tensor], Tensor] | None = None) -> None:
        self.classes, self.oracle = classes, oracle
        self.predicted = torch.zeros(classes, dtype=torch.int64)
        self.passed = torch.zeros(classes, dtype=torch.int64)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64) if oracle else None
        self._since = torch.zeros(4, dtype=torch.int64)  # predicted, passed, of known truth, right; since `interval`

    def count(self, stats: Sequence[PseudoLabelStats], world: World) -> None:
        """Add the pseudo-labels of some (micro-)steps of all ranks. Waits for the device; a collective call."""
        ids, classes, passed = (
            torch.cat([each[part].detach() for each in stats]).cpu() if stats else torch.zeros(0).long()
            for part in range(3)
        )
        passed = passed.bool()
        predicted = torch.bincount(classes, minlength=self.classes)
        kept = torch.bincount(classes[passed], minlength=self.classes)
        pairs = self._confusion(ids[passed], classes[passed])
        counts = sum_over_ranks(torch.cat([predicted, kept, pairs.flatten()]), world)
        predicted, kept, pairs = counts.split([self.classes, self.classes, pairs.numel()])
        self.predicted += predicted
        self.passed += kept
        right = 0
        if self.confusion is not None:
            pairs = pairs.view(self.classes, self.classes)
            self.confusion += pairs
            right = int(pairs.diagonal().sum())
        self._since += torch.tensor([int(predicted.sum()), int(kept.sum()), int(pairs.sum()), right])

    def interval(self) -> dict[str, float]:
        """Shares since the last call: `passed` of all, `correct` of the passed with a known label."""
        predicted, passed, known, right = self._since.tolist()
        self._since.zero_()
        shares = {"passed": passed / predicted} if predicted else {}
        return shares | ({"correct": right / known} if known else {})

    def state_dict(self) -> dict[str, Tensor | None]:
        """The counts, which are equal on every rank."""
        return {"predicted": self.predicted, "passed": self.passed, "confusion": self.confusion, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the confusion starts from zero if either side has none."""
        self.predicted, self.passed, self._since = (state[name].clone() for name in ("predicted", "passed", "since"))
        if self.confusion is not None and state["confusion"] is not None:
            self.confusion = state["confusion"].clone()

    def _confusion(self, ids: Tensor, classes: Tensor) -> Tensor:
        if self.oracle is None:
            return torch.zeros(0, dtype=torch.int64)
        truth = self.oracle(ids)
        known = truth >= 0
        pairs = torch.bincount(truth[known] * self.classes + classes[known], minlength=self.classes**2)
        return pairs.view(self.classes, self.classes)
