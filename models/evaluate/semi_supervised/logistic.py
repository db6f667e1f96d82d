"""Logistic regression on the labelled images alone: what a classifier learns without the others."""

from models.evaluate.few_shot_protocols.held_out import Trial, linear
from models.evaluate.few_shot_protocols.regression import fit
from models.evaluate.semi_supervised.problem import Answer, Problem


def logistic(problem: Problem) -> Answer:
    """Choose the penalty on held-out labels, and fit to the optimum.

    Features are standardised by feature instead of scaled to length 1, as a linear probe's are (models.evaluate.
    linear_probe): one penalty then fits weights of every feature.
    """
    labelled, labels, remarks = problem.features[problem.rows], problem.labels, []
    trials = [Trial(labelled[a], labels[a], labelled[b], labels[b]) for a, b in problem.folds()]
    if trials:
        classifier, l2 = linear(problem.shots, labelled, trials, problem.classes, "accuracy")
    else:
        l2 = 1 / len(labelled)
        classifier = fit(labelled, labels, problem.classes, l2)
        remarks.append("logistic regression: too few labels to hold any out, so C is 1")
    found = [classifier(queries).softmax(1).float() for queries in problem.queries]
    return Answer(found, {"C": 1 / (l2 * len(labelled))}, remarks)
