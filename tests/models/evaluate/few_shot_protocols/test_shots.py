"""Shots are exactly k a class, a function of seed and file, and what is held out is not learned from."""

import numpy as np
import pytest

from models.evaluate.few_shot_protocols.shots import draw_shots
from pipeline.labels.known import Labels, every_label


def labels(counts: list[int], n: int = 200, seed: int = 0) -> Labels:
    """A file of n images in random order, so many of each class; the rest has no label."""
    values = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(n - sum(counts), -1)])
    stored = np.random.default_rng(seed).permutation(values)
    return every_label(stored, int((stored < 0).sum()))


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_there_are_k_different_images_of_every_class(k, seed):
    known = labels([30, 40, 50])
    shots = draw_shots(known, k, seed)
    assert np.bincount(shots.labels).tolist() == [k, k, k]
    assert len(set(shots.ids.tolist())) == 3 * k
    assert (known[shots.ids] == shots.labels).all()
    assert [shots.turns[shots.labels == c].tolist() for c in range(3)] == [list(range(k))] * 3


def test_the_same_seed_draws_the_same_and_another_does_not():
    known = labels([30, 40, 50])
    first, again, other = (draw_shots(known, 5, seed).ids.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_what_a_seed_draws_is_written_down():
    """On any machine, in any version: published numbers depend on it."""
    assert draw_shots(labels([6, 6], 12), 2, 0).ids.tolist() == [6, 3, 5, 0]


def test_a_class_draws_the_same_whatever_other_classes_there_are():
    known = labels([30, 40, 50])
    only = np.flatnonzero(known[np.arange(200)] == 1)
    alone = draw_shots(Labels(200, only, np.ones(len(only), np.int64)), 7, 3)
    shots = draw_shots(known, 7, 3)
    assert shots.ids[shots.labels == 1].tolist() == alone.ids.tolist()


@pytest.mark.parametrize("k", [2, 5])
def test_fewer_shots_are_the_first_of_more(k):
    known = labels([30, 40, 50])
    few, many = draw_shots(known, k, 4), draw_shots(known, 20, 4).first(k)
    assert few.ids.tolist() == many.ids.tolist()
    assert few.turns.tolist() == many.turns.tolist()


def test_every_image_is_drawn_about_as_often_as_any_other():
    known, times = labels([20], 20), np.zeros(20)
    for seed in range(400):
        times[draw_shots(known, 5, seed).ids] += 1
    assert times.sum() == 2000
    assert ((times - 100) ** 2 / 100).sum() < 45  # chi-squared, 19 degrees of freedom: 99.9 % are below 43.8


def test_a_class_with_fewer_gives_all_of_them():
    shots = draw_shots(labels([3, 40, 0, 50]), 5, 0)
    assert np.bincount(shots.labels, minlength=4).tolist() == [3, 5, 0, 5]
    assert shots.fewer(5, 4).tolist() == [0, 2]
    assert shots.fewer(3, 4).tolist() == [2]


def test_a_file_without_labels_gives_none():
    assert len(draw_shots(labels([0, 0]), 5, 0)) == 0


@pytest.mark.parametrize(("k", "held"), [(2, 1), (5, 1), (6, 2), (20, 4), (50, 10)])
def test_folds_hold_out_a_fifth_of_each_class_and_together_every_image_once(k, held):
    shots = draw_shots(labels([60, 60]), k, 0)
    assert np.bincount(shots.labels[shots.fold(0)[1]]).tolist() == [held, held]
    out = [shots.fold(number)[1] for number in range(5)]
    assert sorted(np.concatenate(out).tolist()) == list(range(2 * k))
    for number in range(5):
        assert sorted([*shots.fold(number)[0], *out[number]]) == list(range(2 * k))
