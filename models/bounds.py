"""Numbers that no recipe can mean, refused before anything is opened."""

from models.recipe import Recipe
from pipeline.errors import InputError

COUNTS = {
    "data": ("batch", "size", "ahead", "threads", "memory_mb"),
    "encoder": ("patch", "width", "depth", "heads"),
    "run": ("devices", "device_images", "log_steps", "save_steps", "evaluate_steps", "stop_step"),
}
POSITIVE = {
    "data": ("ratio", "patience_s"),
    "run": ("patience_s",),
    "optim": ("epochs", "clip", "lr_batch", "layer_decay"),
}
NOT_NEGATIVE = {"run": ("seed",), "optim": ("lr", "final_lr", "rise_epochs", "labels_only_epochs", "weight_decay")}
BELOW_ONE = {"encoder": ("drop_path",), "optim": ("average",)}
RULES = (
    (COUNTS, "at least 1", lambda value: value >= 1),
    (POSITIVE, "above 0", lambda value: value > 0),
    (NOT_NEGATIVE, "0 or above", lambda value: value >= 0),
    (BELOW_ONE, "from 0 to below 1", lambda value: 0 <= value < 1),
)


def check_bounds(recipe: Recipe) -> None:
    """Raise InputError naming the first number that is out of its range; absent ones pass."""
    for fields, expected, holds in RULES:
        for group, names in fields.items():
            for name in names:
                value = getattr(getattr(recipe, group), name)
                if value is not None and not holds(value):
                    raise InputError(f"{group}.{name} is {value:g}, expected {expected}")
    size = recipe.encoder.width, recipe.encoder.depth, recipe.encoder.heads
    if None in size and any(size):
        raise InputError(
            f"encoder.width, depth and heads make a size together, got {', '.join(map(str, size))}; set all or none"
        )
