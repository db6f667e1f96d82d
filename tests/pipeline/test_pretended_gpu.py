"""Views on a GPU that is not there: what the plan asks is carried out without a question to the device."""

import numpy as np
import pytest
import torch

from pipeline.on_device import change
from pipeline.order import Picks
from pipeline.plan import Wanted, draw
from pipeline.spec import View
from tests.pretended import Watch, pretended_gpu

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
    from pipeline.views import erase_triton, rand_augment_triton

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
    picks = Picks(np.arange(n), np.zeros(n, np.int64))
    plan = draw(Wanted({"weak": (View(), 1), "strong": (view, 2)}, 32), picks, sides, sides, seed=0).stacked
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
