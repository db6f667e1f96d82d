"""Time the Semi-MAE step that trains against the same step written as other libraries do.  python -m models.bench

"semi_mae" is models.methods.semi_mae itself, on u8 images as the loader hands them out; "packed" is its core alone, on
normalised images as the baselines take them. All variants share one ViT and one decoder, let as many images pass, run
forward and backward, and take turns in one process; the figure is the median of the ratios of neighbouring runs. On a
CPU the clock is process time, which other programs hardly change.
"""

import json
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from models.bench.baselines import LAMBDA_U, MU, Step, packed, separate, usb
from models.bench.flops import count
from models.bench.synthetic import random_batch
from models.bench.timing import StepFunction, check_device, interleaved, machine, spread, times_faster, work_s
from models.config.recipe import Encoder, Recipe, Run
from models.distributed.precision import precision
from models.encoder.vit import eval_logits
from models.masked.settings import Reconstruct
from models.method import StepInfo
from models.methods.semi_mae import SemiMAE, Settings
from pipeline.batch import Batch
from pipeline.flags import AT_LEAST_1, BETWEEN_0_AND_1, SHARE, check_bounds, parse
from pipeline.spec import Data, Mask, Size
from pipeline.text import percent

OURS = "semi_mae"
VARIANTS = {"packed": packed, "usb": usb, "separate": separate}
CLASSES = 1000


@dataclass(frozen=True)
class Options:
    """What to measure.

    decoder_depth  blocks of 512; 8 is MAE's default, 1 its fastest
    pass_rate      share of the unlabelled images whose pseudo-label reaches the threshold
    """

    model: str = "vit_small_patch16_224"
    image_size: Size = 224
    patch: int = 16
    pass_rate: Annotated[float, SHARE] = 0.5
    decoder_depth: tuple[int, ...] = (8, 1)
    decoder_width: int = 512
    decoder_heads: int = 16
    mask_ratio: Annotated[float, BETWEEN_0_AND_1] = 0.75
    labelled: Annotated[int, AT_LEAST_1] = 2
    unlabelled: Annotated[int, AT_LEAST_1] = 14
    rounds: Annotated[int, AT_LEAST_1] = 5
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    precision: Literal["f32", "bf16"] = "f32"
    json: bool = False


@dataclass(frozen=True)
class Measurement:
    """One decoder depth: seconds a step, spread (largest - smallest, over the median), GFLOPs, and ratios to ours."""

    decoder_depth: int
    seconds: dict[str, float]
    spread: dict[str, float]
    gflops: dict[str, float]
    times_faster_than: dict[str, float]
    fewer_flops_than: dict[str, float]


def measure(options: Options, depth: int) -> Measurement:
    """Time and count every variant at one decoder depth."""
    runs = prepare(options, depth, options.device)
    times = interleaved(runs, options.rounds, 1, torch.device(options.device))
    seconds = {name: work_s(each) for name, each in times.items()}
    on_meta = prepare(options, depth, "meta")
    counted = {name: count(on_meta.get(name, run)) / 1e9 for name, run in runs.items()}
    return Measurement(
        decoder_depth=depth,
        seconds={name: statistics.median(values) for name, values in seconds.items()},
        spread={name: spread(values) for name, values in seconds.items()},
        gflops=counted,
        times_faster_than={name: times_faster(seconds[OURS], seconds[name]) for name in runs if name != OURS},
        fewer_flops_than={name: counted[name] / counted[OURS] for name in runs if name != OURS},
    )


def prepare(options: Options, depth: int, device: str) -> dict[str, StepFunction]:
    """Return each variant as a function that runs one step, forward and backward, on the same networks and inputs.

    On meta tensors the method itself is left out: it reads from them how many images pass, which meta tensors lack.
    """
    torch.manual_seed(0)
    own, meta = recipe(options, depth), device == "meta"
    with torch.device(device):
        method = SemiMAE(own, CLASSES)
    batch = draw_batch(options, own, device)

    def autocast() -> AbstractContextManager:
        return nullcontext() if meta else precision(own.run, torch.device(device))

    def run(loss: Callable[[], Tensor]) -> None:
        for parameter in method.parameters():
            parameter.grad = None
        with autocast():
            total = loss()
        total.backward()

    losses = {}
    if not meta:
        with autocast():
            method.pseudo.threshold.threshold = threshold(method, batch, passing(options))
        losses[OURS] = lambda: method(batch, StepInfo(step=0, labels_only=False)).total
    step = as_step(batch, passing(options))
    for name, variant in VARIANTS.items():
        losses[name] = partial(variant, method.encoder, method.branch.decoder, step)
    return {name: partial(run, loss) for name, loss in losses.items()}


