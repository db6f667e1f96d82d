"""Micro-batches: the fewest that fit, by definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from models.distributed.micro_batches import micro_batches
from pipeline.errors import InputError


@given(some.integers(1, 6), some.integers(1, 12), some.integers(0, 12), some.integers(1, 40))
def test_they_are_the_fewest_even_ones(world: int, first: int, second: int, room: int) -> None:
    parts = [first * world, second * world]
    counts = [
        n for n in range(1, 41) if first % n == 0 and second % n == 0 and first // n + second // n <= room
    ]  # by definition; 0 % n == 0
    if counts:
        assert micro_batches(parts, world, room) == min(counts)
    else:
        with pytest.raises(InputError, match=r"run\.device_images"):
            micro_batches(parts, world, room)


def test_without_a_limit_nothing_is_accumulated() -> None:
    assert micro_batches([104, 728], 8, None) == 1
    assert micro_batches([104, 728], 8, 8) == math.gcd(13, 91)


def test_a_step_that_does_not_divide_over_the_devices_is_refused() -> None:
    with pytest.raises(InputError, match=r"104 \+ 760 images does not divide over 16"):
        micro_batches([104, 760], 16, None)
