"""metrics.jsonl: rows of losses and evaluations, and the latest score of each evaluation; imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from models.records.jsonl import NUMBER, NUMBER_OR_NONE, is_of, left_out, read_lines, wrong_field
from pipeline.text import measured

FILE = "metrics.jsonl"
RAW = "_raw"
"""Ends the names of values of the weights themselves, where an average is kept as well."""
RECALLS = "recall", f"recall{RAW}"
"""Shares of right answers of each class, in the rows of evaluations; null for a class without an image."""
IOU = "iou"
"""Intersection over union of each class, in the rows of evaluations of segmentation; null for a class without any."""
APS = "box_ap", "box_ap50", "mask_ap", "mask_ap50"
"""Average precision of each class, in the rows of evaluations of detection, of masks where they are learned; null for a
class without an object."""
OF_CLASSES = *RECALLS, IOU, *APS
"""Fields of an evaluation that hold a list, a number or null a class."""
OPTIONAL = {"epoch": NUMBER, "replaced": (int,), "pseudo": (dict,)}
INTERVAL = {"loss": NUMBER_OR_NONE, "lr": NUMBER_OR_NONE, "gradient_norm": NUMBER_OR_NONE, "parts": (dict,)}
TIMING = {"images_per_s": NUMBER_OR_NONE, "wait_share": NUMBER_OR_NONE, "elapsed_s": NUMBER}


def read(folder: Path) -> list[dict]:
    """The rows of `folder`/metrics.jsonl in order of writing; see models.reporting.journal for their fields.

    Damaged rows are left out. Raises InputError if the file cannot be read.
    """
    return read_lines(folder / FILE, check_row)


def damage(folder: Path) -> str | None:
    """One line about the rows of `folder`/metrics.jsonl that `read` leaves out; None if there are none."""
    return left_out(folder / FILE, check_row)


def check_row(row: dict) -> str | None:
    """What is wrong with a row of losses or of an evaluation, in a few words; None if nothing is.

    check_row({"step": 3, "loss": "1.5"})  # "loss is str, expected int or float or null"
    """
    if wrong := wrong_field(row, {"step": (int,)}, OPTIONAL):
        return wrong
    if "evaluation" in row or "values" in row:
        wrong = wrong_field(row, {"evaluation": (str,), "values": (dict,)}, dict.fromkeys(OF_CLASSES, (list,)))
        return wrong or _no_numbers(row, "values") or _no_shares(row)
    if not any(name in row for name in ("lr", "gradient_norm", "parts", "timing")):
        return wrong_field(row, {"loss": NUMBER_OR_NONE})
    wrong = wrong_field(row, INTERVAL | {"timing": (dict,)}) or wrong_field(row["timing"], TIMING)
    return wrong or _no_numbers(row, "parts") or _no_numbers(row, "pseudo") or _no_numbers(row, "timing")


def latest_scores(rows: Sequence[dict]) -> dict[str, float | None]:
    """The latest value of each evaluation, by file and name, such as {"val top1": 0.95}; None if it was not finite."""
    found: dict[str, float | None] = {}
    for row in rows:
        found |= {f"{row['evaluation']} {name}": value for name, value in row.get("values", {}).items()}
    return found


def format_scores(scores: dict[str, float | None]) -> list[str]:
    """Scores as text, such as ["val top1 95.0 %"]; those that are None are skipped."""
    return [f"{name} {measured(name, value)}" for name, value in scores.items() if value is not None]


def _no_numbers(row: dict, field: str) -> str | None:
    """Name the first value of the object `field` that is neither a number nor null; None if there is none."""
    held = row.get(field, {}).items()
    return next(
        (f"{field} holds no number at {name}" for name, value in held if not is_of(value, NUMBER_OR_NONE)), None
    )


def _no_shares(row: dict) -> str | None:
    """Name the first list of OF_CLASSES that holds what is neither a number nor null; None if none does."""
    wrong = (name for name in OF_CLASSES if not all(is_of(value, NUMBER_OR_NONE) for value in row.get(name, ())))
    return next((f"{name} holds what is no number" for name in wrong), None)
