"""A size that no image can have stops at each door, before compiled code takes it for true."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.backends import libffcv
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.evaluation.arrays import sweep_pixels
from pipeline.evaluation.files import sweep_files
from pipeline.spec import Data, View
from pipeline.store.beton import open_beton
from pipeline.store.file_format import METADATA_START, SAMPLE
from pipeline.store.image_size import MAX_SIDE, checked_size, possible
from pipeline.store.jpeg_header import is_sound, plain_size
from pipeline.views import crop_flip
from tests.pipeline.conftest import left

CPU = torch.device("cpu")
VIEW = View(crop="centre", short_side=1.25, flip=False)
SIZES = [(0, 60), (48, 0), (0, 0), (48, 65_535), (65_535, 60), (65_535, 65_535), (1, 60), (48, 1), (500, 60), (48, 90)]


def jpeg(progressive: bool = False) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)
    Image.fromarray(noise).save(out, "JPEG", progressive=progressive)
    return out.getvalue()


def claiming(height: int, width: int, progressive: bool = False) -> bytes:
    """A JPEG of 48 x 60 pixels whose frame header says another size."""
    data = bytearray(jpeg(progressive))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


@given(*[st.integers(-(2**62), 2**62)] * 2, st.integers(1, 2**40))
def test_a_side_has_at_least_one_pixel_and_at_most_what_libjpeg_takes(width, height, most):
    expected = 1 <= width <= 65_500 and 1 <= height <= 65_500 and width * height <= most
    assert bool(possible(width, height, most)) == expected
    assert possible(np.array([3, width]), np.array([3, height]), max(most, 9)).tolist() == [
        True, expected or (1 <= width <= 65_500 and 1 <= height <= 65_500 and width * height <= max(most, 9))
    ]  # fmt: skip
    if expected:
        assert checked_size(width, height, most) == (width, height)
    else:
        with pytest.raises(InputError, match="pixels, expected sides of 1 to 65500"):
            checked_size(width, height, most)


@pytest.mark.parametrize("views_on", ["cpu", "device"])
def test_predict_names_an_image_of_no_size_and_shows_the_others(tmp_path, views_on):
    """In a process of its own it would be seen only as exit code 139."""
    wrong = [claiming(*size, progressive) for size in SIZES for progressive in (False, True)]
    for i, data in enumerate(wrong):
        (tmp_path / f"wrong{i}.jpg").write_bytes(data)
    for i in range(3):
        (tmp_path / f"good{i}.jpg").write_bytes(jpeg())
    data = Data(size=32, threads=2, views_on=views_on, evaluate=VIEW)
    parts = list(sweep_files(sorted(tmp_path.iterdir()), data, CPU, 4))
    assert [Path(path).name for part in parts for path in part.paths] == [f"good{i}.jpg" for i in range(3)]
    rejected = {Path(path).name for part in parts for path, _ in part.rejected}
    assert rejected == {f"wrong{i}.jpg" for i in range(len(wrong))}


@pytest.mark.parametrize("size", SIZES)
def test_convert_names_an_image_of_no_size(tmp_path, size):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/wrong.jpg").write_bytes(claiming(*size))
    (tmp_path / "set/good.jpg").write_bytes(jpeg())
    manifest = convert(tmp_path / "set", tmp_path / "a.beton", Options(max_bad=0.5, side=None))
    assert [name for name, _ in manifest.rejected] == ["wrong.jpg"]
    assert manifest.n == 1
    with pytest.raises(InputError, match=r"wrong\.jpg"):
        convert(tmp_path / "set", tmp_path / "b.beton")
    assert left(tmp_path) == {"a.beton", "a.beton.json", "a.beton.names"}


@pytest.mark.parametrize("size", [(0, 60), (48, 0), (0, 0), (-1, 60), (48, -1), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_the_decoder_is_never_given_a_size_that_no_image_has(size):
    with pytest.raises(InputError, match="expected sides of 1 to 65500"):
        libffcv.decode(np.frombuffer(jpeg(), np.uint8), *size)


def test_a_header_of_no_size_has_no_plain_size():
    for size in ((0, 60), (48, 0), (0, 0), (48, 65_535), (65_535, 60)):
        data = np.frombuffer(claiming(*size), np.uint8)
        assert plain_size(data) is None
        assert not is_sound(data, 48, 60)
    assert plain_size(np.frombuffer(jpeg(), np.uint8)) == (48, 60)


@pytest.mark.parametrize("shape", [(2, 0, 8, 3), (2, 8, 0, 3), (2, 0, 0, 3)])
def test_an_array_of_images_without_pixels_is_refused(shape):
    with pytest.raises(InputError, match="expected sides of 1 to 65500"):
        list(sweep_pixels(np.zeros(shape, np.uint8), Data(size=8, threads=1, evaluate=VIEW), CPU, 2))


@pytest.mark.parametrize(("side", "value"), [("height", 0), ("width", 0), ("height", 65_535), ("width", 65_501)])
def test_a_row_of_no_size_is_refused_when_a_file_is_opened_and_by_where(tmp_path, side, value, monkeypatch):
    (tmp_path / "set").mkdir()
    for i in range(5):
        (tmp_path / f"set/{i}.jpg").write_bytes(jpeg())
    convert(tmp_path / "set", tmp_path / "a.beton")
    opened = open_beton(tmp_path / "a.beton")
    data = np.fromfile(opened.path, np.uint8)
    rows = data[METADATA_START : METADATA_START + 5 * SAMPLE.itemsize].view(SAMPLE)["image"]
    rows[side][3] = value
    data.tofile(opened.path)
    with pytest.raises(InputError, match="expected JPEG samples inside the file"):
        open_beton(tmp_path / "a.beton")
    with pytest.raises(InputError, match="the index is wrong about image 3"):  # still open, and the rows changed below
        opened.where(np.arange(5))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["random_resized", "resize_then_crop", "centre"]), st.sampled_from([1, 8, 32, 224]),
       st.sampled_from([1, 8, 224]), st.sampled_from([1.0, 1.25, 2.0, 3.0, 8.0]), st.integers(0, 2**62))  # fmt: skip
def test_every_box_lies_inside_its_image(crop, height, width, short_side, seed):
    draw = np.random.default_rng(seed)
    heights, widths = draw.choice([1, 2, 3, 5, 17, 224, 500, MAX_SIDE], (2, 64))
    view = View(crop=crop, short_side=short_side, padding=min(height, width) // 8)
    boxes = crop_flip.draw(view, draw.integers(0, 2**63, 64).astype(np.uint64), heights, widths, (height, width)).boxes
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= np.stack([heights, widths], 1)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 65_500), (65_500, 2)])
@pytest.mark.parametrize("views_on", ["cpu", "device"])
@pytest.mark.parametrize("short_side", [1.0, 1.25, 4.0])
def test_the_smallest_and_the_longest_images_are_shown(tmp_path, size, views_on, short_side):
    """Of one colour, so that a pixel read from beside the image would show."""
    Image.new("RGB", size[::-1], (200, 100, 50)).save(tmp_path / "a.png")
    Image.new("RGB", size[::-1], (200, 100, 50)).save(tmp_path / "b.jpg", quality=100, subsampling=0)
    view = View(crop="centre", short_side=short_side, flip=False)
    data = Data(size=16, threads=1, views_on=views_on, evaluate=view)
    (part,) = sweep_files(sorted(tmp_path.iterdir()), data, CPU, 4)
    assert not part.rejected
    assert (part.images.permute(0, 2, 3, 1).int() - torch.tensor([200, 100, 50])).abs().max() <= 3


def test_whoever_hands_sizes_to_the_kernels_has_them_checked():
    """By `Beton.where`, by `plain_size` or `checked_size`, or by a decoder that reads the file through `where`."""
    checks = ".where(", "plain_size(", "checked_size(", "sample_source(", "self._decoder.start("
    root = Path(__file__).parents[3] / "pipeline"
    makers = {path.name: path.read_text() for path in root.rglob("*.py") if "kernels.Source(" in path.read_text()}
    assert len(makers) >= 5
    assert [name for name, text in makers.items() if not any(check in text for check in checks)] == []
