import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.known import Labels, every_label, no_labels


@given(st.lists(st.integers(-1, 9), min_size=1, max_size=40), st.data())
def test_labels_that_are_shown_come_back_and_all_others_are_hidden(stored, data):
    stored = np.array(stored)
    shown = data.draw(st.sets(st.integers(0, len(stored) - 1)))
    ids = np.array(sorted(i for i in shown if stored[i] >= 0), np.int64)
    asked = np.array(data.draw(st.lists(st.integers(0, len(stored) - 1), min_size=1)))
    found = Labels(len(stored), ids, stored[ids])[asked]
    assert found.dtype == np.int64
    assert found.tolist() == [int(stored[i]) if i in ids else -1 for i in asked]
    every = every_label(stored, int((stored < 0).sum()))
    assert every[asked].tolist() == stored[asked].tolist()
    assert list(every.ids) == np.flatnonzero(stored >= 0).tolist()


def test_where_every_label_may_be_seen_nothing_is_copied():
    stored = np.arange(10)
    labels = every_label(stored, 0)
    assert labels.ids == range(10)
    assert labels.values is stored


def test_without_labels_there_are_none():
    labels = no_labels(10**12)
    assert len(labels) == 10**12
    assert labels[np.array([0, 10**12 - 1])].tolist() == [-1, -1]
    assert not len(labels.ids)


@pytest.mark.parametrize("beyond", [-1, 3])
def test_samples_that_are_not_there_are_refused(beyond):
    labels = Labels(3, np.array([1]), np.array([7]))
    assert list(labels) == [-1, 7, -1]
    with pytest.raises(IndexError):
        labels[np.array([0, beyond])]
