"""Compare runs in one table: what was trained on what, and every number that was measured since.

    python -m models.evaluate.compare runs/mae-digits runs/semi_mae-digits
    python -m models.evaluate.compare "runs/*" --together --markdown table.md --html table.html

A line is a run, or with --together all runs of one recipe, mean ± spread over their seeds. Of each column the best on
the same data is marked, though not on test. Columns are the journal's last val and test, then the numbers of
`python -m models.evaluate`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tyro.conf import Positional

from models.evaluate.result_columns import (
    Column,
    Numbers,
    best,
    columns_of,
    heads_of,
    last_evaluations,
    recorded_evaluations,
)
from models.factory import method_class
from models.load import restore_recipe
from models.records import events
from models.records.json_file import read_object
from models.records.metrics import read
from models.records.run_folder import RECIPE, REPORT, ended
from models.reporting.render import Section, Table, Text, html
from pipeline import text
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.store.atomic_write import check_writable, write_whole
from pipeline.store.manifest import read_manifest

MARK, NOTHING = "★", "-"


@dataclass(frozen=True)
class Arguments:
    """Compare runs."""

    runs: Positional[tuple[str, ...]]
    """Folders of runs, or patterns in quotes."""
    together: bool = False
    """Runs that differ in seeds alone in one line: mean ± sample standard deviation (n)."""
    every: bool = False
    """Every number of an evaluator, not its first alone."""
    markdown: Path | None = None
    """File to write the table to, as Markdown."""
    html: Path | None = None
    """File to write the table to, as a page."""


class RunSummary(NamedTuple):
    """One run: its folder, recipe, data, labels that were seen, steps done, whether it is over, and its numbers.

    kind    its recipe without seeds, which is the same for runs that differ in seeds alone
    images  the digests of its training and val file, or `data` where they are not here
    draw    its seed, split and start: what differs between runs of one kind that are no copies of each other
    """

    folder: Path
    recipe: str
    data: str
    labels: str
    step: int
    over: bool
    numbers: Numbers
    kind: str
    images: str
    draw: str

    @property
    def steps(self) -> str:
        """Format the steps done, and say where the run is not over."""
        return f"{self.step:,}" + ("" if self.over else ", not over")


def find_runs(given: Sequence[str]) -> list[Path]:
    """Return the run folders that are named, and those that patterns match.

    Raises InputError for a folder that holds no run, and if there is none at all.
    """
    runs: list[Path] = []
    for each in given:
        matched = sorted(Path("/" if each.startswith("/") else ".").glob(each.lstrip("/"))) if "*" in each else None
        if matched is None and not (Path(each) / RECIPE).exists():
            raise InputError(f"{each}: expected the folder of a run, which holds {RECIPE}; found none")
        runs += [Path(each)] if matched is None else [path for path in matched if (path / RECIPE).exists()]
    if not runs:
        raise InputError(f"{' '.join(given) or 'no folder'}: expected folders of runs, or a pattern; found none")
    found: dict[Path, Path] = {}
    for path in runs:
        found.setdefault(path.resolve(), path)
    return list(found.values())


def summary_of(folder: Path, measured: Numbers) -> RunSummary:
    """Summarise a run folder and what was measured since. Raises InputError if its recipe is not JSON."""
    recipe = read_object(folder / RECIPE, "restore it, or leave the run out")
    try:
        data, rows = recipe["data"], read(folder)
        name, where = recipe["name"], f"{Path(data['root']).name}/{data['train']}"
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / RECIPE} is no recipe ({error}); restore it, or leave the run out") from error
    step = max((row["step"] for row in rows), default=0)
    over, labels, images = is_over(folder), labels_seen(recipe, folder), images_of(data, where)
    draw = json.dumps([recipe["run"].get("seed"), data.get("split"), recipe["run"].get("start")])
    numbers = last_evaluations(rows) | measured
    return RunSummary(folder, name, where, labels, step, over, numbers, kind_of(recipe, images), images, draw)


def images_of(data: dict, where: str) -> str:
    """Return the digests of a recipe's training and val file; `where`, their folder's and file's name, if not here."""
    root = Path(data["root"])
    with suppress(InputError):
        return " ".join(read_manifest(root / file).digest for file in (data["train"], data.get("val")) if file)
    return where


def is_over(folder: Path) -> bool:
    """Say whether a run has its report and was not begun again since, to be extended; a folder without events counts
    by its report."""
    return (folder / REPORT).exists() and (ended(folder) is not None or not events.read(folder))


def kind_of(recipe: dict, images: str) -> str:
    """Return a recipe as text without what runs of one kind may differ in: name and folder, seed, and the draw of the
    split (5-per-class-1 counts as 5-per-class). Extensions and early stopping, which change a run's length, stay, and
    so does the kind of the run that it started from; of another start its name."""
    data = dict(recipe["data"]) | {"root": images}
    if data.get("split"):
        data["split"] = re.sub(r"-\d+$", "", data["split"])
    learned = {name: part for name, part in recipe.items() if name not in ("name", "run", "data")}
    run = recipe["run"]
    length = [run.get(name) for name in ("extend", "extend_schedule", "extend_lr")] if run.get("extend") else []
    computed = [run.get(name) for name in ("stop_after", "precision", "judge")]
    return json.dumps([learned, data, start_of(run.get("start")), length, computed], sort_keys=True)


