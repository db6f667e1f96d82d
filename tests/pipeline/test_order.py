"""Which image when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.order import LABELLED, Order, Stream, shares


def order(labels_only_steps: int = 0) -> Order:
    return Order(3, np.arange(0, 40, 4), np.arange(40), 4, 12, labels_only_steps)


def test_every_pass_shows_each_image_once():
    stream = Stream(np.arange(100, 137), 0, LABELLED)
    ids, passes = stream.take(0, 3 * 37)
    for number in range(3):
        assert sorted(ids[passes == number]) == list(range(100, 137))
    assert (np.diff(passes) >= 0).all()


def test_passes_are_in_different_orders_and_seeds_too():
    ids, _ = Stream(np.arange(37), 0, LABELLED).take(0, 74)
    assert (ids[:37] != ids[37:]).any()
    assert (ids[:37] != Stream(np.arange(37), 1, LABELLED).take(0, 37).ids).any()


@given(st.integers(0, 500), st.integers(1, 50))
def test_a_stream_is_a_function_of_the_position(first, n):
    stream = Stream(np.arange(23), 7, LABELLED)
    slow = [int(stream.take(position, 1).ids[0]) for position in range(first, first + n)]
    assert stream.take(first, n).ids.tolist() == slow


@pytest.mark.parametrize("chunks", [2, 4])
def test_chunks_of_a_step_are_the_whole_step_at_any_world_size(chunks):
    for step in (0, 3, 11):
        whole = order().at(step)
        parts = [order().at(step, chunk, chunks) for chunk in range(chunks)]
        for stream in (0, 1):
            joined = np.concatenate([part[stream].ids for part in parts])
            assert joined.tolist() == whole[stream].ids.tolist()


def test_labels_only_steps_are_full_batches_and_the_labelled_stream_runs_on_without_a_gap():
    o = order(labels_only_steps=3)
    seen = [o.at(step) for step in range(8)]
    assert [len(labelled.ids) for labelled, _ in seen] == [16, 16, 16, 4, 4, 4, 4, 4]
    assert all(unlabelled is None for _, unlabelled in seen[:3])
    joined = np.concatenate([labelled.ids for labelled, _ in seen])
    assert joined.tolist() == o._stream(LABELLED).take(0, len(joined)).ids.tolist()
    assert seen[3][1].ids.tolist() == order().at(0)[1].ids.tolist()


def test_ratio_splits_a_batch_and_an_empty_part_is_refused():
    assert shares(832, 7, True, True) == (104, 728)
    assert shares(64, 7, True, False) == (64, 0)
    assert shares(64, 7, False, True) == (0, 64)
    with pytest.raises(InputError, match=r"enlarge data\.batch"):
        shares(4, 15, True, True)
