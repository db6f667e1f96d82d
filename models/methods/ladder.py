"""Sweeps over methods, numbers of labels and seeds: the papers' comparisons at a size that a laptop can train.

    python -m slurm.submit ladder:digits_pretrain --cluster local --gpus 0 --parallel 2     first: others start from it
    python -m slurm.submit ladder:digits_5        --cluster local --gpus 0 --parallel 2     8 rows x 3 seeds
    python -m models.evaluate.ladder_table digits_1 digits_5 digits_25                      one table, any time
    python -m slurm.submit ladder:digits_resnet   --cluster local --gpus 0                  Semi-MAE Table 1's baselines

Within a sweep every row has the same network, data and steps; a row differs from the next in its objective or in its
start. A seed is run.seed and the labels drawn at once; members go seed by seed, so that a sweep that is cut short has
whole columns. All settings are those of the recipes named digits and cifar10. Ours; docs/results.md has what came out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from models.config.recipe import Recipe
from models.config.sweep import changed
from models.methods import cowmix, fixmatch, mae, mpl, s4l, semi_mae, supervised, supmae, uda
from models.methods.presets import small
from models.methods.presets.masked import digits_units, digits_windows
from pipeline.errors import InputError
from pipeline.labels.splits import split_name

SEEDS = 0, 1, 2
SEMI = "Semi-MAE"
MASK_TOKENS = "method.reconstruct.encoder_mask_tokens"  # MAE Table 1c
BASELINES = {"supervised": supervised, "UDA": uda, "FixMatch": fixmatch, "S4L": s4l, "MPL": mpl, "CowMix": cowmix}
"""Rows of Semi-MAE's Table 1 that are neither Semiformer nor Semi-MAE, in its order."""
BASELINE_LABELS = {"digits": 5, "cifar10": 400}  # a class: those of the recipes
DECODERS = 2, 4, 8  # blocks, beside the one of the recipes (MAE Table 1a, SupMAE Table 2e)
OBJECTIVES = "rec", "cls", "both"  # SupMAE Table 2a
LABELS_ALONE = {"method.lambda_u": 0.0, "method.pseudo.threshold": 1.0}  # FixMatch without pseudo-labels


@dataclass(frozen=True)
class Rung:
    """One run of the ladder.

    row   its row in the table; runs that differ in their seed alone share one
    """

    row: str
    seed: int
    recipe: Recipe[Any]


@dataclass(frozen=True)
class Scale:
    """A data set and the length of its runs.

    steps     of every run, pre-training and fine-tuning alike
    per_class labels of a class for the objectives' tables; None: every label
    """

    name: str
    steps: int
    per_class: int | None

    def recipe(self, method: Any) -> Recipe[Any]:
        """Build a method's recipe for this data set and length; phases keep their shares of the steps."""
        found = getattr(method, self.name)()
        share = self.steps / found.optim.epochs
        kept = {name: round(getattr(found.optim, name) * share) for name in ("warmup_epochs", "labels_only_epochs")}
        fields = {f"optim.{name}": value for name, value in kept.items()}
        return changed(found, {"optim.epochs": self.steps, "run.save_steps": self.steps, **fields})


DIGITS = Scale("digits", steps=900, per_class=25)
CIFAR10 = Scale("cifar10", steps=1000, per_class=None)
PER_CLASS = {DIGITS: (1, 5, 25), CIFAR10: (4, 25, 400)}


def digits_pretrain() -> Iterator[Recipe[Any]]:
    """Embedded digits: MAE, and SupMAE with 10, 50 and 250 labels, 3 seeds each, for the others to start from."""
    return _recipes("digits_pretrain")


def digits_1() -> Iterator[Recipe[Any]]:
    """Embedded digits, 10 labels: 8 rows from supervised to Semi-MAE from SupMAE, 3 seeds each."""
    return _recipes("digits_1")


