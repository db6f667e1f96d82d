"""What a pre-training step costs: MAE with mask tokens in the encoder, without, with a 1-block decoder; SupMAE.

    python -m models.bench.costs                          FLOPs of ViT-L and H, seconds of what this device has the time for
    python -m models.bench.costs --timed vit_base_patch16_224 --images 16 --rounds 9 --json

FLOPs are counted on meta tensors. Seconds are those of forward and backward of one method on u8 images, all methods
taking turns in one process; ratios are medians over rounds. Papers: mask tokens in the encoder cost ViT-L 3.3 times the
FLOPs and 2.8 times the hours, 3.7 against a 1-block decoder (ViT-H 4.1); SupMAE's 400 epochs take ViT-B 95.9 hours
where MAE's 1,600 take 364.
"""

import json
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch

from models.bench.flops import count
from models.bench.packed_step import CLASSES, timed, where
from models.config.recipe import Recipe
from models.config.sweep import changed
from models.distributed.compile import compile_blocks
from models.method import Method, StepInfo, method_class
from models.methods import mae, supmae
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.text import percent
from pipeline.views import masks

CUDA = torch.cuda.is_available()
MODELS = {"vit_large_patch16_224": 16, "vit_huge_patch14_224": 14}
NOW = StepInfo(step=0, labels_only=False)
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
    images: int = 64 if CUDA else 8
    """Images of a timed step."""
    rounds: int = 9 if CUDA else 5
    device: str = "cuda" if CUDA else "cpu"
    precision: Literal["f32", "bf16"] = "bf16" if CUDA else "f32"
    compile: bool = False
    """Compile the blocks, as training on CUDA does."""
    json: bool = False


@dataclass(frozen=True)
class Cost:
    """One encoder, by the names of the methods: GFLOPs an image; seconds a step and their spread, (largest - smallest)
    / median, where it was timed; and how many times the first method's each of them is less."""

    model: str
    gflops: dict[str, float]
    fewer_flops: dict[str, float]
    seconds: dict[str, float] | None
    spread: dict[str, float] | None
    faster: dict[str, float] | None


def recipes(model: str) -> dict[str, Recipe]:
    """The methods that are compared, on one encoder."""
    encoder = {"encoder.name": model, "encoder.patch": patch_of(model)}
    deep, depth = changed(mae.in1k_b16(), encoder), "method.reconstruct.depth"
    return {
        MASK_TOKENS: changed(deep, {"method.reconstruct.encoder_mask_tokens": True}),
        DEEP: deep,
        SHALLOW: changed(deep, {depth: 1}),
        SUPMAE: changed(supmae.in1k_b16(), encoder),
    }


def patch_of(model: str) -> int:
    """Side of the patch in an encoder's name."""
    found = [part.removeprefix("patch") for part in model.split("_") if part.startswith("patch")]
    if not found or not found[0].isdigit():
        raise InputError(f"expected a name such as vit_base_patch16_224, got {model!r}")
    return int(found[0])


