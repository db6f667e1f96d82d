"""LoMaR's windows: counts, places, laws, and what the authors' code gets wrong."""

from collections import Counter
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views import masks

LOMAR = Mask("window", 0.8)
TINY = Mask("window", 0.5, window=2, windows=2)


def keys(n: int) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.MASK)


def places(visible: np.ndarray, hidden: np.ndarray, across: int) -> np.ndarray:
    """Upper left patch of each window, i64 [N, W]; checks that the patches are those of a square."""
    ids = np.sort(np.concatenate([visible, hidden], 2), axis=2)
    side = round(ids.shape[2] ** 0.5)
    first = ids[:, :, 0]
    inside = np.array([y * across + x for y, x in product(range(side), repeat=2)])
    assert (first % across + side <= across).all()
    assert np.array_equal(ids, first[:, :, None] + inside)
    return first


@pytest.mark.parametrize(
    ("mask", "grid", "visible", "hidden"),
    [
        (LOMAR, (14, 14), 10, 39),
        (Mask("window", 0.75), (14, 14), 13, 36),
        (Mask("window", 0.7, window=3), (4, 4), 3, 6),
        (LOMAR, (10, 10), 10, 39),
        (LOMAR, (14, 7), 10, 39),
        (Mask("window", 0.7, window=3), (3, 9), 3, 6),
    ],
)
def test_windows_are_squares_with_lomars_counts_at_every_size(mask, grid, visible, hidden):
    """int(0.8 · 49) = 39 of 49 hidden."""
    assert masks.visible_count(mask, grid) == visible
    seen, unseen = masks.draw(mask, keys(60), grid)
    assert seen.shape == (60, 4, visible)
    assert unseen.shape == (60, 4, hidden)
    assert seen.dtype == unseen.dtype == np.int64
    for part in (seen, unseen):
        assert (np.diff(part, axis=2) > 0).all()
        assert part.max() < grid[0] * grid[1]
    places(seen, unseen, grid[1])


@pytest.mark.parametrize("batch", [1, 4, 7, 8, 256])
def test_every_image_gets_distinct_windows_for_any_batch_size(batch):
    """The authors' code pairs images and places in two orders: one place an image where 4 divides the batch."""
    assert [len(set(row)) for row in places(*masks.draw(LOMAR, keys(batch), 14), 14)] == [4] * batch


def test_an_images_windows_are_its_own_whatever_the_batch():
    whole = masks.draw(LOMAR, keys(64), 14)
    for some in (keys(64)[5:6], keys(64)[5:9], keys(64)[::-1][10:30]):
        at = [int(np.flatnonzero(keys(64) == key)[0]) for key in some]
        for part, expected in zip(masks.draw(LOMAR, some, 14), whole, strict=True):
            assert np.array_equal(part, expected[at])
    assert len({tuple(row) for row in places(*whole, 14)}) == 64


def test_each_set_of_places_is_equally_likely():
    """All 36 pairs of the 9 places of a 2 x 2 window on a 4 x 4 grid."""
    n = 7200
    found = Counter(tuple(row) for row in places(*masks.draw(TINY, keys(n), 4), 4))
    corners = [4 * y + x for y, x in product(range(3), repeat=2)]
    counts = np.array([found.pop(pair) for pair in combinations(corners, 2)])
    assert not found
    assert ((counts - n / 36) ** 2 / (n / 36)).sum() < 66.6  # chi-square, 35 degrees of freedom: 0.1 %


def test_each_set_of_places_of_a_wide_grid_is_equally_likely():
    """All 10 pairs of the 5 places of a 2 x 2 window on a 2 x 6 grid."""
    n = 3000
    found = Counter(tuple(row) for row in places(*masks.draw(TINY, keys(n), (2, 6)), 6))
    counts = np.array([found.pop(pair) for pair in combinations(range(5), 2)])
    assert not found
    assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 27.9  # chi-square, 9 degrees of freedom: 0.1 %


def test_each_mask_is_equally_likely_and_windows_are_masked_independently():
    n = 7200
    seen, unseen = masks.draw(TINY, keys(n), 4)
    first = places(seen, unseen, 4)
    drawn = [tuple(map(tuple, row)) for row in (seen - first[:, :, None]).tolist()]
    single = list(combinations([0, 1, 4, 5], 2))
    found = Counter(drawn)
    counts = np.array([found[pair] for pair in product(single, repeat=2)])
    assert counts.sum() == n
    assert ((counts - n / comb(4, 2) ** 2) ** 2 / (n / 36)).sum() < 66.6
    by_place = Counter((int(f[0]), mask[0]) for f, mask in zip(first, drawn, strict=True))
    for place, share in Counter(int(f[0]) for f in first).items():  # the mask does not depend on where the window is
        each = np.array([by_place[place, mask] for mask in single])
        assert share < 30 or ((each - share / 6) ** 2 / (share / 6)).sum() < 25.7  # 5 degrees: 0.01 %


def test_the_authors_places_are_one_an_image_with_masks_of_their_own():
    seen, unseen = masks.draw(Mask("window", 0.8, same_place=True), keys(40), 14)
    first = places(seen, unseen, 14)
    assert (first == first[:, :1]).all()
    assert len(set(first[:, 0])) > 10
    assert all(len({tuple(window) for window in image}) == 4 for image in seen.tolist())


@pytest.mark.parametrize(("mask", "grid", "says"), [
    (LOMAR, 6, "a window of 7 x 7 patches does not fit a grid of 6 x 6; lower data.mask.window"),
    (LOMAR, (14, 6), "a window of 7 x 7 patches does not fit a grid of 14 x 6; lower data.mask.window"),
    (LOMAR, (9, 7), "a grid of 9 x 7 has 3 places for a window of 7 x 7 patches, 4 were asked for"),
    (Mask("window", 0.8, window=0), 14, "a window of 0 x 0 patches does not fit"),
    (LOMAR, 7, "a grid of 7 x 7 has 1 places for a window of 7 x 7 patches, 4 were asked for"),
    (Mask("window", 0.01), 14, "mask ratio 0.01 hides 0 of a window's 49 patches"),
    (Mask("window", 1.0), 14, "mask ratio 1 hides 49 of a window's 49 patches"),
])  # fmt: skip
def test_windows_that_cannot_be_drawn_are_refused_in_a_line(mask, grid, says):
    with pytest.raises(InputError, match=says) as caught:
        masks.draw(mask, keys(1), grid)
    assert "\n" not in str(caught.value)


def test_as_many_windows_as_there_are_places_are_all_of_them():
    seen, unseen = masks.draw(Mask("window", 0.5, window=3, windows=4), keys(5), 4)
    assert places(seen, unseen, 4).tolist() == [[0, 1, 4, 5]] * 5
    assert masks.draw(Mask("window", 0.5, window=4, windows=3, same_place=True), keys(5), 4)[0].shape == (5, 3, 8)
