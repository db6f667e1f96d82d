"""The results of a sweep in one table, written again whenever a member is over:  python -m slurm.sweep runs/SWEEP"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError, command
from pipeline.text import measured
from slurm import results, state

FILE = "table.md"


def table(root: Path) -> str:
    """Markdown: a line a member, with the fields in which they differ and what came out.

    Raises InputError if `root` is no sweep.
    """
    runs = [Path(member) for member in state.record(root).get("members", [])]
    if not runs:
        raise InputError(f"{root} is no sweep; submit one, as in `python -m slurm.submit mae:digits_mask_ratio`")
    differ, finals = results.differing(runs), [results.final(run) for run in runs]
    states = [found.state for found in state.statuses(runs)]
    fields, values = _names(differ), _names(finals)
    lines = [["run", *fields, "state", "step", *values]]
    for run, word, has, came in zip(runs, states, differ, finals, strict=True):
        said = [_cell(has.get(name)) for name in fields] + [word, str(results.last_step(run))]
        lines.append(
            [run.name, *said, *("" if came.get(name) is None else measured(name, came[name]) for name in values)]
        )
    return _markdown(lines)


def write(root: Path) -> Path:
    """Put the table into the sweep's folder; members may end at the same time, so each writes a whole one."""
    path = root / FILE
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(table(root))
    os.replace(partial, path)
    return path


def main() -> None:
    """Write the table and show it."""
    if len(sys.argv) != 2:
        raise InputError("expected one folder: python -m slurm.sweep runs/SWEEP")
    print(write(Path(sys.argv[1])).read_text(), end="")


def _names(columns: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column))


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in ruled]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


if __name__ == "__main__":
    command(main)
