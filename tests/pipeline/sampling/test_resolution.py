"""Progressive resolution: which step sees images of which size, and that everything drawn follows."""

import numpy as np
import pytest
import torch

from pipeline import rng
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.errors import InputError
from pipeline.loader import Loader
from pipeline.sampling.resolution import check_sizes, distinct_sizes, growth, size_at
from pipeline.spec import Data, Mask, Needs, View
from pipeline.train_data import check_views, loader_spec, open_train_data

CPU = torch.device("cpu")
GROWING = Data(size=224, sizes=(160, 192, 224, 224))
TALL = Data(size=(224, 112), sizes=(160, 192, 224, 224))


def test_each_size_has_its_share_of_the_steps():
    """Written out: FastSSL's 160, 192, 224 over the first half of 800 epochs, as 4 shares of 10 steps and of 12."""
    assert [size_at(step, 12, GROWING) for step in range(12)] == [160] * 3 + [192] * 3 + [224] * 6
    assert [size_at(step, 10, GROWING) for step in range(10)] == [160] * 3 + [192] * 2 + [224] * 5
    assert [size_at(step, 12, GROWING) for step in (12, 13, 40)] == [224] * 3  # of a run that is extended
    assert [size_at(step, 3, Data(size=224)) for step in range(3)] == [224] * 3
    assert [size_at(step, 8, TALL) for step in range(8)] == [(160, 80)] * 2 + [(192, 96)] * 2 + [(224, 112)] * 4
    assert size_at(0, 3, Data(size=(64, 160))) == (64, 160)


@pytest.mark.parametrize("total", [4, 5, 97, 250_000])
def test_sizes_never_fall_and_shares_differ_by_a_step_at_most(total):
    sizes = np.array([size_at(step, total, Data(size=64, sizes=(16, 32, 48, 64))) for step in range(total)])
    assert (np.diff(sizes) >= 0).all()
    counts = np.unique_counts(sizes).counts
    assert len(counts) == 4
    assert np.ptp(counts) <= 1


def test_the_line_that_says_it_names_the_first_step_of_each_size():
    assert growth(12, GROWING) == "images of 160 pixels from step 0, 192 pixels from step 3, 224 pixels from step 6"
    for total in (10, 11, 13, 999):
        firsts = [next(s for s in range(total) if size_at(s, total, GROWING) == size) for size in (160, 192, 224)]
        assert [int(word) for word in growth(total, GROWING).replace(",", "").split() if word.isdigit()][1::2] == firsts
    assert (
        growth(8, TALL)
        == "images of 160 x 80 pixels from step 0, 192 x 96 pixels from step 2, 224 x 112 pixels from step 4"
    )
    assert growth(12, Data()) is None
    assert growth(12, Data(size=32, sizes=(32,))) is None


