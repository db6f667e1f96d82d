import random

import numpy as np
import pytest
from timm.data import auto_augment, create_transform
from torchvision.transforms import RandAugment

from pipeline import rng
from pipeline.errors import InputError
from pipeline.views import rand_augment as ra

SIZE = 224, 224


def keys(n: int, seed: int = 0) -> np.ndarray:
    return rng.keys(seed, 0, np.arange(n), rng.STRONG)


def test_fewer_layers_are_the_first_of_more():
    for preset in ra.SAMPLING:
        few, many = ra.draw(preset, keys(50), SIZE, layers=1), ra.draw(preset, keys(50), SIZE, layers=3)
        np.testing.assert_array_equal(few.ops, many.ops[:, :1])
        np.testing.assert_array_equal(few.args, many.args[:, :1])


def frequencies(plan: ra.Ops) -> np.ndarray:
    return np.bincount(plan.ops.ravel(), minlength=len(ra.NAMES)) / plan.ops.size


def assert_frequent(plan: ra.Ops, expected: dict[int, float]):
    wanted = np.array([expected.get(op, 0) for op in range(len(ra.NAMES))])
    assert wanted.sum() == pytest.approx(1)
    np.testing.assert_allclose(frequencies(plan), wanted, atol=5 * np.sqrt(wanted.max() / plan.ops.size))
    assert not frequencies(plan)[wanted == 0].any()


def test_usb_draws_fourteen_operations_uniformly_each_over_its_range():
    plan = ra.draw("usb", keys(20_000), SIZE)
    enhance, shift = (0.05, 0.95), (-0.3, 0.3)
    ranges = {
        "autocontrast": (0, 0), "brightness": enhance, "colour": enhance, "contrast": enhance, "equalize": (0, 0),
        "identity": (0, 0), "posterize": (4, 7), "rotate": (-30, 30), "sharpness": enhance, "shear_x": shift,
        "shear_y": shift, "solarize": (0, 256), "translate_x": shift, "translate_y": shift,
    }  # fmt: skip
    assert plan.ops.shape == (20_000, 3)
    assert_frequent(plan, {ra.NAMES.index(name): 1 / 14 for name in ranges})
    for name, (low, high) in ranges.items():
        args = plan.args[plan.ops == ra.NAMES.index(name)].astype(float)
        assert args.min() == pytest.approx(low, abs=0.01 * (high - low) + 1e-6)
        assert args.max() == pytest.approx(high, abs=0.01 * (high - low) + 1e-6)
        if high > low:
            inner = np.quantile(args, (0.25, 0.75)) if name != "posterize" else (4.75, 6.25)
            np.testing.assert_allclose(
                inner, (low + (high - low) / 4, high - (high - low) / 4), atol=0.03 * (high - low)
            )


def ecdf_distance(a: np.ndarray, b: np.ndarray) -> float:
    grid = np.concatenate([a, b])
    ecdfs = [np.searchsorted(np.sort(sample), grid, "right") / len(sample) for sample in (a, b)]
    return np.abs(ecdfs[0] - ecdfs[1]).max()


def test_timm_draws_what_timm_draws():
    random.seed(0)
    plan = ra.draw("timm", keys(30_000), SIZE)
    names = [  # timm's own list, in our words
        {"Color": "colour", "SolarizeAdd": "solarize_add", "AutoContrast": "autocontrast"}.get(
            name.removesuffix("Increasing").removesuffix("Rel"),
            "".join("_" + c.lower() if c.isupper() else c for c in name.removesuffix("Increasing").removesuffix("Rel"))[
                1:
            ],
        )
        for name in auto_augment._RAND_INCREASING_TRANSFORMS
    ]
    whole = create_transform(224, is_training=True, auto_augment="rand-m9-mstd0.5-inc1")
    (transform,) = (step for step in whole.transforms if isinstance(step, auto_augment.RandAugment))
    assert transform.num_layers == plan.ops.shape[1] == 2
    assert {op.prob for op in transform.ops} == {0.5}
    assert_frequent(plan, {ra.IDENTITY: 0.5, **{ra.NAMES.index(name): 1 / 30 for name in names}})
    for name, op in zip(names, transform.ops, strict=True):
        ours = plan.args[plan.ops == ra.NAMES.index(name)].astype(float)
        if op.level_fn is None:
            assert not ours.any()
            continue
        levels = [min(max(random.gauss(op.magnitude, op.magnitude_std), 0), 10) for _ in range(4000)]
        theirs = np.array([op.level_fn(level, op.hparams)[0] for level in levels])
        assert ecdf_distance(np.round(ours, 5), np.round(theirs, 5)) < 0.06, name
    assert ra.SAMPLING["timm"].fill == tuple(transform.ops[0].kwargs["fillcolor"])


def torchvision_facts(size: tuple[int, int]) -> dict[str, tuple[float, bool]]:
    space = RandAugment()._augmentation_space(31, size)
    return {name: (float(m[9]) if m.ndim else 0.0, signed) for name, (m, signed) in space.items()}


@pytest.mark.parametrize("size", [SIZE, (224, 96), (64, 160)])
def test_torchvision_draws_its_augmentation_space(size):
    plan, facts = ra.draw("torchvision", keys(20_000), size), torchvision_facts(size)
    words = {"Color": "colour", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x"}
    words |= {"TranslateY": "translate_y"}
    assert plan.ops.shape[1] == RandAugment().num_ops
    assert_frequent(plan, {ra.NAMES.index(words.get(name, name.lower())): 1 / 14 for name in facts})
    for name, (magnitude, signed) in facts.items():
        args = np.unique(plan.args[plan.ops == ra.NAMES.index(words.get(name, name.lower()))]).astype(float)
        if name.startswith("Translate"):
            side = size["YX".index(name[-1])]
            magnitude = int(magnitude) / side
        centre = 1 if name in ("Brightness", "Color", "Contrast", "Sharpness") else 0
        wanted = {centre - magnitude, centre + magnitude} if signed else {magnitude}
        np.testing.assert_allclose(args, sorted(wanted), rtol=1e-6, err_msg=name)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="usb, timm, torchvision, got 'dali'"):
        ra.draw("dali", keys(1), SIZE)
