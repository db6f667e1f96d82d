"""Check the numbers of a recipe before a file is opened: each field's own bound, then fields that limit each other."""

import math

from models.config.extensions import extensions_of
from models.config.recipe import Encoder, Optim, Recipe
from pipeline.errors import InputError
from pipeline.flags import check_bounds
from pipeline.spec import View

AUTO = "auto"
SHAPE = ("mlp", "mlp_width", "act", "norm_eps", "norm_pre", "qkv_bias", "class_token", "registers", "prefix_positions")
"""Fields of an encoder that belong to a size, and that a named model brings."""
OPEN = ("act", "norm_eps")
"""Those that may be given with name auto, as may heads: no tensor tells them."""
LORA = "lora_rank", "lora_alpha", "lora_layers"


def check(recipe: Recipe) -> None:
    """Raise InputError naming the first number that is out of its range, or the fields that contradict each other.

    check(recipe)  # optim.warmup_epochs is 20 of optim.epochs 10; lower it
    """
    check_bounds(recipe)
    if recipe.run.seed >= 2**63:
        raise InputError(f"run.seed is {recipe.run.seed}, expected below 2^63")
    if recipe.run.folder == "":
        raise InputError("run.folder is empty, expected a folder: is a variable of the shell not set?")
    for name in ("weak", "strong", "evaluate"):
        _check_view(f"data.{name}", getattr(recipe.data, name))
    _check_size(recipe.encoder)
    if recipe.encoder.name == AUTO and recipe.run.start is None:
        raise InputError("encoder.name is auto, which is the encoder of run.start, and there is none; add --run.start")
    _check_lora(recipe.encoder)
    _check_epochs(recipe.optim)
    _check_extensions(recipe)
    _check_evaluation(recipe)


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
    own = [name for name in SHAPE if getattr(encoder, name) != getattr(Encoder(), name)]
    if encoder.name == AUTO:
        own = [name for name in ("width", "depth") if getattr(encoder, name)] + [
            name for name in own if name not in OPEN
        ]
        if own:
            raise InputError(
                f"encoder.{own[0]} is {getattr(encoder, own[0])}, and encoder.name auto reads it from run.start; leave "
                "one of the two out"
            )
        return
    if encoder.name is not None and own:
        raise InputError(
            f"encoder.{own[0]} is {getattr(encoder, own[0])}, and encoder.name {encoder.name} brings its own; set "
            "encoder.name to None, and encoder.width, depth and heads, or leave it out"
        )
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


def _check_lora(encoder: Encoder) -> None:
    layers = encoder.lora_layers
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"encoder.lora_layers is {' '.join(layers) or 'empty'}, expected different layers; name some")
    own = [name for name in LORA if getattr(encoder, name) != getattr(Encoder(), name)]
    if own and encoder.adapt != "lora":
        raise InputError(
            f"encoder.{own[0]} is set, and encoder.adapt is {encoder.adapt}, which has no factors of low rank; add "
            f"--encoder.adapt lora, or leave --encoder.{own[0].replace('_', '-')} out"
        )


def _check_epochs(optim: Optim) -> None:
    if optim.labels_only_epochs > optim.epochs:
        raise InputError(
            f"optim.labels_only_epochs is {optim.labels_only_epochs:g} of optim.epochs {optim.epochs:g}, which counts "
            "both phases; lower --optim.labels-only-epochs, or raise epochs"
        )
    if optim.warmup_epochs > optim.epochs:
        raise InputError(f"optim.warmup_epochs is {optim.warmup_epochs:g} of optim.epochs {optim.epochs:g}; lower it")
    drops = " ".join(f"{epochs:g}" for epochs in optim.drop_epochs)
    if (optim.schedule == "steps") != bool(drops):
        raise InputError(
            f"optim.schedule is {optim.schedule} and optim.drop_epochs is {drops or 'empty'}: schedule steps needs "
            "some, cosine and poly take none; set the other of the two"
        )
    if list(optim.drop_epochs) != sorted(set(optim.drop_epochs)) or max(optim.drop_epochs, default=0) > optim.epochs:
        expected = f"expected ascending epochs, none after {optim.epochs:g}"
        raise InputError(f"optim.drop_epochs is {drops}, {expected}; give others by --optim.drop-epochs")


def _check_extensions(recipe: Recipe) -> None:
    lowest = recipe.optim.final_lr
    for extension in extensions_of(recipe.run):
        if extension.lr is None:
            continue
        if not (math.isfinite(extension.lr) and extension.lr >= 0):
            raise InputError(f"run.extend_lr is {extension.lr:g}, expected a finite number, 0 or above")
        if extension.schedule == "rewarm" and extension.lr < lowest:
            raise InputError(
                f"run.extend_lr is {extension.lr:g}, below optim.final_lr {lowest:g}, to which the rate falls; raise "
                "it, or choose --run.extend-schedule constant"
            )


def _check_evaluation(recipe: Recipe) -> None:
    run = recipe.run
    if run.shard and run.device_images == "auto":
        raise InputError(
            "run.device_images is auto, which tries steps on each rank alone, and run.shard lets ranks share each "
            "step; give --run.device-images a number"
        )
    if run.stop_after is not None and (run.best is None or run.evaluate_steps is None):
        missing = "--run.best NAME" if run.best is None else "--run.evaluate-steps N"
        raise InputError(
            f"run.stop_after is {run.stop_after}: expected a value to watch and evaluations while the run trains; add "
            f"{missing}"
        )
    if run.judge != "average" and recipe.optim.ema_decay is None:
        raise InputError(
            f"run.judge is {run.judge}, and there is no average to tell the raw weights from: they are evaluated; "
            "leave --run.judge out, or set --optim.ema-decay"
        )
