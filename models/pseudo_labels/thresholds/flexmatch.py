"""FlexMatch's thresholds: one a class, lower for classes that label fewer images (Zhang et al. 2021, Algorithm 1)."""

from typing import final

import torch
from torch import Tensor, nn

from models.pseudo_labels.thresholds.threshold import Threshold
from models.running_stats import gathered
from pipeline.errors import InputError


@final
class FlexMatch(Threshold):
    """Weight 1 from threshold · b / (2 - b) on, else 0; b is the class's learning effect (eq. 5, 8, warm-up 11, mapping
    12).

    status  i32 [n]      by image id: its last class of a confidence above the threshold, -1 for none; 400 MB for 100
                         million images on each device and in each checkpoint. NCCL and gloo send no i16
    counts  i64 [C + 1]  unlabelled images of each status; those without one come last
    """

    def __init__(self, threshold: float, classes: int) -> None:
        super().__init__()
        self.threshold, self.classes = threshold, classes
        self.register_buffer("status", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(classes + 1, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_size_by_state)

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        """Make room for a status of each image."""
        self.status = torch.full((images,), -1, dtype=torch.int32, device=self.status.device)
        self.counts[-1] = unlabelled

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Compare the confidence with the threshold of its class."""
        effect = self.counts[:-1] / self.counts.max().clamp_min(1)  # the most frequent status may be none: warm-up
        thresholds = self.threshold * effect / (2 - effect)
        return (confidence >= thresholds.to(confidence.dtype)[classes]).to(confidence.dtype)

    def observe(self, ids: Tensor, probabilities: Tensor) -> None:
        """Note each image's class where its confidence reaches the threshold.

        Raises InputError before `set_dataset_size`.
        """
        if not len(self.status):
            raise InputError(
                "flexmatch keeps a status for each image; call set_dataset_size(images, unlabelled) before training"
            )
        confidence, classes = probabilities.max(-1)
        status = torch.where(confidence >= self.threshold, classes, -1)
        self.pending.append(ids * (self.classes + 1) + status + 1)

    def combine(self, pending: list[Tensor]) -> Tensor:
        """Gather the keys, id · (C + 1) + status + 1, i64, of all micro-batches and ranks."""
        return gathered(pending)

    def update(self, combined: Tensor) -> None:
        """Set the status of the step's images, and count.

        An image that is twice in a step, at the end of a pass, gets the higher of two classes, in whatever order they
        come. The arithmetic is in integers, and nothing waits for the device.
        """
        base = self.classes + 1
        keys = combined.sort().values
        ids = keys // base
        last = torch.searchsorted(keys, (ids + 1) * base) - 1  # of the entries of the same image
        before, found = self.status[ids].long(), keys[last] % base - 1
        after = torch.where(found < 0, before, found)
        once = (last == torch.arange(len(keys), device=keys.device)).long()
        self.counts.index_add_(0, before % base, -once)  # -1 indexes the last: none
        self.counts.index_add_(0, after % base, once)
        self.status[ids] = after.to(self.status.dtype)


def _size_by_state(module: nn.Module, state: dict, prefix: str, *_: object) -> None:
    """Size the status by a checkpoint, where a method is loaded for evaluation and `set_dataset_size` is not called."""
    held = state.get(f"{prefix}status")
    if held is not None and not len(module.status):
        module.status = torch.empty_like(held, device=module.status.device)
