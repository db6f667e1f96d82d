"""Running tallies of pseudo-labels, for the report: what was guessed, what passed, and, where known, what was right."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from models.distributed.process_group import World, sum_over_ranks
from pipeline.text import percent

if TYPE_CHECKING:
    from models.method import PseudoLabelStats

GUESSED, PASSED, JUDGED, CORRECT = range(4)
SCARCE, LATELY = 0.01, 0.1
THRESHOLDS = "fixed", "flexmatch", "adamatch"
"""The kinds (models.pseudo_labels.settings) of which a setting is the threshold; the others learn theirs."""


def scarce(rows: Sequence[dict], recipe: dict) -> str | None:
    """What to say of a run in the last tenth of whose rows fewer than SCARCE of the pseudo-labels passed.

    Nothing of a run that gives them no weight on purpose.
    """
    passed = [row["pseudo"]["passed"] for row in rows if "passed" in row.get("pseudo", {})]
    method = recipe.get("method", {})
    if not passed or not method.get("lambda_u", 1):
        return None
    share, settings = fmean(passed[-max(1, round(LATELY * len(passed))) :]), method.get("pseudo", {})
    if share >= SCARCE:
        return None
    known = settings.get("kind") in THRESHOLDS
    what, cure = (f"the threshold of {settings['threshold']:g}", "threshold") if known else ("the threshold", "kind")
    return (
        f"pseudo-labels: {percent(share)} passed {what} at the end, so that they taught next to nothing; train for "
        f"longer, or see --method.pseudo.{cure}"
    )


@final
class Tally:
    """Counts over the run, i64 on the host: guessed [C], passed [C], confusion [C, C] (true class, guessed class).

    The confusion counts the passed guesses whose true label `oracle` knows; it maps ids i64 [N] to labels i64 [N],
    -1 where unknown. Nothing of it reaches the training.
    """

    def __init__(self, classes: int, oracle: Callable[[Tensor], Tensor] | None = None) -> None:
        self.classes, self.oracle = classes, oracle
        self.guessed = torch.zeros(classes, dtype=torch.int64)
        self.passed = torch.zeros(classes, dtype=torch.int64)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64) if oracle else None
        self.since = torch.zeros(4, dtype=torch.int64)
        self.pending: list[PseudoLabelStats] = []

    def add(self, guesses: "PseudoLabelStats") -> None:
        """Remember one (micro-)step's guesses; they stay on the device until the next `settle`."""
        self.pending.append(guesses)

    def settle(self, world: World) -> None:
        """Count what is pending, over all ranks; collective, and the only place that waits for the device."""
        pending, self.pending = self.pending, []
        ids, classes, passed = (
            torch.cat([guesses[part].detach() for guesses in pending]).cpu() if pending else torch.zeros(0).long()
            for part in range(3)
        )
        passed = passed.bool()
        guessed = torch.bincount(classes, minlength=self.classes)
        kept = torch.bincount(classes[passed], minlength=self.classes)
        pairs = self._judge(ids[passed], classes[passed])
        counts = sum_over_ranks(torch.cat([guessed, kept, pairs.flatten()]), world)
        guessed, kept, pairs = counts.split([self.classes, self.classes, pairs.numel()])
        self.guessed += guessed
        self.passed += kept
        right = 0
        if self.confusion is not None:
            pairs = pairs.view(self.classes, self.classes)
            self.confusion += pairs
            right = int(pairs.diagonal().sum())
        self.since += torch.tensor([int(guessed.sum()), int(kept.sum()), int(pairs.sum()), right])

    def interval(self) -> dict[str, float]:
        """Shares since the last call: `passed` of the guessed, `correct` of the passed with a known label."""
        guessed, passed, judged, correct = self.since.tolist()
        self.since.zero_()
        shares = {"passed": passed / guessed} if guessed else {}
        return shares | ({"correct": correct / judged} if judged else {})

    def state_dict(self) -> dict[str, Tensor | None]:
        """The settled counts; equal on every rank."""
        return {"guessed": self.guessed, "passed": self.passed, "confusion": self.confusion, "since": self.since}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on counting from `state`; a confusion that only one side has begins anew."""
        self.guessed, self.passed, self.since = (state[name].clone() for name in ("guessed", "passed", "since"))
        if self.confusion is not None and state["confusion"] is not None:
            self.confusion = state["confusion"].clone()

    def _judge(self, ids: Tensor, classes: Tensor) -> Tensor:
        if self.oracle is None:
            return torch.zeros(0, dtype=torch.int64)
        truth = self.oracle(ids)
        known = truth >= 0
        pairs = torch.bincount(truth[known] * self.classes + classes[known], minlength=self.classes**2)
        return pairs.view(self.classes, self.classes)
