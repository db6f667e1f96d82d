"""Images of an array, evaluated as the loader evaluates those of a file."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.arrays import sweep_pixels
from pipeline.spec import Data, View

CPU = torch.device("cpu")
WHOLE = View(crop="centre", short_side=1.0, flip=False)


def swept(pixels: np.ndarray, size: int, batch: int, view: View = WHOLE) -> np.ndarray:
    parts = list(sweep_pixels(pixels, Data(size=size, threads=2, evaluate=view), CPU, batch))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    return torch.cat(parts).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 24, 24, 3), np.uint8)


@pytest.mark.parametrize("batch", [1, 4, 11, 100])
def test_images_of_the_networks_size_are_themselves_in_order_also_out_of_a_mapped_file(batch, pixels, tmp_path):
    assert np.array_equal(swept(pixels, 24, batch), pixels)
    np.save(tmp_path / "a.npy", pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert np.array_equal(swept(mapped[2:9], 24, batch), pixels[2:9])


def test_larger_ones_are_resized_by_area_and_cut_from_the_middle(pixels):
    halves = pixels.reshape(11, 12, 2, 12, 2, 3).mean((2, 4))
    assert np.abs(swept(pixels, 12, 4) - halves).max() <= 0.51
    middle = View(crop="centre", short_side=1.5, flip=False)  # 24 to 24, and the middle 16
    assert np.array_equal(swept(pixels, 16, 4, middle), pixels[:, 4:20, 4:20])


def test_of_no_image_there_is_no_batch(pixels):
    assert list(sweep_pixels(pixels[:0], Data(size=24), CPU, 4)) == []
