"""How a run ends: the last evaluation, pictures of what it saw and made, and the report."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from models.config.recipe import Recipe
from models.config.resolve import command_of
from models.distributed.process_group import World
from models.evaluate.reconstruct import RATIOS, picture, png
from models.evaluate.judge import Judge
from models.method import Method
from models.preview import columns, views
from models.records.metrics import read
from models.reporting.journal import Journal
from models.reporting.pseudo_label_stats import scarce
from models.reporting.render import Picture
from models.reporting.report import speed, verdict, write_report
from pipeline.evaluation.sweep import sweep
from pipeline.preview import spread
from pipeline.text import percent
from pipeline.train_data import TrainData

IMAGES = 8


def tell(
    recipe: Recipe,
    method: Method,
    journal: Journal,
    train_data: TrainData,
    judges: dict[str, Judge],
    folder: Path,
    world: World,
) -> None:
    """Evaluate on val, and on test where the recipe names one; then the main rank writes the report."""
    step, final = journal.length.total_steps, []
    for name, judge in judges.items():
        values = judge(method)
        if values:
            journal.evaluation(step, name, values)
        final += [(f"{name} {key}", percent(value)) for key, value in values.items()]
    if not world.main:
        return
    written = read(folder)
    page = write_report(
        folder,
        recipe_name=recipe.name,
        rows=written,
        final=final,
        pictures=_pictures(recipe, method, judges["val"], train_data),
        verdict=verdict(*speed(written), "GPU" if world.device.type == "cuda" else "CPU"),
        known=train_data.pools[0],
        command=command_of(recipe),
        pseudo=journal.tally,
        class_names=train_data.classes,
    )
    if few := scarce(written, asdict(recipe)):
        print(few, flush=True)
    print(f"report: {page}", flush=True)


def _pictures(recipe: Recipe, method: Method, judge: Judge, train_data: TrainData) -> list[Picture]:
    drawn = png(views(recipe, train_data.beton, spread(train_data.beton, IMAGES)), columns(recipe))
    pictures = [Picture("Views", "What the recipe makes of training images.", drawn)]
    if method.branch is not None:
        made = _reconstructions(recipe, method, judge)
        pictures += [] if made is None else [made]
    return pictures


def _reconstructions(recipe: Recipe, method: Method, judge: Judge) -> Picture | None:
    """Validation images, at every mask ratio; None where a prediction is no picture."""
    ids = np.arange(min(IMAGES, judge.beton.n))
    (images,) = sweep(recipe.data, judge.beton, judge.world.device, ids, IMAGES)
    return picture(recipe, method, images, RATIOS)
