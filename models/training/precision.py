"""What the network computes in."""

import torch

from models.recipe import Run


def precision(run: Run, device: torch.device) -> torch.autocast:
    """bfloat16 autocast where it is asked for; auto asks for it on CUDA. Training and evaluation alike."""
    enabled = run.precision == "bfloat16" or (run.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
