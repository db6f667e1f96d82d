"""The length of a run in steps, and its learning rate as a pure function of the step."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from models.config.recipe import Optim
from pipeline.errors import InputError


@dataclass(frozen=True)
class Pools:
    """Images to learn from, and images of each kind in a step over all devices; 0 where the method reads none."""

    labelled: int
    unlabelled: int
    labelled_batch: int
    unlabelled_batch: int

    @property
    def batch(self) -> int:
        """Images in a step; in the labels-only phase all of them are labelled."""
        return self.labelled_batch + self.unlabelled_batch


@dataclass(frozen=True)
class RunLength:
    """A run in steps; the labels-only phase comes first and is part of `total_steps`."""

    total_steps: int
    warmup_steps: int
    labels_only_steps: int
    labels_only_epoch_steps: float
    """Steps of an epoch in the labels-only phase; a fraction, because a batch may end one pass and begin the next."""
    epoch_steps: float
    """Steps of an epoch after that phase."""
    drop_steps: tuple[int, ...] = ()
    """Steps from which on the rate is lower (Optim.drop_epochs)."""

    def epoch(self, step: int) -> float:
        """Epochs that are done after `step` steps."""
        first = min(step, self.labels_only_steps)
        return first / self.labels_only_epoch_steps + (step - first) / self.epoch_steps

    def labels_only(self, step: int) -> bool:
        """Whether the step with this number, counted from 0, is in the labels-only phase."""
        return step < self.labels_only_steps


def run_length(optim: Optim, pools: Pools) -> RunLength:
    """Convert the epochs of a recipe to steps.

    run_length(Optim(epochs=800, warmup_epochs=40), Pools(0, 1_281_167, 0, 4096)).total_steps  # 250227

    An epoch is one pass over the pool that `epoch_unit` names, at that pool's share of the batch. In the labels-only
    phase it is one pass over the labelled images at the whole batch (Semiformer: 128116 images, 864 a step, 148 steps).
    A fraction of a step is dropped once at the end of each phase, not in each epoch.

    Raises InputError if the method reads no image of the pool, or if the run is shorter than a step.
    """
    first, then = _epoch_steps(optim, pools)

    def steps(epochs: float) -> int:
        before = min(epochs, optim.labels_only_epochs)
        return _whole_steps(before * first) + _whole_steps((epochs - before) * then)

    total = steps(optim.epochs)
    if total < 1:
        raise InputError(f"optim.epochs {optim.epochs:g} is less than one step of {pools.batch} images; raise it")
    drops = tuple(steps(epochs) for epochs in optim.drop_epochs)
    return RunLength(total, steps(optim.warmup_epochs), steps(optim.labels_only_epochs), first, then, drops)


def learning_rate(step: int, length: RunLength, optim: Optim, batch: int) -> float:
    """The learning rate of the step with this number, counted from 0.

    It rises linearly from 0 over `warmup_steps`, as in MAE's lr_sched.py but per step. Then, through both phases, it
    follows half a cosine to `final_lr` at `total_steps`, or is multiplied by `drop_factor` at each of `drop_steps` and
    kept at `final_lr` or above (with final_lr 0: SimMIM's MultiStepLRScheduler, per step). Where `lr_batch` is set all
    is scaled by batch / lr_batch (Goyal et al. 2017); `batch` counts the images of a step over all devices.
    """
    scale = 1.0 if optim.lr_batch is None else batch / optim.lr_batch
    peak, final = optim.lr * scale, optim.final_lr * scale
    if step < length.warmup_steps:
        return peak * step / length.warmup_steps
    if optim.schedule == "steps":
        return max(final, peak * optim.drop_factor ** bisect_right(length.drop_steps, step))
    done = (step - length.warmup_steps) / max(1, length.total_steps - length.warmup_steps)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _epoch_steps(optim: Optim, pools: Pools) -> tuple[float, float]:
    if optim.labels_only_epochs and pools.labelled == 0:
        raise InputError("optim.labels_only_epochs is set, but the method reads no labelled images; set it to 0")
    if optim.epoch_unit == "step":
        return 1.0, 1.0
    pool, share = {
        "labelled": (pools.labelled, pools.labelled_batch),
        "unlabelled": (pools.unlabelled, pools.unlabelled_batch),
    }[optim.epoch_unit]
    if share == 0 or pool == 0:
        raise InputError(
            f"optim.epoch_unit is {optim.epoch_unit}, but a step takes {share} of {pool} {optim.epoch_unit} images; "
            "choose another epoch_unit"
        )
    return max(1, pools.labelled) / pools.batch, pool / share


def _whole_steps(steps: float) -> int:
    return math.floor(steps + 1e-6)  # 1e-6: rounding in 0.1 * 30 epochs of 10 steps must not lose a step
