"""The model card says what was black and white of pixels with more than 8 bits."""

from types import SimpleNamespace

import pytest

from models.export.model_card import how_to_scale


@pytest.mark.parametrize(("window", "said"), [
    ((0.0, 4095.0), "0 and 4095 are black and white"), ("auto", "each image's own lowest and highest"),
])  # fmt: skip
def test_a_card_names_the_window_of_the_training_data(window, said):
    assert said in how_to_scale(SimpleNamespace(window=window))
    assert how_to_scale(SimpleNamespace(window=None)) == ""
