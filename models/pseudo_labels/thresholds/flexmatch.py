"""A threshold for each class by how many images it was given (FlexMatch: Zhang et al. 2021, Algorithm 1)."""

from typing import final

import torch
from torch import Tensor, nn

from models.pseudo_labels.thresholds.base import Threshold
from models.running_stats import gathered
from pipeline.errors import InputError


@final
class FlexMatch(Threshold):
    """1 from threshold · b / (2 - b) on, b being the class's learning effect (eq. 5, 8, warm-up 11, mapping 12).

    status  i32 [n]      by image id: the last class it was confidently given, -1 for none. At 100 million images 400 MB
                         on each device, and in each checkpoint; not i16, which neither NCCL nor gloo can send
    counts  i64 [C + 1]  unlabelled images of each status; those without one come last
    """

    def __init__(self, threshold: float, classes: int) -> None:
        super().__init__()
        self.threshold, self.classes = threshold, classes
        self.register_buffer("status", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(classes + 1, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_sized_by_state)

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        self.status = torch.full((images,), -1, dtype=torch.int32, device=self.status.device)
        self.counts[-1] = unlabelled

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        effect = self.counts[:-1] / self.counts.max().clamp_min(1)  # the most frequent status may be none: warm-up
        thresholds = self.threshold * effect / (2 - effect)
        return (confidence >= thresholds.to(confidence.dtype)[classes]).to(confidence.dtype)

    def observe(self, ids: Tensor, probabilities: Tensor) -> None:
        """Raises InputError unless told how many images there are."""
        if not len(self.status):
            raise InputError(
                "flexmatch keeps a status for each image; call set_dataset_size(images, unlabelled) before training"
            )
        confidence, classes = probabilities.max(-1)
        given = torch.where(confidence >= self.threshold, classes, -1)
        self.pending.append(ids * (self.classes + 1) + given + 1)

    def combine(self, pending: list[Tensor]) -> Tensor:
        return gathered(pending)

    def update(self, seen: Tensor) -> None:
        """An image that is twice in a step, over the end of a pass, gets the higher of two classes: any order gives
        the same. All in integers, and nothing waits for the device.
        """
        base = self.classes + 1
        keys = seen.sort().values
        ids = keys // base
        last = torch.searchsorted(keys, (ids + 1) * base) - 1  # of the entries of the same image
        before, given = self.status[ids].long(), keys[last] % base - 1
        after = torch.where(given < 0, before, given)
        once = (last == torch.arange(len(keys), device=keys.device)).long()
        self.counts.index_add_(0, before % base, -once)  # -1, none, is the last
        self.counts.index_add_(0, after % base, once)
        self.status[ids] = after.to(self.status.dtype)


def _sized_by_state(module: nn.Module, state: dict, prefix: str, *_: object) -> None:
    """A method that is loaded to be looked at was told no size."""
    held = state.get(f"{prefix}status")
    if held is not None and not len(module.status):
        module.status = torch.empty_like(held, device=module.status.device)
