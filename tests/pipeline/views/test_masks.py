"""Masks: exact counts, the right law, and what BEiT's and MAE's papers say of their shapes."""

import math
from random import Random

import numpy as np
import pytest

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views import masks
from pipeline.views.masks.block import block_mask
from pipeline.views.masks.grid import grid_mask
from pipeline.views.masks.random import random_mask

N, GRID, SQUARE = 3000, 14, (14, 14)


def keys(n: int = N) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.MASK)


@pytest.mark.parametrize(
    ("ratio", "visible"), [(0.1, 176), (0.25, 147), (0.5, 98), (0.6, 78), (0.75, 49), (0.8, 39), (0.9, 19)]
)
def test_visible_counts_are_maes(ratio, visible):
    assert masks.visible_count(Mask(ratio=ratio), GRID) == visible  # int(196 (1 - r)): 39 for 0.8


@pytest.mark.parametrize("ratio", [0.0, 0.999, 1.0])
def test_a_ratio_that_hides_everything_or_nothing_is_refused(ratio):
    with pytest.raises(InputError, match="choose a lower one" if ratio else "choose a higher one"):
        masks.visible_count(Mask(ratio=ratio), GRID)


@pytest.mark.parametrize("grid", [SQUARE, (14, 6), (4, 20)])
@pytest.mark.parametrize("draw", [random_mask, block_mask, grid_mask])
def test_ids_are_distinct_ascending_and_as_many_as_asked_for(draw, grid):
    patches = math.prod(grid)
    ids = draw(keys(200), grid, patches // 4)
    assert ids.shape == (200, patches // 4)
    assert ids.dtype == np.int64
    assert (np.diff(ids, axis=1) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < patches


def test_random_masks_show_each_patch_equally_often_and_pairs_independently():
    shown = np.zeros((N, GRID * GRID), bool)
    np.put_along_axis(shown, random_mask(keys(), SQUARE, 49), True, 1)
    rate = shown.mean(0)
    assert abs(rate - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / N)
    expected = 49 / 196 * 48 / 195  # without replacement
    both = (shown[:, :-1] & shown[:, 1:]).mean()
    assert abs(both - expected) < 0.002


def test_a_mask_depends_on_its_key_alone():
    some = random_mask(keys(50), SQUARE, 49)
    assert np.array_equal(random_mask(keys(50)[::-1], SQUARE, 49)[::-1], some)
    assert np.array_equal(block_mask(keys(50)[7:9], SQUARE, 98), block_mask(keys(50), SQUARE, 98)[7:9])


def test_grid_masks_keep_one_corner_of_each_cell():
    for down, across in (SQUARE, (14, 6), (2, 8)):
        picture = np.zeros((down, across), int)
        picture.ravel()[grid_mask(keys(1), (down, across), down * across // 4)[0]] = 1
        assert (picture[::2, ::2] == 1).all()
        assert (picture.reshape(down // 2, 2, across // 2, 2).sum((1, 3)) == 1).all()
    with pytest.raises(InputError, match=r"ratio 0\.75"):
        grid_mask(keys(1), SQUARE, 98)
    for odd in ((14, 7), (7, 14)):
        with pytest.raises(InputError, match=f"keeps a quarter of an even grid, got 24 of {odd[0]} x {odd[1]}"):
            grid_mask(keys(1), odd, 24)


@pytest.mark.parametrize("visible", [98, 49])
def test_block_masks_hide_neighbours_together(visible):
    def neighbours(ids: np.ndarray) -> float:
        hidden = np.ones((len(ids), GRID * GRID), bool)
        np.put_along_axis(hidden, ids, False, 1)
        hidden = hidden.reshape(-1, GRID, GRID)
        return (hidden[:, :, :-1] & hidden[:, :, 1:]).sum() / hidden[:, :, :-1].sum()

    blocks = neighbours(block_mask(keys(500), SQUARE, visible))
    scattered = neighbours(random_mask(keys(500), SQUARE, visible))
    assert blocks > scattered + 0.1
    assert len(np.unique(block_mask(keys(500), SQUARE, visible), axis=0)) == 500


def beits_block_mask(random: Random, grid: tuple[int, int], hide: int) -> set[int]:
    """BEiT's algorithm 1, patch by patch: rectangles of 16 or more of 196, none of which may hide too many."""
    (down, across), least = grid, max(1, 16 / 196 * math.prod(grid))
    hidden: set[int] = set()
    for _ in range(64):
        rest = hide - len(hidden)
        area, aspect = random.uniform(min(least, rest), rest), math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < down and 0 < width < across:
            top, left = random.randint(0, down - height), random.randint(0, across - width)
            new = {across * y + x for y in range(top, top + height) for x in range(left, left + width)} - hidden
            hidden |= new if len(new) <= rest else set()
    return hidden | set(random.sample(sorted(set(range(down * across)) - hidden), hide - len(hidden)))


@pytest.mark.parametrize(("grid", "hide"), [(SQUARE, 98), (SQUARE, 147), ((14, 6), 42), ((5, 16), 60)])
def test_block_masks_have_the_law_of_beits_with_what_is_missing_drawn_at_random(grid, hide):
    """Each patch is hidden as often, and so is each pair of patches that touch."""
    n, random = 2000, Random(0)
    theirs = np.zeros((n, *grid))
    for picture in theirs:
        picture.ravel()[list(beits_block_mask(random, grid, hide))] = 1
    ours = np.ones((n, *grid))
    np.put_along_axis(ours.reshape(n, -1), block_mask(keys(n), grid, math.prod(grid) - hide), 0, 1)
    sights = [(each, each[:, :, :-1] * each[:, :, 1:], each[:, :-1] * each[:, 1:]) for each in (ours, theirs)]
    for mine, other in zip(*sights, strict=True):  # patches; neighbours in a row; in a column
        rates = mine.mean(0), other.mean(0)
        assert abs(rates[0] - rates[1]).max() < 5 * math.sqrt(2 * 0.25 / n)
        sums = mine.sum((1, 2)), other.sum((1, 2))  # one number an image: the means' own spread is known
        spread = math.sqrt((sums[0].var() + sums[1].var()) / n)
        assert abs(sums[0].mean() - sums[1].mean()) <= 4 * spread


def test_small_grids_work():
    assert block_mask(keys(20), (4, 4), 8).shape == (20, 8)
    assert block_mask(keys(20), (1, 4), 2).shape == (20, 2)  # no rectangle leaves a row of it: random patches
    assert grid_mask(keys(2), (4, 4), 4).tolist() == [[0, 2, 8, 10]] * 2
    assert grid_mask(keys(2), (2, 6), 3).tolist() == [[0, 2, 4]] * 2


def test_the_counts_of_a_grid_are_those_of_its_patches():
    assert masks.visible_count(Mask(), (14, 7)) == 24  # int(98 · 0.25)
    assert masks.draw(Mask(), keys(3), (14, 7))[0].shape == (3, 24)
    for side in (4, 14):
        assert np.array_equal(masks.draw(Mask(), keys(5), side)[0], masks.draw(Mask(), keys(5), (side, side))[0])
