"""Filters against OpenCV and scipy, and what any blur must keep."""

import cv2
import numpy as np
import pytest

from pipeline.evaluation.corruptions import filters

IMAGE = np.random.default_rng(0).random((23, 31, 3), np.float32)


@pytest.mark.parametrize(("sigma", "border", "theirs"), [
    (0.7, "edge", cv2.BORDER_REPLICATE),
    (2.0, "symmetric", cv2.BORDER_REFLECT),
    (1.5, "reflect", cv2.BORDER_REFLECT_101),
])  # fmt: skip
def test_gaussian_is_opencvs(sigma, border, theirs):
    side = 2 * int(4 * sigma + 0.5) + 1
    expected = cv2.GaussianBlur(IMAGE, (side, side), sigma, borderType=theirs)
    np.testing.assert_allclose(filters.gaussian(IMAGE, sigma, 4, border), expected, atol=2e-6)


def test_a_gaussian_wider_than_the_image_is_nearly_its_mean():
    wide = filters.gaussian(IMAGE, 200, 3, "symmetric")
    np.testing.assert_allclose(wide, np.broadcast_to(IMAGE.mean((0, 1)), IMAGE.shape), atol=0.01)
    assert np.array_equal(filters.gaussian(IMAGE, 0), IMAGE)


@pytest.mark.parametrize("border", ["edge", "symmetric", "reflect"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_folding_is_numpys_padding(border, n):
    if n == 1 and border == "reflect":
        return
    places = np.arange(-7, n + 7)
    assert np.array_equal(filters.fold(places, n, border), np.pad(np.arange(n), 7, mode=border))


@pytest.mark.parametrize("taps", [
    filters.disk(3, 0.1), filters.disk(10, 0.5), filters.disk(0.3, 0.4),
    filters.line(10, 3, 30), filters.line(20, 15, -77),
])  # fmt: skip
def test_correlate_is_opencvs_with_the_same_kernel_which_sums_to_one(taps):
    assert taps.weights.sum() == pytest.approx(1, abs=1e-6)
    reach = int(max(abs(taps.rows).max(), abs(taps.columns).max()))
    kernel = np.zeros((2 * reach + 1,) * 2, np.float32)
    np.add.at(kernel, (taps.rows + reach, taps.columns + reach), taps.weights)
    expected = cv2.filter2D(IMAGE, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(filters.correlate(IMAGE, taps, "edge"), expected, atol=3e-6)


def test_a_disk_is_round_and_of_its_radius():
    taps = filters.disk(6, 0.5)
    far = np.hypot(taps.rows, taps.columns)
    assert 6 <= far.max() <= 6 + 2**0.5
    assert {(-r, c) for r, c in zip(taps.rows, taps.columns, strict=True)} == set(
        zip(taps.rows, taps.columns, strict=True)
    )


def test_a_line_falls_off_from_its_start_in_its_direction():
    taps = filters.line(5, 2, 90)
    assert taps.rows.tolist() == list(range(11))
    assert set(taps.columns.tolist()) == {0}
    assert np.all(np.diff(taps.weights) < 0)
    np.testing.assert_allclose(taps.weights[1:] / taps.weights[:-1], np.exp(-(2 * np.arange(10) + 1) / 8), rtol=1e-5)


@pytest.mark.parametrize("factor", [1, 1.05, 1.3, 2.5, 4])
def test_zoom_is_scipys_middle(factor):
    ndimage = pytest.importorskip("scipy.ndimage")
    square = IMAGE[:23, :23]
    inside = int(np.ceil(23 / factor))
    top = (23 - inside) // 2
    part = square[top : top + inside, top : top + inside]
    drawn = ndimage.zoom(part, (factor, factor, 1), order=1)
    cut = (len(drawn) - 23) // 2
    expected = drawn[cut : cut + 23, cut : cut + 23]
    np.testing.assert_allclose(filters.zoom(square, factor), expected, atol=2e-5)


def test_sample_at_the_pixels_is_the_image_and_between_them_the_mean():
    rows, columns = np.indices((23, 31), np.float32)
    assert np.array_equal(filters.sample(IMAGE, rows, columns, "reflect"), IMAGE)
    between = filters.sample(IMAGE, rows[:-1] + np.float32(0.5), columns[:-1], "reflect")
    np.testing.assert_allclose(between, (IMAGE[:-1] + IMAGE[1:]) / 2, atol=1e-6)


@pytest.mark.parametrize(("border", "theirs"), [("symmetric", cv2.BORDER_REFLECT), ("reflect", cv2.BORDER_REFLECT_101)])
def test_sample_beyond_the_border_is_opencvs(border, theirs):
    rng = np.random.default_rng(1)
    # multiples of 1/32: cv2.remap knows no finer ones
    rows, columns = (np.float32(rng.integers(-320, 1000, (9, 9)) / 32) for _ in range(2))
    expected = cv2.remap(IMAGE, columns, rows, cv2.INTER_LINEAR, borderMode=theirs)
    np.testing.assert_allclose(filters.sample(IMAGE, rows, columns, border), expected, atol=1e-5)
