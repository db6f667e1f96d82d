"""However a loader ends, nothing of it stays: threads, descriptors, memory. Forks, few cores and two sets at once."""

import contextlib
import ctypes
import gc
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backends import libffcv
from pipeline.concurrency.cores import cores
from pipeline.errors import InputError
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.spec import Data, Needs
from pipeline.store.beton import Beton, open_beton
from pipeline.train_data import loader_spec, open_train_data
from tests.models.ranks import run_ranks

CPU = torch.device("cpu")
NEEDS = Needs(unlabelled=True, strong=True, unlabelled_visible=True)
KINDS = {"CPU views": ("ffcv", "cpu"), "GPU views": ("ffcv", "device"), "memory": ("memory", "cpu")}
BATCH_MB = 16 * 2 * 3 * 128 * 128 / 1e6


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    threads: int
    descriptors: int
    resident_mb: float


def held() -> Held:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads, descriptors = (len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd"))
    return Held(threads, descriptors, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def settled() -> Held:
    """What is held once loaders that nobody closed are gone, and the kernel has forgotten threads that were joined."""
    until = time.monotonic() + 10
    while threading.active_count() > 1 and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    time.sleep(0.05)
    return held()


def open_loader(beton: Beton, kind: str, threads: int | None = 2, device: torch.device = CPU) -> Loader:
    backend, views_on = KINDS[kind]
    size = 32 if kind == "GPU views" else 128  # whose views take a device, or long
    where = str(beton.path.parent)
    data = Data(where, batch=16, size=size, backend=backend, views_on=views_on, threads=threads, ahead=2)
    needs = replace(NEEDS, strong=kind != "GPU views")  # in torch on a CPU they take a second
    train_data = open_train_data(data, needs)
    fed = loader_spec(train_data, data, needs, patch=16, total_steps=100)
    return Loader(fed, open_backend(data, train_data.beton, device), device, ahead=data.ahead)


def closed(batches: Loader) -> None:
    next(batches)
    batches.close()


def closed_unused(batches: Loader) -> None:
    batches.close()


def left_by_break(batches: Loader) -> None:
    """And never closed: the last reference goes."""
    for _ in batches:
        break


def ended_by_an_exception(batches: Loader) -> None:
    with contextlib.suppress(ZeroDivisionError), batches:
        next(batches)
        raise ZeroDivisionError


def failed_in_a_planner(batches: Loader) -> None:
    with contextlib.suppress(AttributeError), batches:
        next(batches)
        batches._spec = replace(batches._spec, sampler=None)
        for _ in range(5):
            next(batches)
        raise AssertionError("no error")


def after_some_passes(batches: Loader) -> None:
    with batches:
        for _ in range(8):  # of 16 images, of 60
            next(batches)


ENDS = (closed_unused, left_by_break, ended_by_an_exception, failed_in_a_planner, after_some_passes)


def open_and_end(path: str, kind: str) -> None:
    """Print what 8 loaders that are closed, and 4 of each other end, have left behind."""
    beton, found = open_beton(path), {}
    gc.freeze()  # what was imported is no loader's: looking through it is most of what collecting takes
    for end in (closed, *ENDS):
        for _ in range(2):  # what is kept for good: compiled kernels, torch's own threads
            end(open_loader(beton, kind))
        before = settled()
        count = 8 if end is closed else 4
        for _ in range(count):
            end(open_loader(beton, kind))
        after = settled()
        more = after.threads - before.threads, after.descriptors - before.descriptors
        found[end.__name__] = *more, (after.resident_mb - before.resident_mb) / (count * BATCH_MB)
    print(json.dumps(found))


def elsewhere(code: str, *arguments: object) -> str:
    """What a process of its own prints; with one heap, or memory that threads gave back would count as held."""
    one_heap = "import ctypes; ctypes.CDLL(None).mallopt(-8, 1)"  # M_ARENA_MAX
    code = f"{one_heap}; import sys; from tests.pipeline.test_leaks import *; {code}"
    return run_ranks(code, 1, *map(str, arguments), timeout_s=240)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_however_loaders_end_nothing_of_them_stays(beton, kind: str) -> None:
    left = json.loads(elsewhere("open_and_end(*sys.argv[1:])", beton.path, kind))
    assert left.keys() == {"closed", *(end.__name__ for end in ENDS)}
    assert {name: each[:2] for name, each in left.items()} == {name: [0, 0] for name in left}
    assert max(each[2] for each in left.values()) < 0.5, left  # of one batch, for each loader


def test_what_stays_is_counted() -> None:
    before, go_on = held(), threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    kept, file = np.ones(50_000_000, np.uint8), os.open("/dev/null", os.O_RDONLY)
    after = held()
    assert (after.threads, after.descriptors) == (before.threads + 1, before.descriptors + 1)
    assert after.resident_mb - before.resident_mb > kept.size / 1e6 * 0.9
    os.close(file)
    go_on.set()
    thread.join()


def in_a_fork(work: Callable[[], str]) -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, work().encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        answer = said.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_beton_crosses_a_fork_and_a_loader_says_that_it_does_not(beton) -> None:
    mine = libffcv.decode(beton.jpeg(3), int(beton.heights[3]), int(beton.widths[3])).sum()

    def theirs() -> str:
        return str(libffcv.decode(beton.jpeg(3), int(beton.heights[3]), int(beton.widths[3])).sum())

    def anew() -> str:
        with open_loader(beton, "CPU views") as batches:
            return str(next(batches).unlabelled.ids.tolist())

    with open_loader(beton, "CPU views") as batches:
        first = next(batches)

        def on_with_the_parents() -> str:
            with pytest.raises(InputError) as error:
                next(batches)
            batches.close()
            return str(error.value)

        assert in_a_fork(theirs) == str(mine)
        assert in_a_fork(anew) == str(first.unlabelled.ids.tolist())
        assert "open the loader after the fork" in in_a_fork(on_with_the_parents)
        next(batches)


def test_two_sets_at_once_are_each_as_they_are_alone(beton) -> None:
    def ids(loader: Loader) -> list[int]:
        batch = next(loader)
        return [*batch.unlabelled.ids.tolist(), int(batch.unlabelled.weak.sum()), int(batch.unlabelled.strong.sum())]

    with open_loader(beton, "CPU views") as batches:
        alone = [ids(batches) for _ in range(4)]
    with open_loader(beton, "CPU views") as first, open_loader(beton, "memory") as second:
        together = [(ids(first), ids(second)) for _ in range(4)]
    assert [a for a, _ in together] == [b for _, b in together] == alone


def on_one_core(path: str) -> None:
    """Print the cores that count, and the decoders of two loaders at once, on one core of this machine."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    beton = open_beton(path)
    with open_loader(beton, "CPU views", None) as first, open_loader(beton, "GPU views", None) as second:
        for _ in range(3):
            next(first), next(second)
        decoders = sum(thread.name.startswith("decode") for thread in threading.enumerate())
    print(cores(), decoders, threading.active_count())


def test_on_one_core_two_loaders_run_with_a_decoder_each_and_end(beton) -> None:
    """However many cores the machine has: what counts is the affinity, which Slurm or taskset sets."""
    assert elsewhere("on_one_core(sys.argv[1])", beton.path) == "1 2 1\n"


@pytest.mark.gpu
def test_pinned_memory_does_not_grow_from_loader_to_loader(beton) -> None:
    if not hasattr(torch.cuda, "host_memory_stats"):
        pytest.skip("this torch does not count pinned memory")

    def pinned() -> int:
        torch.cuda.synchronize()
        return torch.cuda.host_memory_stats()["allocated_bytes.current"]

    for kind in ("CPU views", "GPU views"):
        closed(open_loader(beton, kind, device=torch.device("cuda")))
        before = pinned()
        for end in (closed, *ENDS):
            for _ in range(4):
                end(open_loader(beton, kind, device=torch.device("cuda")))
        gc.collect()
        assert pinned() <= before
