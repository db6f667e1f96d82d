"""Write the model card: what a model was trained on, with which labels, by which recipe, and its measured results."""

import json
from dataclasses import asdict
from pathlib import Path

import timm
import torch

from models.config.resolve import command_of
from models.evaluate.result_columns import last_evaluations
from models.export.export_format import CheckResult
from models.factory import method_class
from models.load import Loaded
from models.records.metrics import read
from models.records.run_folder import ENVIRONMENT
from pipeline.errors import InputError
from pipeline.sources.levels import stored_window
from pipeline.text import measured, some, table

SHOWN = 12  # classes that are named


def model_card(loaded: Loaded, format_name: str, checked: CheckResult, use: str) -> str:
    """Make the Markdown for README.md beside the exported files.

    use  lines of Python that load the model
    """
    recipe, folder = loaded.recipe, loaded.path.parent
    environment = _read(folder / ENVIRONMENT)
    labels = "every label of the file" if recipe.data.split is None else f"those of the split {recipe.data.split}"
    labels = labels if method_class(recipe).needs(recipe).labelled else "none"
    lines = [
        f"# {recipe.name}", "", "Made by this command of Shotcrete:", "", "```bash", command_of(recipe), "```", "",
        "## Use", "", "```python", use, "```", "",
        "Images are RGB; " + how_to_cut(loaded) + how_to_scale(loaded), "",
        "## What it is", "",
        f"* format: {format_name}, {agreement(checked)}",
        f"* trained for {loaded.step:,} steps of {recipe.data.batch} images, seed {recipe.run.seed}",
        f"* data: `{recipe.data.train}` in `{recipe.data.root}`; labels that were seen: {labels}",
        f"* classes: {len(loaded.classes)}" + (f" ({some(loaded.classes, SHOWN)})" if loaded.classes else ""),
        f"* trained with torch {environment.get('torch', 'unknown')}, timm {environment.get('timm', 'unknown')} on "
        f"{environment.get('device', 'unknown')}, commit {environment.get('commit') or 'unknown'}; "
        f"exported with torch {torch.__version__}, timm {timm.__version__}",
        "", "## Results", "", *results(folder), "",
        "## Recipe", "", "```json", json.dumps(asdict(recipe), indent=2), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def how_to_cut(loaded: Loaded) -> str:
    """Describe in a sentence how an image becomes the network's input."""
    view, side = loaded.recipe.data.evaluate, loaded.recipe.data.size
    return (
        f"resized so that the short side is {round(side * view.short_side)}, then the middle {side} x {side}. "
        "Training resized by area; other filters cost a little accuracy."
    )


def how_to_scale(loaded: Loaded) -> str:
    """Describe in a sentence what is black and white of pixels with more than 8 bits; empty for 0 and 65535."""
    data = loaded.recipe.data
    try:
        window = stored_window(Path(data.root) / data.train)
    except InputError:
        return f" `{data.train}` was not here to say whether pixels of 16 bits were cut to a window."
    if window is None:
        return ""
    shown = "each image's own lowest and highest value" if window == "auto" else f"{window[0]:g} and {window[1]:g}"
    return f" Of pixels with more than 8 bits, {shown} are black and white (--window in convert and predict)."


def agreement(checked: CheckResult) -> str:
    """Describe the result of the check."""
    if checked.difference is None:
        return f"not checked: {checked.how}"
    equal = (
        "bitwise equal outputs" if checked.difference == 0 else f"outputs differ by {checked.difference:.1e} at most"
    )
    return f"{equal} when loaded with {checked.how}"


def results(folder: Path) -> list[str]:
    """Make a table, as lines, of the last evaluation on each file in the run's journal."""
    last = last_evaluations(read(folder))
    if not last:
        return ["None were recorded."]
    rows = [(file, name, measured(name, value)) for (file, name), value in last.items()]
    return table([("file", "measured", "value"), *rows]).splitlines()


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}
