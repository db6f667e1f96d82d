"""Copy from the host to the device without waiting for the copy."""

from functools import cache

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy an array or tensor of the host to the device, through pinned memory, without waiting for the copy.

    labels = to_device(np.array([3, 1]), torch.device("cuda"))     # i64 [2]
    """
    tensor = array.contiguous() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@cache  # torch keeps freed memory by stream: with a stream for each loader or evaluation it would grow each time
def copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream on which batches are made, beside the one that computes; None where there is no GPU."""
    return torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