def prepare(recipe: Recipe, images: int, device: str) -> tuple[Method, Batch]:
    """A method and random images for it: u8, as many patches visible as the recipe says."""
    with torch.device(device):
        method = method_class(recipe)(recipe, CLASSES).train()
    size, grid = recipe.data.size, method.encoder.patch_embed.grid_size[0]
    seen = masks.visible_count(recipe.data.mask, grid)
    visible = torch.rand(images, grid * grid).argsort(1)[:, :seen].sort(1).values
    shown = torch.randint(256, (images, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as the loader's lie
    ids, labels, shown, visible = (
        each.to(device) for each in (torch.arange(images), torch.randint(CLASSES, (images,)), shown, visible)
    )
    return method, Batch(0, Labelled(ids, shown, labels, visible), Unlabelled(ids, shown, None, visible)).check()


def gflops(recipe: Recipe, images: int = 2) -> float:
    """Of one image's forward and backward pass; batch norm wants two images."""
    method, batch = prepare(recipe, images, "meta")
    return count(lambda: method(batch, NOW).total.backward()) / images / 1e9


def stepper(recipe: Recipe, options: Options) -> Callable[[], None]:
    """One step, forward and backward, as a function."""
    torch.manual_seed(0)
    method, batch = prepare(recipe, options.images, options.device)
    if options.compile:
        compile_blocks(method)

    def run() -> None:
        half = torch.autocast(batch.labelled.images.device.type, torch.bfloat16)
        with half if options.precision == "bf16" else nullcontext():
            total = method(batch, NOW).total
        total.backward()
        for parameter in method.parameters():
            parameter.grad = None  # now: the others' turns come before the next

    return run


def seconds(model: str, options: Options) -> dict[str, list[float]]:
    """Of each round of each method; they take turns."""
    runs = {name: stepper(recipe, options) for name, recipe in recipes(model).items()}
    for run in runs.values():
        run()  # allocations, kernel choices and graphs belong to nobody
    rounds = [{name: timed(run, options.device) for name, run in runs.items()} for _ in range(options.rounds)]
    return {name: [each[name] for each in rounds] for name in runs}


def measure(model: str, options: Options) -> Cost:
    """Count one encoder's methods, and time them where asked."""
    counted = {name: gflops(recipe) for name, recipe in recipes(model).items()}
    fewer = {name: counted[MASK_TOKENS] / each for name, each in counted.items()}
    if model not in options.timed:
        return Cost(model, counted, fewer, None, None, None)
    took = seconds(model, options)
    middle = {name: statistics.median(each) for name, each in took.items()}
    spread = {name: (max(each) - min(each)) / middle[name] for name, each in took.items()}
    faster = {
        name: statistics.median(a / b for a, b in zip(took[MASK_TOKENS], each, strict=True))
        for name, each in took.items()
    }
    return Cost(model, counted, fewer, middle, spread, faster)


def report(cost: Cost) -> str:
    """One encoder as a few lines of text."""
    lines = [cost.model]
    for name, each in cost.gflops.items():
        line = f"  {name:28s}{each:9.1f} GFLOP an image, {cost.fewer_flops[name]:5.2f}x fewer"
        if cost.seconds is not None:
            line += f"   {cost.seconds[name]:8.4f} s a step, {cost.faster[name]:5.2f}x faster, "
            line += f"spread {percent(cost.spread[name])}"
        lines.append(line)
    return "\n".join([*lines, f"  {whole_runs(cost)}"])


def whole_runs(cost: Cost) -> str:
    """MAE's and SupMAE's whole pre-trainings against each other."""

    def times(of: dict[str, float]) -> float:
        return EPOCHS[DEEP] * of[DEEP] / (EPOCHS[SUPMAE] * of[SUPMAE])

    text = f"{EPOCHS[DEEP]} epochs of {DEEP} are {times(cost.gflops):.1f}x the FLOPs of {EPOCHS[SUPMAE]} of {SUPMAE}"
    return text if cost.seconds is None else f"{text}, {times(cost.seconds):.1f}x the time"


def check(options: Options) -> None:
    """Raises InputError for fewer than one round, one image (batch norm wants two), or a device that is not there."""
    if options.rounds < 1 or options.images < 2:
        raise InputError(f"a round or more of 2 images or more are expected, got {options.rounds} of {options.images}")
    if options.device.startswith("cuda") and not CUDA:
        raise InputError("no CUDA device was found; use --device cpu")


def main() -> None:
    options = parse(Options, description=__doc__, prog="python -m models.bench.costs")
    check(options)
    found = partial(measure, options=options)
    models = dict.fromkeys([*options.counted, *options.timed])
    if options.json:
        costs = [asdict(found(model)) for model in models]
        print(json.dumps({"options": asdict(options), "where": where(options.device), "costs": costs}))
        return
    print(", ".join(f"{key} {value}" for key, value in where(options.device).items()))
    print(f"steps of {options.images} images, {options.precision}, n = {options.rounds}")
    for model in models:
        print(report(found(model)), flush=True)


if __name__ == "__main__":
    command(main)
