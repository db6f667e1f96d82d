"""What steps leave behind beside weights: running statistics, the same at any number of ranks and micro-batches."""

from abc import ABC

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStats(nn.Module, ABC):
    """State in buffers that steps change.

    A forward pass reads it as the step before left it, and puts what it saw into `pending`, one tensor a micro-batch;
    after the step these are combined over micro-batches and ranks and applied once. So neither the cutting of a step
    nor a resumed run changes what is remembered. By default nothing is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Tensor] = []

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        """Told once, before weights are loaded: images in the training file, and those of them that are unlabelled."""

    def combine(self, pending: list[Tensor]) -> Tensor:
        """What all micro-batches of all ranks saw: by default sums, added up."""
        return summed(pending)

    def update(self, seen: Tensor) -> None:
        """Apply what `combine` made; not called for steps that saw nothing."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Remember the step. A collective call: where one rank saw something, all did."""
        pending, self.pending = self.pending, []
        if pending:
            self.update(self.combine(pending))


def summed(pending: list[Tensor]) -> Tensor:
    """The sum over micro-batches and ranks, in f64: rounded to f32 afterwards, the order of adding is forgotten."""
    total = torch.stack(pending).double().sum(0)
    if ranks() > 1:
        dist.all_reduce(total)  # the default group: NCCL for a GPU's tensors, gloo for a CPU's
    return total


def gathered(pending: list[Tensor]) -> Tensor:
    """The rows of all micro-batches and ranks; each rank brings equally many."""
    mine = torch.cat(pending)
    if ranks() == 1:
        return mine
    rows = mine.new_empty(ranks() * len(mine), *mine.shape[1:])
    dist.all_gather_into_tensor(rows, mine.contiguous())
    return rows


def ranks() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def move(mean: Tensor, now: Tensor, momentum: float | Tensor) -> None:
    """mean <- momentum · mean + (1 - momentum) · now, in place."""
    mean.copy_(momentum * mean.double() + (1 - momentum) * now)
