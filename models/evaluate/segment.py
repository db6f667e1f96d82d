"""Segmentation of a set: mean IoU, mean and overall accuracy, IoU of each class, and pictures."""

from dataclasses import dataclass, replace
from typing import Annotated, final

import numpy as np

from models.dense.drawing import palette, png
from models.dense.scores import ious, mean_scores, recalls
from models.evaluate.dense_pictures import legend, prediction_picture
from models.evaluate.dense_validator import count_set
from models.evaluate.evaluator import Evaluator, Result
from models.full_precision import full_precision
from models.load import Loaded
from models.methods.segment import Segment as Method
from models.reporting.figures import confusions
from models.reporting.render import Block, Picture, Table
from pipeline.dense.pixels import PixelSet, open_pixels
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, check_bounds
from pipeline.text import measured


@final
@dataclass(frozen=True)
class Segment(Evaluator):
    """Mean IoU, mean and overall accuracy of a segmentation run; IoU of each class, confusions, pictures."""

    batch: Annotated[int, AT_LEAST_1] = 8
    """Windows that go through the network at once."""
    pictures: Annotated[int, AT_LEAST_1] = 8
    """Images that the page shows with their true and their predicted classes."""

    def run(self, loaded: Loaded) -> Result:
        """Measure miou, macc and aacc (models.dense.scores) on val, or on the set that --data.file names."""
        check_bounds(self, "--")
        found = open_set(self, loaded)
        method = loaded.method
        assert isinstance(method, Method)  # as checked with its set
        with full_precision(next(method.parameters()).device):
            confusion = count_set(method, found, range(found.n), self.batch, self.data.threads)
            picture = prediction_picture(method, found, self.pictures, self.batch)
        each, right, pixels = ious(confusion).tolist(), recalls(confusion).tolist(), confusion.sum(1).tolist()
        order = np.argsort(each, kind="stable")  # what is not a number comes last
        rows = [
            (found.classes[c], measured("iou", each[c]), measured("recall", right[c]), f"{pixels[c]:,}") for c in order
        ]
        blocks: list[Block] = [Table(("class, worst first", "IoU", "recall", "pixels"), rows)]
        if drawn := confusions(confusion.numpy(), found.classes):
            blocks.append(Picture("Confusions", "Rows: the true class; columns: the predicted one.", drawn))
        colours = Picture("Colours", "Of the classes, in all pictures.", png(legend(found.classes, palette())))
        values = {"images": float(found.n)} | mean_scores(confusion)
        return Result(values, [*blocks, picture, colours])


def open_set(evaluator: Segment, loaded: Loaded) -> PixelSet:
    """Open the set that the flags name. Raises InputError for a run of another method, and for other classes."""
    labels = loaded.method.needs(loaded.recipe).pixel_labels
    if labels is None:
        raise InputError(
            f"{loaded.path} was trained by {loaded.recipe.name}, which gives no classes of pixels; fine-tune it first "
            f"(python train.py segment:... --run.start {loaded.path})"
        )
    if loaded.origin:
        raise InputError(f"{loaded.path} brings an encoder and no decoder; train one first (train.py segment:...)")
    data = replace(evaluator.data_of(loaded), root=evaluator.data.root or loaded.recipe.data.root)
    found = open_pixels(data, labels, evaluator.data.file or data.val)
    if found.classes != loaded.classes:
        raise InputError(f"{found.path} has other classes than {loaded.path}: expected {', '.join(loaded.classes)}")
    return found
