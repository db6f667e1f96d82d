"""Print the table of a chain, what a sweep's members and what follows them came to, beside the paper's own values.

    python -m models.evaluate.chain_table mae_ablations:digits_decoder_depth
    python -m models.evaluate.chain_table runs/mae_ablations-digits_decoder_depth

At any time: a cell without a number says why. Numbers are mean ± sample standard deviation (n) over the seeds whose run
is over. `slurm` writes the same table where jobs end. Torch is imported only where nothing was submitted yet.
"""

import fcntl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from models.config.chain import FILE, OWN, facts, folder_name
from models.records import events, metrics
from models.records.json_file import read_object
from models.records.jsonl import NUMBER, TEXT, read_lines, wrong_field
from models.records.run_folder import LOCK, RECIPE, REPORT
from pipeline import text
from pipeline.errors import InputError, command

EVALUATIONS = "evaluations.jsonl"
"""models.evaluate.evaluation_log.FILE, which brings in torch."""
NOT_RUN, SUBMITTED, OVER = "not yet run", "submitted", "done"
BROKEN, BEGUN = ("failed", "crashed", "node failed"), ("started", "resumed")
TURNS = (*BROKEN, *BEGUN, "queued", "submitted", "requeued", "preempted", "stopped", "cancelled", OVER)
"""Events that change what a run is about; others tell of what it does."""
SLACK_S = 5.0  # between the clocks of two nodes


@final
@dataclass(frozen=True)
class Run:
    """One run of a table: the folder that its job is in, the one that its numbers are in, and its seed.

    number  by file, such as {"val": 0.71}; {} until the run is over
    state   in words, without the error
    error   of a run that failed, in one line
    """

    folder: Path
    seed: int
    number: Mapping[str, float]
    state: str
    error: str | None = None


@final
@dataclass(frozen=True)
class Cell:
    """A row and a column: its runs, seed by seed, and the value of the paper; no runs where the table has no value."""

    row: str
    column: str
    name: str
    paper: float | None
    runs: tuple[Run, ...]

    @property
    def files(self) -> list[str]:
        """List the files on which there are numbers."""
        return list(dict.fromkeys(file for run in self.runs for file in run.number))

    def values(self, file: str) -> list[float]:
        """List the numbers on a file, seed by seed."""
        return [run.number[file] for run in self.runs if file in run.number]

    def ours(self, file: str) -> str:
        """Format the numbers on a file, or say why there is none."""
        if not self.runs:
            return ""
        values = self.values(file)
        if not values:
            return " / ".join(dict.fromkeys(run.state for run in self.runs))
        return (text.percent if text.is_share(self.name, values) else text.number)(*values)

    def of_paper(self) -> str:
        """Format the paper's value: a share is in percent, as papers print it."""
        if self.paper is None:
            return ""
        return f"{self.paper:.1f} %" if text.is_share(self.name, [0.0]) else text.number(self.paper)


States = Callable[[Path], tuple[str, str | None]]


def read_facts(given: str) -> tuple[Path, dict]:
    """Return the folder of a chain, and what its table needs to know (models.config.chain.facts).

    given  the name of a sweep, or the folder in which it was run

    Raises InputError for a sweep that says nothing of what follows its members, and for a folder without one.
    """
    root = Path(f"runs/{given.replace(':', '-')}") if ":" in given else Path(given)
    if (root / FILE).exists():
        return root, read_object(root / FILE, "restore it, or submit the sweep again")
    if ":" not in given:
        raise InputError(f"{root} holds no chain ({FILE}); give the folder of one, or its name")
    from models.config.catalogue import sweeps
    from models.config.chain import chain_of  # the method's file brings in torch

    if given not in [name for name, _ in sweeps()]:
        raise InputError(f"no sweep is called {given!r}; `python train.py` lists them")
    chain = chain_of(given)
    if chain is None:
        raise InputError(f"{given} says nothing of what follows its members; its table is that of slurm.submit wait")
    return root, facts(given, chain, (0,))


def cells(root: Path, known: Mapping, states: States | None = None) -> list[list[Cell]]:
    """Read the results of a chain: a list of rows, each with one cell for each column.

    known   models.config.chain.facts
    states  of a run folder, in words, and its error (slurm.state knows Slurm's queue); by its events when absent

    Raises InputError for facts that are damaged.
    """
    state = states or state_of
    try:
        return [
            [_cell(root, known, number, column, state) for column in known["columns"]]
            for number in range(len(known["rows"]))
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{root / FILE} does not describe a chain ({error}); submit the sweep again") from error


@final
@dataclass(frozen=True)
class Filled:
    """A table that is filled: a line on where the paper's values are from, its lines of text cells, the head first, and
    lines that name what is missing."""

    title: str
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]


def filled(root: Path, known: Mapping, states: States | None = None) -> Filled:
    """Fill the table of a chain with what is there. Raises InputError for facts that are damaged."""
    found = cells(root, known, states)
    upright = len(found) > 1 or not found
    rows = found if upright else [[cell] for cell in found[0]]
    lines = [[known["axis"] if upright else "", *_heads(rows, upright)]]
    lines += [[(row[0].row if upright else row[0].column), *_line(row, rows)] for row in rows]
    title = f"{known['sweep']} beside {known['source']}"
    title += f"; with {' '.join(known['overrides'])}" if known["overrides"] else ""
    return Filled(title, lines, _notes(found))


