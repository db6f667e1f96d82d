"""Few-shot transfer: a classifier from k images of each class, on any number of data sets (ELEVATER; SupMAE)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, final

from models.evaluate.base import Evaluator, Result
from models.evaluate.few.finetune import finetune
from models.evaluate.few.metric import Metric
from models.evaluate.few.probe import probe
from models.evaluate.few.represent import Pool, Represent
from models.evaluate.few.suite import TEST, VAL, Set, open_suite
from models.evaluate.few.table import ELEVATER, SELECTED, numbers, page
from models.evaluate.few.task import Protocol, Task, draw
from models.evaluate.few.tune import Tuning
from models.load import Loaded
from pipeline.errors import InputError


@final
@dataclass(frozen=True)
class FewShot(Evaluator):
    """A linear classifier or fine-tuning from 5, 20, 50 images a class; several draws, one or many data sets."""

    suite: tuple[str, ...] = ()
    """Folders with train.beton and test.beton, as FOLDER or NAME=FOLDER; data.root when absent."""
    shots: tuple[int, ...] = (5, 20, 50)
    """Images of each class (ELEVATER)."""
    seeds: int = 3
    """Draws of the shots: seeds 0, 1, ... (ELEVATER: 3)."""
    mode: Literal["linear", "finetune"] = "linear"
    """A linear classifier on frozen features, or everything learns."""
    protocol: Protocol = "honest"
    """honest: selected on validation, test looked at once. elevater: theirs, where test selects the epoch."""
    select: Literal["shots", "val"] = "shots"
    """honest selects on fifths of the shots, held out, so that there is no label beyond k; or on val.beton."""
    metric: Metric = "accuracy"
    """Of every set but those of per_class: share of images, or its mean over classes."""
    per_class: tuple[str, ...] = ()
    """Sets measured by the mean over classes (in ELEVATER Caltech101, OxfordPets, Flowers102, FGVCAircraft)."""
    pool: Pool = "recipe"
    """What a classifier reads: what the recipe's does, the class token (ELEVATER: MAE's, linear), or the patches'
    mean."""
    left_only: bool = False
    """elevater: search as its first release did, which judged the left neighbour twice."""
    tuning: Tuning = field(default_factory=Tuning)

    def run(self, loaded: Loaded) -> Result:
        """SET_KSHOT_mean and _std of each set, and of all where there are several; shares from 0 to 1."""
        recipe = loaded.recipe
        entries = self.suite or (self.data.root or recipe.data.root,)
        sets = open_suite(entries, recipe.data, self.data.file or TEST, VAL if self.select == "val" else None)
        self.check(sets)
        see = partial(self.images, loaded)
        represent = Represent(loaded.method, recipe, self.pool).eval()
        cells, remarks = [], []
        for each in sets:
            drawn = draw(each, self.shots, self.seeds)
            metric, data = self.metric_of(each), self.data_of(loaded)
            task = Task(each, drawn, self.shots, metric, self.protocol, self.left_only, represent, data, see)
            cells += probe(task) if self.mode == "linear" else finetune(task, self.tuning)
            remarks += task.remarks()
        how = "Linear probing" if self.mode == "linear" else "Fine-tuning"
        said = f"{how} of {loaded.path}. {ELEVATER if self.protocol == 'elevater' else SELECTED[self.select]}"
        metrics = {each.name: self.metric_of(each).replace("_", " ") for each in sets}
        return Result(numbers(cells), page(cells, metrics, remarks, said))

    def metric_of(self, each: Set) -> Metric:
        """How a set is measured."""
        return "per_class" if each.name in self.per_class else self.metric

    def check(self, sets: Sequence[Set]) -> None:
        """Raise InputError for flags that mean nothing, or not together."""
        least = 2 if self.select == "shots" else 1
        if not self.shots or min(self.shots) < least or len(set(self.shots)) < len(self.shots) or self.seeds < 1:
            given = " ".join(map(str, self.shots)) or "none"
            why = " (some are held out; --select val needs 1)" if least > 1 else ""
            raise InputError(
                f"expected different --shots from {least} up{why} and --seeds from 1, got {given} and {self.seeds}"
            )
        if self.protocol == "elevater" and self.select == "val":
            raise InputError("ELEVATER selects on a fifth of the shots, got --select val; set --protocol honest")
        if self.left_only and self.protocol != "elevater":
            raise InputError("--left-only is ELEVATER's search; set --protocol elevater")
        if unknown := sorted(set(self.per_class) - {each.name for each in sets}):
            raise InputError(
                f"--per-class {unknown[0]}: no set is called so, there is {', '.join(s.name for s in sets)}"
            )
        t = self.tuning
        if not t.rates or min(t.rates) <= 0 or t.batch < 2 or not 0 <= t.warmup_epochs <= t.epochs or not t.epochs:
            raise InputError(
                "expected --tuning.rates above 0, --tuning.batch from 2, and --tuning.epochs above 0 and not below "
                f"--tuning.warmup-epochs, got {' '.join(map(str, t.rates)) or 'none'}, {t.batch}, {t.epochs:g}, "
                f"{t.warmup_epochs:g}"
            )
