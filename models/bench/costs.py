"""Compare the cost of pre-training steps: MAE with mask tokens in the encoder, without, with a 1-block decoder; SupMAE.

    python -m models.bench.costs                          FLOPs of ViT-L and H; seconds of ViT-S, on CUDA of L and H
    python -m models.bench.costs --timed vit_base_patch16_224 --images 16 --rounds 9 --json

FLOPs are counted on meta tensors. Seconds are those of forward and backward of one method on u8 images, all methods
taking turns in one process; ratios are medians over rounds. Papers: mask tokens in the encoder cost ViT-L 3.3 times the
FLOPs and 2.8 times the hours, 3.7 against a 1-block decoder (ViT-H 4.1); SupMAE's 400 epochs take ViT-B 95.9 hours
where MAE's 1,600 take 364.
"""

import json
import statistics
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal

import torch

from models.bench.flops import count
from models.bench.packed_step import CLASSES
from models.bench.synthetic import synthetic_batch
from models.bench.timing import StepFunction, check_device, interleaved, machine, spread, times_faster, work_s
from models.config.recipe import Recipe
from models.config.sweep import changed
from models.distributed.compile import compile_blocks
from models.distributed.precision import precision
from models.factory import method_class
from models.method import Method, StepInfo
from models.methods import mae, supmae
from pipeline.batch import Batch
from pipeline.errors import InputError, command
from pipeline.flags import AT_LEAST_1, AT_LEAST_2, check_bounds, parse
from pipeline.text import percent

CUDA = torch.cuda.is_available()
MODELS = {"vit_large_patch16_224": 16, "vit_huge_patch14_224": 14}
INFO = StepInfo(step=0, labels_only=False)
MASK_TOKENS, DEEP, SHALLOW, SUPMAE = "mae, mask tokens, 8 blocks", "mae, 8 blocks", "mae, 1 block", "supmae, 1 block"
EPOCHS = {DEEP: 1600, SUPMAE: 400}
"""How long each is pre-trained for its 83.6 % with ViT-B."""


@dataclass(frozen=True)
class Options:
    """What to count and what to time."""

    counted: tuple[str, ...] = tuple(MODELS)
    """Encoders whose FLOPs are counted, by timm's name."""
    timed: tuple[str, ...] = tuple(MODELS) if CUDA else ("vit_small_patch16_224",)
    """Encoders whose steps are timed, too."""
    images: Annotated[int, AT_LEAST_2] = 64 if CUDA else 8
    """Images of a timed step; batch norm needs 2."""
    rounds: Annotated[int, AT_LEAST_1] = 9 if CUDA else 5
    device: str = "cuda" if CUDA else "cpu"
    precision: Literal["f32", "bf16"] = "bf16" if CUDA else "f32"
    compile: bool = False
    """Compile the blocks, as training on CUDA does."""
    json: bool = False


@dataclass(frozen=True)
class Comparison:
    """Costs of one encoder by the names of the methods: GFLOPs an image; seconds a step and their spread, (largest -
    smallest) / median, where it was timed; and how many times less than the first method's each of them is."""

    model: str
    gflops: dict[str, float]
    fewer_flops: dict[str, float]
    seconds: dict[str, float] | None
    spread: dict[str, float] | None
    faster: dict[str, float] | None


def recipes(model: str) -> dict[str, Recipe]:
    """Return the recipe of each method that is compared, on one encoder."""
    encoder = {"encoder.name": model, "encoder.patch": patch_of(model)}
    deep, depth = changed(mae.in1k_b16(), encoder), "method.reconstruct.depth"
    return {
        MASK_TOKENS: changed(deep, {"method.reconstruct.encoder_mask_tokens": True}),
        DEEP: deep,
        SHALLOW: changed(deep, {depth: 1}),
        SUPMAE: changed(supmae.in1k_b16(), encoder),
    }


def patch_of(model: str) -> int:
    """Read the side of the patch from an encoder's name. Raises InputError for a name without one."""
    found = [part.removeprefix("patch") for part in model.split("_") if part.startswith("patch")]
    if not found or not found[0].isdigit():
        raise InputError(f"expected a name such as vit_base_patch16_224, got {model!r}")
    return int(found[0])


