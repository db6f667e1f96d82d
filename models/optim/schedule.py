"""The length of a run and of its extensions in steps, and the learning rate as a pure function of the step."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from models.config.extensions import Extension
from models.config.recipe import Optim
from pipeline.errors import InputError
from pipeline.text import count

FALLS = {"cosine": "half a cosine", "steps": "in steps", "poly": "as a power"}
LOW = 0.01
"""Share of the peak below which a constant rate is pointed out."""
WHOLE = 1e-6
"""How far below a whole number a step or an epoch may be rounded: 0.1 * 30 epochs of 10 steps must not lose a step."""


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


@final
@dataclass(frozen=True)
class ExtensionSteps:
    """An extension in steps: its first one, counted from 0 over the whole run, and how many.

    warmup_steps, drop_steps  of a rewarm, from `first` on: the run's own, at the same shares of what
                              `optim.schedule_by` counts
    """

    asked: Extension
    first: int
    steps: int
    warmup_steps: int
    drop_steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class RunLength:
    """A run in steps; the labels-only phase comes first and is part of `total_steps`, as are all extensions."""

    total_steps: int
    warmup_steps: int
    labels_only_steps: int
    labels_only_epoch_steps: float
    """Steps of an epoch in the labels-only phase; a fraction, because a batch may end one pass and begin the next."""
    epoch_steps: float
    """Steps of an epoch after that phase."""
    drop_steps: tuple[int, ...] = ()
    """Steps from which on the rate is lower (Optim.drop_epochs)."""
    extensions: tuple[ExtensionSteps, ...] = ()

    @property
    def own_steps(self) -> int:
        """Steps without extensions, over which the schedule and the sizes of the images are spread."""
        return self.extensions[0].first if self.extensions else self.total_steps

    @property
    def ends(self) -> tuple[int, ...]:
        """The numbers of steps after which the run, and each extension, has ended."""
        return *(extension.first for extension in self.extensions), self.total_steps

    def epoch(self, step: int) -> float:
        """Epochs that are done after `step` steps."""
        first = min(step, self.labels_only_steps)
        return first / self.labels_only_epoch_steps + (step - first) / self.epoch_steps

    def labels_only(self, step: int) -> bool:
        """Whether the step with this number, counted from 0, is in the labels-only phase."""
        return step < self.labels_only_steps


def run_length(optim: Optim, pools: Pools, extensions: Sequence[Extension] = ()) -> RunLength:
    """Convert the epochs of a recipe, and of the extensions of its run, to steps.

    run_length(Optim(epochs=800, warmup_epochs=40), Pools(0, 1_281_167, 0, 4096)).total_steps  # 250227

    An epoch is one pass over the pool that `epoch_unit` names, at that pool's share of the batch. In the labels-only
    phase it is one pass over the labelled images at the whole batch (Semiformer: 128116 images, 864 a step, 148 steps).
    A fraction of a step is dropped once at the end of each phase and extension, not in each epoch. An extension has no
    labels-only phase.

    Raises InputError if the method reads no image of the pool, or if the run or an extension is shorter than a step.
    """
    first, then = _epoch_steps(optim, pools)

    def steps(epochs: float) -> int:
        before = min(epochs, optim.labels_only_epochs)
        return _whole_steps(before * first) + _whole_steps((epochs - before) * then)

    total = steps(optim.epochs)
    if total < 1:
        raise InputError(f"optim.epochs {optim.epochs:g} is less than one step of {pools.batch} images; raise it")
    drops = tuple(steps(epochs) for epochs in optim.drop_epochs)
    own = RunLength(total, steps(optim.warmup_epochs), steps(optim.labels_only_epochs), first, then, drops)
    return _extended(own, optim, extensions, pools.batch)


def _extended(own: RunLength, optim: Optim, extensions: Sequence[Extension], batch: int) -> RunLength:
    made, total = [], own.total_steps
    for asked in extensions:
        steps = _whole_steps(asked.epochs * own.epoch_steps)
        if steps < 1:
            raise InputError(f"run.extend {asked.epochs:g} is less than one step of {batch} images; raise it")
        if optim.schedule_by == "step":
            warmup, *drops = (steps * share // own.total_steps for share in (own.warmup_steps, *own.drop_steps))
        else:
            shares = (epochs / optim.epochs for epochs in (optim.warmup_epochs, *optim.drop_epochs))
            warmup, *drops = (_whole_steps(steps * share) for share in shares)
        made.append(ExtensionSteps(asked, total, steps, warmup, tuple(drops)))
        total += steps
    return replace(own, total_steps=total, extensions=tuple(made))


def learning_rate(step: int, length: RunLength, optim: Optim, batch: int) -> float:
    """The learning rate of the step with this number, counted from 0.

    It rises linearly from `warmup_lr` (0) over `warmup_steps`, as in MAE's lr_sched.py but per step. Then, through both
    phases, it follows half a cosine to `final_lr` at `own_steps`, or what is left of the steps to the power of
    `poly_power` (mmseg's PolyLR), or is multiplied by `drop_factor` at each of `drop_steps` and kept at `final_lr` or
    above (with final_lr 0: SimMIM's MultiStepLRScheduler, per step). Where
    `lr_batch` is set all is scaled by batch / lr_batch (Goyal et al. 2017); `batch` counts the images of a step over
    all devices.

    With `schedule_by` epoch the same curve is drawn over the epochs that are done before the step. The two differ where
    epochs of the labels-only phase have fewer steps than later ones: half-way through Semi-MAE's 100 + 600 epochs,
    57 % of the steps are still to come, and the rate by steps is 22 % above the one by epochs. With whole_epoch a step
    has the rate of the first step of its epoch: timm's CosineLRScheduler, stepped to e as epoch e begins (DeiT's and
    Semiformer's code step it to e as epoch e ends, and so are an epoch behind).

    In an extension that re-warms, the rate rises linearly from that of the step before the extension to its own peak,
    and then falls in the same form (Ibrahim et al. 2024, section 4), step by step whatever `schedule_by` says; in a
    constant one it does not change.
    """
    scale = _lr_scale(optim, batch)
    if step < length.own_steps or not length.extensions:
        rates = optim.warmup_lr * scale, optim.lr * scale, optim.final_lr * scale
        if optim.schedule_by == "step":
            return _rate(step, length.own_steps, length.warmup_steps, length.drop_steps, rates, optim)
        done = length.epoch(step)
        done = done if optim.schedule_by == "epoch" else math.floor(done + WHOLE)
        return _rate(done, optim.epochs, optim.warmup_epochs, optim.drop_epochs, rates, optim)
    part = next(each for each in reversed(length.extensions) if step >= each.first)
    before, asked = learning_rate(part.first - 1, length, optim, batch), part.asked
    if asked.schedule == "constant":
        return before if asked.lr is None else asked.lr * scale
    rates = before, (optim.lr if asked.lr is None else asked.lr) * scale, optim.final_lr * scale
    return _rate(step - part.first, part.steps, part.warmup_steps, part.drop_steps, rates, optim)


def describe_extension(number: int, length: RunLength, optim: Optim, batch: int) -> str:
    """Describe in a line where the extension of this number, from 0, begins, and its learning rate."""
    part = length.extensions[number]
    asked, last, scale = part.asked, part.first + part.steps - 1, _lr_scale(optim, batch)
    before, at_end = (learning_rate(step, length, optim, batch) for step in (part.first - 1, last))
    epochs = "" if optim.epoch_unit == "step" else f"{asked.said_epochs}, "
    text = f"extended by {epochs}{count(part.steps, 'step')}, from step {part.first:,}: "
    if asked.schedule == "constant":
        low = "" if at_end >= LOW * optim.lr * scale else ", next to nothing; --run.extend-lr sets another"
        return text + f"a constant rate of {at_end:.3g}{low}"
    top = (optim.lr if asked.lr is None else asked.lr) * scale
    rise = f"re-warmed over {count(part.warmup_steps, 'step')}" if part.warmup_steps else "raised at once"
    text += f"{rise} from {before:.3g} to {top:.3g}"
    return text + f", then {FALLS[optim.schedule]} down to {at_end:.3g}"


def _lr_scale(optim: Optim, batch: int) -> float:
    return 1.0 if optim.lr_batch is None else batch / optim.lr_batch


def _rate(
    at: float, end: float, warmup: float, drops: Sequence[float], rates: tuple[float, float, float], optim: Optim
) -> float:
    """The rate at a step or epoch of a run or of an extension, counted from its own first; rates: first, peak, final.

    end, warmup, drops  in the same unit
    """
    start, peak, final = rates
    if at < warmup:
        return start + (peak - start) * at / warmup
    if optim.schedule == "steps":
        return max(final, peak * optim.drop_factor ** bisect_right(drops, at + WHOLE))
    first = warmup if optim.warmup_prefix else 0
    done = (at - first) / (end - first) if end > first else 0.0
    if optim.schedule == "poly":
        return final + (peak - final) * max(0.0, 1.0 - done) ** optim.poly_power
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
    return math.floor(steps + WHOLE)
