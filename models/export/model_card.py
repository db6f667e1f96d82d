"""Write the model card: what a model was trained on, with which labels, by which recipe, and its measured results."""

import json
from dataclasses import asdict

import timm
import torch

from models.config.recipe import Recipe
from models.config.resolve import command_of
from models.evaluate.result_columns import last_evaluations
from models.export.export_format import CheckResult
from models.factory import method_class
from models.load import Loaded
from models.methods.detect import Detect
from models.methods.segment import Segment
from models.records.json_file import read_object
from models.records.metrics import read
from models.records.run_folder import BEST, ENVIRONMENT
from pipeline.spec import both_sides, spelt
from pipeline.text import measured, some, table

SHOWN = 12  # classes that are named


def model_card(loaded: Loaded, format_name: str, checked: CheckResult, use: str) -> str:
    """Make the Markdown for README.md beside the exported files.

    use  lines of Python that load the model
    """
    recipe, folder = loaded.recipe, loaded.path.parent
    environment = read_object(folder / ENVIRONMENT, "restore it, or remove it", absent={})
    labels = "every label of the file" if recipe.data.split is None else f"those of the split {recipe.data.split}"
    labels = labels if method_class(recipe).needs(recipe).labelled else "none"
    lines = [
        f"# {recipe.name}", "", *made(loaded), "",
        "## Use", "", "```python", use, "```", "",
        "Images are RGB; " + (of_dense(loaded, format_name) or how_to_cut(loaded) + how_to_scale(loaded)), "",
        "## What it is", "",
        f"* format: {format_name}, {agreement(checked)}",
        f"* trained for {loaded.step:,} steps of {recipe.data.batch} images, seed {recipe.run.seed}{which(loaded)}",
        f"* data: `{recipe.data.train}` in `{recipe.data.root}`; labels that were seen: {labels}",
        f"* classes: {len(loaded.classes)}" + (f" ({some(loaded.classes, SHOWN)})" if loaded.classes else ""),
        f"* trained with torch {environment.get('torch', 'unknown')}, timm {environment.get('timm', 'unknown')} on "
        f"{environment.get('device', 'unknown')}, commit {environment.get('commit') or 'unknown'}; "
        f"exported with torch {torch.__version__}, timm {timm.__version__}",
        "", "## Results", "", *results(loaded), "",
        "## Recipe", "", "```json", json.dumps(asdict(recipe), indent=2), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def made(loaded: Loaded) -> list[str]:
    """Say by which command a run was made, or from whose weights a model was read."""
    if loaded.origin:
        return ["Read by Shotcrete from weights that others released:", "", *(f"* {line}" for line in
                loaded.origin.splitlines())]  # fmt: skip
    return ["Made by this command of Shotcrete:", "", "```bash", command_of(loaded.recipe), "```"]


def front_matter(loaded: Loaded, format_name: str) -> str:
    """Make the lines before a model card by which the hub knows a model's library and task. The weights' licence is for
    their owner to add."""
    library = {"timm": "timm", "onnx": "onnx", "hf-vitmae": "transformers"}.get(format_name)
    task = "image-classification" if loaded.method.has_classifier else "image-feature-extraction"
    if isinstance(loaded.method, Segment) and format_name == "onnx":
        task = "image-segmentation"
    lines = ["---", *([f"library_name: {library}"] if library else []), f"pipeline_tag: {task}", "tags:", "- shotcrete"]
    return "\n".join([*lines, *(["- timm"] if format_name == "timm" else []), "---", "", ""])


def local_paths(recipe: Recipe) -> list[str]:
    """List the recipe's fields that are absolute paths: a model card shows them to its readers."""
    found = ((part, name, value) for part, held in asdict(recipe).items() if isinstance(held, dict)
             for name, value in held.items())  # fmt: skip
    return [f"{part}.{name} {value}" for part, name, value in found if isinstance(value, str) and value[:1] in "/~"]


def of_dense(loaded: Loaded, format_name: str) -> str | None:
    """Describe in sentences what an export of a run of segmentation or detection takes and gives; None of any other
    run."""
    method = loaded.method
    if isinstance(method, Detect):
        side = spelt(loaded.recipe.data.size)
        return (
            "this is the encoder of a run of detection; its pyramid and heads are in the run alone. It was trained on "
            f"images that are resized to the largest that fits into {side} pixels and padded, blocks "
            f"{', '.join(map(str, method.whole))} attending over all of it and the others within windows of "
            f"{method.settings.window} x {method.settings.window} patches. The norm behind the blocks is not trained."
        )
    if not isinstance(method, Segment):
        return None
    labels, side = method.settings.labels, spelt(loaded.recipe.data.size)
    if format_name != "onnx":
        return (
            "this is the encoder of a run of segmentation; its decoder is in the run and in its ONNX (--to onnx). The "
            "norm behind the blocks is not trained: the decoder reads the blocks."
        )
    return (
        f"the short side is resized to {labels.short_side} pixels (the long one to at most {labels.long_side}), and "
        f"windows of {side} pixels are cut every {method.stride}. Scores are of the classes of each pixel of a window; "
        "average them where windows overlap, and resize them to the image."
    )


def how_to_cut(loaded: Loaded) -> str:
    """Describe in a sentence how an image becomes the network's input."""
    view, (height, width) = loaded.recipe.data.evaluate, both_sides(loaded.recipe.data.size)
    resized = [round(side * view.short_side) for side in (height, width)]
    until = f"the short side is {resized[0]}" if height == width else f"they just cover {resized[0]} x {resized[1]}"
    order = "" if height == width else " (height x width)"
    return (
        f"resized so that {until}, then the middle {height} x {width}{order}. "
        "Training resized by area; other filters cost a little accuracy."
    )


def how_to_scale(loaded: Loaded) -> str:
    """Describe in a sentence what is black and white of pixels with more than 8 bits; empty for 0 and 65535."""
    if (window := loaded.window) is None:
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


def which(loaded: Loaded) -> str:
    """Describe which of a run's weights these are, where there are several."""
    best = loaded.recipe.run.best
    found = f"; the best val {best} of the run" if loaded.path.name == BEST and best else ""
    if loaded.recipe.optim.ema_decay is None:
        return found
    return f"{found}; {'the weights themselves, not their average' if loaded.raw else 'the average of the weights'}"


def results(loaded: Loaded) -> list[str]:
    """Make a table, as lines, of the last evaluation on each file up to the step of these weights, by the run's
    journal."""
    rows = [row for row in read(loaded.path.parent) if row["step"] <= loaded.step]
    at = {row["evaluation"]: row["step"] for row in rows if row.get("evaluation") and row["values"]}
    last = last_evaluations(rows)
    if not last:
        return ["None were recorded."]
    cells = [(file, name, measured(name, value), f"{at[file]:,}") for (file, name), value in last.items()]
    return table([("file", "measured", "value", "after step"), *cells]).splitlines()
