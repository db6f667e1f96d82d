"""Interface of a stage of the doctor: a context in, rows of a table out, each as soon as it is known.

Imports the standard library only, as the process that starts the stages does: torch may be what is broken.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, final

Result = Literal["ok", "slow", "wrong", "skipped"]
"""ok: as it should be. slow: a run works and is slower, or takes a detour. wrong: a run fails, or learns something
else. skipped: not checked here, and the figure says why."""
NO_GPU = "no GPU"


@final
@dataclass(frozen=True)
class Row:
    """One finding.

    figure  what was measured, or why nothing was
    to_do   what to do about it; "" where there is nothing to do
    values  the numbers of the figure by name, for programs
    """

    what: str
    result: Result
    figure: str
    to_do: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON types."""
        return asdict(self)


@final
@dataclass(frozen=True)
class Context:
    """What every stage is told.

    cuda    whether torch sees a GPU
    quick   measure less, so that the whole takes about half the time
    data    a .beton to measure with; None: photographs that are made for it (models.doctor.photographs)
    folder  a folder for what a stage writes
    """

    cuda: bool
    quick: bool
    data: Path | None
    folder: Path

    @property
    def device(self) -> str:
        """Name the device that is checked, as torch does: the first GPU that is visible, or the CPU."""
        return "cuda:0" if self.cuda else "cpu"

    @property
    def kind(self) -> str:
        """Name its type."""
        return "cuda" if self.cuda else "cpu"


class Stage(ABC):
    """A part of the doctor: one class a file of `models/doctor/stages`, and the file's name is the stage's.

    place       stages run in the order of this number
    deadline_s  seconds after which the process is ended, imports included
    needs_gpu   without one the stage is not run, and its one row says so

    `place` and `deadline_s` are plain numbers in the source: they are read without importing the file.
    """

    place: ClassVar[int]
    deadline_s: ClassVar[int]
    needs_gpu: ClassVar[bool] = False

    @abstractmethod
    def run(self, context: Context) -> Iterator[Row]:
        """Check, and yield each row once it is known. An InputError becomes a row that is wrong."""


def no_gpu(what: str) -> Row:
    """Make the row of a check that needs a GPU where there is none."""
    return Row(what, "skipped", NO_GPU)
