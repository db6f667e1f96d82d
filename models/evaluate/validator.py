"""Evaluate a run while it trains and at its end: accuracy where there is a classifier, and what its features tell."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.config.recipe import Recipe
from models.distributed.process_group import World, buffers_from_main, from_main, sum_over_ranks
from models.evaluate.accuracy import hits
from models.evaluate.knn import feature_bank, knn, pooled_features
from models.evaluate.linear_probe import fit_probe, probe_hits
from models.evaluate.rankme import rankme, rankme_ids
from models.evaluate.set_validator import SetValidator
from models.factory import method_class
from models.full_precision import full_precision
from models.method import Method
from models.records.metrics import RAW
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep, sweep_decodable
from pipeline.labels.long_tail import uneven
from pipeline.labels.splits import known_labels, label_counts, load_split
from pipeline.sources.classes import difference, how_to_agree
from pipeline.sources.levels import check_same_window, window_of
from pipeline.store.beton import Beton, open_beton

NEIGHBOUR_IMAGES = 10_000  # labelled images that k-NN compares with: enough to rank runs, seconds to encode


@final
class Validator(SetValidator):
    """Evaluates a method on one file of the recipe's folder; every rank takes its share of the images.

    values = Validator(recipe, "val.beton", train_beton, world)(method)  # {"top1": 0.71, "top5": 0.9}
    """

    def __init__(self, recipe: Recipe, file: str, train: Beton, world: World) -> None:
        """Open the file. Raises InputError if it is missing, has other classes, or no label for a classifier."""
        data = recipe.data
        self.recipe, self.world, self.train = recipe, world, train
        self.beton = open_beton(Path(data.root) / file)
        ours, theirs = self.beton.manifest.classes, train.manifest.classes
        if ours is not None and theirs is not None and ours != theirs:
            how = difference(ours, theirs, f"in {self.beton.path.name}", f"in {train.path.name}")
            raise InputError(
                f"{self.beton.path} has other classes than {train.path}: {how}; "
                f"{how_to_agree(ours, theirs, train.path)}"
            )
        check_same_window(self.beton.path, self.beton.manifest, window_of(train.manifest), str(train.path))
        self.labels = known_labels(self.beton, None)
        has_classifier = method_class(recipe).has_classifier
        if has_classifier and not len(self.labels.ids):
            raise InputError(f"{self.beton.path} has no labelled image to evaluate on; convert it with labels")
        self.on_labels = ("knn",) * (recipe.run.knn or not has_classifier) + ("probe",) * recipe.run.probe
        self.rankme = recipe.run.rankme and file == data.val  # of training images: once an evaluation
        self.split = load_split(train, data.split) if data.split else None
        self.recalls: dict[str, list[float | None]] = {}
        self.balanced = has_classifier and self._classes_differ()
        self.batch = recipe.run.images_at_once or 256
        if recipe.run.probe:
            self._check_labels()

    @property
    def source(self) -> Beton:
        """Return what its images are read from, for messages and comparisons."""
        return self.beton

    def __call__(self, method: Method) -> dict[str, float]:
        """Measure shares of images, in float32 whatever the run trains in. A collective call.

        Returns top1 (and top5 above 5 classes) where the method has a classifier; knn where it has none or run.knn asks
        for it, and probe where run.probe does, unless no label is known; rankme where run.rankme asks for it, with val.
        balanced, the mean of the classes' recalls, where they may differ much; `recalls` then has those. Where
        run.judge asks for the raw weights, their values are there as top1_raw and so on.
        """
        judge, values = self.recipe.run.judge, {}
        self.recalls = {}
        with full_precision(self.world.device):
            if judge != "raw":
                values = self._measure(method)
            if judge != "average":
                with method.raw_weights():
                    average = self.recalls
                    values |= {f"{name}{RAW}": value for name, value in self._measure(method).items()}
                    self.recalls = average | {f"{name}{RAW}": each for name, each in self.recalls.items()}
        return values

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values that a call returns."""
        classes = len(self.train.manifest.classes or ())
        names = ("top1", *(("top5",) if classes > 5 else ())) if method_class(self.recipe).has_classifier else ()
        names += ("balanced",) if self.balanced else ()
        known = len(self.labels.ids) and len(known_labels(self.train, self.split).ids)
        names += (*(self.on_labels if known else ()), *(("rankme",) if self.rankme else ()))
        judge = self.recipe.run.judge
        return (*(names if judge != "raw" else ()), *(f"{name}{RAW}" for name in names if judge != "average"))

    def _measure(self, method: Method) -> dict[str, float]:
        """Measure with the main rank's buffers on every rank: batch norm's running means differ between ranks."""
        buffers_from_main(method, self.world)
        ids = np.asarray(self.labels.ids[self.world.rank :: self.world.size])
        values = self._classified(method, ids) if method.has_classifier else {}
        return values | (self._read_features(method, ids) if self.on_labels or self.rankme else {})

    def _classes_differ(self) -> bool:
        """Whether classes are told apart in the journal: balanced accuracy is top1 where val has equally many images of
        each. So it is where val or the known labels are uneven, a balance is set, or run.best asks for it."""
        known = self.train.manifest.class_counts if self.split is None else label_counts(self.train, self.split)
        asked = str(self.recipe.run.best).removesuffix(RAW) == "balanced"
        balance = getattr(self.recipe.method, "balance", None)
        balance_set = balance is not None and balance.kind != "none"
        return asked or balance_set or uneven(known) or uneven(self.beton.manifest.class_counts)

    def _classified(self, method: Method, ids: np.ndarray) -> dict[str, float]:
        images = self.beton.manifest.class_counts
        classes = len(images) if self.balanced else 0
        counts = hits(method, self._images(ids), self._on_device(self.labels[ids]), classes)
        top1, top5, n, *right = sum_over_ranks(counts.cpu(), self.world).tolist()
        values = {"top1": top1 / n} | ({"top5": top5 / n} if len(self.train.manifest.classes or ()) > 5 else {})
        if not classes:
            return values
        recall = [hit / held if held else None for hit, held in zip(right, images, strict=True)]
        self.recalls = {"recall": recall}
        return values | {"balanced": fmean(each for each in recall if each is not None)}

    def _read_features(self, method: Method, ids: np.ndarray) -> dict[str, float]:
        """k-NN, linear probe and RankMe, as far as the recipe asks for them; a training image is encoded once for all
        three where RankMe's are the labelled ones."""
        known = known_labels(self.train, self.split)
        known_ids = np.asarray(known.ids[:NEIGHBOUR_IMAGES])  # samples were shuffled when the file was written
        values: dict[str, float] = {}
        bank = torch.zeros(0)
        if self.on_labels and len(known_ids) and len(self.labels.ids):
            bank_ids, bank = self._bank(method, known_ids)
            values = self._on_labels(method, bank, self._on_device(known[bank_ids]), ids)
        if self.rankme:
            wanted = rankme_ids(self.train.n)
            if self.world.main and not (len(bank) and np.array_equal(wanted, known_ids)):
                _, bank = self._bank(method, wanted)
            values["rankme"] = from_main(rankme(bank) if self.world.main else None, self.world)
        return values

    def _on_labels(self, method: Method, bank: Tensor, labels: Tensor, ids: np.ndarray) -> dict[str, float]:
        """Shares of right answers over all ranks, this one's images being `ids`; bank f32 [N, C], labels i64 [N].

        One probe serves all ranks: fits on several devices could differ in rounding.
        """
        right = dict.fromkeys(self.on_labels, 0.0)
        probe = None
        if "probe" in right:
            fitted = fit_probe(bank, labels).to("cpu") if self.world.main else None
            probe = from_main(fitted, self.world).to(self.world.device)
        if len(ids):  # fewer images than ranks leave some without
            queries, wanted = pooled_features(method.eval_encoder, self._images(ids)), self._on_device(self.labels[ids])
            if "knn" in right:
                right["knn"] = knn(normalize(bank, dim=1), labels, normalize(queries, dim=1), wanted) * len(ids)
            if probe is not None:
                right["probe"] = probe_hits(probe, queries, wanted)
        total = sum_over_ranks(torch.tensor(list(right.values()), dtype=torch.float64), self.world)
        return dict(zip(right, (total / len(self.labels.ids)).tolist(), strict=True))

    def _bank(self, method: Method, ids: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """The training images `ids` that can be decoded, i64 [N], and their features f32 [N, C]."""
        where = self.recipe.data, self.train, self.world.device
        return feature_bank(method.eval_encoder, sweep_decodable(*where, ids, self.batch, say=self.world.main))

    def _check_labels(self) -> None:
        for beton, labels in ((self.train, known_labels(self.train, self.split)), (self.beton, self.labels)):
            if not len(labels.ids):
                todo = "convert it with labels, or drop --run.probe"
                raise InputError(f"run.probe learns from labels, and {beton.path} has none known; {todo}")

    def _images(self, ids: np.ndarray) -> Iterator[Tensor]:
        return sweep(self.recipe.data, self.beton, self.world.device, ids, self.batch)

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.world.device)
