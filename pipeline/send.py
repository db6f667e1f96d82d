"""Small arrays of the plan, on their way to the device."""

import numpy as np
import torch
from torch import Tensor


def send(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy a small array or tensor of the host to the device without waiting for it."""
    tensor = array.contiguous() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
