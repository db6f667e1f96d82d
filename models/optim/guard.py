"""Only finite updates go through, and the run stops on the first that was not; the device is asked at log steps."""

import json
from pathlib import Path
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

from models.distributed.process_group import World, group
from pipeline.errors import InputError

FILE = "not_finite.json"


@final
class Guard:
    """Steps an optimiser where loss and gradient are finite; keeps what is needed to say where they were not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def step(self, optimiser: torch.optim.Optimizer, loss: Tensor, norm: Tensor, ids: Tensor, step: int) -> None:
        """Update if `loss` and `norm` are finite on every rank; otherwise weights and moments stay, bit for bit.

        loss, norm  f32 []     of this step, on the device; nothing here waits for them
        ids         i64 [N]    this rank's images

        Goes through `found_inf`, GradScaler's door: fused AdamW's kernel itself skips, and models.optim.momentum.
        """
        loss_bad = ~torch.isfinite(loss.detach())
        bad = (loss_bad | ~torch.isfinite(norm)).float()
        if self.world.size > 1:
            # a loss can be infinite on one rank under finite gradients
            dist.all_reduce(bad, dist.ReduceOp.MAX, group(bad, self.world))
        optimiser.grad_scale, optimiser.found_inf = None, bad
        optimiser.step()
        self.seen.append((step, bad, loss_bad, ids))

    def check(self, folder: Path) -> None:
        """Forget the steps since the last call, if all were finite; call before every save.

        Raises InputError naming the first step that was not; its image ids (those of the ranks whose own loss was not
        finite, or of all ranks if only the gradient was not) are in `folder`/not_finite.json. A collective call.
        """
        seen, self.seen = self.seen, []
        if not seen or not (flags := torch.stack([bad for _, bad, _, _ in seen]).tolist()) or not any(flags):
            return
        step, _, loss_bad, ids = seen[next(i for i, flag in enumerate(flags) if flag)]
        mine = bool(loss_bad), ids.tolist()
        ranks = [mine]
        if self.world.size > 1:
            ranks = [mine] * self.world.size
            dist.all_gather_object(ranks, mine, group=self.world.control)
        images = [image for bad, held in ranks if bad or not any(bad for bad, _ in ranks) for image in held]
        if self.world.main:
            (folder / FILE).write_text(json.dumps({"step": step, "ids": images}) + "\n")
        raise InputError(
            f"loss or gradient was not finite in step {step} ({int(sum(flags))} such step(s), none applied; images in "
            f"{folder / FILE}); the last checkpoint is from before: lower optim.lr or set optim.clip, and run again"
        )
