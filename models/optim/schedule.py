"""How long a run is and what its rate is: pure functions of the step."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from models.config.recipe import Optim
from pipeline.errors import InputError


@dataclass(frozen=True)
class Pools:
    """Images to learn from, and how many of each kind a step takes over all devices (0: the method reads none)."""

    labelled: int
    unlabelled: int
    labelled_batch: int
    unlabelled_batch: int

    @property
    def batch(self) -> int:
        """Images in a step, of both kinds; in the labels-only phase all of them are labelled."""
        return self.labelled_batch + self.unlabelled_batch


@dataclass(frozen=True)
class Length:
    """A run in steps; the labels-only phase comes first and counts in `total_steps`."""

    total_steps: int
    rise_steps: int
    labels_only_steps: int
    labels_only_epoch_steps: float
    """Steps of an epoch before `labels_only_steps`; fractional, since batches run on over the end of a pass."""
    epoch_steps: float
    """Steps of an epoch afterwards."""
    drop_steps: tuple[int, ...] = ()
    """Steps from which the rate is lower (Optim.drop_epochs)."""

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        first = min(step, self.labels_only_steps)
        return first / self.labels_only_epoch_steps + (step - first) / self.epoch_steps

    def labels_only(self, step: int) -> bool:
        """Whether the step with this number, counted from 0, sees labelled images only."""
        return step < self.labels_only_steps


def length(optim: Optim, pools: Pools) -> Length:
    """Turn epochs into steps.

    An epoch is one pass over the pool that `epoch_unit` names, at that pool's share of the batch; in the labels-only
    phase, one pass over the labelled images at the whole batch (Semiformer: 128116 images, 864 a step, 148 steps).
    Partial steps are dropped once at the end of a phase, not in each epoch.

    Raises InputError if the method reads no image of that pool, or if not one step is left.
    """
    first, then = _epoch_steps(optim, pools)

    def steps(epochs: float) -> int:
        before = min(epochs, optim.labels_only_epochs)
        return _whole(before * first) + _whole((epochs - before) * then)

    total = steps(optim.epochs)
    if total < 1:
        raise InputError(f"optim.epochs {optim.epochs:g} is less than one step of {pools.batch} images; raise it")
    drops = tuple(steps(epochs) for epochs in optim.drop_epochs)
    return Length(total, steps(optim.warmup_epochs), steps(optim.labels_only_epochs), first, then, drops)


def rate(step: int, length: Length, optim: Optim, batch: int) -> float:
    """Learning rate of the step with this number, counted from 0.

    Linear from 0 over `rise_steps`, as MAE's lr_sched.py, per step; then, through both phases, half a cosine to
    `final_lr` at `total_steps`, or times `drop_factor` from each of `drop_steps` on, at least `final_lr` (at 0
    SimMIM's MultiStepLRScheduler, per step). Scaled by batch / lr_batch (Goyal et al. 2017) where `lr_batch` is set.
    """
    scale = 1.0 if optim.lr_batch is None else batch / optim.lr_batch
    peak, final = optim.lr * scale, optim.final_lr * scale
    if step < length.rise_steps:
        return peak * step / length.rise_steps
    if optim.schedule == "steps":
        return max(final, peak * optim.drop_factor ** bisect_right(length.drop_steps, step))
    done = (step - length.rise_steps) / max(1, length.total_steps - length.rise_steps)
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


def _whole(steps: float) -> int:
    return math.floor(steps + 1e-6)  # 0.1 * 30 epochs of 10 steps must not lose a step to rounding
