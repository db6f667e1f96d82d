"""Images of an array, evaluated as the loader evaluates those of a file."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation.arrays import sweep_pixels
from pipeline.spec import Data, Size, View

CPU = torch.device("cpu")
WHOLE = View(crop="centre", short_side=1.0, flip=False)


def swept(pixels: np.ndarray, size: Size, batch: int, view: View = WHOLE) -> np.ndarray:
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


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        *((48, 64, (24, 8)), (48, 48, (24, 16)), (72, 192, (24, 8)), (72, 192, (24, 16))),
        *((64, 24, (8, 24)), (96, 48, (8, 24)), (48, 48, (8, 24))),
    ],
)
def test_the_middle_of_both_sides_is_what_pillow_cuts(height, width, size):
    """The image just covers the size, and is cut; Pillow's box filter is the area filter."""
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    factor = min(height // size[0], width // size[1])
    tall, wide = size[0] * factor, size[1] * factor
    top, left = (height - tall) // 2, (width - wide) // 2
    box = left, top, left + wide, top + tall
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX, box))
    (shown,) = swept(image[None], size, 1)
    assert shown.shape == (*size, 3)
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_of_no_image_there_is_no_batch(pixels):
    assert list(sweep_pixels(pixels[:0], Data(size=24), CPU, 4)) == []
