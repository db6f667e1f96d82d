"""k nearest neighbours among the labelled images: what features give without learning, the row to beat."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.evaluate.few_shot_protocols.metric import Score
from models.evaluate.knn import CHUNK, TEMPERATURE
from models.evaluate.semi_supervised.problem import Answer, Problem, choose, one_hot

KS = 1, 5, 20, 200


def knn_probabilities(known: Tensor, targets: Tensor, queries: Tensor, k: int) -> Tensor:
    """Compute the shares of the votes of the k nearest of `known`, f32 [M, C], weighted as models.evaluate.knn's.

    known    f32 [N, D], of length 1, with targets f32 [N, C]
    queries  f32 [M, D], of length 1
    """
    found = []
    for rows in queries.split(CHUNK):
        near, index = (rows @ known.T).topk(min(k, len(known)), dim=1)
        weights = (near / TEMPERATURE).softmax(1)
        found.append((weights[..., None] * targets[index]).sum(1))
    return torch.cat(found)


def neighbours(problem: Problem) -> Answer:
    """Choose k on held-out labels, and let the labelled images vote."""
    features = normalize(problem.features[problem.rows], dim=1)
    targets, folds = one_hot(problem.labels, problem.classes), problem.folds()
    smallest = min([len(fold.learned) for fold in folds], default=1)

    def scores(k: int) -> list[Score]:
        learned = (knn_probabilities(features[f.learned], targets[f.learned], features[f.held], k) for f in folds)
        return [problem.scored(each, fold.held) for each, fold in zip(learned, folds, strict=True)]

    k = choose([k for k in KS if k <= smallest], scores) if folds else 1
    found = [knn_probabilities(features, targets, normalize(queries, dim=1), k) for queries in problem.queries]
    return Answer(found, {"k": k}, [] if folds else ["k-NN: too few labels to hold any out, so k is 1"])
