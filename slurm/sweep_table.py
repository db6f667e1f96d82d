"""Write the results of a sweep into one table, as each job does at its end, and draw it where the sweep is a figure in
its paper.  python -m slurm.sweep_table runs/SWEEP"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from models.config.chain import FILE as CHAIN
from models.config.figure import FILE as PICTURE
from models.evaluate import chain_figure, chain_table
from models.evaluate.chain_figure_points import read_figure
from pipeline import text
from pipeline.errors import InputError, command
from pipeline.store.atomic_write import write_whole
from slurm import results, state

FILE = "table.md"


def table(root: Path, *, draw: bool = False) -> str:
    """Make the table in Markdown: a line for each member, with the fields in which they differ and their results; of a
    chain the one beside the paper's (models.evaluate.chain_table). With `draw` a chain that is a figure in its paper is
    drawn, too, and shown below.

    Raises InputError if `root` is no sweep.
    """
    if (root / CHAIN).exists():
        facts = *chain_table.read_facts(str(root)), _states(root)
        return chain_table.table(*facts) + (_drawn(*facts) if draw else "")
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
    """Write the table into the sweep's folder, atomically, as members may end at the same time; return its path.

    A chain that is a figure in its paper is drawn beside it (models.evaluate.chain_figure), and the table shows that.
    """
    path = root / FILE
    write_whole(path, table(root, draw=True))
    return path


def _drawn(root: Path, known: dict, states: chain_table.States) -> str:
    """Draw a chain that is a figure in its paper; return the lines that show it in Markdown, or say why it is not."""
    figure = read_figure(known)
    if figure is None:
        return ""
    if find_spec("matplotlib") is None:
        return f"\n{chain_figure.NOT_INSTALLED}\n"
    chain_figure.write(root, known, figure, states)
    return f"\n![{known['source']}, and ours]({PICTURE})\n"


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
