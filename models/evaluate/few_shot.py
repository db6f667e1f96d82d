"""Few-shot transfer: classifiers learned from k images of each class, on one or more data sets (ELEVATER; SupMAE)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, final

from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.few_shot_protocols.features import FeatureExtractor, Pool
from models.evaluate.few_shot_protocols.finetune import finetune
from models.evaluate.few_shot_protocols.finetune_loop import FineTuning
from models.evaluate.few_shot_protocols.probe import probe
from models.evaluate.few_shot_protocols.published import published
from models.evaluate.few_shot_protocols.setting import FewShotSetting, Protocol, draw
from models.evaluate.few_shot_protocols.suite import TEST, VAL, DataSet, open_suite
from models.evaluate.few_shot_protocols.table import ELEVATER, SELECTED, numbers, page
from models.load import Loaded
from pipeline.elevater.catalogue import Metric
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, check_bounds


@final
@dataclass(frozen=True)
class FewShot(Evaluator):
    """A linear classifier or fine-tuning from 5, 20, 50 images a class; several draws, one or many data sets."""

    suite: tuple[str, ...] = ()
    """Folders with train.beton and test.beton, as FOLDER or NAME=FOLDER; data.root when absent. elevater=FOLDER: all
    sets that pipeline.elevater has written there."""
    shots: tuple[int, ...] = (5, 20, 50)
    """Images of each class (ELEVATER)."""
    seeds: Annotated[int, AT_LEAST_1] = 3
    """Draws of the shots: seeds 0, 1, ... (ELEVATER: 3)."""
    mode: Literal["linear", "finetune"] = "linear"
    """A linear classifier on frozen features, or everything learns."""
    protocol: Protocol = "held_out"
    """held_out: settings are selected on held-out shots or val.beton, and test is evaluated once. elevater: ELEVATER's,
    where test selects the epoch."""
    select: Literal["shots", "val"] = "shots"
    """held_out selects on fifths of the shots, held out in turn, so that no label beyond k is used; or on val.beton."""
    metric: Metric = "accuracy"
    """Metric of the sets that are not in per_class: share of images, its mean over classes, and for sets of that kind
    11-point mAP (several labels an image) or the area under the ROC curve (two classes). ELEVATER's sets have each
    their own."""
    per_class: tuple[str, ...] = ()
    """Sets measured by the mean over classes (in ELEVATER Caltech101, OxfordPets, Flowers102, FGVCAircraft, where
    pipeline.elevater has said so already)."""
    pool: Pool = "recipe"
    """Features that a classifier reads: those of the recipe's classifier, the class token (ELEVATER, for MAE's linear
    probe), or the patches' mean."""
    left_only: bool = False
    """elevater: search as its first release did, which gave the right neighbour the left one's score."""
    tuning: FineTuning = field(default_factory=FineTuning)

    def run(self, loaded: Loaded) -> Result:
        """Measure SET_KSHOT_mean and _std of each set, and of all where there are several; shares from 0 to 1."""
        recipe = loaded.recipe
        entries = self.suite or (self.data.root or recipe.data.root,)
        sets = open_suite(entries, recipe.data, self.data.file or TEST, VAL if self.select == "val" else None)
        self.check(sets)
        images_of = partial(self.images, loaded)
        extractor = FeatureExtractor(loaded.method, recipe, self.pool).eval()
        results, remarks = [], []
        for each in sets:
            drawn = draw(each, self.shots, self.seeds)
            metric, data = self.metric_of(each), self.data_of(loaded)
            setting = FewShotSetting(
                each, drawn, self.shots, metric, self.protocol, self.left_only, extractor, data, images_of
            )
            results += probe(setting) if self.mode == "linear" else finetune(setting, self.tuning)
            remarks += setting.remarks()
        how = "Linear probing" if self.mode == "linear" else "Fine-tuning"
        protocol = f"{how} of {loaded.path}. {ELEVATER if self.protocol == 'elevater' else SELECTED[self.select]}"
        metrics: dict[str, str] = {each.name: self.metric_of(each).replace("_", " ") for each in sets}
        names = {each.name: each.benchmark for each in sets if each.benchmark}
        paper = published(results, self.mode, names, self.protocol)
        return Result(numbers(results), [*page(results, metrics, remarks, protocol), *paper])

    def metric_of(self, each: DataSet) -> Metric:
        """Return the metric of a data set: as the flags name it for this set, as its benchmark has it, or --metric."""
        return "per_class" if each.name in self.per_class else each.metric or self.metric

    def check(self, sets: Sequence[DataSet]) -> None:
        """Raise InputError for flags that are wrong, alone or together."""
        check_bounds(self, "--")
        least = 2 if self.select == "shots" else 1
        if not self.shots or min(self.shots) < least or len(set(self.shots)) < len(self.shots):
            given = " ".join(map(str, self.shots)) or "none"
            why = " (some are held out; --select val needs 1)" if least > 1 else ""
            raise InputError(f"expected different --shots from {least} up{why}, got {given}")
        if self.protocol == "elevater" and self.select == "val":
            raise InputError("ELEVATER selects on a fifth of the shots, got --select val; set --protocol held_out")
        if self.left_only and self.protocol != "elevater":
            raise InputError("--left-only is ELEVATER's search; set --protocol elevater")
        if unknown := sorted(set(self.per_class) - {each.name for each in sets}):
            raise InputError(
                f"--per-class {unknown[0]}: no set is called so, there is {', '.join(s.name for s in sets)}"
            )
        for each in sets:
            self.check_metric(each)
        if not self.tuning.rates:
            raise InputError("--tuning.rates: expected a rate or more, got none")
        if self.tuning.warmup_epochs > self.tuning.epochs:
            raise InputError(
                f"--tuning.warmup-epochs is {self.tuning.warmup_epochs:g}, expected at most --tuning.epochs, "
                f"{self.tuning.epochs:g}"
            )

    def check_metric(self, each: DataSet) -> None:
        """Raise InputError for a set that cannot be measured by its metric."""
        metric = self.metric_of(each)
        if each.several != (metric == "map_11_points"):
            kind = "several labels" if each.several else "one label"
            raise InputError(f"{each.name} has {kind} an image, and cannot be measured by {metric}; see --metric")
        if metric == "roc_auc" and len(each.classes) != 2:
            raise InputError(f"{each.name}: the area under the ROC curve is of 2 classes, got {len(each.classes)}")
