"""Images with several labels: which are shots, what is held out, what is learned, how it is measured."""

import random

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve, roc_auc_score

from models.evaluate.few_shot_protocols.metric import measured, score
from models.evaluate.few_shot_protocols.ranking import area_under_roc, average_precision_11
from models.evaluate.few_shot_protocols.regression import fit
from models.evaluate.few_shot_protocols.several_labels import few_of, held_out
from models.evaluate.few_shot_protocols.shots import FOLDS, draw_several
from models.evaluate.few_shot_protocols.targets import target_loss
from pipeline.errors import InputError


def labels(n=300, classes=6, seed=0) -> np.ndarray:
    """Rows of 1 and 0, of classes that are ever rarer, a few without any."""
    share = 0.5 / np.arange(1, classes + 1)
    return (np.random.default_rng(seed).random((n, classes)) < share).astype(np.float32)


def slowly(table: np.ndarray, k: int) -> list[int]:
    """The library's rule, on lists of labels, image by image."""
    images, taken, without = [0] * table.shape[1], [], 0
    for i, row in enumerate(table):
        of = [c for c in range(len(row)) if row[c]]
        if of == []:
            if without < k:
                without += 1
                taken.append(i)
            continue
        numbers = [images[c] for c in of]
        if min(numbers) >= k:
            continue
        if min(numbers) <= k / 2 or max(numbers) <= 1.5 * k:
            taken.append(i)
            for c in of:
                images[c] += 1
        if min(images) >= k:
            break
    return taken


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shots_are_those_of_elevaters_rule(k, seed):
    table = labels(seed=seed)
    assert few_of(table, k).tolist() == slowly(table, k)


def test_a_draw_depends_on_seed_and_images_alone():
    table, ids = labels(), np.arange(300)
    first, again, other = (draw_several(ids, table, seed).first(5) for seed in (0, 0, 1))
    assert first.ids.tolist() == again.ids.tolist() != other.ids.tolist()
    assert (first.labels == table[first.ids]).all()
    some = np.flatnonzero(ids % 2)
    order = [i for i in draw_several(ids, table, 0).ids.tolist() if i % 2]
    assert draw_several(some, table[some], 0).ids.tolist() == order


def test_classes_with_fewer_images_are_counted_by_label():
    table = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    assert draw_several(np.arange(2), table, 0).fewer(2, 3).tolist() == [1, 2]


def test_the_first_fold_holds_out_what_elevaters_toolkit_does():
    table = labels(60)
    wanted, left, expected = np.ceil(table.sum(0) * 0.2), table.copy(), []
    while (wanted > 0).any():
        each = int(np.flatnonzero(wanted > 0)[0])
        row = int(np.flatnonzero(left[:, each] > 0)[0])
        expected.append(row)
        wanted -= left[row]
        left[row] = 0
    assert held_out(table, FOLDS, 0).tolist() == sorted(expected)


def test_folds_do_not_overlap_and_leave_the_rest_to_learn_on():
    shots = draw_several(np.arange(300), labels(), 0).first(20)
    out = [shots.fold(number)[1].tolist() for number in range(FOLDS)]
    assert sum(map(len, out)) == len({row for rows in out for row in rows})
    for number in range(FOLDS):
        assert sorted([*shots.fold(number)[0].tolist(), *out[number]]) == list(range(len(shots)))
    assert shots.labels[out[0]].sum(0).min() >= 4


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_each_class_is_learned_as_scikit_learn_learns_it_alone(l2):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(80, 5, generator=g, dtype=torch.float64)
    table = (features[:, :3] + torch.randn(80, 3, generator=g, dtype=torch.float64) > 0.3).double()
    found = fit(features, table, 3, l2, tolerance=1e-8)
    x = ((features - found.mean) / found.spread).numpy()
    for each in range(3):
        oracle = LogisticRegression(C=1 / (80 * l2), tol=1e-10, max_iter=10_000).fit(x, table[:, each].numpy())
        assert np.allclose(found.weights[:-1, each], oracle.coef_[0], atol=1e-4)
        assert found.weights[-1, each].item() == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_the_loss_is_the_mean_over_images_and_classes():
    logits, table = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    pairs = zip(logits.flatten().tolist(), table.flatten().tolist(), strict=True)
    terms = [-np.log(1 / (1 + np.exp(-z if y else z))) for z, y in pairs]
    assert target_loss(logits, table).item() == pytest.approx(float(np.mean(terms)))
    assert score(logits, table, "map_11_points").minus_loss == pytest.approx(-float(np.mean(terms)))


def by_scikit_learn(scores: np.ndarray, relevant: np.ndarray) -> float:
    """ELEVATER's loop over scikit-learn's curve."""
    precision, recall, _ = precision_recall_curve(relevant, scores)
    total, i, highest = 0.0, 0, 0.0
    for threshold in np.linspace(1, 0, 11).tolist():
        while i < len(recall) and threshold <= recall[i]:
            highest = max(highest, precision[i])
            i += 1
        total += highest
    return total / 11


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_and_the_roc_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 60))
    scores, relevant = rng.integers(0, 12, n) / 7, (rng.random(n) < 0.4).astype(int)  # many ties
    relevant[:2] = 0, 1
    assert average_precision_11(scores, relevant) == pytest.approx(by_scikit_learn(scores, relevant))
    assert area_under_roc(scores, relevant) == pytest.approx(roc_auc_score(relevant, scores))


def test_map_is_the_mean_over_the_classes_that_occur_of_their_softmax():
    g = torch.Generator().manual_seed(3)
    logits, table = torch.randn(40, 4, generator=g), torch.from_numpy(labels(40, 4))
    table[:, 2] = 0
    likely = logits.double().softmax(1).numpy()
    expected = np.mean([by_scikit_learn(likely[:, each], table[:, each].numpy()) for each in (0, 1, 3)])
    assert measured(logits, table, "map_11_points") == pytest.approx(expected)
    assert measured(logits * float("nan"), table, "map_11_points") == 0


def test_the_roc_is_of_the_second_class_and_of_both():
    rng = random.Random(0)
    known = torch.tensor([rng.randrange(2) for _ in range(50)])
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    expected = roc_auc_score(known.numpy(), logits.double().softmax(1)[:, 1].numpy())
    assert measured(logits, known, "roc_auc") == pytest.approx(expected)
    assert measured(torch.full((50, 2), float("inf")), known, "roc_auc") == 0
    with pytest.raises(InputError, match="both classes, found one"):
        measured(logits, torch.ones(50, dtype=torch.int64), "roc_auc")
