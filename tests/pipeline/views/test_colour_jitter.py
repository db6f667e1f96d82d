from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as vision

from pipeline import rng
from pipeline.errors import InputError
from pipeline.executors.rand_augment_numba import apply_ops
from pipeline.views import colour_jitter
from pipeline.views import rand_augment as ra

KINDS = (ra.BRIGHTNESS, ra.CONTRAST, ra.COLOUR, ra.HUE)


def keys(n: int) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.WEAK)


def test_the_operations_on_an_image_equal_torchvision_in_the_drawn_order():
    adjust = {ra.BRIGHTNESS: vision.adjust_brightness, ra.CONTRAST: vision.adjust_contrast}
    adjust |= {ra.COLOUR: vision.adjust_saturation, ra.HUE: vision.adjust_hue}
    plan = colour_jitter.draw(keys(20), 0.4, 0.4, 0.4, 0.2, probability=1)
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for ops, args in zip(plan.ops, plan.args, strict=True):
        expected, got = Image.fromarray(image), image.copy()
        for op, arg in zip(ops, args, strict=True):
            expected = adjust[int(op)](expected, float(arg))
        apply_ops(got, ops, args, True, np.zeros(3, np.uint8), np.empty_like(got))
        np.testing.assert_array_equal(got, np.asarray(expected))


def test_factors_fill_the_ranges_that_torchvision_draws_from():
    strengths = (0.4, 1.5, 0.2, 0.1)
    plan = colour_jitter.draw(keys(20_000), *strengths, probability=1)
    theirs = ColorJitter(*strengths)
    bounds = zip(KINDS, (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue), strict=True)
    for kind, (low, high) in bounds:
        args = plan.args[plan.ops == kind].astype(float)
        assert len(args) == 20_000
        expected = low + (high - low) * np.linspace(0, 1, 5)
        np.testing.assert_allclose(np.quantile(args, np.linspace(0, 1, 5)), expected, atol=0.02 * (high - low))


def test_every_order_comes_up_equally_often_with_the_probability_asked_for():
    plan = colour_jitter.draw(keys(30_000), probability=0.8)
    orders = Counter(map(tuple, plan.ops))
    skipped = orders.pop((0, 0, 0, 0))
    assert skipped / 30_000 == pytest.approx(0.2, abs=0.01)
    assert len(orders) == 24
    assert min(orders.values()) > 800
    assert max(orders.values()) < 1200


def test_a_strength_of_zero_leaves_its_operation_out():
    plan = colour_jitter.draw(keys(100), 0.4, 0.4, 0.4, 0, probability=1)
    assert not (plan.ops == ra.HUE).any()
    assert ((plan.ops != 0).sum(1) == 3).all()


@pytest.mark.parametrize("wrong", [{"hue": 0.6}, {"contrast": -0.1}, {"probability": 1.1}])
def test_a_strength_out_of_range_is_refused(wrong: dict[str, float]):
    with pytest.raises(InputError, match=next(iter(wrong))):
        colour_jitter.draw(keys(1), **wrong)
