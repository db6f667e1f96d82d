"""DALI beside FFCV: one recipe, the same batches, whatever goes wrong with an image; nothing left behind."""

import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backends import dali_decoder, dali_pipe
from pipeline.backends.backend import Undecodable
from pipeline.backends.dali import Dali
from pipeline.backends.ffcv import FFCV
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.sources.source import Source
from pipeline.store.beton import Beton, open_beton
from tests.pipeline.backends.test_backends import BUSY, CPU, PLAIN, SIZE, plan_of
from tests.pipeline.conftest import as_pillow
from tests.pipeline.sampling.test_replacement import damaged
from tests.pipeline.test_loader import data_of, equal, spec_of, tensors


class Kinds(Source):
    """JPEG files of every chroma sampling that pipeline.convert keeps as they are."""

    classes = None

    def __len__(self) -> int:
        return 12

    def name(self, i: int) -> str:
        return f"{i}.jpg"

    def read(self, i: int) -> tuple[bytes, int]:
        rng = np.random.default_rng(i)
        image = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
        image = image.resize((int(rng.integers(20, 200)), int(rng.integers(20, 200))), Image.Resampling.BICUBIC)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90, subsampling=i % 3)
        return out.getvalue(), -1


def opened(kind: type, beton: Beton, on: str = "cpu", device: torch.device = CPU):
    return kind(beton, SIZE, device, on, 2)


def both(beton: Beton, on: str, plans: list, device: torch.device = CPU) -> list[list[np.ndarray]]:
    """Each back-end's views of some plans, one after another."""
    found = []
    for kind in (FFCV, Dali):
        backend = opened(kind, beton, on, device)
        started = [backend.start(plan) for plan in plans]
        found.append([view.cpu().numpy() for views in started for view in views()])
        backend.close()
    return found


@pytest.mark.parametrize("on", ["cpu", "device"])
def test_every_view_is_ffcvs_to_the_bit_where_both_decode_on_the_cpu(dali, nothing_stays, beton, on):
    plan = plan_of(beton, np.arange(beton.n))  # crops beside a resized and padded view with RandAugment and erasing
    for a, b in zip(*both(beton, on, [plan]), strict=True):
        assert np.array_equal(a, b)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Beton:
    path = tmp_path_factory.mktemp("kinds") / "train.beton"
    convert(Kinds(), path, Options(side=None))
    return open_beton(path)


def test_every_chroma_sampling_decodes_alike(dali, kinds, nothing_stays):
    assert kinds.manifest.n_passed_through == len(kinds)
    for a, b in zip(*both(kinds, "cpu", [plan_of(kinds, np.arange(kinds.n))]), strict=True):
        assert np.array_equal(a, b)


def test_what_is_only_decoded_is_pillows_picture(dali, nothing_stays, beton):
    backend, ids = opened(Dali, beton), np.array([4, 0, 17])
    pixels, places, widths = backend.decode(ids)()
    for i, place, width in zip(ids, places, widths, strict=True):
        expected = np.asarray(as_pillow(beton, i)).astype(int)
        image = pixels[place : place + width * len(expected)].reshape(-1, width, 3).numpy()
        assert abs(image - expected).mean() < 3  # the fast transform
    backend.close()


def test_plans_of_any_size_may_be_under_way_and_asked_for_in_any_order(dali, nothing_stays, beton, monkeypatch):
    monkeypatch.setattr(dali_decoder, "MAX_BATCH", 8)
    backend, parts = opened(Dali, beton), [np.arange(n) for n in (5, 8, 33, 3, 1, 60, 7)]
    asked = [backend.decode(ids) for ids in parts]
    order = np.random.default_rng(0).permutation(len(parts))
    found = {i: asked[i]().pixels for i in order}
    areas = beton.heights[:] * beton.widths[:]
    for i, ids in enumerate(parts):
        assert torch.equal(found[i], found[5][: areas[ids].sum()])
    backend.close()


def test_two_threads_ask_at_once_and_each_gets_its_own(dali, nothing_stays, beton):
    backend, wrong = opened(Dali, beton), []

    def work(first: int) -> None:
        plans = [plan_of(beton, np.arange(first, first + 20) % 60) for _ in range(5)]
        views = [view() for view in [backend.start(plan) for plan in plans]]
        wrong.extend(not torch.equal(view[0], views[0][0]) for view in views)
        wrong.append(not torch.equal(views[0][0][5], backend.start(plan_of(beton, np.array([first + 5])))()[0][0]))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [False] * 12
    backend.close()


