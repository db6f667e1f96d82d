"""Batches as functions of the step, labels that stay hidden, threads that end, and errors that arrive."""

import threading
import time
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from pipeline.backends.backend import Backend, PendingViews
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.batch import Batch, Unlabelled
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels, load_split
from pipeline.loader import Loader, LoaderSpec
from pipeline.open import open_backend
from pipeline.spec import Data, Needs, View
from pipeline.store.beton import Beton
from pipeline.store.sample_names import read_names
from pipeline.train_data import loader_spec, open_train_data
from pipeline.views.plan import Plan

CPU = torch.device("cpu")
ALL = Needs(labelled=True, unlabelled=True, strong=True, unlabelled_visible=True)
SPLIT = "2-per-class"


def data_of(beton: Beton, **changes) -> Data:
    usual = Data(str(beton.path.parent), split=SPLIT, batch=16, ratio=3, size=16, strong=View(augment="usb"))
    return replace(usual, **changes)


def spec_of(data: Data, needs: Needs = ALL, **more: int) -> LoaderSpec:
    return loader_spec(open_train_data(data, needs), data, needs, patch=8, seed=11, total_steps=9, **more)


def batches(
    beton: Beton, loader_spec: LoaderSpec, n: int, *, step: int = 0, ahead: int = 3, threads: int = 1, size: int = 16
) -> list[Batch]:
    with Loader(loader_spec, FFCV(beton, size, CPU, "cpu", threads), CPU, step, ahead) as loader:
        return [next(loader) for _ in range(n)]


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    parts = {"labelled": batch.labelled, "unlabelled": batch.unlabelled}
    return {
        f"{name}.{field.name}": getattr(part, field.name)
        for name, part in parts.items()
        if part is not None
        for field in fields(part)
        if getattr(part, field.name) is not None
    }


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def joined(parts: list[Batch]) -> dict[str, torch.Tensor]:
    each = [tensors(part) for part in parts]
    return {name: torch.cat([part[name] for part in each]) for name in each[0]}


