"""Every corruption: a pure function of its arguments that keeps shape and input; its law where it has one."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from pipeline import rng
from pipeline.errors import InputError
from pipeline.evaluation.corruptions import blur, digital, noise, weather
from pipeline.evaluation.corruptions.corrupt import EXTRA, NAMES, SEVERITIES, corrupt, levels
from pipeline.evaluation.corruptions.levels import CIFAR, IMAGENET

ALL = (*NAMES, *EXTRA)
KEY = rng.keys(0, 0, np.array([5]), rng.CORRUPT)
UNEVEN = {"elastic_transform", "snow", "frost", "fog", "glass_blur", "saturate"}  # severities differ in several numbers

FIXED = {"defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression",
         "saturate"}  # fmt: skip


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth shapes, edges and texture of every brightness."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    shapes = (
        0.5 + 0.3 * np.sin(9 * x + 5 * y) + 0.2 * ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06) + 0.05 * np.sin(200 * x * y)
    )
    colours = np.stack([shapes, shapes**2, 1 - 0.8 * shapes], 2)
    return (255 * np.clip(colours, 0, 1)).astype(np.uint8)


PHOTOGRAPH = photograph(72, 80)


@pytest.mark.parametrize("name", ALL)
def test_it_is_a_pure_function_that_keeps_shape_and_input(name):
    before = PHOTOGRAPH.copy()
    made = corrupt(PHOTOGRAPH, name, 3, 7, 1)
    assert (made.dtype, made.shape) == (np.uint8, PHOTOGRAPH.shape)
    assert np.array_equal(PHOTOGRAPH, before)
    assert np.array_equal(corrupt(PHOTOGRAPH, name, 3, 7, 1), made)
    assert not np.array_equal(made, PHOTOGRAPH)


@pytest.mark.parametrize("name", sorted({*ALL} - FIXED))
def test_image_and_seed_decide_what_is_drawn(name):
    made = corrupt(PHOTOGRAPH, name, 2, 7, 1)
    assert not np.array_equal(corrupt(PHOTOGRAPH, name, 2, 8, 1), made)
    assert not np.array_equal(corrupt(PHOTOGRAPH, name, 2, 7, 2), made)


@pytest.mark.parametrize("name", ALL)
def test_more_severe_is_further_from_the_image(name):
    far = [np.mean([np.abs(corrupt(PHOTOGRAPH, name, s, i).astype(int) - PHOTOGRAPH).mean() for i in range(3)])
           for s in SEVERITIES]  # fmt: skip
    assert min(far) > 0
    if name not in UNEVEN:
        assert far == sorted(far), far


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (65, 90), (1, 1), (3, 40)])
@pytest.mark.parametrize("severity", [1, 5])
def test_any_size_works(name, shape, severity):
    image = photograph(*shape)
    for table in ("imagenet", "cifar"):
        assert corrupt(image, name, severity, 0, table=table).shape == image.shape


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "contrast",
                                  "elastic_transform", "pixelate"])  # fmt: skip
@pytest.mark.parametrize("level", [0, 100, 255])
def test_blurs_and_warps_of_one_colour_change_nothing(name, level):
    grey = np.full((70, 70, 3), level, np.uint8)
    for severity in SEVERITIES:
        assert np.array_equal(corrupt(grey, name, severity, 3), grey)


def test_gaussian_noise_has_its_variance_and_no_mean():
    grey = np.full((150, 150, 3), 128, np.uint8)
    moved = noise.gaussian_noise(grey, 0.1, KEY) - 128 / 255
    assert abs(moved.mean()) < 4 * 0.1 / moved.size**0.5
    assert moved.std() == pytest.approx(0.1, rel=0.02)
    speckled = noise.speckle_noise(grey, 0.2, KEY) - 128 / 255
    assert speckled.std() == pytest.approx(0.2 * 128 / 255, rel=0.02)
    assert not noise.speckle_noise(np.zeros_like(grey), 0.2, KEY).any()


@pytest.mark.parametrize(("value", "white"), [(255, 60), (128, 12), (40, 3), (200, 500), (1, 5)])
def test_shot_noise_is_poisson(value, white):
    """Mean, variance and the share of zeros."""
    counts = noise.shot_noise(np.full((150, 150, 3), value, np.uint8), white, KEY) * white
    rate = value / 255 * white
    assert np.abs(counts - np.round(counts)).max() < 1e-3
    assert counts.mean() == pytest.approx(rate, abs=4 * (rate / counts.size) ** 0.5)
    assert counts.var() == pytest.approx(rate, rel=0.05)
    assert (counts < 0.5).mean() == pytest.approx(np.exp(-rate), abs=0.005)


def test_no_light_is_no_shot_noise():
    assert not noise.shot_noise(np.zeros((20, 20, 3), np.uint8), 3, KEY).any()


def test_impulses_are_as_many_as_said_half_of_them_white():
    grey = np.full((150, 150, 3), 128, np.uint8)
    made = noise.impulse_noise(grey, 0.17, KEY)
    n = made.size
    assert (made == 255).mean() == pytest.approx(0.085, abs=4 * (0.085 / n) ** 0.5)
    assert (made == 0).mean() == pytest.approx(0.085, abs=4 * (0.085 / n) ** 0.5)
    assert np.all((made == 128) | (made == 0) | (made == 255))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillows_and_pixelate_is_its_box(severity):
    file = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(file, "JPEG", quality=IMAGENET["jpeg_compression"][severity - 1])
    assert np.array_equal(corrupt(PHOTOGRAPH, "jpeg_compression", severity, 0), np.asarray(Image.open(file)))
    share = IMAGENET["pixelate"][severity - 1]
    small = Image.fromarray(PHOTOGRAPH).resize((int(80 * share), int(72 * share)), Image.Resampling.BOX)
    expected = np.asarray(small.resize((80, 72), Image.Resampling.BOX))
    assert np.array_equal(corrupt(PHOTOGRAPH, "pixelate", severity, 0), expected)


def test_brightness_and_saturation_are_those_of_hsv():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    pixels[0, :3] = [[0, 0, 0], [90, 90, 90], [255, 0, 0]]
    for level in (0.1, 0.5):
        made = np.clip(weather.brightness(pixels, level, KEY), 0, 1)
        for place in np.ndindex(4, 5):
            h, s, v = colorsys.rgb_to_hsv(*(pixels[place] / 255))
            assert made[place] == pytest.approx(colorsys.hsv_to_rgb(h, s, min(1, v + level)), abs=1e-5)
    for level in ((0.3, 0), (5, 0.1), (20, 0.2)):
        made = digital.saturate(pixels, level, KEY)
        for place in np.ndindex(4, 5):
            h, s, v = colorsys.rgb_to_hsv(*(pixels[place] / 255))
            assert made[place] == pytest.approx(colorsys.hsv_to_rgb(h, min(1, s * level[0] + level[1]), v), abs=1e-5)


def test_contrast_keeps_each_channels_mean_and_shrinks_its_spread():
    made = digital.contrast(PHOTOGRAPH, 0.3, KEY) * 255
    np.testing.assert_allclose(made.mean((0, 1)), PHOTOGRAPH.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(made.std((0, 1)), 0.3 * PHOTOGRAPH.std((0, 1)), rtol=1e-3)


def test_fog_dims_by_its_thickness_and_lets_nothing_exceed_white():
    made = weather.fog(PHOTOGRAPH, (1.5, 2), KEY)
    brightest = PHOTOGRAPH.max() / 255
    bare = PHOTOGRAPH / 255 * brightest / (brightest + 1.5)
    mist = weather.plasma(72, 80, 2, KEY)[..., None] * 1.5 * brightest / (brightest + 1.5)
    np.testing.assert_allclose(made, bare + mist, atol=1e-5)
    assert made.max() <= brightest + 1e-6


def test_a_plasma_of_one_cell_is_worked_out_by_hand():
    """2 by 2: centre = noise, edges = (two corners + twice the centre) / 4 + noise, as the torus is so small."""
    n = 2 * rng.uniforms(KEY, 4)[0].reshape(2, 2) - 1
    centre = n[1, 1]
    heights = np.array([[0, 2 * centre / 4 + n[0, 1]], [2 * centre / 4 + n[1, 0], centre]])
    heights -= heights.min()
    np.testing.assert_allclose(weather.plasma(2, 2, 2, KEY), heights / heights.max(), rtol=1e-5)


def test_a_plasma_is_smoother_the_faster_it_decays():
    rough, smooth = (np.abs(np.diff(weather.plasma(64, 64, decay, KEY), axis=0)).mean() for decay in (1.2, 3))
    assert rough > 3 * smooth


def test_glass_takes_pixels_from_no_further_than_its_reach():
    """A slow loop, and the border of `reach` rows stays."""
    rows = np.repeat(np.arange(60, dtype=np.uint8)[:, None, None], 60, 1).repeat(3, 2)
    moves = np.random.default_rng(0).integers(-2, 2, (1, 56, 56, 2))
    made = rows.copy()
    blur._scatter(made, moves, 2)
    slow = rows.copy()
    for i in range(56):
        for j in range(56):
            y, x = 58 - i, 58 - j
            slow[y, x] = slow[y + moves[0, i, j, 1], x + moves[0, i, j, 0]]
    assert np.array_equal(made, slow)
    assert np.array_equal(made[:2], rows[:2])


def test_an_affine_map_takes_its_three_points_along():
    cv2 = pytest.importorskip("cv2")
    draws = 2 * rng.uniforms(KEY, 6)[0].reshape(3, 2) - 1
    pixels = noise.to_float(PHOTOGRAPH)
    before = np.float32([[40 + 24, 36 + 24], [40 + 24, 36 - 24], [40 - 24, 36 - 24]])
    matrix = cv2.getAffineTransform(before, (before + 4 * draws).astype(np.float32))
    expected = cv2.warpAffine(pixels, matrix, (80, 72), borderMode=cv2.BORDER_REFLECT_101)
    assert np.abs(digital.affine(pixels, 4, KEY) - expected).mean() < 2e-3  # cv2 rounds places to 1/32 pixel


def test_the_table_goes_by_size_unless_it_is_said():
    assert levels((64, 64, 3), "auto") is CIFAR
    assert levels((65, 20, 3), "auto") is IMAGENET
    assert levels((65, 20, 3), "cifar") is CIFAR
    assert CIFAR.keys() == IMAGENET.keys() == {*ALL}


def test_as_a_file_it_is_the_same_through_a_jpeg_of_85():
    file = io.BytesIO()
    Image.fromarray(corrupt(PHOTOGRAPH, "shot_noise", 2, 4)).save(file, "JPEG", quality=85)
    assert np.array_equal(corrupt(PHOTOGRAPH, "shot_noise", 2, 4, as_file=True), np.asarray(Image.open(file)))


@pytest.mark.parametrize(("image", "name", "severity", "said"), [
    (PHOTOGRAPH, "rain", 1, "no corruption is called 'rain'; there are gaussian_noise"),
    (PHOTOGRAPH, "snow", 6, "severity from 1 to 5, got 6"),
    (PHOTOGRAPH / 255, "snow", 1, "u8 .*got float64"),
    (PHOTOGRAPH[..., 0], "snow", 1, r"got uint8 \[72, 80\]"),
    (PHOTOGRAPH[:0], "snow", 1, r"got uint8 \[0, 80, 3\]"),
])  # fmt: skip
def test_what_cannot_be_corrupted_is_said(image, name, severity, said):
    with pytest.raises(InputError, match=said):
        corrupt(image, name, severity, 0)
