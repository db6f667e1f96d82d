from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from timm.data import auto_augment
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment
from torchvision.transforms import functional as vision

from pipeline import rng
from pipeline.executors import rand_augment_numba, rand_augment_torch
from pipeline.views import rand_augment as ra

SIZE = HEIGHT, WIDTH = 45, 38
FILL = (10, 20, 30)
RANGES = {
    ra.ROTATE: (-180, 180), ra.POSTERIZE: (1, 8), ra.SOLARIZE: (0, 256), ra.SOLARIZE_ADD: (0, 110), ra.COLOUR: (0, 2),
    ra.CONTRAST: (0, 2), ra.BRIGHTNESS: (0, 2), ra.SHARPNESS: (0, 2), ra.SHEAR_X: (-0.3, 0.3), ra.SHEAR_Y: (-0.3, 0.3),
    ra.TRANSLATE_X: (-0.45, 0.45), ra.TRANSLATE_Y: (-0.45, 0.45), ra.HUE: (-0.5, 0.5),
}  # fmt: skip
WHOLE = (ra.POSTERIZE, ra.SOLARIZE_ADD)


def pictures() -> np.ndarray:
    """u8 [4, H, W, 3]: noise, low-contrast noise, smooth with a little noise, one flat colour."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    smooth = np.stack([127 + 90 * np.sin(7 * x + 3 * y), 127 + 80 * np.cos(5 * y), 250 * x * y], -1)
    smooth = (smooth + generator.normal(0, 5, smooth.shape)).clip(0, 255).astype(np.uint8)
    noise = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return np.stack([noise, 60 + noise // 4, smooth, np.full_like(noise, 77)])


def drawn_args(op: int, n: int) -> np.ndarray:
    low, high = RANGES.get(op, (0, 0))
    generator = np.random.default_rng(op)
    return (generator.integers(low, high + 1, n) if op in WHOLE else generator.uniform(low, high, n)).astype(np.float32)


def pillow(image: Image.Image, op: int, arg: float, nearest: bool) -> Any:
    filtering = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, filtering, fillcolor=FILL)

    return {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "rotate": lambda: image.rotate(arg, filtering, fillcolor=FILL),
        "posterize": lambda: ImageOps.posterize(image, int(arg)),
        "solarize": lambda: ImageOps.solarize(image, arg),
        "solarize_add": lambda: auto_augment.solarize_add(image, int(arg)),
        "colour": lambda: ImageEnhance.Color(image).enhance(arg),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(arg),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(arg),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(arg),
        "shear_x": lambda: affine(1, arg, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, arg, 1, 0),
        "translate_x": lambda: affine(1, 0, arg * WIDTH, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, arg * HEIGHT),
        "hue": lambda: vision.adjust_hue(image, arg),
    }[ra.NAMES[op]]()


def on_cpu(images: np.ndarray, plan: ra.Ops, nearest: bool, fill: tuple[int, int, int] = FILL) -> np.ndarray:
    images, scratch = images.copy(), np.empty(images.shape[1:], np.uint8)
    for image, ops, args in zip(images, plan.ops, plan.args, strict=True):
        rand_augment_numba.apply_ops(image, ops, args, nearest, np.array(fill, np.uint8), scratch)
    return images


def by_torch(images: np.ndarray, plan: ra.Ops, nearest: bool, fill: tuple[int, int, int] = FILL) -> np.ndarray:
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    return rand_augment_torch.apply_ops(batch, plan, nearest=nearest, fill=fill).permute(0, 2, 3, 1).numpy()


def keys(n: int, seed: int = 0) -> np.ndarray:
    return rng.keys(seed, 0, np.arange(n), rng.STRONG)


def one_op(op: int, nearest: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pillow's, numba's and torch's answer for 24 arguments, on four pictures by turns."""
    images, args = pictures()[np.arange(24) % 4], drawn_args(op, 24)
    plan = ra.Ops(np.full((24, 1), op, np.int8), args[:, None])
    expected = [pillow(Image.fromarray(i), op, float(a), nearest) for i, a in zip(images, args, strict=True)]
    return np.stack([np.asarray(e) for e in expected]), on_cpu(images, plan, nearest), by_torch(images, plan, nearest)


@pytest.mark.parametrize("op", sorted(set(range(len(ra.NAMES))) - set(ra.GEOMETRY)), ids=ra.NAMES.__getitem__)
def test_colour_operations_equal_pillow_and_both_executors_agree(op: int):
    expected, numba, batch = one_op(op, nearest=True)
    np.testing.assert_array_equal(numba, expected)
    np.testing.assert_array_equal(batch, numba)


@pytest.mark.parametrize("op", ra.GEOMETRY, ids=ra.NAMES.__getitem__)
def test_nearest_geometry_equals_pillow_but_for_ties_and_both_executors_agree(op: int):
    expected, numba, batch = one_op(op, nearest=True)
    assert (numba != expected).mean() < 1e-3
    np.testing.assert_array_equal(batch, numba)


