"""Every recipe that `python train.py` lists, and each of its small sweeps', learns: 20 steps of its toy on digits."""

import re
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.config.catalogue import catalogue, sweeps
from models.config.recipe import Recipe, Run
from models.config.resolve import named
from models.config.sweep import members
from models.encoder.timm_classifier import is_classifier
from models.factory import method_class
from models.method import Method, StepInfo
from models.optim.build import build_optimiser
from models.optim.update import GradientCheck, set_lr
from pipeline.batch import Batch
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.spec import View
from pipeline.train_data import loader_spec, open_train_data

STEPS, LR, CLASSES = 20, 3e-3, 10
SHRUNK = {  # what every toy has in common; fields that a recipe does not have are left out
    "data.size": 16, "data.sizes": None, "data.split": "25-per-class", "data.test": None, "data.train": "train.beton",
    "data.val": "val.beton", "data.batch": 32, "data.ratio": 3, "data.weak.padding": 2, "data.strong.padding": 2,
    "data.backend": "memory", "data.root": "data",
    "encoder.name": None, "encoder.width": 32, "encoder.depth": 2, "encoder.heads": 2, "encoder.patch": 4,
    "encoder.drop_path": 0.0, "encoder.stem": "own", "optim.lr": LR, "optim.lr_batch": None, "optim.clip": None,
    "optim.kind": "adamw", "optim.epochs": 100, "optim.warmup_epochs": 0, "optim.final_lr": 0.0,
    "data.evaluate": View(crop="centre"),
    "method.pseudo.threshold": 0.0, "method.threshold": 0.0, "method.reconstruct.depth": 1,
    "method.reconstruct.width": 32, "method.reconstruct.heads": 2, "method.channels": 8,
}  # fmt: skip
FITTED: dict[str, dict[str, object]] = {
    "lomar": {"data.mask.window": 3, "data.mask.windows": 2},
    "probe:.*simmim": {"method.block": 1},
}
"""By a pattern of the recipe's name: what cannot hold on a grid of 4 x 4 patches, or has sizes of its own."""
VITS = {"data/digits": "digits", "data/cifar10": "cifar10", "data/in1k": "in1k_10pct"}
"""By the folder of a recipe's data: the recipe whose ViT stands for a classifier of timm."""
SPARED: dict[str, dict[str, str]] = {}
"""By a pattern of the recipe's name: trainable parameters, by pattern, that get no gradient, and why."""


def toy(recipe: Recipe) -> Recipe:
    """The recipe with everything large made small, and nameless: those that are the same then are tried once."""
    name, recipe = recipe.name, replace(recipe, name="", run=Run())
    if is_classifier(recipe.encoder.name):  # tests/models/methods/test_resnet_baselines.py has ResNets; here, its ViT
        recipe = replace(recipe, encoder=named(f"supervised:{VITS[recipe.data.root]}").encoder)
    recipe = changed(recipe, "optim.labels_only_epochs", float(recipe.optim.labels_only_epochs > 0))
    fitted = [values for pattern, values in FITTED.items() if re.search(pattern, name)]
    for dotted, value in SHRUNK.items():
        recipe = changed(recipe, dotted, value)
    for values in fitted:
        for dotted, value in values.items():
            assert has(recipe, dotted), f"{name} has no {dotted} any more"
            recipe = changed(recipe, dotted, value)
    return recipe


def has(part: object, dotted: str) -> bool:
    first, _, others = dotted.partition(".")
    known = is_dataclass(part) and first in {field.name for field in fields(part)}
    return known and (not others or has(getattr(part, first), others))


def changed(part: Any, dotted: str, value: object) -> Any:
    """The dataclass with one field, named through its parts, set; as it is where there is no such field."""
    first, _, others = dotted.partition(".")
    if not has(part, dotted):
        return part
    return replace(part, **{first: changed(getattr(part, first), others, value) if others else value})


def with_files(recipe: Recipe, digits: Path, target_files: dict[str, str]) -> Recipe:
    recipe = changed(recipe, "data.root", str(digits))
    if not has(recipe, "method.reconstruct.target_file"):
        return recipe
    return changed(recipe, "method.reconstruct.target_file", target_files.get(recipe.method.reconstruct.target))


