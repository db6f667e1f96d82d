"""Compute in float32 as it is, whatever the run trains in: where a run is measured, and for targets that are exact."""

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Generator[None]:
    """Compute in float32, in whatever precision the run trains: `with full_precision(device): values = ...`.

    Autocast is off inside, and on CUDA so is TF32, which rounds the factors of matrix products and convolutions to 10
    bits; both are as before at the end. TF32 is a setting of the whole process, autocast one of the calling thread.
    """
    convolutions = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), convolutions.allow_tf32
    torch.set_float32_matmul_precision("highest")
    convolutions.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        convolutions.allow_tf32 = before[1]
