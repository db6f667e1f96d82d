"""The model card says what was black and white of pixels with more than 8 bits."""

from types import SimpleNamespace

import numpy as np
import pytest

from models.export.model_card import how_to_scale
from pipeline.convert.conversion import Options, convert
from pipeline.sources.objects import Dataset


@pytest.mark.parametrize(("window", "said"), [
    (None, ""), ((0.0, 4095.0), "0 and 4095 are black and white"), ("auto", "each image's own lowest and highest"),
])  # fmt: skip
def test_a_card_names_the_window_of_the_training_data(tmp_path, window, said):
    scan = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    convert(Dataset(1, lambda i: (scan, None), None), tmp_path / "train.beton", Options(window=window))
    data = SimpleNamespace(root=str(tmp_path), train="train.beton")
    loaded = SimpleNamespace(recipe=SimpleNamespace(data=data))
    assert said in how_to_scale(loaded)
    assert (how_to_scale(loaded) == "") == (window is None)
    data.root = str(tmp_path / "moved")
    assert "was not here to say" in how_to_scale(loaded)
