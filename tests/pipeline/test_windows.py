"""Windows and units on their way from the plan to a batch, at any number of ranks and any size."""

import numpy as np
import torch

from pipeline import rng
from pipeline.backends.ffcv import FFCV
from pipeline.loader import Loader
from pipeline.spec import Data, Mask, Needs
from pipeline.train_data import loader_spec, open_train_data
from pipeline.views import masks

CPU = torch.device("cpu")
NEEDS = Needs(labelled=True, labelled_visible=True, unlabelled=True, unlabelled_visible=True)
WINDOWS = Mask("window", 0.6, window=3, windows=2)  # 5 of 9 hidden


def batches(beton, mask: Mask, steps: int, chunks: int = 1, sizes: tuple[int, ...] | None = None) -> list[list]:
    """For each step the batches of `chunks` ranks."""
    data = Data(str(beton.path.parent), split="2-per-class", batch=16, ratio=3, size=40, sizes=sizes, mask=mask)
    ranks = []
    for rank in range(chunks):
        fed = loader_spec(
            open_train_data(data, NEEDS), data, NEEDS, patch=8, total_steps=2, seed=11, rank=rank, ranks=chunks
        )
        with Loader(fed, FFCV(beton, 40, CPU, "cpu", 1), CPU) as loader:
            ranks.append([next(loader) for _ in range(steps)])
    return list(map(list, zip(*ranks, strict=True)))


def test_windows_arrive_with_their_hidden_patches_the_same_at_two_ranks(beton):
    alone, shared = batches(beton, WINDOWS, 2), batches(beton, WINDOWS, 2, chunks=2)
    for (whole,), halves in zip(alone, shared, strict=True):
        for name, n in (("labelled", 4), ("unlabelled", 12)):
            part = getattr(whole, name)
            assert part.visible.shape == (n, 2, 4)
            assert part.hidden.shape == (n, 2, 5)
            for field in ("visible", "hidden"):
                joined = torch.cat([getattr(getattr(half, name), field) for half in halves])
                assert torch.equal(getattr(part, field), joined)
    unknown = alone[0][0].unlabelled
    keys = rng.derive(rng.keys(11, 0, unknown.ids.numpy(), rng.MASK), rng.WEAK)
    for part, expected in zip((unknown.visible, unknown.hidden), masks.draw(WINDOWS, keys, 5), strict=True):
        assert np.array_equal(part.numpy(), expected)


def test_windows_keep_their_size_while_images_grow(beton):
    small, large = batches(beton, WINDOWS, 2, sizes=(32, 40))
    assert small[0].unlabelled.weak.shape[-1] == 32
    assert small[0].unlabelled.hidden.shape == large[0].unlabelled.hidden.shape == (12, 2, 5)
    assert int(small[0].unlabelled.hidden.max()) < 16
    assert int(large[0].unlabelled.hidden.max()) >= 16


def test_units_arrive_without_a_list_of_hidden_patches(beton):
    ((batch,),) = batches(beton, Mask("unit", 0.5, unit=1), 1)
    assert batch.unlabelled.visible.shape == (12, 12)  # ceil(0.5 · 25) = 13 of 25 hidden
    assert batch.unlabelled.hidden is None
