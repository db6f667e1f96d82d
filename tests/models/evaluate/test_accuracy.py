"""Hits against a slow loop, with a method whose scores are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.evaluate.accuracy import hits


class Known:
    """Scores that were decided beforehand; image i has i in its first pixel."""

    def __init__(self, scores: Tensor):
        self.scores = scores

    def logits(self, images: Tensor) -> Tensor:
        return self.scores[images[:, 0, 0, 0].long()]


def images(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4)


@pytest.mark.parametrize("classes", [2, 5, 12])
@pytest.mark.parametrize("batch", [7, 40, 64])
def test_hits_are_those_of_a_slow_loop(classes, batch):
    generator = torch.Generator().manual_seed(classes)
    scores = torch.rand(40, classes, generator=generator)
    labels = torch.randint(classes, (40,), generator=generator)
    first = five = 0
    for row, label in zip(scores.numpy(), labels.tolist(), strict=True):
        best = np.argsort(-row)
        first += best[0] == label
        five += label in best[:5]
    found = hits(Known(scores), images(40).split(batch), labels)
    assert found.tolist() == [first, five, 40]
    assert found.dtype == torch.float64
    assert 0 < first < 40


def test_a_perfect_and_a_reversed_classifier_are_told_apart():
    labels = torch.arange(20) % 10
    right = torch.nn.functional.one_hot(labels, 10).float()
    assert hits(Known(right), [images(20)], labels).tolist() == [20, 20, 20]
    assert hits(Known(-right), [images(20)], labels).tolist()[0] == 0


def test_labels_follow_the_batches():
    """Each batch is compared with its own labels, not with the first ones."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    right = torch.nn.functional.one_hot(labels, 3).float()
    assert hits(Known(right), images(8).split(3), labels)[0] == 8


def test_no_images_are_no_hits():
    assert hits(Known(torch.zeros(0, 3)), [], torch.zeros(0, dtype=torch.int64)).tolist() == [0, 0, 0]