def two_batches(recipe: Recipe, method: Method) -> list[Batch]:
    """One of labelled images only, where the method begins with such a phase, and one of everything it reads."""
    first, needs = int(recipe.optim.labels_only_epochs > 0), method.needs(recipe)
    train_data = open_train_data(recipe.data, needs)
    method.set_dataset_size(train_data.beton.n, train_data.pools[1])
    fed = loader_spec(
        train_data, recipe.data, needs, patch=recipe.encoder.patch, labels_only_steps=first, total_steps=first + 1
    )
    with Loader(fed, open_backend(recipe.data, train_data.beton, torch.device("cpu")), torch.device("cpu")) as batches:
        return [next(batches) for _ in range(first + 1)]


class SumsInAnyOrder(TorchDispatchMode):
    """Finds places that several CPU threads add floats to as they come, so that no two runs agree to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_put" in str(func) and len(args) > 3 and args[3] and args[0].is_floating_point():
            places = torch.stack(torch.broadcast_tensors(*args[1]), -1).flatten(0, -2)
            if len(places.unique(dim=0)) < len(places):
                self.found.append(f"{func} {tuple(args[0].shape)}")
        return func(*args, **(kwargs or {}))


def learn(method: Method, recipe: Recipe, batch: Batch, info: StepInfo) -> tuple[list[float], set[str]]:
    """Losses of STEPS steps on one batch, and the names of the parameters that had a gradient other than zero."""
    stepper, losses, moved, check = build_optimiser(method, recipe.optim), [], set(), GradientCheck()
    set_lr(stepper, LR)
    for step in range(STEPS):
        torch.manual_seed(0)
        with SumsInAnyOrder() if step == 0 else nullcontext() as sums:
            loss = method(batch, info)
            loss.total.backward()
        assert sums is None or not sums.found
        assert all(part.isfinite() for part in loss.parts.values())
        check(method.named_parameters(), method.inactive_params(info), "every loss")
        moved |= {name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        for parameter in method.inactive_params(info):
            parameter.grad = None
        stepper.step()
        stepper.zero_grad()
        method.after_step(step)
        losses.append(loss.total.item())
    return losses, moved


def spared(name: str, parameters: set[str]) -> set[str]:
    patterns = [p for names, held in SPARED.items() if re.search(names, name) for p in held]
    found = {parameter for parameter in parameters if any(re.search(pattern, parameter) for pattern in patterns)}
    assert all(any(re.search(pattern, parameter) for parameter in found) for pattern in patterns), "spared in vain"
    return found


SMALL = [name for name, _ in sweeps() if ":in1k" not in name]  # those of ImageNet have a smaller one beside them
LISTED = [*(named(name) for name, _ in catalogue()), *(each for name in SMALL for each in members(name))]
RECIPES = [recipe for recipe in LISTED if not recipe.name.startswith(("segment:", "detect:"))]  # tests/models/dense
TOYS = {toy(recipe): recipe.name for recipe in reversed(RECIPES)}  # a sweep's default is most often listed, too


@pytest.mark.parametrize(("recipe", "name"), TOYS.items(), ids=TOYS.values())
def test_a_toy_of_it_learns_one_batch_and_moves_every_weight_that_it_trains(recipe, name, digits, target_files):
    recipe = with_files(recipe, digits, target_files)
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, CLASSES).train()
    *labels_only, batch = two_batches(recipe, method)
    named = dict(method.named_parameters())
    frozen = {key: p.detach().clone() for key, p in named.items() if not p.requires_grad}
    trained = named.keys() - frozen.keys()
    assert not any(key.startswith("ema.") for key in trained)

    later = StepInfo(10**6, labels_only=False)
    losses, moved = learn(method, recipe, batch, later)
    assert min(losses[-3:]) < 0.97 * losses[0], losses
    inactive_params = {key for key, p in named.items() if any(p is other for other in method.inactive_params(later))}
    assert moved == trained - spared(name, trained) - inactive_params
    assert all(torch.equal(p, named[key]) for key, p in frozen.items() if not key.startswith("ema."))

    for first in labels_only:
        early = StepInfo(0, labels_only=True)
        losses, moved = learn(method, recipe, first, early)
        assert losses[-1] < losses[0], losses
        inactive_params = {
            key for key, p in named.items() if any(p is other for other in method.inactive_params(early))
        }
        assert moved == trained - inactive_params - spared(name, trained)


def test_the_overrides_are_of_recipes_that_there_are():
    assert all(any(re.search(pattern, recipe.name) for recipe in RECIPES) for pattern in (*FITTED, *SPARED))
