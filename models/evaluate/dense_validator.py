"""Evaluate segmentation while it trains and at its end: mIoU, mAcc and aAcc over a set, every image by windows."""

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from models.config.recipe import Recipe
from models.dense.scores import NAMES, count_pixels, ious, listed, mean_scores, recalls
from models.distributed.process_group import World, buffers_from_main, sum_over_ranks
from models.evaluate.set_validator import SetValidator, check_image_files
from models.full_precision import full_precision
from models.method import Method
from models.methods.segment import Segment
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads
from pipeline.dense.pixels import PixelSet, open_pixels

WINDOWS = 8
"""Windows that are scored at once, where run.device_images sets no limit."""


def count_set(method: Segment, found: PixelSet, ids: Iterable[int], batch: int, threads: int | None = None) -> Tensor:
    """Count the pixels of each class and prediction over the images `ids` of a set: i64 [C, C], on the host.

    batch  windows that are scored at once

    Images are decoded ahead by threads, and each is compared with its mask at the mask's size.
    """
    total = torch.zeros(method.classes, method.classes, dtype=torch.int64)
    workers = Threads(decode_threads(threads), "decode")
    try:
        for future in ahead((workers.submit(found.read, index) for index in ids), 4):
            image, classes = future.result()
            predicted = method.predict(image, batch)
            total += count_pixels(predicted, classes.to(predicted.device), method.classes).cpu()
    finally:
        workers.close()
    return total


@final
class DenseValidator(SetValidator):
    """Evaluates a method on one set of the recipe's folder; every rank takes its share of the images.

    values = DenseValidator(recipe, "val", train_set, world)(method)  # {"miou": 0.48, "macc": 0.6, "aacc": 0.83}

    recalls  by name: of each class the share of its pixels that are predicted right, and its IoU; None for a class
             without pixels, or without such and predictions
    """

    def __init__(self, recipe: Recipe, name: str, train: PixelSet, world: World) -> None:
        """Open the set. Raises InputError as `open_pixels` does, and for evaluations that read .beton files."""
        check_image_files(recipe)
        self.recipe, self.world, self.train = recipe, world, train
        self.found = open_pixels(recipe.data, train.labels, name)
        self.batch = recipe.run.images_at_once or WINDOWS
        self.recalls: dict[str, list[float | None]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values that a call returns."""
        return NAMES

    @property
    def source(self) -> PixelSet:
        """Return what its images are read from, for messages and comparisons."""
        return self.found

    def __call__(self, method: Method) -> dict[str, float]:
        """Measure miou, macc and aacc, in float32 whatever the run trains in. A collective call.

        The main rank's buffers are used on every rank, as batch norm's running means may differ between ranks.
        """
        assert isinstance(method, Segment)
        buffers_from_main(method, self.world)
        ids = range(self.world.rank, self.found.n, self.world.size)
        with full_precision(self.world.device):
            confusion = count_set(method, self.found, ids, self.batch, self.recipe.data.threads)
        confusion = sum_over_ranks(confusion, self.world)
        self.recalls = {"recall": listed(recalls(confusion)), "iou": listed(ious(confusion))}
        return mean_scores(confusion)
