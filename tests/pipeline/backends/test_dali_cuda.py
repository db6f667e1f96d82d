"""DALI on a GPU: nvJPEG's pixels, and memory that is not filled anew while it is read."""

import numpy as np
import pytest
import torch

from pipeline.backends.dali import Dali
from tests.pipeline.backends.test_backends import plan_of
from tests.pipeline.backends.test_dali import both, opened


@pytest.mark.gpu
def test_nvjpegs_pixels_differ_by_rounding_alone(dali, nothing_stays, beton):
    device = torch.device("cuda", 0)
    plans = [plan_of(beton, np.arange(first, first + 30)) for first in (0, 20, 30)]
    for a, b in zip(*both(beton, "device", plans, device), strict=True):
        differ = abs(a.astype(int) - b)
        assert np.median(differ.mean((1, 2, 3))) < 1.5
        assert np.median(differ.max((1, 2, 3))) <= 24


@pytest.mark.gpu
def test_memory_is_not_filled_anew_before_the_device_has_read_it(dali, nothing_stays, beton):
    backend, plan = opened(Dali, beton, "device", torch.device("cuda", 0)), plan_of(beton, np.arange(60))
    first = [view.clone() for view in backend.start(plan)()]
    started = [backend.start(plan_of(beton, np.roll(np.arange(60), k))) for k in range(20)]
    for k, views in enumerate(started):
        torch.cuda._sleep(10_000_000)
        assert torch.equal(torch.roll(views()[0], -k, 0), first[0])
    backend.close()
