"""The precision in which the network trains; a run is measured in float32 (models.full_precision)."""

import torch

from models.config.recipe import Run


def precision(run: Run, device: torch.device) -> torch.autocast:
    """torch.autocast to bfloat16, enabled if the run trains in it: `with precision(recipe.run, device): ...`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half(run, device))


def half(run: Run, device: torch.device) -> bool:
    """Whether a run trains in bfloat16; precision auto does on CUDA."""
    return run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")
