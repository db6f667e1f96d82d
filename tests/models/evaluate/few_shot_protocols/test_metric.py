"""Metrics against scikit-learn's, and what cannot be a number."""

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from models.evaluate.few_shot_protocols.metric import measured, score


def test_both_are_scikit_learns():
    g = torch.Generator().manual_seed(0)
    labels, guessed = torch.randint(0, 16, (200,), generator=g).sqrt().long(), torch.randint(0, 4, (200,), generator=g)
    logits = torch.nn.functional.one_hot(guessed, 5).float()  # the fifth class never occurs
    assert measured(logits, labels, "accuracy") == pytest.approx(accuracy_score(labels, guessed))
    assert measured(logits, labels, "per_class") == pytest.approx(balanced_accuracy_score(labels, guessed))


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    logits, labels = torch.eye(2)[[0] * 10], torch.tensor([0] * 9 + [1])
    assert measured(logits, labels, "accuracy") == pytest.approx(0.9)
    assert measured(logits, labels, "per_class") == pytest.approx(0.5)


def test_of_the_same_accuracy_the_smaller_loss_is_better():
    labels = torch.tensor([0, 1])
    sure, unsure = score(5 * torch.eye(2), labels, "accuracy"), score(torch.eye(2), labels, "accuracy")
    assert sure > unsure
    assert sure.value == unsure.value == 1


def test_what_is_not_finite_is_wrong_and_loses():
    labels = torch.zeros(4, dtype=torch.int64)
    found = score(torch.full((4, 2), float("nan")), labels, "accuracy")
    assert found == (0.0, -float("inf"))
    assert found < score(torch.zeros(4, 2), labels, "accuracy")
