"""Extensions of a run: the epochs that are added once it has ended, each with its own schedule of the learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from models.config.recipe import Run
from pipeline.errors import InputError

FIELDS = {"extend": "epochs", "extend_schedule": "schedule", "extend_lr": "lr"}
"""Fields of Run that hold one value for each extension, and what they are of an Extension."""


@final
@dataclass(frozen=True)
class Extension:
    """So many epochs (in `optim.epoch_unit`) after the end of a run, and how their learning rate is set.

    lr  as optim.lr: the peak of a rewarm, or the constant rate; None: optim.lr, or the rate of the last step before
    """

    epochs: float
    schedule: Literal["rewarm", "constant"]
    lr: float | None = None

    @property
    def said_epochs(self) -> str:
        """The epochs in words: "1 epoch", "2.5 epochs"."""
        return f"{self.epochs:g} epoch" + "s" * (self.epochs != 1)

    def __str__(self) -> str:
        return f"{self.said_epochs} ({self.schedule}" + (")" if self.lr is None else f" at {self.lr:g})")


def extensions_of(run: Run) -> tuple[Extension, ...]:
    """List the extensions that a recipe asks for, in order; `extend_schedule` and `extend_lr` hold one value for all of
    them or one for each.

    extensions_of(Run(extend=(10, 5), extend_schedule=("rewarm", "constant")))

    Raises InputError for another number of values, and for values without an extension.
    """
    n = len(run.extend)
    if not n and (run.extend_schedule, run.extend_lr) != (Run.extend_schedule, Run.extend_lr):
        raise InputError("run.extend_schedule and run.extend_lr are those of an extension; add --run.extend EPOCHS")
    for name, values in (("extend_schedule", run.extend_schedule), ("extend_lr", run.extend_lr)):
        if n and len(values) not in (1, n):
            came = " ".join(map(str, values)) or "none"
            wanted = f"one value for all of the {n} extensions, or {n}" if n > 1 else "one value"
            raise InputError(f"run.{name} is {came}, expected {wanted}")
    return tuple(map(Extension, run.extend, _each(run.extend_schedule, n), _each(run.extend_lr, n)))


def stages_of(run: Run) -> list[Run]:
    """The run as it was begun, then as it was asked to be by each of its extensions; the last one is `run` itself."""
    asked = extensions_of(run)
    parts = [asked[:n] for n in range(1, len(asked))]
    between = [
        replace(run, **{name: tuple(getattr(each, field) for each in part) for name, field in FIELDS.items()})
        for part in parts
    ]
    usual = {name: getattr(Run, name) for name in FIELDS}
    return [*([replace(run, **usual)] if asked else []), *between, run]


def _each(values: Sequence, n: int) -> Sequence:
    return list(values) * n if len(values) == 1 else values
