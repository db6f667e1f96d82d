"""RunningStats: statistics that steps leave behind beside weights, equal for any number of ranks and micro-batches;
and batch norm's running statistics, shared between ranks."""

from abc import ABC

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStats(nn.Module, ABC):
    """State in buffers that changes once a step.

    stats.pending.append(sums)   # in each micro-batch, while the buffers stay as the step before left them
    stats.after_step()           # combines `pending` over micro-batches and ranks, and updates the buffers once

    So neither the number of micro-batches nor a resumed run changes the statistics. A subclass overrides `update`, and
    `combine` where sums do not fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Tensor] = []

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        """Set how many images the training file has, and how many without a label; once, before weights are loaded."""

    def combine(self, pending: list[Tensor]) -> Tensor:
        """Combine the tensors of all micro-batches and ranks; by default they are added up, in f64."""
        return summed(pending)

    def update(self, combined: Tensor) -> None:
        """Change the buffers by what `combine` returned; not called after a step without pending tensors."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the statistics. A collective call: all ranks have pending tensors, or none has."""
        pending, self.pending = self.pending, []
        if pending:
            self.update(self.combine(pending))


def summed(pending: list[Tensor]) -> Tensor:
    """Sum over micro-batches and ranks, in f64: rounding to f32 afterwards hides in which order they were added."""
    total = torch.stack(pending).double().sum(0)
    if ranks() > 1:
        dist.all_reduce(total)  # the default group: NCCL for a GPU's tensors, gloo for a CPU's
    return total


def gathered(pending: list[Tensor]) -> Tensor:
    """Gather the rows of all micro-batches and ranks; each rank has equally many."""
    mine = torch.cat(pending)
    if ranks() == 1:
        return mine
    rows = mine.new_empty(ranks() * len(mine), *mine.shape[1:])
    dist.all_gather_into_tensor(rows, mine.contiguous())
    return rows


def ranks() -> int:
    """Count the processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def move(mean: Tensor, current: Tensor, momentum: float | Tensor) -> None:
    """Update a running mean in place:  mean <- momentum · mean + (1 - momentum) · current."""
    mean.copy_(momentum * mean.double() + (1 - momentum) * current)


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Give every rank the main rank's running statistics, in one message; does nothing in a single process.

    share_statistics(model)   # after each step, on all ranks: a collective call

    Batches are normalised by the images of each rank. The running statistics are the main rank's everywhere, as with
    DDP's default (`broadcast_buffers`), which Semiformer's authors ran. So the teachers of all ranks agree, and a run
    resumed from a checkpoint, which holds the main rank's, is the same run on every rank.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    held = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not held:
        return
    message = torch.cat([buffer.flatten() for buffer in held])
    dist.broadcast(message, 0)
    parts = message.split([buffer.numel() for buffer in held])
    torch._foreach_copy_(held, [part.view_as(buffer) for part, buffer in zip(parts, held, strict=True)])
