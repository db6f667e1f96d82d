"""Train a classifier and its encoder on the shots, with the trainer's loader, views, loss, optimiser and schedule."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from models.config.recipe import Optim
from models.evaluate.few_shot_protocols.features import FineTuned
from models.evaluate.few_shot_protocols.shots import Shots
from models.evaluate.few_shot_protocols.targets import target_loss
from models.optim.build import build_optimiser
from models.optim.schedule import Pools, learning_rate, run_length
from models.optim.update import clip_grad_norm, set_lr
from pipeline import rng
from pipeline.backends.select import streamed
from pipeline.flags import AT_LEAST_2, NOT_NEGATIVE, POSITIVE
from pipeline.labels.known import Labels
from pipeline.loader import Loader, LoaderSpec
from pipeline.open import open_backend
from pipeline.sampling.sampler import Sampler
from pipeline.spec import Data
from pipeline.store.beton import Beton
from pipeline.views.plan import ViewSpec


@dataclass(frozen=True)
class FineTuning:
    """AdamW with half a cosine. Defaults without a source are this project's."""

    rates: Annotated[tuple[float, ...], POSITIVE] = (1e-4, 3e-4, 1e-3, 3e-3)
    """Peak rates to select from."""
    epochs: Annotated[float, POSITIVE] = 50
    """Passes over the shots (ELEVATER's last training: 10 + 40)."""
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 5
    """Linear warm-up of the rate (MAE fine-tunes with 5)."""
    batch: Annotated[int, AT_LEAST_2] = 64
    """Images in a step (ELEVATER)."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.05
    """As MAE fine-tunes."""
    layer_decay: Annotated[float, POSITIVE] = 0.65
    """As MAE for ViT-B, and SupMAE."""
    clip: Annotated[float, POSITIVE] = 1.0
    """Largest gradient norm: a batch of a few images can have a very large one."""
    view: Literal["weak", "strong", "evaluate"] = "weak"
    """Which of the recipe's views is trained on; ELEVATER augments nothing: evaluate."""


def train_on_shots(
    model: FineTuned, data: Data, beton: Beton, shots: Shots, tuning: FineTuning, lr: float, seed: int
) -> None:
    """Train a classifier and its encoder on the shots, in place; the result is a function of the arguments alone.

    Drop-path draws from torch's generator, which is seeded here.
    """
    device = next(model.parameters()).device
    order, batch = np.argsort(shots.ids), min(tuning.batch, len(shots))
    labels = Labels(beton.n, shots.ids[order], np.arange(len(shots)))  # the row of each image's target
    targets = torch.from_numpy(shots.labels[order]).to(device)
    views = ViewSpec({"images": (getattr(data, tuning.view), rng.LABELLED)}, data.size)
    spec = LoaderSpec(Sampler(seed, labels.ids, None, batch, 0), labels, views, None, seed)
    optim = Optim(lr=lr, epochs=tuning.epochs, warmup_epochs=tuning.warmup_epochs, epoch_unit="labelled",
                  weight_decay=tuning.weight_decay, layer_decay=tuning.layer_decay)  # fmt: skip
    steps = run_length(optim, Pools(len(shots), 0, batch, 0))
    descent = build_optimiser(model, optim)
    torch.manual_seed(int(rng.keys(seed, 0, np.zeros(1, np.int64), rng.TORCH)[0] >> np.uint64(1)))
    model.train()
    backend = open_backend(streamed(data), beton, device)  # decodes the shots alone, few images of a large file
    with Loader(spec, backend, device, hang_timeout_s=data.hang_timeout_s) as batches:
        for step in range(steps.total_steps):
            known = next(batches).labelled
            assert known is not None  # the only part that is read
            set_lr(descent, learning_rate(step, steps, optim, batch))
            target_loss(model(known.images), targets[known.labels]).backward()
            clip_grad_norm(model.parameters(), tuning.clip)
            descent.step()
            descent.zero_grad(set_to_none=True)
