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


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_colours_geometry_and_erasing_ask_nothing(view, monkeypatch):
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
