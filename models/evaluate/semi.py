"""What few labels give on frozen features, with unlabelled images and without: what fine-tuning has to beat."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple, final

import numpy as np
import torch

from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.few_shot_protocols.features import Pool
from models.evaluate.few_shot_protocols.shots import draw_shots
from models.evaluate.intervals import LEVEL, shown, wilson, with_interval
from models.evaluate.knn import check_files, labels_in_use, split_in_use
from models.evaluate.semi_supervised.feature_cache import FeatureCache
from models.evaluate.semi_supervised.gaussian_mixture import gaussian_mixture
from models.evaluate.semi_supervised.label_spreading import label_spreading
from models.evaluate.semi_supervised.logistic import logistic
from models.evaluate.semi_supervised.neighbours import neighbours
from models.evaluate.semi_supervised.problem import Answer, Problem
from models.load import Loaded
from models.reporting.render import Table, Text
from pipeline import text
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, check_bounds
from pipeline.labels.known import Labels
from pipeline.labels.splits import known_labels
from pipeline.store.beton import Beton

METHODS: dict[str, tuple[str, Callable[[Problem], Answer]]] = {
    "knn": ("k nearest labelled images", neighbours),
    "logistic": ("logistic regression on the labels", logistic),
    "graph": ("label spreading", label_spreading),
    "mixture": ("Gaussian mixture", gaussian_mixture),
}


class Measured(NamedTuple):
    """A file that accuracy is measured on, under its stem, with every label of it."""

    name: str
    beton: Beton
    labels: Labels


@final
@dataclass(frozen=True)
class Semi(Evaluator):
    """Few labels on frozen features: k-NN, logistic regression, label spreading, a Gaussian mixture."""

    split: str | None = None
    """Split of the training file whose labels are learned from; the recipe's when absent, "all": every label."""
    pool: Pool = "recipe"
    """Features: those that the recipe's classifier reads, the class token, or the mean of the patches."""
    most: Annotated[int, AT_LEAST_1] = 50_000
    """Training images to learn from: of more, every labelled one and a draw of the others. Label spreading compares
    each with each, so that twice as many take four times as long."""

    def run(self, loaded: Loaded) -> Result:
        """Measure METHOD_FILE, and its 95 % interval METHOD_FILE_low and _high, for each method on val and, where the
        recipe has one, test; and METHOD_seconds.

        Only labels of the split are learned from, and all settings are chosen on fifths of them that are held out.
        """
        check_bounds(self, "--")
        train = self.open(loaded, loaded.recipe.data.train, same_classes=False)
        own = self.data.root in (None, loaded.recipe.data.root)
        known, files = labels_in_use(loaded, train, self.split, own=own), self.files(loaded)
        for each in files:
            check_files(train, known, each.beton, each.labels)
        split = split_in_use(loaded, train, self.split, own=own)
        ids, said = self.drawn(train, known, None if split is None else split.unlabelled)
        print(said)
        cache = FeatureCache.beside(loaded, self.data_of(loaded), self.pool, self.batch)
        bank = cache.features(train, ids)
        labelled = np.asarray(known.ids)
        rows = np.flatnonzero(np.isin(bank.ids, labelled))
        if not len(rows):
            raise InputError(f"none of the {len(labelled):,} labelled images of {train.path} decodes; convert it again")
        shots = draw_shots(Labels(len(bank.ids), rows, known[bank.ids[rows]]), len(rows), 0)
        queries = [cache.features(file.beton, np.asarray(file.labels.ids), every=True).features for file in files]
        return measure(Problem(bank.features, shots, len(train.manifest.classes or ()), queries), files, said)

    def files(self, loaded: Loaded) -> list[Measured]:
        """Open the files to measure on: the one that the flags name, else the recipe's val and test."""
        data = loaded.recipe.data
        names = [self.data.file] if self.data.file else [data.val, *([data.test] if data.test else [])]
        opened = [self.open(loaded, name, same_classes=False) for name in dict.fromkeys(names)]
        return [Measured(beton.path.stem, beton, known_labels(beton, None)) for beton in opened]

    def drawn(self, train: Beton, known: Labels, pool: np.ndarray | None = None) -> tuple[np.ndarray, str]:
        """Return the ids i64 of the images to learn from, ascending, and what they are, in one line.

        pool  ids i64 of the unlabelled images, where the split names them; None: every image without a known label

        Raises InputError if there are more labelled ones than `most`.
        """
        labelled, most = np.asarray(known.ids), self.most
        if len(labelled) > most:
            raise InputError(
                f"{train.path} has {len(labelled):,} known labels, more than --most {most:,}; give a --split of fewer, "
                "or a larger --most, of which label spreading takes the square in time"
            )
        order = np.random.default_rng(0).permutation(train.n)  # of all images: splits of one file share their features
        others = order[~np.isin(order, labelled)]
        others = others if pool is None else others[np.isin(others, pool)]
        kept, left = others[: most - len(labelled)], ""
        if len(kept) < len(others):
            left = f" ({len(others) - len(kept):,} more are left out: --most {most:,})"
        said = f"{train.path}: {len(labelled):,} labelled and {len(kept):,} unlabelled images{left}"
        return np.union1d(labelled, kept), said


def measure(problem: Problem, files: list[Measured], said: str) -> Result:
    """Apply every method, and put its accuracy on each file into a line of a table."""
    values: dict[str, float] = {}
    values |= {"known": float(len(problem.shots)), "unlabelled": float(len(problem.features) - len(problem.shots))}
    rows, remarks = [], []
    for name, (title, method) in METHODS.items():
        began, cells = time.perf_counter(), []
        answer = method(problem)
        seconds = time.perf_counter() - began
        for file, probabilities in zip(files, answer.probabilities, strict=True):
            labels = torch.from_numpy(file.labels[np.asarray(file.labels.ids)])
            right = (probabilities.argmax(1) == labels) & (probabilities.sum(1) > 0)
            n = len(labels)
            values |= with_interval(f"{name}_{file.name}", int(right.sum()), n)
            cells += [text.percent(float(right.double().mean())), shown(wilson(int(right.sum()), n))]
            if silent := int((probabilities.sum(1) == 0).sum()):
                remarks.append(f"{title}: no answer for {text.count(silent, 'image')} of {file.name}, counted as wrong")
        values[f"{name}_seconds"] = round(seconds, 2)
        rows.append((title, *cells, f"{seconds:.1f}", named(answer.chosen)))
        remarks += answer.remarks
    level = f"{text.percent(LEVEL, decimals=0)} interval"
    head = ("method", *(cell for file in files for cell in (file.name, level)), "seconds", "chosen on held-out labels")
    how = (
        f"{said}. Features are those of the frozen encoder. Settings were chosen on fifths of the known labels, each "
        "held out once; no label of the files that are measured was used to choose. Seconds are without the features."
    )
    lines = [text.table([head, *rows], aligned=True), *(f"{remark}\n" for remark in remarks)]
    return Result(values, [Text(how), Table(head, rows), *map(Text, remarks)], text="".join(lines))


def named(chosen: dict[str, float | str]) -> str:
    """Write settings for a cell: "k 5, alpha 0.99"."""
    values = (value if isinstance(value, str) else f"{value:.3g}" for value in chosen.values())
    return ", ".join(f"{name} {value}" for name, value in zip(chosen, values, strict=True))
