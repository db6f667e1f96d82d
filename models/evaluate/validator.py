"""Evaluate a run while it trains and at its end: accuracy where there is a classifier, nearest neighbours, or both."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from models.config.recipe import Recipe
from models.distributed.precision import measuring
from models.distributed.process_group import World, group_for, sum_over_ranks
from models.evaluate.accuracy import hits
from models.evaluate.knn import feature_bank, features, knn
from models.factory import method_class
from models.method import Method
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep, sweep_decodable
from pipeline.labels.splits import known_labels, load_split
from pipeline.sources.classes import difference
from pipeline.store.beton import Beton, open_beton

NEIGHBOUR_IMAGES = 10_000  # labelled images that k-NN compares with: enough to rank runs, seconds to encode


@final
class Validator:
    """Evaluates a method on one file of the recipe's folder; every rank takes its share of the images.

    values = Validator(recipe, "val.beton", train_beton, world)(method)  # {"top1": 0.71, "top5": 0.9}
    """

    def __init__(self, recipe: Recipe, file: str, train: Beton, world: World) -> None:
        """Open the file. Raises InputError if it is missing, has other classes, or no label for a classifier."""
        data = recipe.data
        self.recipe, self.world, self.train = recipe, world, train
        self.beton = open_beton(Path(data.root) / file)
        ours, theirs = self.beton.manifest.classes, train.manifest.classes
        if ours is not None and theirs is not None and ours != theirs:
            how = difference(ours, theirs, f"in {self.beton.path.name}", f"in {train.path.name}")
            raise InputError(
                f"{self.beton.path} has other classes than {train.path}: {how}; "
                f"convert it with --classes-from {train.path}"
            )
        self.labels = known_labels(self.beton, None)
        if method_class(recipe).has_classifier and not len(self.labels.ids):
            raise InputError(f"{self.beton.path} has no labelled image to evaluate on; convert it with labels")
        self.split = load_split(train, data.split) if data.split else None
        self.batch = recipe.run.device_images or 256

    def __call__(self, method: Method) -> dict[str, float]:
        """Measure shares of images, in float32 whatever the run trains in. A collective call.

        Returns top1 (and top5 above 5 classes), and knn where the method has no classifier or run.knn asks for it;
        nothing where no label is known.
        """
        with measuring(self.world.device):
            return self._measure(method)

    def _measure(self, method: Method) -> dict[str, float]:
        """Measure with the main rank's buffers on every rank: batch norm's running means differ between ranks."""
        if self.world.size > 1:
            for buffer in method.buffers():
                dist.broadcast(buffer, 0, group_for(buffer, self.world))
        ids = np.asarray(self.labels.ids[self.world.rank :: self.world.size])
        values = self._classified(method, ids) if method.has_classifier else {}
        return values | (self._neighbours(method, ids) if self.recipe.run.knn or not method.has_classifier else {})

    def _classified(self, method: Method, ids: np.ndarray) -> dict[str, float]:
        counts = hits(method, self._images(ids), self._on_device(self.labels[ids]))
        top1, top5, n = sum_over_ranks(counts.cpu(), self.world).tolist()
        return {"top1": top1 / n} | ({"top5": top5 / n} if len(self.train.manifest.classes or ()) > 5 else {})

    def _neighbours(self, method: Method, ids: np.ndarray) -> dict[str, float]:
        known, total = known_labels(self.train, self.split), len(self.labels.ids)
        known_ids = np.asarray(known.ids[:NEIGHBOUR_IMAGES])  # samples were shuffled when the file was written
        if not len(known_ids) or not total:
            return {}
        right = torch.zeros(1, dtype=torch.float64)
        if len(ids):  # fewer images than ranks leave some without
            where = self.recipe.data, self.train, self.world.device
            batches = sweep_decodable(*where, known_ids, self.batch, say=self.world.main)
            bank_ids, bank = feature_bank(method.eval_encoder, batches)
            queries = features(method.eval_encoder, self._images(ids))
            labels = self._on_device(known[bank_ids]), self._on_device(self.labels[ids])
            right += knn(bank, labels[0], queries, labels[1]) * len(ids)
        return {"knn": float(sum_over_ranks(right, self.world)) / total}

    def _images(self, ids: np.ndarray) -> Iterator[Tensor]:
        return sweep(self.recipe.data, self.beton, self.world.device, ids, self.batch)

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.world.device)
