"""Antialiased views are Pillow's: by numba and torch to the bit, by the CUDA kernel to a grey level."""

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from pipeline.executors.gpu_views import FRAMED
from pipeline.executors.resize_numba import resize
from pipeline.executors.resize_torch import resize as resize_in_torch
from pipeline.views.crop_flip import BICUBIC, BILINEAR
from tests.pipeline.executors import by_triton

FILTERS = {BILINEAR: Image.BILINEAR, BICUBIC: Image.BICUBIC}
SIZES = [  # of the part, then of the view: shrinking, enlarging, mixed, one axis untouched, extreme
    ((370, 300), (224, 224)), ((100, 80), (224, 224)), ((300, 100), (224, 112)), ((33, 700), (64, 64)),
    ((500, 333), (224, 224)), ((224, 300), (224, 224)), ((90, 64), (30, 64)), ((900, 20), (16, 32)),
    ((24, 24), (24, 24)), ((1, 1), (8, 8)),
]  # fmt: skip


def pictures(height: int, width: int) -> list[np.ndarray]:
    """Noise, hard edges at which the cubic overshoots, and a ramp."""
    rng = np.random.default_rng(height + width)
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [noise, ((noise > 127) * 255).astype(np.uint8), ramp]


def by_pillow(image: np.ndarray, size: tuple[int, int], kind: int) -> np.ndarray:
    """Pillow 13's resize, of whatever version: one axis after the other, in the order that 13 chooses."""
    (height, width), (down, across) = image.shape[:2], size
    columns, rows = (across, height), (width, down)
    first = rows if height - down > 2 * max(width - across, 0) else columns
    whole = Image.fromarray(image).resize(first, FILTERS[kind]).resize((across, down), FILTERS[kind])
    return np.asarray(whole)


def by_numba(image: np.ndarray, box: tuple[int, ...], frame: tuple[int, ...], size: tuple[int, int], kind: int):
    out = np.empty((*size, 3), np.uint8)
    resize(kind, image, *box, np.array(frame, np.int32), out)
    return out


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(("part", "size"), SIZES)
def test_a_crop_is_resized_to_pillows_bits_and_reads_nothing_beyond_it(part, size, kind):
    for image in pictures(part[0] + 7, part[1] + 9):
        inside = image[3 : 3 + part[0], 5 : 5 + part[1]]
        ours = by_numba(image, (3, 5, *part), (0, 0, *size), size, kind)
        assert np.array_equal(ours, by_pillow(inside, size, kind))


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 resizes columns first, always")
@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(("part", "size"), SIZES)
def test_the_order_of_the_axes_is_pillow_13s_own(part, size, kind):
    for image in pictures(*part):
        whole = np.asarray(Image.fromarray(image).resize(size[::-1], FILTERS[kind]))
        assert np.array_equal(by_pillow(image, size, kind), whole)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(("start", "resized"), [((3, 9), (40, 60)), ((-4, -2), (24, 31)), ((4, 11), (32, 32))])
def test_a_view_of_the_resized_image_is_a_crop_of_it_reflected_beyond_its_border(start, resized, kind):
    size = 28, 24
    for image in pictures(75, 90):
        whole = np.pad(by_pillow(image, resized, kind), ((12, 12), (12, 12), (0, 0)), mode="reflect")
        top, left = start[0] + 12, start[1] + 12
        ours = by_numba(image, (0, 0, 75, 90), (*start, *resized), size, kind)
        assert np.array_equal(ours, whole[top : top + size[0], left : left + size[1]])


def geometry_of(
    n: int, size: tuple[int, int], rng: np.random.Generator, most: int = 90
) -> tuple[np.ndarray, np.ndarray]:
    """Images of many sizes one after another, u8 [pixels, 3], and boxes, frames and flips, the columns of FRAMED."""
    heights, widths = rng.integers(12, most, (2, n))
    places = np.cumsum(heights * widths) - heights * widths
    tall, wide = (rng.integers(1, side + 1) for side in (heights, widths))
    top, left = rng.integers(0, heights - tall + 1), rng.integers(0, widths - wide + 1)
    start, resized = rng.integers(-5, 6, (n, 2)), np.array(size) + rng.integers(0, 20, (n, 2))
    start[::2], resized[::2] = 0, size
    columns = [places, widths, top, left, tall, wide, *start.T, *resized.T, rng.random(n) < 0.5]
    pixels = rng.integers(0, 256, (int((heights * widths).sum()), 3), dtype=np.uint8)
    return pixels, np.stack(columns, 1).astype(np.int64)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", [(16, 16), (21, 14)])
