"""Print the ladder's runs as a table: mean and spread over seeds.

    python -m models.evaluate.ladder_table digits_1 digits_5

A line is a row of the ladder, a column a sweep and a file: choices are made on val, and test is evaluated once, at the
end. A run counts once it is over; a cell without one says so.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from models.evaluate.result_columns import FILES, Column, last_evaluations
from models.records.json_file import read_object
from models.records.metrics import read
from models.records.run_folder import RECIPE, REPORT
from pipeline.errors import InputError, command
from pipeline.flags import later, parse
from pipeline.text import percent
from pipeline.text import table as markdown

if TYPE_CHECKING:
    from models.methods.ladder import Rung  # brings in torch and timm

MISSING = "not yet run"


@dataclass(frozen=True)
class Cell:
    """Shares, 0 to 1, that the finished runs of a row reached, seed by seed."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        """Format as mean ± sample standard deviation (n)."""
        return percent(*self.values) if self.values else MISSING


def reached(run: Path, file: str) -> float | None:
    """Return a run's last top-1 accuracy on a file, or its k-NN accuracy, 0 to 1; None until the run is over."""
    if not (run / REPORT).exists():
        return None
    found = last_evaluations(read(run))
    return found.get(Column(file, "top1"), found.get(Column(file, "knn")))


def check(run: Path, rung: "Rung") -> None:
    """Raise InputError if the run is of another row or seed: folders have numbers, which move where a row is added."""
    saved = read_object(run / RECIPE, "restore it, or move the run")
    now = json.loads(json.dumps(asdict(rung.recipe)))
    try:
        pairs = [
            (each["method"], each["data"]["split"], each["run"]["seed"], each["run"]["start"]) for each in (saved, now)
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"{run / RECIPE} is no recipe ({error}); restore it, or move the run") from error
    if pairs[0] != pairs[1]:
        raise InputError(
            f"{run} is not {rung.row} with seed {rung.seed}, as it is now numbered; move it, or run it again"
        )


def cells(sweep: str, runs: Path) -> dict[str, dict[str, Cell]]:
    """Return for each row of a sweep what it reached on each file. Raises InputError for a run of another row."""
    from models.methods.ladder import rungs  # brings in torch and timm

    found: dict[str, dict[str, list[float]]] = {}
    for index, rung in enumerate(rungs(sweep)):
        row = found.setdefault(rung.row, {file: [] for file in FILES})
        run = runs / f"ladder-{sweep}" / str(index)
        if (run / REPORT).exists():
            check(run, rung)
        for file in FILES:
            value = reached(run, file)
            row[file] += [] if value is None else [value]
    return {row: {file: Cell(tuple(values)) for file, values in files.items()} for row, files in found.items()}


def table(sweeps: Sequence[str], runs: Path) -> str:
    """Make the table in Markdown. Raises InputError for a sweep that the ladder does not have."""
    columns = {sweep: cells(sweep, runs) for sweep in sweeps}
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    head = ["mean ± spread (n)", *(f"{sweep}, {file}" for sweep in sweeps for file in FILES)]
    lines = [head]
    for row in rows:
        found = [column[row][file] if row in column else "" for column in columns.values() for file in FILES]
        lines.append([row, *map(str, found)])
    return markdown(lines)


def main() -> None:
    """Print the table of the sweeps that the command line names."""
    from tyro.conf import Positional

    @later
    def door(sweeps: Annotated[tuple[str, ...], Positional], runs: Path = Path("runs")) -> None:
        """Print sweeps of the ladder as one table.

        Args:
            sweeps: digits_1, digits_5, ... or ladder:digits_1, ...
            runs: folder of the run folders
        """
        if not sweeps:
            raise InputError("expected sweeps of the ladder, as in: python -m models.evaluate.ladder_table digits_5")
        print(table([sweep.removeprefix("ladder:") for sweep in sweeps], runs), end="")

    parse(door, prog="python -m models.evaluate.ladder_table")()


if __name__ == "__main__":
    command(main)
