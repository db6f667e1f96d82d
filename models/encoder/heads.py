"""Classifiers on pooled tokens: SupMAE's MLP, and MAE's linear probe."""

from itertools import pairwise

import torch
from torch import nn

from pipeline.errors import InputError


def mlp_head(width: int, classes: int, *, layers: int = 2, hidden: int | None = None) -> nn.Sequential:
    """Build SupMAE's head: [N, width] -> [N, classes]; Linear -> BatchNorm -> ReLU between layers (SupMAE Table 2f).

    layers  1, 2 or 3
    hidden  width between layers; None means 4 · width, the 3072 of ViT-B

    Raises InputError for another number of layers.
    """
    if layers not in (1, 2, 3):
        raise InputError(f"the head has 1, 2 or 3 layers, got {layers}")
    hidden = 4 * width if hidden is None else hidden
    widths = [width, *[hidden] * (layers - 1), classes]
    modules: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in pairwise(widths[1:]):
        modules += [nn.BatchNorm1d(before), nn.ReLU(), nn.Linear(before, after)]
    return nn.Sequential(*modules)


def probe_head(width: int, classes: int) -> nn.Sequential:
    """Build MAE's linear probe: [N, width] -> [N, classes]; batch norm without weights, then linear (section A.1).

    The linear layer starts at a truncated normal of 0.01, the norm has an eps of 1e-6 (MAE code).
    """
    linear = nn.Linear(width, classes)
    nn.init.trunc_normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width, eps=1e-6, affine=False), linear)


@torch.no_grad()
def folded(head: nn.Sequential) -> nn.Linear:
    """Fold a probe's batch norm, in eval mode, into its linear layer: W / s, b - W mean / s, s² = variance + eps."""
    norm, linear = head
    weight = linear.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    plain = nn.Linear(linear.in_features, linear.out_features, device=linear.weight.device)
    plain.weight.copy_(weight)
    plain.bias.copy_(linear.bias.double() - weight @ norm.running_mean.double())
    return plain