def test_torch_resizes_packed_images_to_the_bits_of_numba_and_mirrors_them(size, kind):
    pixels, geometry = geometry_of(70, size, np.random.default_rng(0))
    views = resize_in_torch(torch.from_numpy(pixels), geometry, size, kind)
    assert views.shape == (70, 3, *size)
    assert views.is_contiguous(memory_format=torch.channels_last)
    ends = [*geometry[1:, 0], len(pixels)]
    for view, row, end in zip(views, geometry, ends, strict=True):
        each = dict(zip(FRAMED, row.tolist(), strict=True))
        image = pixels[each["place"] : end].reshape(-1, each["width"], 3)
        box = each["top"], each["left"], each["height"], each["breadth"]
        frame = each["start_y"], each["start_x"], each["resized_height"], each["resized_breadth"]
        expected = by_numba(image, box, frame, size, kind)
        assert np.array_equal(view.permute(1, 2, 0).numpy(), expected[:, ::-1] if each["flip"] else expected)
    assert resize_in_torch(torch.from_numpy(pixels), geometry[:0], size, kind).shape == (0, 3, *size)


KERNEL = """
import sys
import numpy as np, torch
from pipeline.executors import resize_torch, resize_triton
from tests.pipeline.executors.test_resize import FILTERS, geometry_of

rng = np.random.default_rng(1)
n, most, sizes = (10, 90, ((16, 16), (21, 14))) if sys.argv[1] == "cuda" else (4, 16, ((6, 5), (5, 7)))
for size in sizes:
    pixels, geometry = geometry_of(n, size, rng, most)
    pixels = torch.from_numpy(pixels)
    for kind in FILTERS:
        expected = resize_torch.resize(pixels, geometry, size, kind)
        came = resize_triton.resize(pixels.to(sys.argv[1]), geometry, size, kind).cpu()
        assert came.shape == expected.shape and came.stride() == expected.stride()
        apart = (came.int() - expected.int()).abs()
        assert apart.max() <= 1 and (apart > 0).float().mean() < 0.05, (kind, apart.max(), (apart > 0).float().mean())
        assert (came.int() - expected.roll(1, 3).int()).abs().max() > 50
"""


def test_the_kernel_resizes_as_torch_does() -> None:
    by_triton.interpreted(KERNEL, "cpu")


@pytest.mark.gpu
def test_the_gpu_resizes_as_torch_does() -> None:
    by_triton.on_the_gpu(KERNEL, "cuda")


@pytest.mark.parametrize("capability", by_triton.CAPABILITIES)
@pytest.mark.parametrize("kind", FILTERS)
def test_the_kernel_compiles_without_spilling(kind: int, capability: int) -> None:
    from pipeline.executors import resize_triton

    types = {"pixels": "*u8", "geometry": "*i64", "out": "*u8", "rows": "i32", "columns": "i32"}
    constants = {"KIND": kind, "ROWS": 2, "BLOCK": 256}
    needs = by_triton.compiled(resize_triton._resize, types, constants, capability)
    assert needs["STACK"] == needs["LOCAL"] == 0, needs  # what does not fit into registers would go there
    assert needs["REG"] <= 128


def test_a_size_is_compiled_once_whatever_the_batch() -> None:
    from pipeline.executors import resize_triton

    with by_triton.launching(resize_triton._resize) as grids:
        for n in (1, 5, 16):
            geometry = np.zeros((n, len(FRAMED)), np.int64)
            resize_triton.resize(torch.zeros(8, 3, dtype=torch.uint8), geometry, (21, 21), BICUBIC)
        assert len(by_triton.variants(resize_triton._resize)) == 1
    assert grids == [(n, 11, 1) for n in (1, 5, 16)]
