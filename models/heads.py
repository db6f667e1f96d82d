"""Classifiers on pooled tokens."""

from itertools import pairwise

from torch import nn

from pipeline.errors import InputError


def mlp_head(width: int, classes: int, *, layers: int = 2, hidden: int | None = None) -> nn.Sequential:
    """SupMAE's head: [N, width] -> [N, classes]; Linear -> BatchNorm -> ReLU between layers (SupMAE Table 2f).

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
