"""What the network computes in."""

import torch

from models.config.recipe import Run


def precision(run: Run, device: torch.device) -> torch.autocast:
    """bfloat16 autocast where it is asked for. Training and evaluation alike."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half(run, device))


def half(run: Run, device: torch.device) -> bool:
    """Whether a run computes in bfloat16; auto does on CUDA."""
    return run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")
