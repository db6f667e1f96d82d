"""One update: set the learning rate, clip the gradient, and step the optimiser unless loss or gradient is not finite.

Nothing here waits for the device, until `FiniteGuard.check` reads, at log steps and before saves, what has happened.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.distributed.process_group import World, group_for
from models.records.run_folder import NOT_FINITE
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole
from pipeline.text import count, some


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set each parameter group's rate to its share (`lr_scale`) of `lr`, as a Python number: nothing is copied."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_grad_norm(parameters: Iterable[nn.Parameter], norm: float | None) -> Tensor:
    """Scale gradients down to a total norm of `norm`, unless it is None; -> their norm before, f32 [] on the device.

    Sharded gradients count with the shards of all ranks; the call is then collective.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if isinstance(total, DTensor):
        total = total.full_tensor()
    if norm is not None:
        torch.nn.utils.clip_grads_with_norm_(trained, norm, total)
    return total


@final
class GradientCheck:
    """Stops a run whose backward pass left a parameter that trains without a gradient; once for each kind of step.

    check = GradientCheck()
    check(method.named_parameters(), inactive, "labels only")   # after backward, before the update

    A compiled graph can lose one without a word (pytorch#165068), and the optimiser then leaves that weight as it is.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], inactive: Iterable[nn.Parameter], kind: str
    ) -> None:
        """Raise InputError, naming them, if parameters that train and are not `inactive` have no gradient.

        kind  of step: those of one kind run one graph, and are looked at once
        """
        if kind in self._seen:
            return
        self._seen.add(kind)
        idle = set(map(id, inactive))
        lost = [name for name, part in parameters if part.requires_grad and part.grad is None and id(part) not in idle]
        if lost:
            raise InputError(
                f"{count(len(lost), 'parameter')} that should train got no gradient in the first step ({kind}): "
                f"{some(lost)}; if the run is compiled, add --run.compile off, else the method's loss does not use them"
            )


@final
class FiniteGuard:
    """Steps an optimiser if loss and gradient are finite, and stops the run on the first step where they were not.

    guard.step(optimiser, loss, norm, ids, step)
    guard.check(folder)          # every so many steps
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._unchecked: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def step(self, optimiser: torch.optim.Optimizer, loss: Tensor, norm: Tensor, ids: Tensor, step: int) -> None:
        """Update if `loss` and `norm` are finite on every rank; otherwise weights and moments keep their bits.

        loss, norm  f32 []     of this step, on the device
        ids         i64 [N]    this rank's images

        The flag is passed as the optimiser's `found_inf`, as torch's GradScaler does: the kernel of fused AdamW skips
        the update itself, and so does models.optim.lars.
        """
        loss_bad = ~torch.isfinite(loss.detach())
        bad = (loss_bad | ~torch.isfinite(norm)).float()
        if self.world.size > 1:
            # a loss can be infinite on one rank under finite gradients
            dist.all_reduce(bad, dist.ReduceOp.MAX, group_for(bad, self.world))
        optimiser.grad_scale = None  # ty: ignore[missing-attribute] -- GradScaler sets these two as well
        optimiser.found_inf = bad  # ty: ignore[missing-attribute]
        optimiser.step()
        self._unchecked.append((step, bad, loss_bad, ids))

    def check(self, folder: Path) -> None:
        """Wait for the device and raise InputError if a step since the last call was not finite. A collective call.

        The error names the first such step. The ids of its images are written to `folder`/not_finite.json: those of
        the ranks whose own loss was not finite, or of all ranks if the gradient alone was not.
        """
        steps, self._unchecked = self._unchecked, []
        if not steps or not any(flags := torch.stack([bad for _, bad, _, _ in steps]).tolist()):
            return
        step, _, loss_bad, ids = steps[next(i for i, flag in enumerate(flags) if flag)]
        mine = bool(loss_bad), ids.tolist()
        ranks = [mine]
        if self.world.size > 1:
            ranks = [mine] * self.world.size
            dist.all_gather_object(ranks, mine, group=self.world.control)
        images = [image for bad, held in ranks if bad or not any(bad for bad, _ in ranks) for image in held]
        if self.world.main:
            write_whole(folder / NOT_FINITE, json.dumps({"step": step, "ids": images}) + "\n")
        raise InputError(
            f"loss or gradient was not finite in step {step} ({int(sum(flags))} such step(s), none applied; images in "
            f"{folder / NOT_FINITE}); the last checkpoint is from before: `python -m models.replay {folder}` says "
            "where it broke; lower optim.lr (in an extension run.extend_lr) or set optim.clip, and run again"
        )
