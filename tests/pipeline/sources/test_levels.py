"""Pixels of more than 8 bits become 8 by a window; the oracle is the formula, in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.sources.levels import Span, check_window, to_eight_bits


def exactly(values, low: int, high: int) -> list[int]:
    shares = (min(max(Fraction(int(value) - low, high - low), Fraction(0)), Fraction(1)) for value in values)
    return [round(255 * share) for share in shares]


@pytest.mark.parametrize("window", [(0, 65535), (0, 4095), (1000, 1100), (40_000, 65_535), (-1024, 3071)])
def test_a_window_is_stretched_over_0_to_255(window):
    values = np.arange(0, 65536, 7)
    low, high = window
    expected = exactly(values, low, high)
    for dtype in (np.uint16, np.int32, np.float64):
        made = to_eight_bits(values.astype(dtype)[None], window)[0][0].tolist()
        assert max(abs(a - b) for a, b in zip(made, expected, strict=True)) <= 1  # half way both are right
        assert np.mean([a != b for a, b in zip(made, expected, strict=True)]) < 0.01


def test_without_a_window_16_bits_are_divided_by_257():
    values = np.arange(65536).astype(np.uint16)
    assert to_eight_bits(values.reshape(256, 256), None)[0].ravel().tolist() == exactly(values, 0, 65535)


def test_auto_takes_the_extremes_of_the_image():
    values = np.array([[1000, 1500, 2000]], np.uint16)
    made, span = to_eight_bits(values, "auto")
    assert made.tolist() == [[0, 128, 255]]
    assert span == Span(1000, 2000)
    assert to_eight_bits(np.full((2, 2), 7, np.uint16), "auto")[0].tolist() == [[0, 0], [0, 0]]


def test_opacity_is_no_colour():
    image = np.dstack([np.full((2, 2, 3), 4095), np.full((2, 2), 65535)]).astype(np.uint16)
    made, span = to_eight_bits(image, (0, 4095))
    assert (made == 255).all()
    assert span == Span(4095, 4095)


@pytest.mark.parametrize(("low", "high", "narrow"), [
    (0, 4095, True), (0, 8190, True), (0, 8191, False), (32_768, 33_768, True), (0, 65_535, False),
])  # fmt: skip
def test_less_than_an_eighth_of_the_range_is_narrow(low, high, narrow):
    assert to_eight_bits(np.array([[low, high]], np.uint16), None)[1].narrow == narrow


@pytest.mark.parametrize("values", [[[0.0, np.nan]], [[0.0, np.inf]]])
def test_pixels_that_are_no_numbers_are_refused(values):
    with pytest.raises(InputError, match="nan or infinite"):
        to_eight_bits(np.array(values), (0, 1))


@pytest.mark.parametrize("values", [np.zeros((1, 2)), np.array([[-1, 5]]), np.array([[0, 65_536]])])
def test_numbers_without_a_white_need_a_window(values):
    with pytest.raises(InputError, match="--window"):
        to_eight_bits(values, None)
    assert to_eight_bits(values, "auto")[1] is None


@pytest.mark.parametrize("window", [(5, 5), (5, 4), (0, float("nan")), (0, float("inf"))])
def test_a_window_without_a_width_is_refused(window):
    with pytest.raises(InputError, match="--window: expected"):
        check_window(window)
    check_window("auto")
    check_window(None)
    check_window((-1.5, 2))
