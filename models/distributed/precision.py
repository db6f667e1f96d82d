"""The precision in which the network computes, in training and in evaluation."""

import torch

from models.config.recipe import Run


def precision(run: Run, device: torch.device) -> torch.autocast:
    """torch.autocast to bfloat16, enabled if the run computes in it: `with precision(recipe.run, device): ...`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half(run, device))


def half(run: Run, device: torch.device) -> bool:
    """Whether a run computes in bfloat16; precision auto does on CUDA."""
    return run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")
