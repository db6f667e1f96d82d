"""Numbers that no recipe can mean, refused before anything is opened."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from models.recipe import Encoder, Optim, Recipe
from pipeline.errors import InputError
from pipeline.spec import View

VIEWS = "data.weak", "data.strong", "data.evaluate"
COUNTS = {
    "data": ("batch", "size", "ahead", "threads", "memory_mb"),
    "encoder": ("patch", "width", "depth", "heads"),
    "run": ("devices", "device_images", "log_steps", "save_steps", "evaluate_steps", "stop_step"),
    "data.mask": ("unit", "window", "windows"),
    "method": ("layers", "hidden", "channels", "block", "trained"),
    "method.reconstruct": ("depth", "width", "heads"),
    **dict.fromkeys(VIEWS, ("layers",)),
}
POSITIVE = {
    "data": ("ratio", "patience_s"),
    "run": ("patience_s",),
    "encoder": ("layer_scale",),
    "optim": ("epochs", "clip", "lr_batch", "layer_decay", "drop_epochs", "trust"),
    "method": ("temperature", "head_std"),
    "method.pseudo": ("temperature",),
    **dict.fromkeys(VIEWS, ("short_side",)),
}
NOT_NEGATIVE = {
    "run": ("seed",),
    "optim": ("lr", "final_lr", "rise_epochs", "labels_only_epochs", "weight_decay"),
    "method": ("lambda_u", "mu", "mixup", "cutmix", "class_weight"),
    "method.pseudo": ("fairness",),
    **dict.fromkeys(VIEWS, ("padding", "jitter")),
}
BELOW_ONE = {
    "encoder": ("drop_path",),
    "optim": ("average", "betas", "momentum"),
    "method": ("smoothing",),
    "method.pseudo": ("smoothing", "momentum"),
}
SHARES = {
    "optim": ("drop_factor",),
    "method.pseudo": ("threshold",),
    "method.reconstruct": ("predict",),
    **dict.fromkeys(VIEWS, ("jitter_probability",)),
}
RULES = (
    (COUNTS, "at least 1", lambda value: value >= 1),
    (POSITIVE, "above 0", lambda value: value > 0),
    (NOT_NEGATIVE, "0 or above", lambda value: value >= 0),
    (BELOW_ONE, "from 0 to below 1", lambda value: 0 <= value < 1),
    (SHARES, "from 0 to 1", lambda value: 0 <= value <= 1),
)


def check_bounds(recipe: Recipe) -> None:
    """Raise InputError naming the first number that is out of its range; absent ones pass."""
    numbers = dict(_numbers(recipe))
    for groups, expected, holds in RULES:
        for group, names in groups.items():
            for name in names:
                for value in numbers.get(f"{group}.{name}", ()):
                    if not holds(value):
                        raise InputError(f"{group}.{name} is {value:g}, expected {expected}")
    for name, values in numbers.items():
        for value in values:
            if not math.isfinite(value):
                raise InputError(f"{name} is {value:g}, expected a finite number")
    if recipe.run.seed >= 2**63:
        raise InputError(f"run.seed is {recipe.run.seed}, expected below 2^63")
    for group in VIEWS:
        _check_view(group, getattr(recipe.data, group.removeprefix("data.")))
    _check_size(recipe.encoder)
    _check_epochs(recipe.optim)


def _numbers(part: object, prefix: str = "") -> Iterator[tuple[str, tuple[float, ...]]]:
    """Every field that holds numbers, by its dotted name: one number, or those of a tuple."""
    for field in fields(part):
        name, value = f"{prefix}{field.name}", getattr(part, field.name)
        if is_dataclass(value):
            yield from _numbers(value, f"{name}.")
            continue
        held = value if isinstance(value, tuple) else (value,)
        if all(isinstance(each, int | float) for each in held):
            yield name, held


def _check_view(group: str, view: View) -> None:
    low, high = view.scale
    if not 0 < low <= high <= 1:
        raise InputError(
            f"{group}.scale is {low:g} {high:g}, expected two shares of the area above 0 and up to 1, the smaller first"
        )
    if view.jitter is not None and view.jitter[3] > 0.5:
        raise InputError(f"{group}.jitter has hue {view.jitter[3]:g}, expected 0 to 0.5: half way round the circle")


def _check_size(encoder: Encoder) -> None:
    size = encoder.width, encoder.depth, encoder.heads
    if None in size and any(size):
        raise InputError(
            f"encoder.width, depth and heads make a size together, got {', '.join(map(str, size))}; set all or none"
        )
    if encoder.name is not None and encoder.width is not None:
        raise InputError(
            f"encoder.name is {encoder.name}, and width {size[0]}, depth {size[1]}, heads {size[2]} are set: one of "
            "the two can hold; set encoder.name to None, or encoder.width, depth and heads"
        )
    if encoder.name is None and encoder.width is None:
        raise InputError("encoder.name is None, as are width, depth and heads; set the name or these three")


def _check_epochs(optim: Optim) -> None:
    if optim.labels_only_epochs > optim.epochs:
        raise InputError(
            f"optim.labels_only_epochs is {optim.labels_only_epochs:g} of optim.epochs {optim.epochs:g}, which counts "
            "both phases; lower --optim.labels-only-epochs, or raise epochs"
        )
    if optim.rise_epochs > optim.epochs:
        raise InputError(f"optim.rise_epochs is {optim.rise_epochs:g} of optim.epochs {optim.epochs:g}; lower it")
    drops = " ".join(f"{epochs:g}" for epochs in optim.drop_epochs)
    if (optim.schedule == "steps") != bool(drops):
        raise InputError(
            f"optim.schedule is {optim.schedule} and optim.drop_epochs is {drops or 'empty'}: schedule steps needs "
            "some, cosine takes none; set the other of the two"
        )
    if list(optim.drop_epochs) != sorted(set(optim.drop_epochs)) or max(optim.drop_epochs, default=0) > optim.epochs:
        expected = f"expected ascending epochs, none after {optim.epochs:g}"
        raise InputError(f"optim.drop_epochs is {drops}, {expected}; give others by --optim.drop-epochs")
