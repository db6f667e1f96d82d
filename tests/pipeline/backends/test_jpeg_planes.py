"""JPEGs that cross to the device as planes are, there, the RGB that libjpeg makes of them, to the bit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backends import kernels, libffcv
from pipeline.backends.staged_decode import StagedDecode, layout
from pipeline.backends.staging_buffers import StagingBuffers
from pipeline.concurrency.pool import Pool
from pipeline.executors import gpu_views
from pipeline.executors.gpu_views import as_rgb

CPU = torch.device("cpu")
SIZES = [(1, 1), (1, 7), (7, 1), (2, 4), (5, 4), (4, 5), (3, 3), (16, 16), (17, 33), (64, 48), (47, 90)]
HALVED = 2  # Pillow's name of 4:2:0


def jpeg(seed: int, height: int, width: int, **options) -> bytes:
    rough = np.random.default_rng(seed).integers(0, 256, (max(1, height // 4), max(1, width // 4), 3), np.uint8)
    image, out = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC), io.BytesIO()
    image.save(out, "JPEG", **{"quality": 90, "subsampling": HALVED} | options)
    return out.getvalue()


def source_of(files: list[bytes], sizes: list[tuple[int, int]]) -> tuple[kernels.Source, np.ndarray]:
    """And the memory that it points to."""
    memory, lengths = np.frombuffer(b"".join(files), np.uint8).copy(), np.array([len(file) for file in files])
    heights, widths = (np.array(sides, np.int64) for sides in zip(*sizes, strict=True))
    offsets = np.cumsum(lengths) - lengths
    return kernels.Source(memory.ctypes.data, offsets, lengths, heights, widths, kernels.JPEG), memory


@pytest.fixture(scope="module")
def pool():
    libffcv.load()
    pool = Pool(2, lambda: kernels.scratch(1, 1))
    yield pool
    pool.close()


def arrived(source: kernels.Source, pool: Pool, *, planes: bool = True, pixels: int = 20_000):
    """-> RGB of each image, whether it came as planes, and the errors."""
    rgb, kinds = [], []
    decoding = StagedDecode(source, pool, StagingBuffers(2, pixels, CPU), planes=planes)
    for _, part in decoding.to(CPU):
        packed = as_rgb(part)
        for place, height, width in zip(packed.places, part.heights, part.widths, strict=True):
            rgb.append(packed.pixels[place : place + height * width].reshape(height, width, 3).clone().numpy())
        kinds += part.planes.tolist()
    return rgb, kinds, decoding.errors


def test_a_batch_of_every_chroma_and_size_is_what_libjpeg_decodes(pool) -> None:
    kinds = [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"keep_rgb": True, "subsampling": 0},
             {"restart_marker_blocks": 1}, {"optimize": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}]  # fmt: skip
    made = [(size, kind) for size in SIZES for kind in kinds]
    files = [jpeg(seed, *size, **kind) for seed, (size, kind) in enumerate(made)]
    source, memory = source_of(files, [size for size, _ in made])
    found, planes, errors = arrived(source, pool)
    assert not errors.any()
    assert planes == [kind.get("subsampling", HALVED) == HALVED for _, kind in made]
    for file, (size, _), rgb in zip(files, made, found, strict=True):
        assert np.array_equal(rgb, libffcv.decode(np.frombuffer(file, np.uint8), *size)), size
    assert len(memory)


def test_each_file_alone_and_as_rgb_is_the_same(pool) -> None:
    files = [jpeg(seed, *size) for seed, size in enumerate(SIZES)]
    source, memory = source_of(files, SIZES)
    parts, kinds, _ = arrived(source, pool, pixels=47 * 90)  # some parts of one image
    whole, none, _ = arrived(source, pool, planes=False)
    assert all(kinds)
    assert not any(none)
    assert all(np.array_equal(a, b) for a, b in zip(parts, whole, strict=True))
    assert len(memory)


def test_grey_and_images_of_another_size_than_the_files_say_take_the_way_of_rgb(pool) -> None:
    grey = io.BytesIO()
    Image.new("L", (8, 6), 77).save(grey, "JPEG")
    source, memory = source_of([grey.getvalue(), jpeg(0, 12, 12), jpeg(1, 6, 8)], [(6, 8)] * 3)
    found, kinds, _ = arrived(source, pool)
    assert kinds == [False, False, True]
    assert (found[0] == 77).all()
    assert len(memory)


def test_damage_is_an_error_of_both_ways_or_of_none_and_what_decodes_is_the_same(pool) -> None:
    chance, whole = np.random.default_rng(0), jpeg(3, 33, 47)
    files = [whole[: int(chance.integers(2, len(whole)))] for _ in range(60)]
    for _ in range(240):
        broken = bytearray(whole)
        for at in chance.integers(2, len(whole), int(chance.integers(1, 4))):
            broken[at] = int(chance.integers(256))
        files.append(bytes(broken))
    source, memory = source_of([*files, whole], [(33, 47)] * 301)
    found, kinds, errors = arrived(source, pool)
    plain, _, plain_errors = arrived(source, pool, planes=False)
    assert np.array_equal(errors != 0, plain_errors != 0)
    assert 50 < (errors != 0).sum() < 300
    assert 100 < sum(kinds) < 301
    right = np.flatnonzero(errors == 0)
    assert all(np.array_equal(found[i], plain[i]) for i in right)
    assert len(memory)


def test_images_lie_apart_planes_first_and_rgb_at_odd_pixels() -> None:
    chance = np.random.default_rng(1)
    for _ in range(200):
        n = int(chance.integers(1, 9))
        heights, widths = chance.integers(1, 12, (2, n))
        planes, pixels = chance.random(n) < chance.random(), heights * widths
        room = 3 * (pixels + pixels % 2)
        places, end = layout(heights, widths, room, planes)
        needs = np.where(planes, 6 * ((heights + 1) // 2) * ((widths + 1) // 2), 3 * pixels)
        taken = np.zeros(end, int)
        for place, need in zip(places, needs, strict=True):
            taken[place : place + need] += 1
        assert taken.sum() == needs.sum()
        assert taken.max() == 1
        assert (places[~planes] % 6 == 3).all()
        assert places[planes].max(initial=0) < places[~planes].min(initial=end + 1)
        assert end <= 3 * (-(-room.sum() // 3) + 4)  # staging_buffers.SPARE


def test_a_gpu_whose_kernel_of_planes_is_refused_gets_rgb(monkeypatch) -> None:
    reference = gpu_views.executors("cpu")
    for to_rgb, taken in ((reference.to_rgb, False), (lambda planes, geometry: planes, True)):
        monkeypatch.setattr(gpu_views, "executors", lambda _, to_rgb=to_rgb: reference._replace(to_rgb=to_rgb))
        assert gpu_views.takes_planes("cuda") == taken
    assert gpu_views.takes_planes("cpu")
