"""From the host to the device, without waiting for it."""

from functools import cache

import numpy as np
import torch
from torch import Tensor


def send(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy an array or tensor of the host to the device without waiting for it."""
    tensor = array.contiguous() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@cache  # torch keeps memory by stream: one for each loader or evaluation would leave as much behind each time
def copies(device: torch.device) -> torch.cuda.Stream | None:
    """The stream on which batches are made, beside the one that computes; None where there is no GPU."""
    return torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
