"""Linear probing: every shot and every test image is encoded once, then only features are looked at."""

import numpy as np
import torch
from torch import Tensor, nn

from models.evaluate.few.elevater import elevater, logits_of
from models.evaluate.few.honest import Trial, linear, trials_of
from models.evaluate.few.metric import measured
from models.evaluate.few.represent import linear_head
from models.evaluate.few.shots import Shots
from models.evaluate.few.suite import labels_of
from models.evaluate.few.table import Cell
from models.evaluate.few.task import Found, Task
from pipeline.concurrency.transfer import send
from pipeline.store.beton import Beton

Known = tuple[Tensor, Tensor]
"""Features f32 [N, width] and labels i64 [N], on the device."""


def probe(task: Task) -> list[Cell]:
    """A linear classifier for each number of shots and each draw."""
    ids = np.unique(np.concatenate([shots.ids for shots in task.drawn]))
    features = features_of(task, task.set.train, ids)
    test = known(task, task.set.test)
    val = known(task, task.set.val) if task.set.val else None

    def learn(shots: Shots, seed: int) -> Found:
        own = features[send(np.searchsorted(ids, shots.ids), features.device)]
        return (
            theirs(task, shots, own, test, seed) if task.protocol == "elevater" else ours(task, shots, own, test, val)
        )

    return task.cells(learn)


def ours(task: Task, shots: Shots, features: Tensor, test: Known, val: Known | None) -> Found:
    """Selected and learned without test, which is looked at in the last line."""
    labels = send(shots.labels, features.device)
    trials = trials_of(shots, features) if val is None else [Trial(features, labels, *val)]
    fitted, l2 = linear(shots, features, trials, task.classes, task.metric)
    return Found(measured(fitted(test[0]), test[1], task.metric), {"l2": l2})


def theirs(task: Task, shots: Shots, features: Tensor, test: Known, seed: int) -> Found:
    """ELEVATER's."""

    def make() -> nn.Module:
        return linear_head(features.shape[1], task.classes, seed).to(features.device)

    def on_test(model: nn.Module) -> float:
        return measured(logits_of(model, test[0]), test[1], task.metric)

    found = elevater(make, features, shots, on_test, task.metric, seed, left_only=task.left_only)
    return Found(found.value, found.settings)


def known(task: Task, beton: Beton) -> Known:
    """Features and labels of every labelled image of a file."""
    labels = labels_of(beton)
    ids = np.asarray(labels.ids)
    return features_of(task, beton, ids), send(labels[ids], task.device)


@torch.no_grad()
def features_of(task: Task, beton: Beton, ids: np.ndarray) -> Tensor:
    """Features f32 [N, width] of images `ids` (i64 [N]), on the device."""
    return torch.cat([task.represent(images) for images in task.see(beton, ids)])