def recipe(options: Options, depth: int) -> Recipe[Settings]:
    """Describe Semi-MAE with the baselines' loss weights and a decoder of so many blocks."""
    decoder = Reconstruct(depth=depth, width=options.decoder_width, heads=options.decoder_heads)
    settings = Settings(lambda_u=LAMBDA_U, mu=MU, smoothing=0.0, reconstruct=decoder)
    data = Data(size=options.image_size, mask=Mask(ratio=options.mask_ratio))
    run = Run(precision="bfloat16" if options.precision == "bf16" else "float32")
    return Recipe(settings, data, Encoder(options.model, patch=options.patch), run=run)


def passing(options: Options) -> int:
    """Count the unlabelled images that pass: fixed, not drawn, so that the ratio of two runs does not depend on it."""
    return round(options.pass_rate * options.unlabelled)


def threshold(method: SemiMAE, batch: Batch, count: int) -> float:
    """Return the confidence that exactly `count` weak images of the batch reach, computed as the method computes it."""
    assert batch.unlabelled is not None
    confidence = (
        eval_logits(method.encoder, batch.unlabelled.weak).float().softmax(-1).amax(-1).sort(descending=True).values
    )
    chosen = 2.0 if count == 0 else float(confidence[count - 1])
    assert int((confidence >= chosen).sum()) == count, "two images are equally sure: use another precision or pass rate"
    return chosen


def draw_batch(options: Options, own: Recipe[Settings], device: str) -> Batch:
    """Make the random batch that the method reads."""
    return random_batch(own, options.labelled, options.unlabelled, CLASSES, torch.device(device))


def as_step(batch: Batch, count: int) -> Step:
    """Convert a batch to the baselines' inputs: float images, of which the first `count` pass."""
    known, unknown = batch.labelled, batch.unlabelled
    assert known is not None
    assert unknown is not None
    assert unknown.strong is not None
    assert unknown.visible is not None
    images = [images / 255 - 0.5 for images in (known.images, unknown.weak, unknown.strong)]
    passed = torch.arange(len(unknown.weak)) < count  # on the host, then moved: meta tensors cannot be counted
    passed = passed if unknown.weak.is_meta else passed.to(unknown.weak.device)
    return Step(images[0], known.labels, *images[1:], unknown.visible, passed)


def check(options: Options) -> None:
    """Raise InputError for flags outside their bounds, or a device that is not there."""
    check_bounds(options, "--")
    check_device(options.device)


def report(options: Options, measurement: Measurement) -> str:
    """Format one decoder depth as a few lines of text."""
    lines = [f"decoder {measurement.decoder_depth} x {options.decoder_width}:"]
    for name, seconds in measurement.seconds.items():
        varies, gflops = percent(measurement.spread[name]), measurement.gflops[name]
        line = f"  {name:9s}{seconds:9.4f} s  spread {varies:>6s}  {gflops:9.1f} GFLOP"
        if name in measurement.times_faster_than:
            ours = measurement.times_faster_than[name], measurement.fewer_flops_than[name]
            line += f"   {OURS} is {ours[0]:.2f}x faster, {ours[1]:.2f}x fewer FLOPs"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measure every decoder depth and print the figures, or JSON."""
    options = parse(Options, description=__doc__, prog="python -m models.bench")
    check(options)
    if options.json:
        found = [asdict(measure(options, depth)) for depth in options.decoder_depth]
        print(json.dumps({"options": asdict(options), "where": machine(options.device), "measurements": found}))
        return
    print(", ".join(f"{key} {value}" for key, value in machine(options.device).items()))
    passed = passing(options)
    print(f"{options.model}, {options.labelled} labelled + {options.unlabelled} unlabelled, {passed} pass, "
          f"{options.precision}, n = {options.rounds}")  # fmt: skip
    for depth in options.decoder_depth:
        print(report(options, measure(options, depth)), flush=True)
