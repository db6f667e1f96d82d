"""Folds, the choice of settings, and the two methods that read labels alone."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from models.evaluate.few_shot_protocols.metric import Score
from models.evaluate.few_shot_protocols.shots import draw_shots
from models.evaluate.knn import knn_hits
from models.evaluate.semi_supervised import problem as module
from models.evaluate.semi_supervised.logistic import logistic
from models.evaluate.semi_supervised.neighbours import knn_probabilities, neighbours
from models.evaluate.semi_supervised.problem import Problem, choose, one_hot
from pipeline.labels.known import Labels

CLASSES = 4


def made(labelled: int, seed: int = 0) -> tuple[Problem, torch.Tensor]:
    """A problem of 80 images, so many of which are labelled, and 60 queries, with the queries' labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(140) % CLASSES
    x = torch.from_numpy(rng.normal(size=(CLASSES, 6))[labels] + 0.8 * rng.normal(size=(140, 6))).float()
    shots = draw_shots(Labels(80, np.arange(labelled), labels[:labelled]), labelled, 0)
    return Problem(x[:80], shots, CLASSES, [x[80:]]), torch.from_numpy(labels[80:])


def test_each_label_is_held_out_once_and_classes_stay_in_proportion(monkeypatch):
    problem, _ = made(40)
    folds = problem.folds()
    assert sorted(torch.cat([fold.held for fold in folds]).tolist()) == list(range(40))
    for learned, held in folds:
        assert sorted(torch.cat([learned, held]).tolist()) == list(range(40))
        assert torch.bincount(problem.labels[held]).tolist() == [2] * CLASSES
    monkeypatch.setattr(module, "MANY", 40)
    assert len(problem.folds()) == 1
    assert len(made(4)[0].folds()) == 0


def test_the_best_mean_is_chosen_and_of_equals_the_first():
    scores = {"a": [Score(0.5, -1), Score(0.7, -1)], "b": [Score(0.6, -1), Score(0.6, -0.5)],
              "c": [Score(0.6, -1), Score(0.6, -0.5)], "d": [Score(0.1, 9), Score(0.2, 9)]}  # fmt: skip
    assert choose(list("abcd"), scores.__getitem__) == "b"


def test_an_image_without_an_answer_is_wrong_and_any_answer_has_a_finite_loss():
    problem, _ = made(8)
    sure = one_hot(problem.labels, CLASSES)
    held = torch.arange(8)
    assert problem.scored(sure, held).value == 1
    silent = sure.clone()
    silent[:2] = 0
    assert problem.scored(silent, held).value == 0.75
    assert (silent[:2] == 0).all()  # the caller's stay as they are
    wrong = one_hot((problem.labels + 1) % CLASSES, CLASSES)
    assert problem.scored(wrong, held).value == 0
    assert problem.scored(wrong, held).minus_loss > -100


def test_votes_are_those_of_the_knn_evaluator():
    problem, truth = made(40)
    known, queries = (normalize(each, dim=1) for each in (problem.features[problem.rows], problem.queries[0]))
    for k in (1, 5, 40):
        found = knn_probabilities(known, one_hot(problem.labels, CLASSES), queries, k)
        assert torch.equal(found.argmax(1) == truth, knn_hits(known, problem.labels, queries, truth, (k,))[0])
        torch.testing.assert_close(found.sum(1), torch.ones(60))
    assert neighbours(problem).chosen["k"] in (1, 5, 20)
    alone = neighbours(made(4)[0])
    assert alone.chosen == {"k": 1}
    assert "too few labels to hold any out" in alone.remarks[0]


def test_logistic_regression_is_scikit_learns_at_the_chosen_c():
    for labelled in (40, 4):
        problem, _ = made(labelled)
        answer = logistic(problem)
        x = problem.features[problem.rows].double().numpy()
        mean, spread = x.mean(0), np.sqrt(x.var(0) + 1e-5)
        theirs = LogisticRegression(C=answer.chosen["C"], tol=1e-8, max_iter=10000)
        theirs.fit((x - mean) / spread, problem.labels.numpy())
        expected = theirs.predict_proba((problem.queries[0].double().numpy() - mean) / spread)
        np.testing.assert_allclose(answer.probabilities[0], expected, atol=2e-3)
        assert bool(answer.remarks) == (labelled == 4)
