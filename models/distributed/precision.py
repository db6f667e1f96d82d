"""The precision in which the network computes: the run's in training, float32 wherever a run is measured."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from models.config.recipe import Run


def precision(run: Run, device: torch.device) -> torch.autocast:
    """torch.autocast to bfloat16, enabled if the run trains in it: `with precision(recipe.run, device): ...`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half(run, device))


def half(run: Run, device: torch.device) -> bool:
    """Whether a run trains in bfloat16; precision auto does on CUDA."""
    return run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")


@contextmanager
def measuring(device: torch.device) -> Generator[None]:
    """Compute in float32, in whatever precision the run trains: `with measuring(device): values = ...`.

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
