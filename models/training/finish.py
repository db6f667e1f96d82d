"""Finish a run: the last evaluations, pictures of its views and reconstructions, and the report."""

from dataclasses import asdict

import numpy as np

from models.config.resolve import command_of
from models.evaluate.reconstruct import RATIOS, picture, png
from models.method import Method
from models.preview import columns, views
from models.records import metrics
from models.reporting.pseudo_label_stats import few_passed
from models.reporting.render import Picture
from models.reporting.report import speed, verdict, write_report
from models.training.trainer import Training
from pipeline.evaluation.sweep import sweep
from pipeline.preview.views import spread
from pipeline.text import percent

IMAGES = 8


def finish_run(run: Training) -> None:
    """Evaluate on val, and on test where the recipe names one; then the main rank writes the report. A collective call.

    Each evaluation uses the EMA of the weights where the recipe keeps one.
    """
    method, final = run.full_method(), []
    for name, validate in run.validators.items():
        values = validate(method)
        if values:
            run.journal.evaluation(run.step, name, values)
        final += [(f"{name} {key}", percent(value)) for key, value in values.items()]
    if not run.world.main:
        return
    rows = metrics.read(run.folder)
    page = write_report(
        run.folder,
        recipe_name=run.recipe.name,
        rows=rows,
        final=final,
        pictures=_pictures(run, method),
        verdict=verdict(*speed(rows), "GPU" if run.world.device.type == "cuda" else "CPU"),
        labelled=run.train_data.pools[0],
        command=command_of(run.recipe),
        pseudo_labels=run.journal.pseudo_labels,
        class_names=run.train_data.classes,
    )
    run.print_once(few_passed(rows, asdict(run.recipe)), f"report: {page}")


def _pictures(run: Training, method: Method) -> list[Picture]:
    recipe, beton = run.recipe, run.train_data.beton
    drawn = png(views(recipe, beton, spread(beton, IMAGES)), columns(recipe))
    pictures = [Picture("Views", "What the recipe makes of training images.", drawn)]
    made = _reconstructions(run, method) if method.branch is not None else None
    return pictures if made is None else [*pictures, made]


def _reconstructions(run: Training, method: Method) -> Picture | None:
    """Reconstructions of validation images at several mask ratios; None for a target that is no picture."""
    beton = run.validators["val"].beton
    ids = np.arange(min(IMAGES, beton.n))
    (images,) = sweep(run.recipe.data, beton, run.world.device, ids, IMAGES)
    return picture(method, images, RATIOS)
