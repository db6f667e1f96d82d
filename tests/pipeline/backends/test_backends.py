"""The views of every back-end and executor: the same pictures, from one plan, held to Pillow and OpenCV."""

import threading
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import rng
from pipeline.backends import kernels, libffcv
from pipeline.backends.backend import Backend, sample_source
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.select import views_on
from pipeline.errors import InputError
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data, Mask, View
from pipeline.store.beton import Beton
from pipeline.store.sample_names import read_names
from pipeline.views.plan import Plan, ViewSpec, draw
from tests.pipeline.conftest import as_pillow

SIZE = HEIGHT, WIDTH = 32, 24
CPU = torch.device("cpu")
PLAIN = View(flip=True)
BUSY = View(crop="resize_then_crop", padding=3, augment="timm", erase="random", jitter=(0.4, 0.4, 0.4, 0.1))
SPEC = ViewSpec({"weak": (PLAIN, rng.WEAK), "strong": (BUSY, rng.STRONG)}, SIZE, Mask(ratio=0.75), 8)


def plan_of(beton: Beton, ids: np.ndarray, spec: ViewSpec = SPEC) -> Plan:
    samples = SampleIds(ids, np.zeros_like(ids))
    return draw(spec, samples, beton.heights[ids], beton.widths[ids], seed=5)


def views_of(backend: Backend, plan: Plan) -> list[np.ndarray]:
    try:
        return [view.permute(0, 2, 3, 1).numpy().copy() for view in backend.start(plan)()]
    finally:
        backend.close()


