"""Fine-tuning: a copy of the encoder for each classifier, which learns with it."""

from functools import partial

import numpy as np
import torch
from torch import nn

from models.evaluate.few.elevater import elevater, logits_of
from models.evaluate.few.metric import Score, score
from models.evaluate.few.represent import Tuned
from models.evaluate.few.shots import Shots
from models.evaluate.few.suite import labels_of
from models.evaluate.few.table import Cell
from models.evaluate.few.task import Found, Task
from models.evaluate.few.tune import Tuning, tune
from pipeline.concurrency.transfer import send
from pipeline.store.beton import Beton


def finetune(task: Task, tuning: Tuning) -> list[Cell]:
    """A fine-tuned classifier for each number of shots and each draw."""
    if task.protocol == "elevater":
        return task.cells(partial(theirs, task))
    return task.cells(lambda shots, seed: ours(task, tuning, shots, seed))


def ours(task: Task, tuning: Tuning, shots: Shots, seed: int) -> Found:
    """The peak rate is selected without test, which is looked at in the last line."""

    def learned(rows: Shots, lr: float) -> nn.Module:
        model = make(task, seed)
        tune(model, task.data, task.set.train, rows, tuning, lr, seed)
        return model

    def trial(lr: float) -> Score:
        if task.set.val:
            return on_file(task, learned(shots, lr), task.set.val)
        rows, held = (shots.rows(each) for each in shots.fold(0))
        return on(task, learned(rows, lr), task.set.train, held.ids, held.labels)

    lr = max(sorted(tuning.rates), key=trial) if len(tuning.rates) > 1 else tuning.rates[0]  # of equals the smallest
    return Found(on_file(task, learned(shots, lr), task.set.test).value, {"lr": lr})


def theirs(task: Task, shots: Shots, seed: int) -> Found:
    """ELEVATER's: nothing is augmented, so the shots' images stay on the device."""
    images = torch.cat(list(task.see(task.set.train, shots.ids)))

    def on_test(model: nn.Module) -> float:
        return on_file(task, model, task.set.test).value

    new = partial(make, task, seed)
    found = elevater(new, images, shots, on_test, task.metric, seed, left_only=task.left_only)
    return Found(found.value, found.settings)


def make(task: Task, seed: int) -> Tuned:
    """A new classifier on a copy of the encoder."""
    return Tuned(task.represent, task.classes, seed).to(task.device)


def on_file(task: Task, model: nn.Module, beton: Beton) -> Score:
    """Of every labelled image of a file."""
    labels = labels_of(beton)
    ids = np.asarray(labels.ids)
    return on(task, model, beton, ids, labels[ids])


def on(task: Task, model: nn.Module, beton: Beton, ids: np.ndarray, labels: np.ndarray) -> Score:
    """Of images `ids` (i64 [N]) with labels i64 [N]."""
    logits = torch.cat([logits_of(model, images) for images in task.see(beton, ids)])
    return score(logits, send(labels, logits.device), task.metric)
