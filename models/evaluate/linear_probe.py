"""Linear probe: accuracy of a linear classifier that is fitted, to the optimum, to an encoder's frozen features."""

from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.few_shot_protocols.regression import LinearClassifier, fit
from models.evaluate.intervals import with_interval
from models.evaluate.knn import Tokens, check_files, check_tokens, feature_bank, labels_in_use, pooled_features
from models.evaluate.paired import open_other, paired
from models.full_precision import full_precision
from models.load import Loaded
from pipeline.evaluation.sweep import sweep_decodable
from pipeline.flags import POSITIVE, check_bounds
from pipeline.labels.splits import known_labels

TOLERANCE = 1e-4  # of every entry of the gradient, as scikit-learn's default


def fit_probe(known: Tensor, labels: Tensor, l2: float | None = None) -> LinearClassifier:
    """Fit multinomial logistic regression to features float [N, C] with labels i64 [N], standardised by feature.

    l2  penalty: mean cross-entropy + l2 / 2 · |W|²; None: 1 / N, which is scikit-learn's default, C = 1

    Deterministic, and without state between two calls: L-BFGS from zeros, so that a run that is resumed measures what
    an uninterrupted one does.
    """
    return fit(known, labels, int(labels.max()) + 1, 1 / len(known) if l2 is None else l2, tolerance=TOLERANCE)


def probe_hits(classifier: LinearClassifier, queries: Tensor, labels: Tensor) -> int:
    """Count the queries, float [M, C] with labels i64 [M], whose class has the largest logit."""
    return int((classifier(queries).argmax(1) == labels).sum())


@final
@dataclass(frozen=True)
class LinearProbe(Evaluator):
    """Linear classifier on frozen features, by logistic regression."""

    tokens: Tokens = "avg"
    """Features that it reads: the mean of the patches, or the class token."""
    l2: Annotated[float | None, POSITIVE] = None
    """Penalty of the weights, of a mean loss; 1 / images when absent, scikit-learn's C = 1."""
    split: str | None = None
    """Split of the training file whose labels are learned from; the recipe's when absent, "all": every label."""

    against: str | None = None
    """Another run, or one of its checkpoints: the difference in accuracy on the same images, with its interval and
    McNemar's test; a classifier is fitted to the features of each."""

    def run(self, loaded: Loaded) -> Result:
        """Measure probe: accuracy on the labelled images of `data.file`, learned from those of the recipe's training
        file; probe_low and probe_high are the ends of Wilson's 95 % interval.

        With `against` there are probe_against, probe_difference, ... (models.evaluate.paired), too.
        """
        check_bounds(self, "--")
        other = open_other(self, loaded, self.against, same_classes=False)
        for each in (loaded, *([other.run] if other else [])):
            check_tokens(each.method.eval_encoder, self.tokens, str(each.path))
        known, hits = self.measure(loaded)
        values = {"images": float(len(hits)), "known": float(known)}
        values |= with_interval("probe", int(hits.sum()), len(hits))
        if other is None:
            return Result(values)
        more, table = paired(loaded, other, {"probe": hits}, {"probe": self.measure(other.run)[1]})
        return Result(values | more, table)

    def measure(self, loaded: Loaded) -> tuple[int, Tensor]:
        """Fit the classifier; -> how many images it learned from, and on which images of `data.file` it is right, bool
        [N] on the host."""
        encoder = loaded.method.eval_encoder
        train = self.open(loaded, loaded.recipe.data.train, same_classes=False)
        test = self.open(loaded, same_classes=False)
        own = self.data.root in (None, loaded.recipe.data.root)
        known, wanted = labels_in_use(loaded, train, self.split, own=own), known_labels(test, None)
        check_files(train, known, test, wanted)
        device, test_ids = next(encoder.parameters()).device, np.asarray(wanted.ids)
        with full_precision(device):
            batches = sweep_decodable(self.data_of(loaded), train, device, np.asarray(known.ids), self.batch)
            ids, bank = feature_bank(encoder, batches, self.tokens)
            labels, query_labels = (torch.from_numpy(each).to(device) for each in (known[ids], wanted[test_ids]))
            queries = pooled_features(encoder, self.images(loaded, test, test_ids), self.tokens)
            right = fit_probe(bank, labels, self.l2)(queries).argmax(1) == query_labels
        return len(ids), right.cpu()
