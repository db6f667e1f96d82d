"""Detection on a set: COCO's average precision of boxes and masks, for each class and size, and pictures."""

from dataclasses import dataclass, replace
from typing import Annotated, final

import numpy as np

from models.dense.average_precision import average_precision
from models.evaluate.box_pictures import SCORE, prediction_picture
from models.evaluate.box_validator import IMAGES, judge_set
from models.evaluate.evaluator import Evaluator, Result
from models.full_precision import full_precision
from models.load import Loaded
from models.methods.detect import Detect as Method
from models.reporting.render import Table, Text
from pipeline.dense.boxes import BoxSet, open_boxes
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, SHARE, check_bounds
from pipeline.text import measured

HEADS = {"box_ap": "AP box", "box_ap50": "AP50 box", "mask_ap": "AP mask", "mask_ap50": "AP50 mask"}
"""Columns of the table of classes."""


@final
@dataclass(frozen=True)
class Detect(Evaluator):
    """Average precision of a detection run, of boxes and masks, and by size; AP of each class, pictures."""

    batch: Annotated[int, AT_LEAST_1] = IMAGES
    """Images that go through the network at once."""
    pictures: Annotated[int, AT_LEAST_1] = 8
    """Images that the page shows with their true and their predicted objects."""
    score: Annotated[float, SHARE] = SCORE
    """Predicted objects that are less likely are not drawn; all count in the numbers."""

    def run(self, loaded: Loaded) -> Result:
        """Measure COCO's twelve values, six of boxes and six of masks, on val, or on the set that --data.file names;
        sizes without an object have none."""
        check_bounds(self, "--")
        found = open_set(self, loaded)
        method = loaded.method
        assert isinstance(method, Method)  # as checked with its set
        with full_precision(next(method.parameters()).device):
            records = judge_set(method, found, range(found.n), self.batch, self.data.threads)
            picture = prediction_picture(method, found, self.pictures, self.score)
        scores = average_precision(records, len(found.classes), method.masks)
        values = {"images": float(found.n)} | {name: each for name, each in scores.values.items() if each == each}
        odd = [Text(f"{line}.") for line in found.notes()]
        return Result(values, [class_table(scores.classes, found), picture, *odd])


def class_table(classes: dict[str, list[float]], found: BoxSet) -> Table:
    """Make the table of each class's values, the worst first; what is not a number comes last."""
    order = np.argsort(classes["box_ap"], kind="stable")
    head = ("class, worst first", *(HEADS[name] for name in classes), "objects")
    rows = [
        (found.classes[c], *(measured(name, each[c]) for name, each in classes.items()), f"{found.counts[c]:,}")
        for c in order
    ]
    return Table(head, rows)


def open_set(evaluator: Detect, loaded: Loaded) -> BoxSet:
    """Open the set that the flags name. Raises InputError for a run of another method, and for an object of
    another class."""
    labels = loaded.method.needs(loaded.recipe).box_labels
    if labels is None:
        raise InputError(
            f"{loaded.path} was trained by {loaded.recipe.name}, which finds no objects; fine-tune it first "
            f"(python train.py detect:... --run.start {loaded.path})"
        )
    if loaded.origin:
        raise InputError(f"{loaded.path} brings an encoder and no heads; train them first (train.py detect:...)")
    data = replace(evaluator.data_of(loaded), root=evaluator.data.root or loaded.recipe.data.root)
    return open_boxes(data, replace(labels, names=loaded.classes), evaluator.data.file or data.val)