def test_plain_crops_are_opencvs_area_resize_of_the_decoded_image(beton):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the oracle")
    ids = np.arange(beton.n)
    plan = plan_of(beton, ids)
    weak, _ = views_of(FFCV(beton, SIZE, CPU, "cpu", 2), plan)
    for i in ids:
        top, left, height, width = plan.params.boxes[0, i]
        decoded = libffcv.decode(beton.jpeg(i), int(beton.heights[i]), int(beton.widths[i]))
        crop = decoded[top : top + height, left : left + width]
        expected = cv2.resize(crop, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        expected = expected[:, ::-1] if plan.params.flips[0, i] else expected
        assert abs(weak[i].astype(int) - expected).max() <= 1


def test_libffcv_decodes_as_pillow_does_but_for_its_faster_transform(beton):
    for i in range(beton.n):
        decoded = libffcv.decode(beton.jpeg(i), int(beton.heights[i]), int(beton.widths[i]))
        assert (
            abs(decoded.astype(int) - np.asarray(as_pillow(beton, i))).mean() < 3
        )  # saturated colours, chroma at half size


@pytest.mark.parametrize("on", ["cpu", "device"])
def test_an_image_is_decoded_once_for_all_of_its_views(beton, on, monkeypatch):
    seen, first = [], beton.data.ctypes.data
    planes = SimpleNamespace(start=int, end=bool, decode=lambda _, jpeg, *more: seen.append(int(jpeg) - first) or 0)
    monkeypatch.setattr(kernels, "decode_into", lambda source, i, target: seen.append(int(source.offsets[i])) or 0)
    kernels.find_planes(sample_source(beton, np.arange(beton.n)), np.zeros(beton.n, np.bool_))  # compiled while it can
    monkeypatch.setattr(kernels, "jpeg_planes", planes)
    for name in ("make_views", "decode_mixed"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)  # Python, so that its calls can be counted
    for name in ("_cut", "_flip", "apply_ops", "erase_noise", "erase_fill"):
        monkeypatch.setattr(kernels, name, lambda *_: None)
    ids = np.arange(beton.n)
    views = views_of(FFCV(beton, SIZE, CPU, on, 2), plan_of(beton, ids))
    assert len(views) == 2
    assert sorted(seen) == sorted(int(offset) for offset in beton.where(ids)[0])


def test_memory_and_stream_give_the_same_bytes(beton):
    plan = plan_of(beton, np.arange(beton.n))
    for a, b in zip(
        views_of(FFCV(beton, SIZE, CPU, "cpu", 2), plan),
        views_of(InMemoryBackend(beton, SIZE, CPU, "cpu", 1), plan),
        strict=True,
    ):
        assert np.array_equal(a, b)
    for a, b in zip(
        views_of(FFCV(beton, SIZE, CPU, "device", 2), plan),
        views_of(InMemoryBackend(beton, SIZE, CPU, "device"), plan),
        strict=True,
    ):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(("device", "views_on", "kept"), [("cpu", "cpu", True), ("meta", "device", False)])
def test_the_host_keeps_pixels_only_for_views_that_are_made_there(beton, device, views_on, kept):
    InMemoryBackend(beton, SIZE, CPU, "cpu", 1).close()  # compiles
    tracemalloc.start()
    backend = InMemoryBackend(beton, SIZE, torch.device(device), views_on, 1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (held > 3 * int((beton.heights[:] * beton.widths[:]).sum())) == kept
    backend.close()


def test_views_on_the_device_are_those_on_the_cpu_up_to_the_filter(beton):
    plan = plan_of(beton, np.arange(beton.n))
    here, there = (views_of(FFCV(beton, SIZE, CPU, on, 2), plan) for on in ("cpu", "device"))
    both_shrink = (plan.params.boxes[0, :, 2:] >= [HEIGHT, WIDTH]).all(1)
    weak = abs(here[0].astype(int) - there[0])
    assert both_shrink.sum() > 10
    assert weak[both_shrink].max() <= 1
    assert weak.mean() < 1.0  # where one axis grows, OpenCV's filter is another one
    assert np.median(abs(here[1].astype(int) - there[1]).mean((1, 2, 3))) < 2.0


@pytest.mark.parametrize("on", ["cpu", "device"])
def test_a_view_depends_on_its_image_alone(beton, on):
    """Not on threads, batch, place in the batch or the images beside it."""
    ids = np.arange(beton.n)
    whole = views_of(FFCV(beton, SIZE, CPU, on, 2), plan_of(beton, ids))
    some = np.array([44, 3, 17])
    alone = views_of(FFCV(beton, SIZE, CPU, on, 1), plan_of(beton, some))
    for big, small in zip(whole, alone, strict=True):
        assert np.array_equal(big[some], small)


def test_weak_and_strong_views_are_cut_independently(beton):
    view = View()
    spec = ViewSpec({"weak": (view, rng.WEAK), "strong": (view, rng.STRONG)}, SIZE)
    boxes = plan_of(beton, np.arange(beton.n), spec).params.boxes
    assert (boxes[0] != boxes[1]).any(1).mean() > 0.9


def test_a_new_pass_gives_new_views_and_masks(beton):
    ids = np.arange(10)
    first = plan_of(beton, ids)
    later = draw(SPEC, SampleIds(ids, np.ones_like(ids)), beton.heights[ids], beton.widths[ids], seed=5)
    assert (first.visible != later.visible).any(1).all()
    assert (first.params.boxes[0] != later.params.boxes[0]).any()


def test_a_sample_that_no_longer_decodes_is_named(beton, tmp_path):
    broken = np.array(beton.data)
    broken[beton.offsets[7] + 20 : beton.offsets[7] + beton.sizes[7]] = 0
    backend = FFCV(replace(beton, data=broken), SIZE, CPU, "cpu", 2)
    with pytest.raises(InputError, match=rf"image 7 \({read_names(beton)[7]}\) no longer decodes"):
        backend.start(plan_of(beton, np.arange(20)))()
    backend.start(plan_of(beton, np.arange(8, 20)))()
    backend.close()


def test_closing_joins_every_thread(beton):
    before = threading.active_count()
    views_of(FFCV(beton, SIZE, CPU, "cpu", 3), plan_of(beton, np.arange(30)))
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", [FFCV, InMemoryBackend])
@pytest.mark.parametrize("on", ["cpu", "device"])
def test_a_view_is_of_its_plans_size_whatever_the_back_end_was_opened_for(beton, kind, on):
    """Opened for the largest: the bytes of one opened for just this size, and plans of several sizes in turn."""
    opened, ids = kind(beton, SIZE, CPU, on, 2), np.arange(20)
    try:
        for size in ((16, 16), SIZE, (24, 32), (8, 40)):
            plan = plan_of(beton, ids, replace(SPEC, size=size))
            exact = views_of(kind(beton, size, CPU, on, 2), plan)
            for here, there in zip(opened.start(plan)(), exact, strict=True):
                assert there.shape == (20, *size, 3)
                assert np.array_equal(here.permute(0, 2, 3, 1).numpy(), there)
    finally:
        opened.close()


def test_a_view_larger_than_the_scratch_is_refused_before_it_is_written(beton):
    plan = plan_of(beton, np.arange(9), replace(SPEC, size=(HEIGHT, WIDTH + 8)))
    with pytest.raises(ValueError, match="total size of new array"):
        views_of(FFCV(beton, SIZE, CPU, "cpu", 2), plan)


def test_views_are_made_on_the_gpu_where_there_is_one_and_nothing_else_is_said():
    cuda = torch.device("cuda")
    assert [views_on(Data(), device) for device in (CPU, cuda)] == ["cpu", "device"]
    for said in ("cpu", "device"):
        assert [views_on(Data(views_on=said), device) for device in (CPU, cuda)] == [said, said]
