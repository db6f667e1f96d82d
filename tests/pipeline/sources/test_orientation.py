"""Every orientation in every format stands upright once: as Pillow's own exif_transpose shows it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from pipeline.convert.conversion import Options, convert
from pipeline.sources.encode import prepare
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names

ORIENTATION = 0x0112
FORMATS = {
    "JPEG": {"quality": 95},
    "MPO": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF-lzw": {"compression": "tiff_lzw"},
    "TIFF-jpeg": {"compression": "jpeg"},
    "AVIF": {"quality": 95},
    "HEIF": {"quality": 95},
}


def picture() -> Image.Image:
    """No two of its eight orientations are alike."""
    rows, columns = np.mgrid[:48, :96]
    return Image.fromarray(np.stack([5 * rows, 2 * columns, 200 * (rows > 24)], -1).astype(np.uint8))


def oriented(kind: str, orientation: int, image: Image.Image | None = None) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    exif, out = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    written = exif.tobytes() if kind == "HEIF" else exif  # pillow-heif turns for bytes alone
    (image or picture()).save(out, kind.split("-")[0], exif=written, **FORMATS.get(kind, {}))
    return out.getvalue()


def upright(blob: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(blob))).convert("RGB")).astype(float)


def assert_shows(jpeg: bytes, expected: np.ndarray) -> None:
    made = Image.open(io.BytesIO(jpeg))
    assert made.getexif().get(ORIENTATION) is None
    assert np.asarray(made).shape == expected.shape
    assert np.abs(np.asarray(made) - expected.astype(float)).mean() < 3  # a wrong turn is 40 or more away


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_of_each_orientation_is_stored_upright(kind, orientation):
    blob = oriented(kind, orientation)
    assert_shows(prepare(blob, None, 95, False).data, upright(blob))
    assert_shows(prepare(blob, None, 100, False).data, upright(blob))  # as predict reads it
    assert_shows(prepare(blob, 24, 95, False).data, np.asarray(
        Image.fromarray(upright(blob).astype(np.uint8)).resize((24, 12) if orientation < 5 else (12, 24))
    ))  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_pillow_image_of_an_object_is_stored_upright(kind, orientation):
    blob = oriented(kind, orientation)
    image, _ = Dataset(1, lambda i: (Image.open(io.BytesIO(blob)), None), None).read(0)
    assert_shows(prepare(image, None, 95, False).data, upright(blob))
    assert_shows(prepare(Image.open(io.BytesIO(blob)), None, 95, False).data, upright(blob))


def test_a_conversion_stores_every_format_and_orientation_upright(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    kinds = [kind for kind in FORMATS if kind != "HEIF"]
    for kind in kinds:
        for orientation in range(1, 9):
            (folder / f"{kind}-{orientation}.{kind[:4].lower()}").write_bytes(oriented(kind, orientation))
    for path in folder.glob("*.mpo"):
        path.rename(path.with_suffix(".jpg"))
    convert(folder, tmp_path / "a.beton", Options(side=None, quality=95))
    beton = open_beton(tmp_path / "a.beton")
    assert beton.n == 8 * len(kinds)
    for i, name in enumerate(read_names(beton)):
        assert_shows(bytes(beton.jpeg(i)), upright((folder / name).read_bytes()))


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "LA"])
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_other_pixels_than_rgb_are_turned_once_too(kind, mode):
    if mode == "I;16":
        grey = Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)
    else:
        grey = picture().convert("L").convert(mode)
    blob = oriented(kind, 6, grey)
    expected = np.asarray(picture().convert("L").transpose(Image.Transpose.ROTATE_270).convert("RGB")).astype(float)
    assert_shows(prepare(blob, None, 95, False).data, expected)


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    blob = oriented("PNG", 1)
    at = blob.rindex(b"IEND") - 4
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes()[6:])
    start = blob.index(b"eXIf") - 4
    length = int.from_bytes(blob[start : start + 4])
    without = blob[:start] + blob[start + 12 + length : at]
    moved = without + chunk.getvalue() + blob[at:]
    assert prepare(moved, None, 95, False).height == 96
    assert_shows(prepare(moved, None, 95, False).data, upright(moved))


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_a_number_that_is_no_orientation_turns_nothing(orientation):
    for kind in ("JPEG", "PNG", "TIFF"):
        assert_shows(prepare(oriented(kind, orientation), None, 95, False).data, upright(oriented(kind, 1)))


@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF at all", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM"])
def test_broken_exif_turns_nothing_and_refuses_nothing(exif):
    for kind in ("JPEG", "WEBP"):
        out = io.BytesIO()
        picture().save(out, kind, exif=exif, **FORMATS[kind])
        assert_shows(prepare(out.getvalue(), None, 95, False).data, np.asarray(picture()).astype(float))
