"""MAE's position table and initial weights."""

import math

import pytest
from torch import nn

from models.encoder.positions import mae_init, sincos_2d
from pipeline.errors import InputError


def test_positions_follow_the_closed_form():
    width, (down, across) = 16, (3, 5)
    table = sincos_2d(width, (down, across))
    assert table.shape == (15, 16)
    for y in range(down):
        for x in range(across):
            angles = [[place / 10000 ** (4 * i / width) for i in range(width // 4)] for place in (x, y)]
            expected = [wave(angle) for axis in angles for wave in (math.sin, math.cos) for angle in axis]
            assert table[y * across + x].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_positions_need_a_width_of_whole_quarters():
    with pytest.raises(InputError, match="that 4 divides, got 18"):
        sincos_2d(18, (2, 2))


def test_mae_init_draws_xavier_uniform_and_treats_a_convolution_as_a_linear_layer():
    linear, convolution = nn.Linear(300, 100), nn.Conv2d(3, 100, 10, 10)
    for module in (linear, convolution):
        nn.init.ones_(module.bias)
        mae_init(module)
        bound = math.sqrt(6 / (300 + 100))
        assert 0.99 * bound < module.weight.abs().max().item() <= bound
        assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not module.bias.any()
