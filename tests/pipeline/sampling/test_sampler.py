"""Which image when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from pipeline.errors import InputError
from pipeline.sampling.sampler import LABELLED, UNLABELLED, Sampler, Stream, rest, shares


def sampler(labels_only_steps: int = 0) -> Sampler:
    return Sampler(3, np.arange(0, 40, 4), np.arange(40), 4, 12, labels_only_steps)


def test_every_pass_shows_each_image_once():
    stream = Stream(np.arange(100, 137), 0, LABELLED)
    ids, passes = stream.take(0, 3 * 37)
    for number in range(3):
        assert sorted(ids[passes == number]) == list(range(100, 137))
    assert (np.diff(passes) >= 0).all()


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_repeated_images_come_in_a_row_as_timms_sampler_has_them(repeats):
    """timm draws no order without shuffling, so that its ids are the numbers of the images as they first come."""
    stream = Stream(np.arange(100, 137), 0, LABELLED, repeats)
    ids, passes = stream.take(0, 37)  # an epoch: as many images as the pool has, of them the first 37 / repeats
    _, first, number = np.unique(ids, return_index=True, return_inverse=True)
    theirs = RepeatAugSampler(range(37), num_replicas=1, rank=0, shuffle=False, num_repeats=repeats)
    assert np.argsort(np.argsort(first))[number].tolist() == list(map(int, theirs))
    ids, passes = stream.take(0, 4 * 37 * repeats)
    plain = Stream(np.arange(100, 137), 0, LABELLED).take(0, 4 * 37)
    assert ids.tolist() == np.repeat(plain.ids, repeats).tolist()
    assert (passes // repeats).tolist() == np.repeat(plain.passes, repeats).tolist()
    assert len(set(zip(ids.tolist(), passes.tolist(), strict=True))) == len(ids)  # so views of all of them differ


def test_repeated_images_are_a_function_of_the_position_and_of_no_world_size():
    stream = Stream(np.arange(23), 7, LABELLED, 3)
    slow = [tuple(int(part[0]) for part in stream.take(position, 1)) for position in range(100, 200)]
    assert list(zip(*(part.tolist() for part in stream.take(100, 100)), strict=True)) == slow
    whole, parts = (
        [Sampler(3, np.arange(40), None, 8, 0, repeats=3).at(5, chunk, chunks)[0].ids for chunk in range(chunks)]
        for chunks in (1, 4)
    )
    assert np.concatenate(parts).tolist() == whole[0].tolist()


def test_passes_seeds_and_streams_have_orders_that_know_nothing_of_each_other():
    ids = Stream(range(1000), 0, LABELLED).take(0, 3000).ids.reshape(3, 1000)
    others = [Stream(range(1000), *which).take(0, 1000).ids for which in ((0, UNLABELLED), (1, LABELLED), (-1, 1))]
    orders = [*ids, *others]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 8  # one agreement is expected of two random orders, eight in a millionth of pairs
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # 4.7 standard deviations


def test_a_pool_of_all_images_takes_no_list_and_no_time_to_begin():
    stream = Stream(range(10**12), 0, UNLABELLED)
    ids = stream.take(5 * 10**12 - 1000, 2000).ids
    assert ids.min() >= 0
    assert ids.max() < 10**12
    assert ids.max() > 9 * 10**11
    assert len(set(ids[:1000].tolist())) == len(set(ids[1000:].tolist())) == 1000
    assert (
        Stream(np.arange(77), 4, LABELLED).take(50, 99).ids.tolist()
        == Stream(range(77), 4, 1).take(50, 99).ids.tolist()
    )


@given(st.integers(1, 40), st.data())
def test_the_rest_of_a_pool_is_what_was_not_left_out(n, data):
    left_out = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    listed = np.setdiff1d(np.arange(n), left_out)
    pool = rest(n, left_out)
    assert len(pool) == len(listed)
    if len(pool) and len(left_out):
        assert pool[np.arange(len(pool))].tolist() == listed.tolist()
        assert (
            Stream(pool, 0, UNLABELLED).take(3, 50).ids.tolist()
            == Stream(listed, 0, UNLABELLED).take(3, 50).ids.tolist()
        )
    assert len(rest(n, range(n))) == 0


@given(st.integers(0, 500), st.integers(1, 50))
def test_a_stream_is_a_function_of_the_position(first, n):
    stream = Stream(np.arange(23), 7, LABELLED)
    slow = [int(stream.take(position, 1).ids[0]) for position in range(first, first + n)]
    assert stream.take(first, n).ids.tolist() == slow


@pytest.mark.parametrize("chunks", [2, 4])
def test_chunks_of_a_step_are_the_whole_step_at_any_world_size(chunks):
    for step in (0, 3, 11):
        whole = sampler().at(step)
        parts = [sampler().at(step, chunk, chunks) for chunk in range(chunks)]
        for stream in (0, 1):
            joined = np.concatenate([part[stream].ids for part in parts])
            assert joined.tolist() == whole[stream].ids.tolist()


def test_labels_only_steps_are_full_batches_and_the_labelled_stream_runs_on_without_a_gap():
    o = sampler(labels_only_steps=3)
    seen = [o.at(step) for step in range(8)]
    assert [len(labelled.ids) for labelled, _ in seen] == [16, 16, 16, 4, 4, 4, 4, 4]
    assert all(unlabelled is None for _, unlabelled in seen[:3])
    joined = np.concatenate([labelled.ids for labelled, _ in seen])
    assert joined.tolist() == o._stream(LABELLED).take(0, len(joined)).ids.tolist()
    assert seen[3][1].ids.tolist() == sampler().at(0)[1].ids.tolist()


def test_ratio_splits_a_batch_and_an_empty_part_is_refused():
    assert shares(832, 7, True, True) == (104, 728)
    assert shares(64, 7, True, False) == (64, 0)
    assert shares(64, 7, False, True) == (0, 64)
    with pytest.raises(InputError, match=r"enlarge data\.batch"):
        shares(4, 15, True, True)