def digits_5() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels: 8 rows from supervised to Semi-MAE from SupMAE, 3 seeds each."""
    return _recipes("digits_5")


def digits_25() -> Iterator[Recipe[Any]]:
    """Embedded digits, 250 labels: 8 rows from supervised to Semi-MAE from SupMAE, 3 seeds each."""
    return _recipes("digits_25")


def digits_objectives_pretrain() -> Iterator[Recipe[Any]]:
    """Embedded digits, 250 labels: SupMAE's rec, cls and both; MAE's decoder depth and mask tokens; 3 seeds each."""
    return _recipes("digits_objectives_pretrain")


def digits_objectives() -> Iterator[Recipe[Any]]:
    """Embedded digits, 250 labels: fine-tuned from each of digits_objectives_pretrain, and from scratch."""
    return _recipes("digits_objectives")


def cifar10_pretrain() -> Iterator[Recipe[Any]]:
    """CIFAR-10: MAE, and SupMAE with 40, 250 and 4,000 labels, 3 seeds each, for the others to start from."""
    return _recipes("cifar10_pretrain")


def cifar10_40() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 40 labels: 8 rows from supervised to Semi-MAE from SupMAE, 3 seeds each."""
    return _recipes("cifar10_40")


def cifar10_250() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 250 labels: 8 rows from supervised to Semi-MAE from SupMAE, 3 seeds each."""
    return _recipes("cifar10_250")


def cifar10_4000() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels: 8 rows from supervised to Semi-MAE from SupMAE, 3 seeds each."""
    return _recipes("cifar10_4000")


def cifar10_objectives_pretrain() -> Iterator[Recipe[Any]]:
    """CIFAR-10, every label: SupMAE's rec, cls and both; MAE's decoder depth and mask tokens; 3 seeds each."""
    return _recipes("cifar10_objectives_pretrain")


def cifar10_objectives() -> Iterator[Recipe[Any]]:
    """CIFAR-10, every label: fine-tuned from each of cifar10_objectives_pretrain, and from scratch."""
    return _recipes("cifar10_objectives")


def digits_vit() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels, a ViT: supervised, UDA, FixMatch, S4L, MPL, CowMix, 3 seeds each.  Not yet run."""
    return _recipes("digits_vit")


def digits_resnet() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels, a ResNet: supervised, UDA, FixMatch, S4L, MPL, CowMix, 3 seeds each.  Not yet run."""
    return _recipes("digits_resnet")


def cifar10_vit() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels, a ViT: supervised, UDA, FixMatch, S4L, MPL, CowMix, 3 seeds each.  Not yet run."""
    return _recipes("cifar10_vit")


def cifar10_resnet() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels, a ResNet: supervised, UDA, FixMatch, S4L, MPL, CowMix, 3 seeds each.  Not yet run."""
    return _recipes("cifar10_resnet")


def rungs(sweep: str) -> list[Rung]:
    """List the runs of a sweep, in the order of its members. Raises InputError if the ladder has no such sweep."""
    if sweep not in RUNGS:
        raise InputError(f"the ladder has no sweep {sweep!r}; there are {', '.join(RUNGS)}")
    scale, made = RUNGS[sweep]
    return [rung for seed in SEEDS for rung in made(scale, seed)]


def _recipes(sweep: str) -> Iterator[Recipe[Any]]:
    return (rung.recipe for rung in rungs(sweep))


def _pretrain(scale: Scale, seed: int) -> Iterator[Rung]:
    yield Rung("MAE", seed, _seeded(scale.recipe(mae), seed, None))
    wide = changed(scale.recipe(supmae), {"method.unlabelled": True})  # pixels of every image, the labels there are
    for k in PER_CLASS[scale]:
        yield Rung(_supmae(k), seed, _seeded(wide, seed, k))


