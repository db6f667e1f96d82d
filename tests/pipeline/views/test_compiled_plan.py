"""Plans are drawn by compiled code: to the bit as numpy draws them, and without keeping other threads waiting."""

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from pipeline import rng
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Mask, View
from pipeline.views.plan import ViewSpec, draw
from tests.pipeline.views import numpy_plans

JITTER = (0.4, 0.4, 0.2, 0.1)
STRONG = View(filter="bicubic", augment="timm", erase="random", jitter=JITTER)
VIEWS = {
    "the default": View(),
    "tiny crops": View(scale=(0.0005, 0.002)),
    "crops of everything": View(scale=(0.9, 1.0), flip=False),
    "Semiformer's weak view": View(crop="resize_then_crop"),
    "without padding": View(crop="resize_then_crop", padding=0, short_side=1.3),
    "antialiased": View(crop="resize_then_crop", filter="bicubic", padding=7, short_side=1.0),
    "evaluation": View(crop="centre", filter="bicubic", flip=False),
    "evaluation by area": View(crop="centre", flip=False),
    "usb": View(augment="usb", erase="cutout"),
    "usb of five": View(augment="usb", layers=5),
    "timm": STRONG,
    "torchvision": View(augment="torchvision", layers=3, erase="random"),
    "hue alone": View(jitter=(0, 0, 0, 0.5), jitter_probability=1.0),
    "strong jitter": View(jitter=(2.0, 0, 1.5, 0), jitter_probability=0.3, erase="cutout"),
}
MASKS = {
    "random": Mask(), "few": Mask(ratio=0.95), "many": Mask(ratio=0.1), "block": Mask("block", 0.5),
    "most in blocks": Mask("block", 0.75), "grid": Mask("grid"), "unit": Mask("unit", 0.6),
    "window": Mask("window", 0.8, window=5), "one place": Mask("window", 0.6, window=3, windows=6, same_place=True),
}  # fmt: skip


def samples(n: int, seed: int) -> tuple[SampleIds, np.ndarray, np.ndarray]:
    """Ids and passes of a long run, and sizes of images of every shape."""
    numbers = np.random.default_rng(abs(seed))
    ids, passes = numbers.integers(0, 2**31, n), numbers.integers(0, 2000, n)
    heights, widths = (np.exp(numbers.uniform(0, 8.5, n)).astype(int) for _ in range(2))
    return SampleIds(ids, passes), heights, widths


def check(spec: ViewSpec, n: int, seed: int) -> None:
    plan, drawn = draw(spec, *samples(n, seed), seed), numpy_plans.draw(spec, *samples(n, seed), seed)
    masked = {name: drawn.pop(name, None) for name in ("visible", "hidden")}
    for name, expected in drawn.items():
        for mine, theirs in zip(getattr(plan.params, name), expected, strict=True):
            assert mine.dtype == theirs.dtype
            mine = mine[:, : theirs.shape[1]] if name in ("ops", "args") else mine
            assert np.array_equal(mine, theirs), name
    for name, expected in masked.items():
        mine = getattr(plan, name)
        assert np.array_equal(mine, expected) if expected is not None else mine is None


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_numpys_to_the_bit(name: str):
    for k, size in enumerate([(224, 224), (96, 160)]):
        check(ViewSpec({"view": (VIEWS[name], rng.WEAK)}, size), 2000, seed=-k)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("size", [224, (96, 160)])
def test_a_mask_is_numpys_to_the_bit(name: str, size):
    views = {"weak": (VIEWS["antialiased"], rng.WEAK), "strong": (STRONG, rng.STRONG)}
    check(ViewSpec(views, size, MASKS[name], patch=16), 100, seed=2**64 - 5)


def test_no_image_and_one_image_can_be_planned():
    for n in (0, 1):
        plan = draw(ViewSpec({"strong": (STRONG, rng.STRONG)}, 32, Mask(), patch=8), *samples(n, 0), 0)
        assert plan.visible is not None
        assert plan.visible.shape == (n, 4)
        assert plan.params.boxes.shape == (1, n, 4)


def kept(work: Callable[[], object]) -> float:
    """The longest time for which a thread that works keeps the GIL from another one that wants it, as a share of the
    work: of up to fifty tries the least, or the first below a fifth, as other processes can only lengthen it.

    The thread is not asked to give the GIL back, so it keeps it as long as the code in hand does.
    """
    interval, least = sys.getswitchinterval(), 1.0
    sys.setswitchinterval(60)
    try:
        for _ in range(50):
            least = min(least, _kept_once(work))
            if least < 0.2:
                break
    finally:
        sys.setswitchinterval(interval)
    return least


def _kept_once(work: Callable[[], object]) -> float:
    taken, stop = [], threading.Event()

    def take() -> None:
        while not stop.is_set():
            time.sleep(0)  # gives the GIL away
            taken.append(time.perf_counter())

    other = threading.Thread(target=take)
    other.start()
    began = time.perf_counter()
    work()
    ended = time.perf_counter()
    stop.set()
    other.join()
    moments = [began, *(at for at in taken if began < at < ended), ended]
    return max(np.diff(moments)) / (ended - began)


@pytest.mark.parametrize("mask", ["random", "block", "unit", "window"])
def test_a_launching_thread_does_not_wait_for_a_plan(mask: str):
    views = {"weak": (VIEWS["antialiased"], rng.WEAK), "strong": (STRONG, rng.STRONG)}
    spec, (ids, heights, widths) = ViewSpec(views, 224, MASKS[mask]), samples(16384, 0)
    draw(spec, SampleIds(ids.ids[:1], ids.passes[:1]), heights[:1], widths[:1], 0)  # compiled, or read from the cache
    assert kept(lambda: draw(spec, ids, heights, widths, 0)) < 0.2


def test_what_keeps_the_gil_is_seen():
    assert kept(lambda: sum(range(100_000))) > 0.9