def prepare(recipe: Recipe, images: int, device: str) -> tuple[Method, Batch]:
    """Make the recipe's method in training mode and a random batch of `images` images for it."""
    with torch.device(device):
        method = method_class(recipe)(recipe, CLASSES).train()
    return method, synthetic_batch(recipe, images, CLASSES, torch.device(device))


def gflops(recipe: Recipe, images: int = 2) -> float:
    """Count the GFLOPs of one image's forward and backward pass, in a batch of 2, as batch norm needs two images."""
    method, batch = prepare(recipe, images, "meta")
    return count(lambda: method(batch, INFO).total.backward()) / images / 1e9


def step_of(recipe: Recipe, options: Options) -> StepFunction:
    """Return one step, forward and backward, as a function."""
    torch.manual_seed(0)
    recipe = changed(recipe, {"run.precision": "bfloat16" if options.precision == "bf16" else "float32"})
    method, batch = prepare(recipe, options.images, options.device)
    if options.compile:
        compile_blocks(method)

    def run() -> None:
        with precision(recipe.run, torch.device(options.device)):
            total = method(batch, INFO).total
        total.backward()
        for parameter in method.parameters():
            parameter.grad = None  # here, so that other methods' turns do not find this one's gradients in memory

    return run


def seconds(model: str, options: Options) -> dict[str, list[float]]:
    """Time every method in turns and return the seconds of each round."""
    runs = {name: step_of(recipe, options) for name, recipe in recipes(model).items()}
    times = interleaved(runs, options.rounds, 1, torch.device(options.device))
    return {name: work_s(each) for name, each in times.items()}


def measure(model: str, options: Options) -> Comparison:
    """Count one encoder's methods, and time them where asked."""
    counted = {name: gflops(recipe) for name, recipe in recipes(model).items()}
    fewer = {name: counted[MASK_TOKENS] / each for name, each in counted.items()}
    if model not in options.timed:
        return Comparison(model, counted, fewer, None, None, None)
    taken = seconds(model, options)
    middle = {name: statistics.median(each) for name, each in taken.items()}
    varies = {name: spread(each) for name, each in taken.items()}
    faster = {name: times_faster(each, taken[MASK_TOKENS]) for name, each in taken.items()}
    return Comparison(model, counted, fewer, middle, varies, faster)


def report(found: Comparison) -> str:
    """Format one encoder as a few lines of text."""
    lines = [found.model]
    for name, each in found.gflops.items():
        line = f"  {name:28s}{each:9.1f} GFLOP an image, {found.fewer_flops[name]:5.2f}x fewer"
        if found.seconds is not None and found.faster is not None and found.spread is not None:
            line += f"   {found.seconds[name]:8.4f} s a step, {found.faster[name]:5.2f}x faster, "
            line += f"spread {percent(found.spread[name])}"
        lines.append(line)
    return "\n".join([*lines, f"  {whole_runs(found)}"])


def whole_runs(found: Comparison) -> str:
    """Compare MAE's whole pre-training with SupMAE's, in a sentence."""

    def times(of: dict[str, float]) -> float:
        return EPOCHS[DEEP] * of[DEEP] / (EPOCHS[SUPMAE] * of[SUPMAE])

    text = f"{EPOCHS[DEEP]} epochs of {DEEP} are {times(found.gflops):.1f}x the FLOPs of {EPOCHS[SUPMAE]} of {SUPMAE}"
    return text if found.seconds is None else f"{text}, {times(found.seconds):.1f}x the time"


def check(options: Options) -> None:
    """Raise InputError for flags outside their bounds, or a device that is not there."""
    check_bounds(options, "--")
    check_device(options.device)


def main() -> None:
    """Measure every encoder and print the figures, or JSON."""
    options = parse(Options, description=__doc__, prog="python -m models.bench.costs")
    check(options)
    found = partial(measure, options=options)
    models = dict.fromkeys([*options.counted, *options.timed])
    if options.json:
        costs = [asdict(found(model)) for model in models]
        print(json.dumps({"options": asdict(options), "where": machine(options.device), "costs": costs}))
        return
    print(", ".join(f"{key} {value}" for key, value in machine(options.device).items()))
    print(f"steps of {options.images} images, {options.precision}, n = {options.rounds}")
    for model in models:
        print(report(found(model)), flush=True)


if __name__ == "__main__":
    command(main)