def _methods(k: int) -> Callable[[Scale, int], Iterator[Rung]]:
    def made(scale: Scale, seed: int) -> Iterator[Rung]:
        semi = _seeded(scale.recipe(semi_mae), seed, k)
        lomar = {"method.branch": "lomar", "data.mask": digits_windows()}  # both have a grid of 4 x 4
        simmim = {"method.branch": "simmim", "data.mask": digits_units()}
        before = f"{scale.name}_pretrain"
        yield Rung("supervised", seed, _seeded(scale.recipe(supervised), seed, k))
        pseudo = _seeded(scale.recipe(fixmatch), seed, k)
        yield Rung("supervised, FixMatch's labelled views", seed, changed(pseudo, LABELS_ALONE))
        yield Rung("FixMatch", seed, pseudo)
        yield Rung(SEMI, seed, semi)
        yield Rung(f"{SEMI}, LoMaR branch", seed, changed(semi, lomar))
        yield Rung(f"{SEMI}, SimMIM branch", seed, changed(semi, simmim))
        yield Rung(f"{SEMI} from MAE", seed, _started(semi, before, "MAE", seed))
        yield Rung(f"{SEMI} from SupMAE", seed, _started(semi, before, _supmae(k), seed))

    return made


def _objectives_pretrain(scale: Scale, seed: int) -> Iterator[Rung]:
    both = _seeded(scale.recipe(supmae), seed, scale.per_class)
    for objective in OBJECTIVES:
        yield Rung(f"SupMAE {objective}", seed, changed(both, {"method.objective": objective}))
    plain = _seeded(scale.recipe(mae), seed, None)
    yield Rung("MAE", seed, plain)
    for depth in DECODERS:
        yield Rung(f"MAE, decoder of {depth}", seed, changed(plain, {"method.reconstruct.depth": depth}))
    yield Rung("MAE, mask tokens in the encoder", seed, changed(plain, {MASK_TOKENS: True}))


def _objectives(scale: Scale, seed: int) -> Iterator[Rung]:
    before = f"{scale.name}_objectives_pretrain"
    scratch = _seeded(scale.recipe(supervised), seed, scale.per_class)
    yield Rung("from scratch", seed, scratch)
    for rung in _objectives_pretrain(scale, seed):
        yield Rung(rung.row, seed, _started(scratch, before, rung.row, seed))


def _baselines(*, resnet: bool) -> Callable[[Scale, int], Iterator[Rung]]:
    def made(scale: Scale, seed: int) -> Iterator[Rung]:
        for row, method in BASELINES.items():
            recipe = _seeded(scale.recipe(method), seed, BASELINE_LABELS[scale.name])
            yield Rung(row, seed, replace(recipe, encoder=small.resnet_encoder()) if resnet else recipe)

    return made


def _seeded(recipe: Recipe[Any], seed: int, k: int | None) -> Recipe[Any]:
    split = None if k is None else split_name(None, k, seed)
    return changed(recipe, {"run.seed": seed, "data.split": split})


def _started(recipe: Recipe[Any], sweep: str, row: str, seed: int) -> Recipe[Any]:
    """Start a recipe from the last checkpoint of another sweep's run, in the folder that slurm.submit gives it."""
    (index,) = (i for i, rung in enumerate(rungs(sweep)) if (rung.row, rung.seed) == (row, seed))
    return changed(recipe, {"run.start": f"runs/ladder-{sweep}/{index}/last.pt"})


def _supmae(k: int) -> str:
    return f"SupMAE, {k} a class"


RUNGS: dict[str, tuple[Scale, Callable[[Scale, int], Iterator[Rung]]]] = {
    "digits_pretrain": (DIGITS, _pretrain),
    **{f"digits_{k}": (DIGITS, _methods(k)) for k in PER_CLASS[DIGITS]},
    "digits_objectives_pretrain": (DIGITS, _objectives_pretrain),
    "digits_objectives": (DIGITS, _objectives),
    "digits_vit": (DIGITS, _baselines(resnet=False)),
    "digits_resnet": (DIGITS, _baselines(resnet=True)),
    "cifar10_pretrain": (CIFAR10, _pretrain),
    **{f"cifar10_{10 * k}": (CIFAR10, _methods(k)) for k in PER_CLASS[CIFAR10]},
    "cifar10_objectives_pretrain": (CIFAR10, _objectives_pretrain),
    "cifar10_objectives": (CIFAR10, _objectives),
    "cifar10_vit": (CIFAR10, _baselines(resnet=False)),
    "cifar10_resnet": (CIFAR10, _baselines(resnet=True)),
}
