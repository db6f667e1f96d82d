"""Write the results of a sweep into one table, as each job does at its end.  python -m slurm.sweep_table runs/SWEEP"""

import sys
from collections.abc import Sequence
from pathlib import Path

from models.config.chain import FILE as CHAIN
from models.evaluate import chain_table
from pipeline import text
from pipeline.errors import InputError, command
from pipeline.store.atomic_write import write_whole
from slurm import results, state

FILE = "table.md"


def table(root: Path) -> str:
    """Make the table in Markdown: a line for each member, with the fields in which they differ and their results; of a
    chain the one beside the paper's (models.evaluate.chain_table).

    Raises InputError if `root` is no sweep.
    """
    if (root / CHAIN).exists():
        return chain_table.table(*chain_table.read_facts(str(root)), _states(root))
    runs = [Path(member) for member in state.read_record(root).get("members", [])]
    if not runs:
        raise InputError(f"{root} is no sweep; submit one, as in `python -m slurm.submit mae:digits_mask_ratio`")
    differ, finals = results.differing(runs), [results.final(run) for run in runs]
    states = [found.state for found in state.statuses(runs)]
    fields, values = _names(differ), _names(finals)
    lines = [["run", *fields, "state", "step", *values]]
    for run, word, settings, numbers in zip(runs, states, differ, finals, strict=True):
        cells = [_cell(settings.get(name)) for name in fields] + [word, str(results.last_step(run))]
        found = ((name, numbers.get(name)) for name in values)
        cells += ["" if number is None else text.measured(name, number) for name, number in found]
        lines.append([run.name, *cells])
    return text.table(lines, aligned=True)


def _states(root: Path) -> chain_table.States:
    """Return the states of a chain's runs, asked for once; of those that were not submitted, by their events."""
    found = {each.run: each for each in state.statuses([Path(run) for run in state.read_record(root)["members"]])}

    def of(run: Path) -> tuple[str, str | None]:
        each = found.get(run.resolve())
        if each is None or each.state == "not started":
            return chain_table.NOT_RUN, None
        error = each.error.get("error") if each.error and each.over and each.state != "done" else None
        return each.state, error

    return of


def write(root: Path) -> Path:
    """Write the table into the sweep's folder, atomically, as members may end at the same time; return its path."""
    path = root / FILE
    write_whole(path, table(root))
    return path


def main() -> None:
    """Write the table and print it."""
    if len(sys.argv) != 2:
        raise InputError("expected one folder: python -m slurm.sweep_table runs/SWEEP")
    print(write(Path(sys.argv[1])).read_text(), end="")


def _names(columns: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column))


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command(main)
