"""The model card: what a model was trained on, with which labels, by which recipe, and what it was measured to do."""

import json
from dataclasses import asdict
from pathlib import Path

import timm
import torch

from models.config.resolve import command_of
from models.evaluate.result_columns import last_evaluations
from models.export.base import Checked
from models.factory import method_class
from models.load import Loaded
from models.records.metrics import read
from models.records.run_folder import ENVIRONMENT
from pipeline.text import measured, table

SHOWN = 12  # classes that are named


def card(loaded: Loaded, form: str, checked: Checked, use: str) -> str:
    """Markdown for README.md beside the exported files."""
    recipe, folder = loaded.recipe, loaded.path.parent
    environment = _read(folder / ENVIRONMENT)
    labels = "every label of the file" if recipe.data.split is None else f"those of the split {recipe.data.split}"
    labels = labels if method_class(recipe).needs(recipe).labelled else "none"
    lines = [
        f"# {recipe.name}", "", "Made by this command of Shotcrete:", "", "```bash", command_of(recipe), "```", "",
        "## Use", "", "```python", use, "```", "",
        "Images are RGB; " + how_to_cut(loaded), "",
        "## What it is", "",
        f"* form: {form}, {agreement(checked)}",
        f"* trained for {loaded.step:,} steps of {recipe.data.batch} images, seed {recipe.run.seed}",
        f"* data: `{recipe.data.train}` in `{recipe.data.root}`; labels that were seen: {labels}",
        f"* classes: {len(loaded.classes)}" + (f" ({', '.join(loaded.classes[:SHOWN])}"
        + (", ..." if len(loaded.classes) > SHOWN else "") + ")" if loaded.classes else ""),
        f"* trained with torch {environment.get('torch', 'unknown')}, timm {environment.get('timm', 'unknown')} on "
        f"{environment.get('device', 'unknown')}, commit {environment.get('commit') or 'unknown'}; "
        f"exported with torch {torch.__version__}, timm {timm.__version__}",
        "", "## Results", "", *results(folder), "",
        "## Recipe", "", "```json", json.dumps(asdict(recipe), indent=2), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def how_to_cut(loaded: Loaded) -> str:
    """How an image becomes the network's input, in a sentence."""
    view, side = loaded.recipe.data.evaluate, loaded.recipe.data.size
    return (
        f"resized so that the short side is {round(side * view.short_side)}, then the middle {side} x {side}. "
        "Training resized by area; other filters cost a little accuracy."
    )


def agreement(checked: Checked) -> str:
    """What the check found."""
    if checked.difference is None:
        return f"not checked: {checked.how}"
    equal = (
        "bitwise equal outputs" if checked.difference == 0 else f"outputs differ by {checked.difference:.1e} at most"
    )
    return f"{equal} when loaded with {checked.how}"


def results(folder: Path) -> list[str]:
    """The last evaluation on each file that the run's journal holds, as a table."""
    last = last_evaluations(read(folder))
    if not last:
        return ["None were recorded."]
    rows = [(file, name, measured(name, value)) for (file, name), value in last.items()]
    return table([("file", "measured", "value"), *rows]).splitlines()


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}