def batches(beton: Beton, backend: str, n: int = 4, step: int = 0, **changes):
    data = data_of(beton, backend=backend, threads=2, **changes)
    with Loader(spec_of(data), open_backend(data, beton, CPU), CPU, step) as loader:
        return [next(loader) for _ in range(n)], loader.replaced


@pytest.mark.parametrize("on", ["cpu", "device"])
@pytest.mark.parametrize("weak", [PLAIN, BUSY])
def test_a_recipe_sees_the_same_batches_and_resumes_at_the_same_one(dali, nothing_stays, beton, on, weak):
    ours, theirs = (batches(beton, backend, views_on=on, weak=weak)[0] for backend in ("ffcv", "dali"))
    for a, b in zip(ours, theirs, strict=True):
        assert a.step == b.step
        assert equal(tensors(a), tensors(b))  # images, labels, ids and visible patches
    later, _ = batches(beton, "dali", 2, step=2, views_on=on, weak=weak)
    for a, b in zip(theirs[2:], later, strict=True):
        assert equal(tensors(a), tensors(b))


@pytest.mark.parametrize("kept", [0.05, 0.95])  # no header; a header, and pixels that end early
def test_corrupt_images_are_named_and_replaced_as_they_are_with_ffcv(dali, nothing_stays, beton, capfd, kept):
    broken = damaged(beton, 10, 31, kept=kept)
    ours, theirs = (batches(broken, backend, 8) for backend in ("ffcv", "dali"))
    assert ours[1] == theirs[1] > 0
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert equal(tensors(a), tensors(b))
    said = [line for line in capfd.readouterr().err.splitlines() if "takes its place" in line]
    assert ["image 10 (" in line for line in said].count(True) == 2  # once with each back-end
    resumed, _ = batches(broken, "dali", 2, step=5)
    assert all(equal(tensors(a), tensors(b)) for a, b in zip(theirs[0][5:7], resumed, strict=True))


@pytest.mark.parametrize("kept", [0.05, 0.95])
def test_a_batch_that_fails_takes_no_other_with_it(dali, nothing_stays, beton, capfd, kept):
    backend = opened(Dali, damaged(beton, 7, 9, kept=kept))
    asked = [np.arange(5), np.arange(40), np.arange(10, 30)]
    before, failing, after = (backend.decode(ids) for ids in asked)
    assert torch.equal(before().pixels, pixels_of(beton, asked[0]))
    with pytest.raises(Undecodable) as found:
        failing()
    assert found.value.ids.tolist() == [7, 9]
    assert torch.equal(after().pixels, pixels_of(beton, asked[2]))
    assert torch.equal(backend.decode(np.arange(7))().pixels, pixels_of(beton, np.arange(7)))
    backend.close()


def pixels_of(beton: Beton, ids: np.ndarray) -> torch.Tensor:
    backend = opened(Dali, beton)
    pixels = backend.decode(ids)().pixels.clone()
    backend.close()
    return pixels


def test_an_image_of_another_size_than_the_index_says_is_named(dali, nothing_stays, beton):
    heights = beton.heights[:].copy()
    heights[3] -= 1
    backend = opened(Dali, replace(beton, heights=heights))
    with pytest.raises(Undecodable) as found:
        backend.decode(np.arange(8))()
    assert found.value.ids.tolist() == [3]
    backend.close()


def test_an_error_that_no_image_explains_is_raised_as_it_is(dali, nothing_stays, beton, monkeypatch):
    backend, take = opened(Dali, beton), dali_pipe.Pipe.take
    failures = iter([RuntimeError("CUDA error: out of memory")])

    def failing(pipe):
        for error in failures:
            raise error
        return take(pipe)

    monkeypatch.setattr(dali_pipe.Pipe, "take", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        backend.decode(np.arange(8))()
    assert len(backend.decode(np.arange(8))().widths) == 8
    backend.close()


def test_a_pipeline_that_cannot_be_built_again_fails_its_batch_and_does_not_hang(
    dali, nothing_stays, beton, monkeypatch
):
    backend = opened(Dali, beton)

    def refuse(*_):
        raise InputError("no memory left")

    monkeypatch.setattr(dali_decoder, "Pipe", refuse)
    monkeypatch.setattr(backend._decoder, "_max_batch", 4)
    with pytest.raises(InputError, match="no memory left"):
        backend.decode(np.arange(8))()
    backend.close()
