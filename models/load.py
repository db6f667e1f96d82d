"""Load a trained run: its recipe, its method with the weights, and its classes."""

from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from models.checkpoint import save_load
from models.config.recipe import Recipe
from models.config.resolve import named
from models.factory import method_class
from models.method import Method
from models.records.metrics import RAW
from models.records.run_folder import BEST, LAST
from pipeline.errors import InputError
from pipeline.sources.levels import Window, check_same_window, stored_window
from pipeline.store.beton import Beton


@final
@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained run; `method` is in eval mode on its device, `classes` are in the order of its scores.

    origin  for a model that is no run of this trainer: what was read from which file, and what was assumed
    window  what was black and white of the training images with more than 8 bits; None for 0 and 65535
    raw     why the weights themselves are judged, where the run keeps an average; "" where the average is
    """

    path: Path
    recipe: Recipe
    method: Method
    classes: tuple[str, ...]
    step: int
    origin: str = ""
    raw: str = ""
    window: Window | None = None

    @property
    def note(self) -> str | None:
        """A line about weights that are not the run's average though it keeps one; None else."""
        return f"{self.path}: the weights themselves, not their average, as {self.raw}" if self.raw else None

    @property
    def no_classifier(self) -> str:
        """Why there are no class scores, of a method without a classifier: the first words of an error."""
        if self.origin:
            return f"{self.path} brings no classifier for the classes of this data"
        return f"{self.path} was trained by {self.recipe.name}, which has no classifier"


def load_run(path: Path, device: torch.device | None = None) -> Loaded:
    """Load a run folder's last.pt, or a checkpoint by its own path.

    loaded = load_run(Path("runs/mae-digits"))
    loaded.method.logits(images)               # u8 [N, 3, H, W] -> [N, classes]

    The weights are those by which the run was judged: of a run that keeps an average the average, except where
    `run.judge` is raw, and of best.pt where `run.best` is a value of the raw weights.

    Raises InputError if there is no checkpoint, if it is not one of a run, or if its recipe no longer exists.
    """
    file = path / LAST if path.is_dir() else path
    if not file.exists():
        raise InputError(f"{path}: expected a run folder with {LAST}, or a checkpoint; found none")
    state = save_load.load(file)
    if not isinstance(state.get("method"), dict) or not isinstance(state.get("recipe"), dict):
        raise InputError(f"{file} is no checkpoint of a run: it holds no method and recipe; use a run's {LAST}")
    recipe = restore_recipe(state["recipe"], file)
    method = method_class(recipe)(runnable(recipe, device), len(state["classes"]))
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{file} does not fit the recipe {recipe.name} of this version: {reason}") from error
    raw = why_raw(recipe, file)
    if raw:
        method.evaluate_raw()
    method, classes, window = method.eval().to(device), tuple(state["classes"]), _window(state, recipe)
    return Loaded(file, recipe, method, classes, state["step"], raw=raw, window=window)


def _window(state: dict[str, Any], recipe: Recipe) -> Window | None:
    """The window of the training data; of a checkpoint that is older than this entry, the one of that file if it is
    here."""
    if "window" in state:
        return tuple(found) if isinstance(found := state["window"], list) else found
    with suppress(InputError):
        return stored_window(Path(recipe.data.root) / recipe.data.train)
    return None


def check_window(loaded: Loaded, beton: Beton) -> None:
    """Raise InputError if a run learned from pixels that another window cut to 8 bits than those of a .beton.

    What released weights learned from, nothing says.
    """
    if not loaded.origin:
        check_same_window(beton.path, beton.manifest, loaded.window, f"the training data of {loaded.path}")


def why_raw(recipe: Recipe, file: Path) -> str:
    """Say why the weights in a checkpoint are judged in place of their average; "" where the average is, or none is
    kept."""
    run = recipe.run
    if recipe.optim.ema_decay is None:
        return ""
    if file.name == BEST and run.best is not None:
        return f"run.best is {run.best}" if run.best.endswith(RAW) else ""
    return "run.judge is raw" if run.judge == "raw" else ""


def runnable(recipe: Recipe, device: torch.device | None) -> Recipe:
    """The recipe with sdpa in place of varlen attention, which computes the same, unless the device is CUDA."""
    if recipe.encoder.attention == "sdpa" or (device is not None and device.type == "cuda"):
        return recipe
    return replace(recipe, encoder=replace(recipe.encoder, attention="sdpa"))


def restore_recipe(saved: dict[str, Any], file: Path) -> Recipe:
    """The Recipe that a checkpoint's JSON describes; a field that is newer than the checkpoint keeps its default.

    Raises InputError if the recipe's name or one of the fields is unknown.
    """
    try:
        return _filled(named(saved["name"]), saved, "")
    except (InputError, KeyError) as error:
        raise InputError(f"{file}: its recipe cannot be restored ({error}); use the version that trained it") from error


def _filled(default: Any, saved: dict[str, Any], prefix: str) -> Any:
    known = {field.name for field in fields(default)}
    values = {}
    for name, value in saved.items():
        if name not in known:
            raise InputError(f"it holds {prefix}{name}, which is unknown here")
        held = getattr(default, name)
        if isinstance(value, dict) and is_dataclass(held):
            value = _filled(held, value, f"{prefix}{name}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    return replace(default, **values)


def chosen_device(name: str) -> torch.device:
    """The device called auto (a GPU where there is one), cpu or cuda. Raises InputError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no GPU is visible; set --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