def test_distinct_sizes_are_what_compiling_and_checking_go_through():
    assert distinct_sizes(GROWING) == [224, 192, 160]
    assert distinct_sizes(Data(size=96)) == [96]
    assert distinct_sizes(TALL) == [(224, 112), (192, 96), (160, 80)]


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((150, 224), "data.sizes holds 150, which patches of 16 pixels do not divide; use 144"),
        ((0, 224), "holds 0, which patches of 16 pixels do not divide; use 16"),
        ((160, 192), "must end at data.size 224, got 160 192"),
        ((192, 160, 224), "may not fall"),
        ((224, 240), "must end at data.size 224"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_a_line(sizes, says):
    with pytest.raises(InputError, match=says):
        check_sizes(Data(size=224, sizes=sizes), 16)
    check_sizes(GROWING, 16)
    check_sizes(TALL, 16)
    check_sizes(Data(), 16)


@pytest.mark.parametrize(
    ("size", "sizes", "says"),
    [
        ((224, 112), (176, 224), "holds 176; in the proportion of data.size 224 x 112 that is 176 x 88, .* use 192"),
        ((224, 160), (96, 224), "that is 96 x 68.5714, which patches of 16 pixels do not divide; use 112"),
        ((224, 112), (150, 224), "data.sizes holds 150, which patches of 16 pixels do not divide; use 144"),
        ((224, 112), (160, 192), "must end at 224, the height of data.size 224 x 112, got 160 192"),
        ((224, 112), (192, 160, 224), "may not fall"),
    ],
)
def test_heights_that_keep_no_proportion_are_refused_in_a_line(size, sizes, says):
    with pytest.raises(InputError, match=says) as caught:
        check_sizes(Data(size=size, sizes=sizes), 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("on", ["cpu", "device"])
def test_images_of_two_sides_grow_in_their_proportion(beton, on):
    data = Data(str(beton.path.parent), batch=8, size=(32, 16), sizes=(16, 32), mask=Mask(ratio=0.5))
    needs = Needs(unlabelled=True, unlabelled_visible=True)
    train_data = open_train_data(data, needs)
    check_views(train_data, data, needs, 4)
    fed = loader_spec(train_data, data, needs, patch=4, total_steps=2)
    with Loader(fed, FFCV(beton, data.size, CPU, on, 1), CPU) as loader:
        batches = [next(loader).unlabelled for _ in range(2)]
    assert [tuple(batch.weak.shape) for batch in batches] == [(8, 3, 16, 8), (8, 3, 32, 16)]
    assert [batch.visible.shape[1] for batch in batches] == [4, 16]


@pytest.mark.parametrize("backend", [FFCV, InMemoryBackend])
@pytest.mark.parametrize("on", ["cpu", "device"])
def test_images_and_visible_patches_grow_with_the_step(beton, backend, on):
    """A half of the patches: 2 of 4, 4 of 9 (floor), 8 of 16; begun in the middle, the same images."""
    view = View()
    data = Data(str(beton.path.parent), batch=8, size=32, sizes=(16, 24, 32), weak=view, mask=Mask(ratio=0.5))
    needs, total = Needs(unlabelled=True, unlabelled_visible=True), 6
    fed = loader_spec(open_train_data(data, needs), data, needs, patch=8, total_steps=total, seed=3, micro=2)
    with Loader(fed, backend(beton, 32, CPU, on, 1), CPU) as loader:
        batches = [next(loader) for _ in range(2 * total)]
    sides = [batch.unlabelled.weak.shape[-1] for batch in batches]
    assert sides == [16] * 4 + [24] * 4 + [32] * 4
    assert [batch.unlabelled.visible.shape[1] for batch in batches] == [2] * 4 + [4] * 4 + [8] * 4
    for batch, side in zip(batches, sides, strict=True):
        assert batch.unlabelled.weak.shape == (4, 3, side, side)
        assert int(batch.unlabelled.visible.max()) < (side // 8) ** 2
    with Loader(fed, backend(beton, 32, CPU, on, 2), CPU, step=3) as later:
        for expected in batches[6:]:
            assert torch.equal(next(later).unlabelled.weak, expected.unlabelled.weak)


def test_a_crop_is_the_same_part_of_the_image_at_every_size(beton):
    """A random resized crop's box does not depend on the size that it is resized to."""
    from dataclasses import replace

    from pipeline.sampling.sampler import SampleIds
    from pipeline.views.plan import ViewSpec, draw

    ids = np.arange(beton.n)
    spec = ViewSpec({"weak": (View(), rng.WEAK)}, 32, Mask(), 8)
    large, small = (
        draw(each, SampleIds(ids, np.zeros_like(ids)), beton.heights[:], beton.widths[:], 7)
        for each in (spec, replace(spec, size=16))
    )
    assert (large.size, small.size) == ((32, 32), (16, 16))
    assert np.array_equal(large.params.boxes, small.params.boxes)
    assert np.array_equal(large.params.flips, small.params.flips)
    assert (large.visible.shape[1], small.visible.shape[1]) == (4, 1)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (Mask(ratio=0.8), "data.sizes holds 16, at which mask ratio 0.8 leaves 0 of 4"),
        (Mask("block", 0.8), "data.sizes holds 16, at which mask ratio 0.8 leaves 0 of 4"),
        (Mask("grid", 0.75), "data.sizes holds 24, at which a grid mask keeps a quarter of an even grid"),
        (Mask("unit", 0.5), "data.sizes holds 24, at which units of 2 x 2 patches do not fill a grid of 3 x 3"),
        (Mask("window", 0.5, window=3), "data.sizes holds 24, at which a grid of 3 x 3 has 1 places"),
    ],
)
def test_a_mask_that_a_smaller_grid_cannot_have_is_refused_before_the_run(beton, mask, says):
    needs = Needs(unlabelled=True, unlabelled_visible=True)
    data = Data(str(beton.path.parent), batch=8, size=32, sizes=(16, 24, 32), mask=mask)
    train_data = open_train_data(data, needs)
    with pytest.raises(InputError, match=says):
        check_views(train_data, data, needs, 8)
    check_views(train_data, Data(data.root, batch=8, size=32, mask=mask), needs, 8)
