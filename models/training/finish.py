"""Finish a run: the last evaluations, pictures of its views and reconstructions, and the report."""

from dataclasses import asdict, replace
from importlib.util import find_spec

import numpy as np

from models.checkpoint import save_load
from models.config.extensions import stages_of
from models.config.resolve import command_of
from models.encoder.freeze import describe
from models.evaluate.reconstruct import RATIOS, picture, png
from models.evaluate.validator import Validator
from models.method import Method
from models.preview import columns, views
from models.records import metrics
from models.records.run_folder import BEST
from models.reporting.pseudo_label_stats import few_passed
from models.reporting.render import Picture
from models.reporting.report import speed, verdict, write_report
from models.training.trainer import Training
from pipeline.evaluation.sweep import sweep
from pipeline.preview.views import spread
from pipeline.text import measured
from pipeline.train_data import TrainData

IMAGES = 8
NO_PICTURES = f"no report is written: matplotlib is not installed; {metrics.FILE} has its numbers"


def finish_run(run: Training) -> None:
    """Evaluate on val, and on test where the recipe names one; then the main rank writes the report. A collective call.

    Each evaluation uses the weights that `run.judge` names. If val's value of `run.best` is the best so far, the last
    checkpoint becomes best.pt, too.
    """
    method, final = run.full_method(), []
    for name, validate in run.validators.items():
        values = validate(method)
        if values:
            run.journal.evaluation(run.step, name, values, validate.recalls)
        if name == "val" and run.best is not None and run.best.add(run.step, values):
            run.saver.wait()
            if run.world.main:
                save_load.keep_best(run.folder)
        final += [(f"{name} {key}", measured(key, value)) for key, value in values.items()]
    if not run.world.main:
        return
    rows = metrics.read(run.folder)
    if find_spec("matplotlib") is None:
        run.print_once(few_passed(rows, asdict(run.recipe)), *_notes(run), NO_PICTURES)
        return
    page = write_report(
        run.folder,
        recipe_name=run.recipe.name,
        rows=rows,
        final=final,
        pictures=_pictures(run, method),
        verdict=verdict(*speed(rows), "GPU" if run.world.device.type == "cuda" else "CPU"),
        labelled=run.train_data.pools[0],
        label_counts=run.train_data.label_counts.tolist(),
        command="\n".join(command_of(replace(run.recipe, run=stage)) for stage in stages_of(run.recipe.run)),
        notes=[*describe(run.recipe.encoder, run.method.encoder, started=True), *(notes := _notes(run))],
        pseudo_labels=run.journal.pseudo_labels,
        class_names=run.train_data.classes,
    )
    run.print_once(few_passed(rows, asdict(run.recipe)), *notes, f"report: {page}")


def _notes(run: Training) -> list[str]:
    """Where extensions began, whether and why the run ended early, and which step best.pt is of; each in a line."""
    notes, best, total = run.extensions(), run.best, run.length.total_steps
    if best is not None and run.ended_early:
        notes.append(f"ended early, after step {run.step:,} of {total:,}: {best.why()} (run.stop_after)")
    if best is not None and (described := best.describe()):
        notes.append(f"{described}, {'kept as' if (run.folder / BEST).exists() else 'and lost since:'} {BEST}")
    return notes


def _pictures(run: Training, method: Method) -> list[Picture]:
    recipe, val = run.recipe, run.validators["val"]
    if not isinstance(run.train_data, TrainData):
        from models.evaluate.dense_sets import pictures  # here, as in models.training.preflight

        return pictures(recipe, method, run.train_data, val, IMAGES)
    beton = run.train_data.beton
    drawn = png(views(recipe, beton, spread(beton, IMAGES)), columns(recipe))
    pictures = [Picture("Views", "What the recipe makes of training images.", drawn)]
    made = _reconstructions(run, method, val) if isinstance(val, Validator) and method.branch is not None else None
    return pictures if made is None else [*pictures, made]


def _reconstructions(run: Training, method: Method, val: Validator) -> Picture | None:
    """Reconstructions of validation images at several mask ratios; None for a target that is no picture."""
    beton = val.beton
    ids = np.arange(min(IMAGES, beton.n))
    (images,) = sweep(run.recipe.data, beton, run.world.device, ids, IMAGES)
    return picture(method, images, RATIOS)
