"""Evaluate detection while it trains and at its end: COCO's average precision of boxes, and of masks, over a set."""

from collections.abc import Iterable
from dataclasses import replace
from typing import final

from models.config.recipe import Recipe
from models.dense.average_precision import Record, Scores, average_precision, names_of, record
from models.distributed.process_group import World, all_on_main, buffers_from_main, from_main
from models.evaluate.set_validator import SetValidator, check_image_files
from models.full_precision import full_precision
from models.method import Method
from models.methods.detect import Detect
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads
from pipeline.dense.boxes import BoxSet, open_boxes

IMAGES = 4
"""Images that go through the network at once, where run.device_images sets no limit: the masks of 100 objects of a
photograph of 12 megapixels have 1.2 GB until they are encoded."""


def judge_set(
    method: Detect, found: BoxSet, ids: Iterable[int], batch: int, threads: int | None = None
) -> list[Record]:
    """Detect the objects of the images `ids` of a set, and keep what average precision is computed of.

    batch  images that go through the network at once

    Images are decoded ahead by threads; masks are kept as run lengths.
    """
    records: list[Record] = []
    numbers = list(ids)
    workers = Threads(decode_threads(threads), "decode")
    try:
        reading = ahead((workers.submit(found.read, index) for index in numbers), batch)
        for first in range(0, len(numbers), batch):
            part = numbers[first : first + batch]
            images = [next(reading).result() for _ in part]
            for index, image, each in zip(part, images, method.predict(images), strict=True):
                height, width = image.shape[1:]
                records.append(record(index, (height, width), found.objects[index], each))
    finally:
        workers.close()
    return records


@final
class BoxValidator(SetValidator):
    """Evaluates a method on one set of the recipe's folder; every rank takes its share of the images.

    values = BoxValidator(recipe, "val", train_set, world)(method)  # {"box_ap": 0.37, "box_ap50": 0.58, ...}

    recalls  by name: box_ap and box_ap50 of each class, and mask_ap and mask_ap50 where masks are learned; None for a
             class without an object
    """

    def __init__(self, recipe: Recipe, name: str, train: BoxSet, world: World) -> None:
        """Open the set. Raises InputError as `open_boxes` does, for other classes than those of `train`, and for
        evaluations that read .beton files."""
        check_image_files(recipe)
        self.recipe, self.world, self.train = recipe, world, train
        self.found = open_boxes(recipe.data, replace(train.labels, names=train.classes), name)
        self.batch = recipe.run.images_at_once or IMAGES
        self.recalls: dict[str, list[float | None]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values that a call returns."""
        return names_of(self.train.labels.masks)

    @property
    def source(self) -> BoxSet:
        """Return what its images are read from, for messages and comparisons."""
        return self.found

    def notes(self) -> list[str]:
        """Say what is odd about the boxes, as `BoxSet.notes` does."""
        return self.found.notes()

    def __call__(self, method: Method) -> dict[str, float]:
        """Measure average precision, in float32 whatever the run trains in. A collective call.

        The main rank's buffers are used on every rank, and it computes the values from what every rank found.
        """
        assert isinstance(method, Detect)
        buffers_from_main(method, self.world)
        ids = range(self.world.rank, self.found.n, self.world.size)
        with full_precision(self.world.device):
            own = judge_set(method, self.found, ids, self.batch, self.recipe.data.threads)
        parts = all_on_main(own, self.world)
        records, classes = [each for part in parts for each in part], len(self.found.classes)
        scores = average_precision(records, classes, method.masks) if self.world.main else None
        scores = from_main(scores, self.world)
        self.recalls = listed(scores)
        return scores.values


def listed(scores: Scores) -> dict[str, list[float | None]]:
    """Return the values of each class as JSON holds them: None where there is no number."""
    return {name: [None if value != value else value for value in each] for name, each in scores.classes.items()}
