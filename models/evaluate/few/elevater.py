"""ELEVATER's protocol (Li et al. 2022, as in the authors' toolkit), its best test epoch included.

A fifth of the shots is held out; plain SGD with each of six rates, and for each a search for the L2 penalty, is judged
by its best epoch there; the best of all learns on every shot again, and the best of its epochs ON TEST is the result.

What differs: which images are drawn (the toolkit's are its data library's), which of them are held out (as many), and
the view, which is the recipe's (theirs: resized bicubically to the size of the crop, not to 8/7 of it).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.encoder.vit import evaluating
from models.evaluate.few.metric import Metric, measured
from models.evaluate.few.search import L2, search
from models.evaluate.few.shots import Shots
from models.losses import label_loss

RATES = np.logspace(-6, -1, 6)
EPOCHS, MORE_EPOCHS = 10, 40  # of each trial, and what the last training has on top (the toolkit's model files)
BATCH, MOMENTUM = 64, 0.9  # the toolkit's model files


class SelectedImages(NamedTuple):
    """The value reported, the settings that validation chose, and the epoch, from 1, that test chose."""

    value: float
    lr: float
    l2: float
    epoch: int

    @property
    def settings(self) -> dict[str, float]:
        """All but the value."""
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
) -> SelectedImages:
    """Search, learn again, report the best epoch on test.

    make     a new classifier, always the same
    inputs   of the shots, on the device: features f32 [n, D], or images u8 [n, 3, S, S]
    on_test  the metric of a classifier on test; called after each epoch of the last training
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
    return SelectedImages(values[epoch], lr, l2, epoch + 1)


def descend(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    lr: float,
    l2: float,
    epochs: int,
    seed: int,
    judge: Callable[[nn.Module], float],
) -> list[float]:
    """SGD with momentum at a constant rate, everything decayed, no augmentation; -> what `judge` says of each epoch.

    A last batch of one image is left out: it has no batch statistics.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=lr, momentum=MOMENTUM, weight_decay=l2)
    order, values = torch.Generator().manual_seed(seed), []
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(inputs), generator=order).to(inputs.device).split(BATCH):
            if len(rows) > 1:
                optimiser.zero_grad(set_to_none=True)
                label_loss(model(inputs[rows]), labels[rows]).backward()
                optimiser.step()
        values.append(judge(model))
    return values


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Tensor, batch: int = 256) -> Tensor:
    """Logits f32 [N, C] in eval mode."""
    with evaluating(model):
        return torch.cat([model(some) for some in inputs.split(batch)]).float()