def start_of(start: str | None) -> str | None:
    """Return the kind of the run that another started from; where no run is there, the start as it was named."""
    folder = Path(start or "")
    folder = folder if folder.is_dir() else folder.parent
    if start is None or not (folder / RECIPE).exists():
        return start
    recipe = read_object(folder / RECIPE, "restore it, or leave the run out")
    data = recipe["data"]
    return kind_of(recipe, images_of(data, f"{Path(data['root']).name}/{data['train']}"))


def labels_seen(recipe: dict, folder: Path) -> str:
    """Return the split whose labels the run's method read: all, none, or its name."""
    try:
        known = restore_recipe(recipe, folder / RECIPE)
    except InputError:
        return recipe["data"]["split"] or "?"
    return (known.data.split or "all") if method_class(known).needs(known).labelled else "none"


def together(runs: Sequence[RunSummary]) -> Iterator[list[RunSummary]]:
    """Group runs of one kind, in the order in which the first of each was given."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(run.kind, []).append(run)
    yield from groups.values()


def table(groups: Sequence[Sequence[RunSummary]], columns: Sequence[Column], bold: bool = False) -> Table:
    """Make a row for each group; numbers of several runs are mean ± spread (n) over the finished ones that have one."""
    data = [group[0].images for group in groups]
    made = [marked(column, [values_of(group, column) for group in groups], data, bold) for column in columns]
    rows = []
    for number, group in enumerate(groups):
        one = group[0]
        folder = str(one.folder) if len(group) == 1 else f"{len(group)} runs, {one.folder.parent}"
        recipe = one.recipe if len({run.recipe for run in group}) == 1 else f"{one.recipe}, ..."
        steps = " / ".join(dict.fromkeys(run.steps for run in group))
        numbers = [column[number] for column in made] or ["no numbers yet"]
        rows.append((folder, recipe, one.data, one.labels, steps, *numbers))
    heads, _ = heads_of(columns)
    return Table(("run", "recipe", "data", "labels", "steps", *(heads or ["measured"])), rows)


def values_of(group: Sequence[RunSummary], column: Column) -> tuple[float, ...]:
    """Return a column's numbers; of several runs, those that are over count."""
    counted = [run for run in group if run.over or len(group) == 1]
    return tuple(run.numbers[column] for run in counted if column in run.numbers)


def marked(column: Column, values: Sequence[tuple[float, ...]], data: Sequence[str], bold: bool) -> list[str]:
    """Format a column, with the best mean on each data set marked."""
    share = text.is_share(column.name, [each for held in values for each in held])
    written = text.percent if share else text.number
    means = [fmean(held) if held else None for held in values]
    on_test = column.where == "test" or column.name.endswith("_test")
    winners = set() if on_test else best(column, means, data)  # nothing is chosen on test
    cells = []
    for number, held in enumerate(values):
        cell = written(*held) if held else NOTHING
        cells.append(cell if number not in winners else f"**{cell}**" if bold else f"{cell} {MARK}")
    return cells


def notes(runs: Sequence[RunSummary], columns: Sequence[Column]) -> list[str]:
    """List long flags, runs without a number, and what is marked."""
    empty = [str(run.folder) for run in runs if not run.numbers]
    footnotes = heads_of(columns)[1] + ([f"No numbers yet: {', '.join(empty)}."] if empty else [])
    several = [
        [run for run in runs if (run.kind, run.draw) == one] for one in {(run.kind, run.draw): 0 for run in runs}
    ]
    same = [" and ".join(str(run.folder) for run in group) for group in several if len(group) > 1]
    footnotes += [f"Of one recipe, data and seed, so that their spread is none of seeds: {each}." for each in same]
    return [*footnotes, "The best on the same data is marked; on test nothing is chosen."]


def main() -> None:
    """Print the table, and write it where asked."""
    a = parse(Arguments, prog="python -m models.evaluate.compare", description=__doc__)
    folders = find_runs(a.runs)
    evaluations = recorded_evaluations(folders)
    runs = [summary_of(folder, measured) for folder, measured in zip(folders, evaluations, strict=True)]
    groups = list(together(runs)) if a.together else [[run] for run in runs]
    for path in (a.markdown, a.html):
        if path is not None:
            check_writable(path, f"--{'markdown' if path is a.markdown else 'html'}")
    columns = columns_of([run.numbers for run in runs], a.every)
    made, remarks = table(groups, columns), notes(runs, columns)
    print(text.table([made.head, *made.rows], aligned=True) + "\n".join(remarks))
    if a.markdown:
        bold = table(groups, columns, bold=True)
        write_whole(a.markdown, text.table([bold.head, *bold.rows]) + "\n" + "\n\n".join(remarks) + "\n")
    if a.html:
        write_whole(a.html, html("Runs compared", [Section("", [made, *map(Text, remarks)])]))


if __name__ == "__main__":
    command(main)
