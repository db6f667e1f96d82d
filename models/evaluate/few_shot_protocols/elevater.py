"""ELEVATER's protocol (Li et al. 2022, as in the authors' toolkit), in which test selects the epoch.

A fifth of the shots is held out. Plain SGD runs with each of six rates, and for each with the L2 penalties of a search;
the metric of a run is that of its best epoch on the held-out shots. The best settings learn on all shots again, and the
best of their epochs ON TEST is the result.

Differences from the toolkit: which images are drawn (there by its data library), which of them are held out (as many),
and the view, which is the recipe's (there: resized bicubically to the size of the crop, not to 8/7 of it).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.encoder.vit import evaluating
from models.evaluate.few_shot_protocols.l2_search import L2, search
from models.evaluate.few_shot_protocols.metric import Metric, measured
from models.evaluate.few_shot_protocols.shots import Shots
from models.evaluate.few_shot_protocols.targets import target_loss

RATES = np.logspace(-6, -1, 6)
EPOCHS, MORE_EPOCHS = 10, 40  # of each trial, and further ones of the last training (the toolkit's model files)
BATCH, MOMENTUM = 64, 0.9  # the toolkit's model files


class Selection(NamedTuple):
    """The metric on test, the settings that held-out shots selected, and the epoch, from 1, that test selected."""

    value: float
    lr: float
    l2: float
    epoch: int

    @property
    def settings(self) -> dict[str, float]:
        """Return everything selected: all but the value."""
        return {"lr": self.lr, "l2": self.l2, "epoch": self.epoch}


def elevater(
    make: Callable[[], nn.Module],
    inputs: Tensor,
    shots: Shots,
    on_test: Callable[[nn.Module], float],
    metric: Metric,
    seed: int,
    *,
    left_only: bool = False,
) -> Selection:
    """Search for the best settings, learn with them again, and return the best epoch on test.

    make     returns a new classifier with the same initial weights each time
    inputs   of the shots, on the device: features f32 [n, D], or images u8 [n, 3, H, W]
    on_test  measures a classifier on test; called after each epoch of the last training
    """
    labels = torch.from_numpy(shots.labels).to(inputs.device)
    learned, held = (torch.from_numpy(rows).to(inputs.device) for rows in shots.fold(0))

    def trial(lr: float, l2: float) -> float:
        def on_held(model: nn.Module) -> float:
            return measured(logits_of(model, inputs[held]), labels[held], metric)

        return max(descend(make(), inputs[learned], labels[learned], lr, l2, EPOCHS, seed, on_held))

    best = -1.0, 0.0, 0.0
    for lr in RATES:
        place, value = search(lambda i, lr=lr: trial(lr, L2[i]), left_only=left_only)
        if value > best[0]:
            best = value, float(lr), float(L2[place])
    _, lr, l2 = best
    values = descend(make(), inputs, labels, lr, l2, EPOCHS + MORE_EPOCHS, seed, on_test)
    epoch = int(np.argmax(values))
    return Selection(values[epoch], lr, l2, epoch + 1)


def descend(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    lr: float,
    l2: float,
    epochs: int,
    seed: int,
    measure: Callable[[nn.Module], float],
) -> list[float]:
    """Train by SGD with momentum at a constant rate, with weight decay on everything and no augmentation.

    Returns `measure` of the model after each epoch. A last batch of one image is left out: it has no batch statistics.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=lr, momentum=MOMENTUM, weight_decay=l2)
    order, values = torch.Generator().manual_seed(seed), []
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(inputs), generator=order).to(inputs.device).split(BATCH):
            if len(rows) > 1:
                optimiser.zero_grad(set_to_none=True)
                target_loss(model(inputs[rows]), labels[rows]).backward()
                optimiser.step()
        values.append(measure(model))
    return values


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Tensor, batch: int = 256) -> Tensor:
    """Compute logits f32 [N, C] in eval mode, in batches."""
    with evaluating(model):
        return torch.cat([model(part) for part in inputs.split(batch)]).float()