def table(root: Path, known: Mapping, states: States | None = None) -> str:
    """Make the table in Markdown, with a line above on where the paper's values are from, and lines below that name
    what is missing."""
    made = filled(root, known, states)
    return "\n".join([made.title, "", text.table(made.lines, aligned=True) + "\n".join(made.notes)]).rstrip() + "\n"


def state_of(folder: Path) -> tuple[str, str | None]:
    """Tell a run's state in words, and the error of one that failed, from its own events and its lock."""
    rows = [row for row in events.read(folder) if row["event"] in TURNS] if folder.exists() else []
    if not rows:
        return NOT_RUN, None
    last = rows[-1]["event"]
    if last in BROKEN:
        return "failed", next((row["error"] for row in reversed(rows) if "error" in row), None)
    if last in BEGUN:
        return ("running" if _locked(folder) or "job" in rows[-1] else "interrupted"), None
    return {"queued": SUBMITTED, "requeued": SUBMITTED, "preempted": "stopped"}.get(last, last), None


def _cell(root: Path, known: Mapping, row: int, column: Mapping, state: States) -> Cell:
    target, runs = column["targets"][row], []
    for seed in known["seeds"] if target is not None else ():
        member = root / folder_name(row, seed)
        folder = member if target == OWN else member / column["stage"]
        word, error = state(folder)
        if word == OVER or (folder / REPORT).exists():
            trained = target == OWN or ":" in target
            numbers = _of_training(folder, column["number"]) if trained else {}
            numbers = numbers if trained else _of_evaluator(member, folder, target, column["number"])
            word = word if numbers else f"no {column['number']}"
        else:
            numbers = {}
            before, why = (NOT_RUN, None) if folder == member else state(member)
            if word in (NOT_RUN, SUBMITTED) and before not in (NOT_RUN, SUBMITTED, "queued", "running", OVER):
                word, error = f"member {before}", why
        runs.append(Run(folder, seed, numbers, word, error))
    return Cell(known["rows"][row], column["title"], column["number"], column["paper"][row], tuple(runs))


def _of_training(folder: Path, name: str) -> dict[str, float]:
    """Read the last value of this name on each file, once the run has its report."""
    if not (folder / REPORT).exists():
        return {}
    found = metrics.latest_scores(metrics.read(folder))
    ends = {key.partition(" ")[0]: value for key, value in found.items() if key.partition(" ")[2] == name}
    return {file: value for file, value in ends.items() if value is not None}


def _of_evaluator(member: Path, folder: Path, evaluator: str, name: str) -> dict[str, float]:
    """Read what the evaluator's job measured: its last row up to the end of that job, as later ones are of others."""
    end = max((row["time"] for row in events.read(folder) if row["event"] == OVER), default=0.0) + SLACK_S
    rows = read_lines(member / EVALUATIONS, _check_row)
    held = [row["values"][name] for row in rows if row["evaluator"] == evaluator and row["time"] <= end
            and row["values"].get(name) is not None]  # fmt: skip
    return {"val": held[-1]} if held else {}


def _check_row(row: dict) -> str | None:
    return wrong_field(row, {"evaluator": TEXT, "time": NUMBER, "values": (dict,)})


def _files(rows: Sequence[Sequence[Cell]], column: int) -> list[str]:
    return list(dict.fromkeys(file for row in rows for file in row[column].files)) or ["val"]


def _heads(rows: Sequence[Sequence[Cell]], upright: bool) -> list[str]:
    heads = []
    for number, cell in enumerate(rows[0] if rows else ()):
        title = f"{cell.column}, " if upright else ""
        heads += [f"{title}paper"] if any(row[number].paper is not None for row in rows) else []
        heads += [f"{title}{file}" for file in _files(rows, number)]
    return heads


def _line(row: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> list[str]:
    line = []
    for number, cell in enumerate(row):
        line += [cell.of_paper()] if any(each[number].paper is not None for each in rows) else []
        line += [cell.ours(file) for file in _files(rows, number)]
    return line


def _notes(found: Sequence[Sequence[Cell]]) -> list[str]:
    """Say how many numbers there are, and name every cell that lacks some of its seeds, or whose run failed; cells of
    one row and seed with the same reason in one line."""
    every = [(cell, run) for row in found for cell in row for run in cell.runs]
    there = sum(bool(run.number) for _, run in every)
    missing: dict[tuple[str, str, str], list[str]] = {}
    for cell, run in every:
        partly = any(each.number for each in cell.runs)
        if not run.number and (partly or run.error):
            why = f"{run.state}: {run.error}" if run.error else run.state
            seed = f", seed {run.seed}" if len(cell.runs) > 1 else ""
            missing.setdefault((cell.row, seed, why), []).append(cell.column)
    notes = [f"{there} of {len(every)} numbers are there"] if there < len(every) else []
    return [*notes, *(f"{row}{seed}, {', '.join(names)}: {why}" for (row, seed, why), names in missing.items())]


def _locked(folder: Path) -> bool:
    """Say whether a process of this machine, or of another that shares its locks, trains in the folder."""
    if not (folder / RECIPE).exists():
        return False
    try:
        with open(folder / LOCK) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def main() -> None:
    """Print the table of the chain that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise InputError("expected a sweep or its folder: python -m models.evaluate.chain_table SWEEP")
    print(table(*read_facts(sys.argv[1])), end="")


if __name__ == "__main__":
    command(main)
