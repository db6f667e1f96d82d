"""convert's flags on pixels and metadata: what they store, and what the summary and the manifest say of it."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.convert import __main__ as command
from pipeline.convert.conversion import Options, convert
from pipeline.convert.summary import summary
from pipeline.errors import InputError
from pipeline.sources.levels import stored_window
from pipeline.store.beton import open_beton

PLACE = b"48.8583N 2.2944E"


@pytest.fixture
def scans(tmp_path):
    """Ten images of 12 bits in files of 16, values 5 to 4095."""
    (tmp_path / "scans").mkdir()
    for i in range(10):
        values = np.linspace(5, 4095 - 9 * i, 32 * 32).reshape(32, 32).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "scans" / f"{i}.{('png', 'tif')[i % 2]}")
    return tmp_path / "scans"


def brightest(beton) -> int:
    return max(int(np.asarray(Image.open(io.BytesIO(beton.jpeg(i)))).max()) for i in range(beton.n))


def said(beton) -> str:
    """The summary without its line breaks."""
    return " ".join(summary(beton, []).split())


def test_twelve_bits_in_files_of_sixteen_are_warned_of_with_the_window_that_shows_them(scans, tmp_path):
    manifest = convert(scans, tmp_path / "a.beton")
    beton = open_beton(tmp_path / "a.beton")
    assert manifest.deep == {"images": 10, "narrow": 10, "low": 5, "high": 4095}
    assert brightest(beton) < 20
    assert "warning: of these 10 use under an eighth of 0 to 65535" in said(beton)
    assert "--window 5 4095, or --window auto" in said(beton)
    assert stored_window(beton.path) is None


@pytest.mark.parametrize("window", [(5.0, 4095.0), "auto"])
def test_a_window_is_kept_in_the_manifest_and_ends_the_warning(scans, tmp_path, window):
    convert(scans, tmp_path / "a.beton", Options(window=window))
    beton = open_beton(tmp_path / "a.beton")
    assert brightest(beton) > 240
    assert stored_window(beton.path) == window
    assert "warning" not in said(beton)


def test_images_of_eight_bits_and_of_a_full_range_are_not_warned_of(tmp_path):
    (tmp_path / "s").mkdir()
    Image.new("L", (32, 32), 3).save(tmp_path / "s/a.png")
    manifest = convert(tmp_path / "s", tmp_path / "a.beton")
    assert manifest.deep is None
    values = np.linspace(0, 65_535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "s/b.png")
    manifest = convert(tmp_path / "s", tmp_path / "b.beton")
    assert manifest.deep == {"images": 1, "narrow": 0, "low": 0, "high": 65_535}
    assert "eighth" not in said(open_beton(tmp_path / "b.beton"))


@pytest.mark.parametrize(("flags", "expected"), [
    (["--window", "0", "4095"], (0.0, 4095.0)), (["--window", "auto"], "auto"), ([], None),
    (["--window", "-1.5", "7e2"], (-1.5, 700.0)),
])  # fmt: skip
def test_the_command_line_takes_a_window(scans, tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr("sys.argv", ["convert", str(scans), str(tmp_path / "a.beton"), *flags])
    command.main()
    assert stored_window(tmp_path / "a.beton") == expected


@pytest.mark.parametrize(("flags", "message"), [
    (["--window", "9", "9"], "--window: expected two numbers, the lower first"),
    (["--window", "nan", "9"], "--window: expected two numbers"),
    (["--window", "9"], "window"),
    (["--max-pixels", "0"], "--max-pixels: expected"),
])  # fmt: skip
def test_wrong_flags_are_refused_before_work_starts(scans, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr("sys.argv", ["convert", str(scans), str(tmp_path / "a.beton"), *flags])
    with pytest.raises(InputError, match=message):
        command.main()
    assert not (tmp_path / "a.beton").exists()


def test_a_place_and_a_film_are_dropped_unless_they_are_to_be_kept(tmp_path):
    (tmp_path / "s").mkdir()
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x010F] = PLACE.decode()
    Image.new("RGB", (64, 64)).save(out, "JPEG", exif=exif)
    blob = out.getvalue() + b"ftypmp42" + bytes(3_000_000)
    (tmp_path / "s/a.jpg").write_bytes(blob)
    manifest = convert(tmp_path / "s", tmp_path / "a.beton")
    assert manifest.n_passed_through == 1
    assert PLACE not in (tmp_path / "a.beton").read_bytes()
    assert manifest.bytes < 20_000
    convert(tmp_path / "s", tmp_path / "b.beton", Options(keep_metadata=True))
    assert bytes(open_beton(tmp_path / "b.beton").jpeg(0)) == blob


def test_a_huge_image_is_named_with_the_flag_that_takes_it(tmp_path):
    (tmp_path / "s").mkdir()
    Image.new("1", (10_000, 9_000)).save(tmp_path / "s/wall.png")
    with pytest.raises(InputError, match=r"wall\.png: 10000 x 9000 pixels, .*--max-pixels takes more"):
        convert(tmp_path / "s", tmp_path / "a.beton")
    assert convert(tmp_path / "s", tmp_path / "a.beton", Options(max_pixels=10**8)).n_resized == 1
