"""A GPU that is not there: what the plan asks is carried out without a question to it; a sweep is made beside what it
computes; without Triton, a line says so."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.concurrency.transfer import copy_stream
from pipeline.errors import InputError
from pipeline.evaluation import sweep as sweeping
from pipeline.evaluation.sweep import sweep, sweep_decodable
from pipeline.executors.gpu_views import change, check_device
from pipeline.open import open_backend
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data, View
from pipeline.views.plan import ViewSpec, draw
from tests.pretended import Watch, pretended_gpu

CUDA = torch.device("cuda")

VIEWS = {
    "usb": View(augment="usb", erase="cutout"),
    "timm": View(augment="timm", erase="random"),
    "torchvision": View(augment="torchvision"),
    "jitter": View(jitter=(0.4, 0.4, 0.2, 0.1)),
}


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """What is launched, by name; every tensor that a kernel is given lies on the device."""
    pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch")
    from pipeline.executors import erase_triton, rand_augment_triton

    seen = []

    class Kernel:
        def __init__(self, name: str):
            self.name = name

        def __getitem__(self, grid):
            assert all(programs > 0 for programs in grid)
            return self

        def __call__(self, *args, **options):
            seen.append(self.name)
            assert {x.device.type for x in args if isinstance(x, torch.Tensor)} == {"cuda"}

    for module, name in ((rand_augment_triton, "_tables"), (rand_augment_triton, "_change"), (erase_triton, "_erase")):
        monkeypatch.setattr(module, name, Kernel(name))
    return seen


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_colours_geometry_and_erasing_ask_nothing(view, launched, monkeypatch):
    n = 64
    sides = np.full(n, 40)
    samples = SampleIds(np.arange(n), np.zeros(n, np.int64))
    plan = draw(ViewSpec({"weak": (View(), 1), "strong": (view, 2)}, 32), samples, sides, sides, seed=0).params
    assert (plan.ops[1] != 0).sum() > n // 2, "the plan asks for too little"
    with pretended_gpu(monkeypatch):
        cut = [torch.zeros(n, 3, 32, 32, dtype=torch.uint8, device="cuda") for _ in range(2)]
        with Watch() as watch:
            views = change(cut, plan)
    assert [view.device.type for view in views] == ["cuda", "cuda"]
    assert watch.waits == watch.mixed == watch.unpinned == {}
    erased = sum(bool(boxes[:, 2].any()) for boxes in plan.erased)
    assert launched.count("_tables") == launched.count("_change") == plan.ops.shape[2]  # once a layer: one view of two
    assert launched.count("_erase") == erased == (view.erase != "none")


class Stream:
    """Says what becomes of it."""

    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def wait_stream(self, other: "Stream"):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch):
    """What streams, and a back-end that makes empty images, do in turn."""
    log: list[str] = []
    now = [Stream("network", log)]

    @contextmanager
    def stream(inner: Stream):
        now.append(inner)
        yield
        now.pop()

    def made(n: int):
        log.append(f"{n} made on {now[-1].name}")
        return [torch.zeros(n, 3, 16, 16, dtype=torch.uint8, device=CUDA)]

    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: Stream("copies", log))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now[-1])
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda images, on: log.append(f"{len(images)} kept for {on.name}")
    )
    sides, close = np.full(9, 40), lambda: None
    backend = SimpleNamespace(heights=sides, widths=sides, close=close, start=lambda plan: lambda: made(len(plan.ids)))
    monkeypatch.setattr(sweeping, "open_backend", lambda *_: backend)
    copy_stream.cache_clear()
    yield log
    copy_stream.cache_clear()


@pytest.mark.parametrize("every", [sweep, sweep_decodable])
def test_a_sweep_is_made_beside_the_network_which_waits_for_it(every, log, monkeypatch):
    with pretended_gpu(monkeypatch):
        for shown in every(Data(size=16), None, CUDA, np.arange(9), 4):
            images = shown if every is sweep else shown[1]
            log.append(f"network has {len(images)}")
    for n in (4, 4, 1):
        one, log[:4] = log[:4], []
        assert one == [f"{n} made on copies", "network waits for copies", f"{n} kept for network", f"network has {n}"]
    assert not log
    assert copy_stream(CUDA) is copy_stream(CUDA)


def test_where_triton_does_not_start_a_line_says_so_before_anything_is_opened(monkeypatch):
    def missing():
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    from tests.pipeline.executors import by_triton  # or a skip

    check_device.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("triton.runtime.driver._active", SimpleNamespace(get_current_target=missing))
    with pytest.raises(InputError, match=r"not start: Failed to find C compiler\. .* data\.views_on"):
        open_backend(Data(), None, CUDA)
    check_device(torch.device("cpu"))
    with by_triton.launching():
        check_device(CUDA)
    check_device.cache_clear()
