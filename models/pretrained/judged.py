"""Load what is to be judged: a run, or released weights as if they were a run of a recipe, whose data they meet.

loaded = load_judged("dinov2_vits14_pretrain.pth", "supervised:cifar10 --data.size 70", torch.device("cpu"))
"""

import shlex
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.config.bounds import AUTO
from models.config.recipe import Recipe
from models.config.resolve import resolve
from models.encoder.timm_classifier import TimmClassifier, is_classifier
from models.factory import method_class
from models.load import Loaded, load_run, runnable
from models.method import Method
from models.pretrained.adapter import is_adapter, load_adapter
from models.pretrained.architecture import SEARCHED, with_encoder_of_start
from models.pretrained.classifier import HEAD
from models.pretrained.find import find_weights, is_run
from models.pretrained.formats import POOLS, pooling_of
from models.pretrained.load_into import load_encoder
from models.pretrained.names import with_own_names
from models.pretrained.timm_name import is_timm_name
from models.pretrained.weights import Weights
from models.pretrained.whole_network import network_name
from pipeline.errors import InputError
from pipeline.store.beton import open_beton


def load_judged(start: str, recipe: str | None, device: torch.device | None = None) -> Loaded:
    """Load a run or an adapter (models.pretrained.adapter); or with a recipe weights that are none, wherever run.start
    would find them, to judge them.

    recipe  a recipe's name and flags, as they follow train.py: its data, image size and evaluation view are used, and
            its encoder where a flag names one; otherwise the encoder is the one that the weights tell, and pools what
            their classifier reads, if there is one and no flag says --encoder.pool

    Of weights, a classifier counts if it is one of the recipe's classes, by name or else by number, or if the recipe's
    data is not here and the source names its classes; without one the method of the loaded run has none. The two lines
    about what was read, adapted and left out are printed, and kept as the loaded run's `origin`.

    Raises InputError for weights without a recipe, a run with one, and whatever run.start would be refused for.
    """
    path = Path(start)
    if is_adapter(path) and recipe is None:
        loaded = load_adapter(path, device)
        print(loaded.origin)
        return loaded
    weights = (is_timm_name(start) and not path.exists()) or (path.exists() and not is_run(path))
    if recipe is None:
        if weights:
            raise InputError(
                f"{start} is no run, so nothing says which images it is judged on; add a recipe and its flags: "
                '--recipe "supervised:cifar10 --data.size 224"'
            )
        return load_run(path, device)
    if path.exists() and not weights:
        raise InputError(f"{start} is a run, which has its own recipe; drop --recipe")
    loaded = _load(start, *_recipe(start, recipe), device)
    print(loaded.origin)
    return loaded


def _recipe(start: str, words: str) -> tuple[Recipe, bool]:
    """The recipe, and whether its flags leave the pooling to the weights."""
    name, *flags = shlex.split(words) or [""]
    asked = {flag.split("=")[0] for flag in flags}
    if "--encoder.name" not in asked:
        flags = ["--encoder.name", AUTO, *flags]
    return resolve(name, [*flags, "--run.start", start]), not {"--encoder.name", "--encoder.pool"} & asked


def _load(start: str, recipe: Recipe, any_pool: bool, device: torch.device | None) -> Loaded:
    found = source = find_weights(start)
    whole = is_classifier(recipe.encoder.name) or (recipe.encoder.name == AUTO and network_name(found) is not None)
    found = found if whole else with_own_names(found, SEARCHED)
    if any_pool and not whole and f"{HEAD}.weight" in found.tensors and (pool := pooling_of(found)) in POOLS:
        recipe = replace(recipe, encoder=replace(recipe.encoder, pool=pool))  # which the classifier was trained behind
    recipe, read = with_encoder_of_start(recipe)
    classes = _classes(recipe, found)
    method = method_class(recipe)(runnable(recipe, device), len(classes) or 1)  # one that is removed again
    before = _scoring(method)
    said = load_encoder(method, source, classes or None, recipe.run.start_normalisation)
    if not classes or isinstance(getattr(method, HEAD, None), nn.Module) or _same(before, _scoring(method)):
        method.has_classifier, classes = False, ()
        for vit in [method.encoder, *([] if method.ema is None else [method.ema.module])]:
            if isinstance(vit, VisionTransformer):  # an export holds no classifier that was never trained
                vit.reset_classifier(0)
            elif isinstance(vit, TimmClassifier):
                vit.remove_head()
    origin = said if read is None else f"{read}\n{said}"
    named = replace(recipe, name=Path(found.where).name)
    return Loaded(Path(found.where), named, method.eval().to(device), classes, 0, origin)


def _classes(recipe: Recipe, found: Weights) -> tuple[str, ...]:
    """The classes of the recipe's training data, else those that the source names, else none."""
    path = Path(recipe.data.root, recipe.data.train)
    if path.exists():
        return tuple(open_beton(path).manifest.classes or ())
    return found.classes or ()


def _scoring(method: Method) -> list[torch.Tensor]:
    head = method.encoder.head
    return [parameter.detach().clone() for parameter in head.parameters()]


def _same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Whether a classifier is still as it was initialised."""
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
