"""An adapter: what a run with encoder.adapt has trained, without the frozen weights, which run.start names.

    adapter.json          the recipe, the classes, the step, where the frozen weights are, and their hash
    adapter.safetensors   what was trained of the encoder that is evaluated, by its own names

`python -m models.export RUN --to adapter` writes the folder.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.encoder.lora import is_factor, merged_state
from models.factory import method_class
from models.load import Loaded, restore_recipe, runnable
from models.method import Method
from models.pretrained.find import ADAPTER, find_weights
from models.pretrained.grids import grid_of_recipe
from models.pretrained.load_into import load_encoder
from models.pretrained.weights import Weights
from models.records.json_file import read_object
from pipeline.errors import InputError

TENSORS = "adapter.safetensors"
START, FROZEN = "start", "frozen"


def is_adapter(path: Path) -> bool:
    """Say whether a path is an adapter's folder, or one of its two files."""
    return (_folder(path) / ADAPTER).is_file()


def find_start(start: str) -> Weights:
    """Read the weights that run.start names: of an adapter those that it is evaluated by, its factors merged into the
    frozen weights; else what models.pretrained.find reads.

    find_start("runs/finetune-digits/export-adapter")

    Raises InputError as load_adapter and find_weights do.
    """
    if not is_adapter(Path(start)):
        return find_weights(start)
    with torch.random.fork_rng(devices=[]):  # a method is built, whose first weights are drawn
        loaded = load_adapter(Path(start), torch.device("cpu"))
    recipe, tensors = asdict(loaded.recipe), loaded.method.encoder.state_dict()
    what = f"an adapter of {loaded.recipe.name}, step {loaded.step:,}, in its frozen weights"
    if any(map(is_factor, tensors)):
        tensors, merged = merged_state(tensors, loaded.recipe.encoder.lora_alpha / loaded.recipe.encoder.lora_rank)
        what += f", LoRA merged into {merged} weights"
    grid = grid_of_recipe(recipe)
    return Weights(tensors, str(loaded.path), what, classes=loaded.classes or None, grid=grid, recipe=recipe)


def trained_tensors(method: Method) -> dict[str, Tensor]:
    """The tensors that a method trains of its encoder, with the values that are evaluated."""
    trained = {name for name, tensor in method.encoder.state_dict(keep_vars=True).items() if tensor.requires_grad}
    return {name: tensor for name, tensor in method.eval_encoder.state_dict().items() if name in trained}


def frozen_hash(method: Method) -> str:
    """SHA-256 of the tensors that a method does not train of its encoder: their names, shapes and float32 bytes."""
    digest, trained = hashlib.sha256(), trained_tensors(method)
    for name, tensor in sorted(method.eval_encoder.state_dict().items()):
        if name not in trained:
            digest.update(f"{name} {list(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_adapter(folder: Path, device: torch.device | None = None) -> Loaded:
    """Load an adapter beside the frozen weights that it was trained with.

    loaded = load_adapter(Path("runs/finetune-digits/export-adapter"))

    Raises InputError if one of its files cannot be read, if the frozen weights are not where adapter.json says, or if
    they are others than those that it was trained with.
    """
    folder = _folder(folder)
    path = folder / ADAPTER
    told = read_object(path, "export the run again")
    recipe = restore_recipe(_of(told, "recipe", dict, path), path)
    classes, start = tuple(_of(told, "classes", list, path)), _of(told, START, str, path)
    if _folder(Path(start)).resolve() == folder.resolve():
        raise InputError(f'{path}: "{START}" is this adapter itself; write there where the frozen weights are')
    method = method_class(recipe)(runnable(recipe, device), len(classes))
    try:
        said = load_encoder(method, find_start(start), classes or None, recipe.run.start_normalisation)
    except InputError as error:
        raise InputError(
            f'{path} adapts the weights of "{START}", {start}, which could not be loaded ({error}); write there where '
            "they are"
        ) from error
    method.ema = None  # the tensors are already those that were evaluated
    if frozen_hash(method) != _of(told, FROZEN, str, path):
        raise InputError(
            f'{folder} was trained beside other weights than {start} now holds; write where those are into "{START}" '
            f"of {path}"
        )
    held = _tensors(folder / TENSORS, trained_tensors(method))
    method.encoder.load_state_dict(method.encoder.state_dict() | held)
    origin = f"{len(held)} adapted tensors from {folder}, step {_of(told, 'step', int, path):,}; {said}"
    return Loaded(path, recipe, method.eval().to(device), classes, told["step"], origin)


def _folder(path: Path) -> Path:
    return path.parent if path.name in (ADAPTER, TENSORS) else path


def _tensors(path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter. Raises InputError unless they are those that `own` names, in shape, too."""
    try:
        held = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}; export the run again") from error
    for name in {**own, **held}:
        expected, came = (list(part[name].shape) if name in part else "nothing" for part in (own, held))
        if expected != came:
            raise InputError(f"{path}: expected {name} of shape {expected}, got {came}; export the run again")
    return held


def _of(told: dict, name: str, kind: type, path: Path):
    if not isinstance(told.get(name), kind):
        raise InputError(f"{path}: expected {name}, got {told.get(name)!r}; export the run again")
    return told[name]
