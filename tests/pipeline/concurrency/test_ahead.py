"""How far work is begun before its result is used."""

from collections.abc import Iterator

import pytest

from pipeline.concurrency.ahead import ahead


@pytest.mark.parametrize("count", [0, 1, 3])
def test_count_items_are_begun_beyond_the_one_in_use_and_none_is_lost(count: int) -> None:
    begun: list[int] = []

    def begin() -> Iterator[int]:
        for item in range(9):
            begun.append(item)
            yield item

    for used, item in enumerate(ahead(begin(), count)):
        assert item == used
        assert len(begun) == min(9, used + 1 + count)
    assert begun == list(range(9))


def test_items_that_were_begun_before_an_error_are_not_handed_out_after_it() -> None:
    def begin() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("storage")

    items = ahead(begin())
    assert next(items) == 0
    with pytest.raises(OSError, match="storage"):
        next(items)
    assert list(items) == []
