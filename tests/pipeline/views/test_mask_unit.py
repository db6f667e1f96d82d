"""SimMIM's units: counts, the right law, whole units."""

from itertools import combinations

import numpy as np
import pytest

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views import masks


def keys(n: int) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.MASK)


def units(ratio: float, unit: int = 2) -> Mask:
    return Mask("unit", ratio, unit)


@pytest.mark.parametrize(
    ("ratio", "grid", "unit", "visible"),
    [
        *((0.6, (14, 14), 2, 76), (0.6, (10, 10), 2, 40), (0.5, (4, 4), 2, 8), (0.6, (4, 4), 2, 4)),
        *((0.5, (14, 14), 7, 98), (0.75, (8, 8), 1, 16), (0.6, (14, 6), 2, 32), (0.6, (3, 15), 3, 18)),
    ],
)
def test_as_many_units_are_hidden_as_in_simmim(ratio, grid, unit, visible):
    """ceil(0.6 · 49) = 30 of 49 at 224 pixels; 0.6 · 25 = 15 exactly, of 21 units 13."""
    assert masks.visible_count(units(ratio, unit), grid) == visible
    ids, hidden = masks.draw(units(ratio, unit), keys(50), grid)
    assert hidden is None
    assert ids.shape == (50, visible)
    assert ids.dtype == np.int64
    assert (np.diff(ids, axis=1) > 0).all()
    (down, across), patches = grid, grid[0] * grid[1]
    assert ids.max() < patches
    shown = np.zeros((50, patches), int)
    np.put_along_axis(shown, ids, 1, 1)
    inside = shown.reshape(50, down // unit, unit, across // unit, unit).sum((2, 4))
    assert set(np.unique(inside)) == {0, unit * unit}


def test_each_choice_of_units_is_equally_likely():
    n = 6000
    ids, _ = masks.draw(units(0.5), keys(n), 4)
    corners = [0, 2, 8, 10]
    expected = [[p for c in pair for p in (c, c + 1, c + 4, c + 5)] for pair in combinations(corners, 2)]
    found = {tuple(sorted(each)): 0 for each in expected}
    for each in ids.tolist():
        found[tuple(each)] += 1
    counts = np.array(list(found.values()))
    assert ((counts - n / 6) ** 2 / (n / 6)).sum() < 20.5  # chi-square, 5 degrees of freedom: 0.1 %


def test_a_mask_depends_on_its_key_alone():
    whole, _ = masks.draw(units(0.6), keys(40), 14)
    assert np.array_equal(masks.draw(units(0.6), keys(40)[::-1][3:9], 14)[0], whole[::-1][3:9])


@pytest.mark.parametrize(("ratio", "unit", "grid", "says"), [
    (0.6, 2, 7, "units of 2 x 2 patches do not fill a grid of 7 x 7"),
    (0.6, 2, (14, 7), "units of 2 x 2 patches do not fill a grid of 14 x 7"),
    (0.6, 2, (7, 14), "units of 2 x 2 patches do not fill a grid of 7 x 14"),
    (0.6, 3, 14, "choose another data.mask.unit"),
    (0.99, 2, 14, "leaves 0 of 196 patches visible"),
    (0.0, 2, 14, "leaves 196 of 196 patches visible"),
])  # fmt: skip
def test_units_that_cannot_be_drawn_are_refused_in_a_line(ratio, unit, grid, says):
    with pytest.raises(InputError, match=says) as caught:
        masks.draw(units(ratio, unit), keys(1), grid)
    assert "\n" not in str(caught.value)
