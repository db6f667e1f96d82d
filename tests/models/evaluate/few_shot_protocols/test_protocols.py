"""What each protocol selects on: held_out without test's labels, ELEVATER's the epoch by them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from models.evaluate.few_shot_protocols.elevater import EPOCHS, MOMENTUM, MORE_EPOCHS, descend, elevater, logits_of
from models.evaluate.few_shot_protocols.features import linear_head
from models.evaluate.few_shot_protocols.finetune_loop import FineTuning
from models.evaluate.few_shot_protocols.metric import measured
from models.evaluate.few_shot_protocols.probe import probe_elevater, probe_held_out
from models.evaluate.few_shot_protocols.setting import FewShotSetting
from models.evaluate.few_shot_protocols.shots import Shots

CLASSES, EACH = 3, 5


def setting(protocol="held_out", left_only=False) -> FewShotSetting:
    made = SimpleNamespace(name="blobs", classes=("a", "b", "c"), val=None)
    return FewShotSetting(made, [], (EACH,), "accuracy", protocol, left_only, None, None, None)


def data(apart: float, seed: int = 0, each: int = EACH):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    centres = apart * torch.eye(CLASSES, 8)
    return centres[labels] + torch.randn(len(labels), 8, generator=g), labels


def shots() -> Shots:
    labels = np.repeat(np.arange(CLASSES), EACH)
    return Shots(np.arange(len(labels)), labels, np.tile(np.arange(EACH), CLASSES))


def permuted(labels):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))]


@pytest.fixture
def two_rates(monkeypatch):
    monkeypatch.setattr("models.evaluate.few_shot_protocols.elevater.RATES", [1e-2, 1e-1])


def test_what_the_held_out_protocol_selects_does_not_depend_on_tests_labels():
    features, (test, labels) = data(3.0)[0], data(3.0, 1, 40)
    right, wrong = (
        probe_held_out(setting(), shots(), features, (test, each), None) for each in (labels, permuted(labels))
    )
    assert right.selected == wrong.selected
    assert right.value > wrong.value + 0.1


def test_the_epoch_that_elevater_reports_does(two_rates):
    features, (test, labels) = data(1.0)[0], data(1.0, 1, 40)
    right, wrong = (
        probe_elevater(setting("elevater"), shots(), features, (test, each), 0).selected
        for each in (labels, labels.flip(0))
    )
    assert right.pop("epoch") != wrong.pop("epoch")
    assert right == wrong  # rate and penalty: of held-out shots


def test_both_separate_blobs_that_lie_apart(two_rates):
    features, test = data(40.0)[0], data(40.0, 1, 40)
    assert probe_held_out(setting(), shots(), features, test, None).value == 1.0
    assert probe_elevater(setting("elevater"), shots(), features, test, 0).value > 0.97


def test_a_val_file_selects_instead_of_the_shots():
    """It says that features mean nothing: the strongest penalty is the best."""
    features, test = data(2.0)[0], data(2.0, 1, 40)
    val = torch.randn(300, 8, generator=torch.Generator().manual_seed(3)), torch.arange(300) % CLASSES
    own, other = (
        probe_held_out(setting(), shots(), features, test, None),
        probe_held_out(setting(), shots(), features, test, val),
    )
    assert own.selected != other.selected


def test_the_best_of_fifty_epochs_is_reported_and_test_is_first_evaluated_after_the_search(two_rates):
    features, _ = data(1.0)
    made, evaluations = [], []
    values = iter([0.1] * 20 + [0.9] + [0.3] * (EPOCHS + MORE_EPOCHS - 21))

    def make() -> nn.Module:
        assert not evaluations
        made.append(0)
        return linear_head(8, CLASSES, 0)

    def on_test(model: nn.Module) -> float:
        evaluations.append(0)
        return next(values)

    found = elevater(make, features, shots(), on_test, "accuracy", 0)
    assert (found.value, found.epoch, len(evaluations)) == (0.9, 21, 50)
    assert 2 * 7 < len(made) <= 2 * 15 + 1


def test_descending_is_sgd_with_momentum_written_out():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 4, generator=g, dtype=torch.float64), torch.arange(6) % 2
    model, lr, l2 = nn.Linear(4, 2).double(), 0.3, 0.1
    weight, bias = (each.detach().clone() for each in (model.weight, model.bias))
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    assert descend(model, x, y, lr, l2, 3, 0, lambda m: m.weight[0, 0].item()) == pytest.approx(
        [_written_out(x, y, weight, bias, speeds, lr, l2) for _ in range(3)]
    )


def _written_out(x, y, weight, bias, speeds, lr, l2) -> float:
    slope = ((x @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(y, 2)) / len(x)
    for each, gradient, speed in zip((weight, bias), (slope.T @ x, slope.sum(0)), speeds, strict=True):
        speed.mul_(MOMENTUM).add_(gradient + l2 * each)
        each -= lr * speed
    return float(weight[0, 0])


def test_a_rate_that_diverges_is_only_wrong():
    features, labels = data(3.0)
    finite = []

    def on(model: nn.Module) -> float:
        finite.append(bool(model[1].weight.isfinite().all()))
        return measured(logits_of(model, features), labels, "accuracy")

    values = descend(linear_head(8, CLASSES, 0), features, labels, 0.1, 1e6, EPOCHS, 0, on)
    assert not all(finite)
    assert values[finite.index(False)] == 0


def test_the_tuning_flags_have_their_papers_defaults():
    assert (FineTuning().layer_decay, FineTuning().epochs) == (0.65, EPOCHS + MORE_EPOCHS)
