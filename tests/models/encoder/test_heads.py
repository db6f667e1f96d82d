"""SupMAE's head."""

import pytest
import torch
from torch import nn

from models.encoder.heads import mlp_head
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        (1, [nn.Linear]),
        (2, [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]),
        (3, [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]),
    ],
)
def test_the_head_has_as_many_layers_as_asked(layers, kinds):
    head = mlp_head(768, 1000, layers=layers)
    assert [type(module) for module in head] == kinds
    assert head(torch.randn(2, 768)).shape == (2, 1000)
    assert all(module.out_features in (3072, 1000) for module in head if isinstance(module, nn.Linear))


def test_the_head_refuses_no_layers_and_four():
    for layers in (0, 4):
        with pytest.raises(InputError, match=f"1, 2 or 3 layers, got {layers}"):
            mlp_head(8, 2, layers=layers)