@pytest.mark.parametrize("op", ra.GEOMETRY, ids=ra.NAMES.__getitem__)
def test_bilinear_geometry_is_within_one_level_of_pillow_and_both_executors_agree(op: int):
    expected, numba, batch = one_op(op, nearest=False)
    distance = np.abs(numba.astype(int) - expected)
    assert (distance > 1).mean() < 1e-3  # a pixel on the border may fall on its other side
    assert distance.mean() < 0.1
    np.testing.assert_array_equal(batch, numba)


@pytest.mark.parametrize("preset", ra.SAMPLING)
def test_an_image_depends_on_its_key_alone_and_both_executors_agree(preset: ra.PresetName):
    images = pictures()[np.arange(32) % 4]
    plan, sampling = ra.draw(preset, keys(32), SIZE, layers=4), ra.SAMPLING[preset]
    whole = on_cpu(images, plan, sampling.nearest, sampling.fill)
    np.testing.assert_array_equal(by_torch(images, plan, sampling.nearest, sampling.fill), whole)
    order = np.random.default_rng(1).permutation(32)[:7]
    some = ra.draw(preset, keys(32)[order], SIZE, layers=4)
    np.testing.assert_array_equal(by_torch(images[order], some, sampling.nearest, sampling.fill), whole[order])
    assert (whole != images).any((1, 2, 3)).mean() > 0.5


def test_the_torch_executor_takes_any_storage_and_leaves_its_input_alone(monkeypatch: pytest.MonkeyPatch):
    plan = ra.draw("timm", keys(12), SIZE)
    last = torch.from_numpy(pictures()[np.arange(12) % 4]).permute(0, 3, 1, 2)
    first, before = last.contiguous(), last.clone()
    expected = rand_augment_torch.apply_ops(last, plan, nearest=False, fill=FILL)
    assert torch.equal(last, before)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(rand_augment_torch.apply_ops(first, plan, nearest=False, fill=FILL), expected)
    monkeypatch.setattr(rand_augment_torch, "CHUNK", 1)
    assert torch.equal(rand_augment_torch.apply_ops(first, plan, nearest=False, fill=FILL), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("nearest", [True, False])
def test_a_gpu_gives_the_same_bits_as_the_cpu(nearest: bool):
    n = 40 * len(ra.NAMES)
    ops = np.repeat(np.arange(len(ra.NAMES)), 40)
    args = np.concatenate([drawn_args(op, 40) for op in range(len(ra.NAMES))])
    plan = ra.Ops(ops[:, None].astype(np.int8), args[:, None])
    images = torch.from_numpy(pictures()[np.arange(n) % 4]).permute(0, 3, 1, 2)
    on_gpu = rand_augment_torch.apply_ops(images.cuda(), plan, nearest=nearest, fill=FILL).cpu()
    assert torch.equal(on_gpu, rand_augment_torch.apply_ops(images, plan, nearest=nearest, fill=FILL))


def test_zero_bits_are_black():
    plan = ra.Ops(np.full((4, 1), ra.POSTERIZE, np.int8), np.zeros((4, 1), np.float32))
    assert not on_cpu(pictures(), plan, True).any()
    assert not by_torch(pictures(), plan, True).any()


def torchvision_facts(size: tuple[int, int]) -> dict[str, tuple[float, bool]]:
    space = RandAugment()._augmentation_space(31, size)
    return {name: (float(m[9]) if m.ndim else 0.0, signed) for name, (m, signed) in space.items()}


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_torchvision_geometry_shows_the_same_two_pictures(name: str):
    magnitude = torchvision_facts(SIZE)[name][0]
    op = {"ShearX": ra.SHEAR_X, "ShearY": ra.SHEAR_Y, "TranslateX": ra.TRANSLATE_X}.get(name)
    op = op or {"TranslateY": ra.TRANSLATE_Y, "Rotate": ra.ROTATE}[name]
    image = Image.fromarray(pictures()[0])
    theirs = [
        np.asarray(autoaugment._apply_op(image, name, sign * magnitude, InterpolationMode.NEAREST, None))
        for sign in (1, -1)
    ]
    plan = ra.draw("torchvision", keys(2000), SIZE)
    args = np.unique(plan.args[plan.ops == op])
    ours = on_cpu(pictures()[[0, 0]], ra.Ops(np.full((2, 1), op, np.int8), args[:, None]), True, (0, 0, 0))
    distances = [[(a != b).mean() for b in theirs] for a in ours]
    assert min(distances[0][0] + distances[1][1], distances[0][1] + distances[1][0]) < 0.05  # ties round either way
    assert max(map(max, distances)) > 0.5