@pytest.fixture
def threads_end():
    """Every thread that a test starts is gone at its end."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(("ahead", "threads"), [(1, 1), (1, 3), (5, 1), (5, 3)])
def test_neither_ahead_nor_threads_change_a_batch(beton, threads_end, ahead, threads):
    whole = spec_of(data_of(beton))
    usual = batches(beton, whole, 4)
    assert [batch.step for batch in usual] == [0, 1, 2, 3]
    for a, b in zip(usual, batches(beton, whole, 4, ahead=ahead, threads=threads), strict=True):
        assert a.step == b.step
        assert equal(tensors(a), tensors(b))


@pytest.mark.parametrize(("ranks", "micro"), [(1, 2), (2, 1), (2, 2)])
def test_chunks_of_a_step_joined_are_the_step_at_any_world_size_and_micro_batch(beton, ranks, micro):
    data, steps = data_of(beton), 3
    whole = batches(beton, spec_of(data), steps)
    ours = [batches(beton, spec_of(data, rank=rank, ranks=ranks, micro=micro), steps * micro) for rank in range(ranks)]
    for step in range(steps):
        parts = [part for rank in ours for part in rank[step * micro : (step + 1) * micro]]
        assert {part.step for part in parts} == {step}
        assert equal(joined(parts), tensors(whole[step]))


@pytest.mark.parametrize("micro", [1, 2])
def test_starting_at_a_step_is_skipping_those_before(beton, micro):
    whole = spec_of(data_of(beton), labels_only_steps=2, micro=micro)
    from_zero = batches(beton, whole, 6 * micro)
    for start in (1, 2, 4):
        later = batches(beton, whole, micro, step=start)
        for a, b in zip(from_zero[start * micro :], later, strict=False):
            assert a.step == b.step == start
            assert equal(tensors(a), tensors(b))


def test_steps_differ(beton):
    first, second = batches(beton, spec_of(data_of(beton)), 2)
    assert not torch.equal(first.unlabelled.ids, second.unlabelled.ids)


def test_labels_only_steps_have_no_unlabelled_part(beton):
    found = batches(beton, spec_of(data_of(beton), labels_only_steps=2), 3)
    assert [batch.unlabelled is None for batch in found] == [True, True, False]
    assert [len(batch.labelled.ids) for batch in found] == [16, 16, 4]


def test_a_label_that_the_split_hides_is_nowhere(beton):
    train_data = open_train_data(data_of(beton), ALL)
    known = known_labels(beton, load_split(beton, SPLIT))
    assert sorted(train_data.labelled) == sorted(np.flatnonzero(known[np.arange(beton.n)] >= 0))
    assert len(train_data.labelled) == 6
    names = read_names(beton)
    outside = np.setdiff1d(np.arange(beton.n), train_data.labelled)
    assert (train_data.labels[outside] == -1).all()
    assert "label" not in " ".join(field.name for field in fields(Unlabelled))
    for batch in batches(beton, spec_of(data_of(beton)), 5):
        assert set(batch.labelled.ids.tolist()) <= set(train_data.labelled.tolist())
        assert batch.labelled.labels.tolist() == [int(names[i][:3]) % 3 for i in batch.labelled.ids]
        assert not hasattr(batch.unlabelled, "labels")


def test_a_method_without_labels_holds_none(beton):
    train_data = open_train_data(data_of(beton), Needs(unlabelled=True))
    assert (train_data.labels[np.arange(beton.n)] == -1).all()
    assert not len(train_data.labels.values)
    assert train_data.labelled is None
    assert train_data.split is None


def test_an_image_without_a_known_label_in_the_labelled_pool_is_refused(beton, threads_end):
    whole = spec_of(data_of(beton))
    hidden = np.full(beton.n, -1)
    leaky = LoaderSpec(whole.sampler, hidden, whole.labelled, whole.unlabelled)
    with pytest.raises(AssertionError, match="without a known label"):
        batches(beton, leaky, 1)


def test_rest_leaves_out_the_labelled_images_and_all_does_not(beton):
    rest, everything = (open_train_data(data_of(beton, unlabelled=which), ALL) for which in ("rest", "all"))
    assert not set(rest.unlabelled) & set(rest.labelled)
    assert sorted([*rest.unlabelled, *rest.labelled]) == list(everything.unlabelled) == list(range(beton.n))
    seen = {
        int(i) for batch in batches(beton, spec_of(data_of(beton, unlabelled="rest")), 6) for i in batch.unlabelled.ids
    }
    assert seen == set(rest.unlabelled)  # 6 steps of 12 are more than a pass over 54


def test_closing_early_and_a_second_loader_leave_no_thread(beton, threads_end):
    whole = spec_of(data_of(beton))
    for _ in range(2):
        batches(beton, whole, 1, ahead=6, threads=2)
    unused = Loader(whole, FFCV(beton, 16, CPU, "cpu", 2), CPU)
    unused.close()


def test_a_damaged_sample_reaches_the_caller_from_the_decoder_thread(beton, threads_end):
    broken = np.array(beton.data)
    for offset, size in zip(beton.offsets, beton.sizes, strict=True):
        broken[offset + 20 : offset + size] = 0
    damaged = replace(beton, data=broken)
    with pytest.raises(InputError, match="no longer decodes"):
        batches(damaged, spec_of(data_of(beton)), 1)


def test_an_error_while_planning_reaches_the_caller(beton, threads_end):
    data = data_of(beton, weak=View(crop="resize_then_crop", padding=16))
    with pytest.raises(InputError, match="padding below half of it"):
        batches(beton, spec_of(data), 1)


class Slow(Backend):
    """Grey views, after a while."""

    def __init__(self, beton: Beton, seconds: float):
        self.heights, self.widths, self.seconds, self.closed = beton.heights, beton.widths, seconds, False

    def start(self, plan: Plan) -> PendingViews:
        def finish() -> list[torch.Tensor]:
            time.sleep(self.seconds)
            return [torch.zeros(len(plan.ids), 3, 16, 16, dtype=torch.uint8) for _ in plan.names]

        return finish

    def close(self) -> None:
        self.closed = True


def test_a_loader_says_how_long_its_caller_waited(beton, threads_end):
    waited = {}
    for seconds in (0.0, 0.1):
        backend = Slow(beton, seconds)
        needs = Needs(unlabelled=True)
        with Loader(spec_of(data_of(beton), needs), backend, CPU, ahead=1) as loader:
            assert loader.wait_s == 0
            for _ in range(3):
                next(loader)
            waited[seconds] = loader.wait_s
        assert backend.closed
    assert waited[0.1] > 0.25  # one batch ahead, and nothing to do meanwhile: three waits of 0.1 s
    assert waited[0.0] < waited[0.1]


def test_what_is_ready_is_not_waited_for(beton, threads_end):
    with Loader(spec_of(data_of(beton), Needs(unlabelled=True)), Slow(beton, 0.1), CPU, ahead=3) as loader:
        next(loader)
        before = loader.wait_s
        time.sleep(0.4)
        next(loader)
        assert loader.wait_s - before < 0.05


@pytest.mark.parametrize("backend", ["ffcv", "memory"])
def test_views_made_on_the_device_show_what_the_cpu_shows(beton, threads_end, backend):
    here, there = (data_of(beton, views_on=on, backend=backend, strong=View()) for on in ("cpu", "device"))
    opened = [open_backend(data, beton, CPU) for data in (here, there)]
    assert {type(each) for each in opened} == {FFCV if backend == "ffcv" else InMemoryBackend}
    whole = spec_of(here)
    found = []
    for each in opened:
        with Loader(whole, each, CPU) as loader:
            found.append([next(loader) for _ in range(2)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.unlabelled.ids, b.unlabelled.ids)
        assert torch.equal(a.unlabelled.visible, b.unlabelled.visible)
        assert torch.equal(a.labelled.labels, b.labelled.labels)
        for name in ("weak", "strong"):
            differences = getattr(a.unlabelled, name).float() - getattr(b.unlabelled, name).float()
            assert differences.abs().mean() < 2  # the filters differ where an axis grows


def test_only_what_is_needed_is_in_a_batch(beton):
    (weak,) = batches(beton, spec_of(data_of(beton), Needs(unlabelled=True)), 1)
    assert weak.labelled is None
    assert set(tensors(weak)) == {"unlabelled.ids", "unlabelled.weak"}
    (known,) = batches(beton, spec_of(data_of(beton), Needs(labelled=True)), 1)
    assert set(tensors(known)) == {"labelled.ids", "labelled.images", "labelled.labels"}
    assert len(known.labelled.ids) == 16
