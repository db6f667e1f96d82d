"""Keep what was measured beside the run: a line in evaluations.jsonl and a page."""

import time
from dataclasses import asdict
from pathlib import Path

from models.evaluate.evaluator import Evaluator, Result
from models.load import Loaded
from models.records.jsonl import NUMBER_OR_NONE, TEXT, append_line, is_of, read_lines, wrong_field
from models.reporting.render import Section, Table, html
from pipeline.store.atomic_write import write_whole
from pipeline.text import measured

FILE = "evaluations.jsonl"


def append_evaluation(loaded: Loaded, name: str, evaluator: Evaluator, result: Result) -> Path:
    """Append {time, evaluator, checkpoint, step, flags, values} to the run's log in one write.

    Returns the path of the page evaluate-<name>.html, which is written anew.
    """
    folder = loaded.path.parent
    row = {
        "time": round(time.time(), 3),
        "evaluator": name,
        "checkpoint": loaded.path.name,
        "step": loaded.step,
        "flags": asdict(evaluator),
        "values": result.values,
        **({"machine": result.machine} if result.machine else {}),
    }
    append_line(folder / FILE, row)
    page = folder / f"evaluate-{name}.html"
    numbers = Table(("measured", "value"), [(key, measured(key, value)) for key, value in result.values.items()])
    title = f"{name} of {loaded.recipe.name}" + ("" if loaded.origin else f", step {loaded.step:,}")
    machine = [Table(("measured on", ""), list(result.machine.items()))] if result.machine else []
    write_whole(page, html(title, [Section("", [numbers, *result.blocks, *machine])]))
    return page


def read_evaluations(folder: Path) -> list[dict]:
    """Read every row of a run's log, in the order of measuring; damaged lines are left out."""
    return read_lines(folder / FILE, _check_row)


def _check_row(row: dict) -> str | None:
    wrong = wrong_field(row, {"evaluator": TEXT, "flags": (dict,), "values": (dict,)})
    if wrong or all(is_of(value, NUMBER_OR_NONE) for value in row["values"].values()):
        return wrong
    return "values holds what is no number"
