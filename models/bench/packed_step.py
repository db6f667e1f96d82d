"""The Semi-MAE step that trains against the way the peers write it.  python -m models.bench --help

"semi_mae" is models.methods.semi_mae itself, on u8 images as the loader hands them out; "packed" its core alone, on
images that are normalised already, as the peers' are. Same ViT, same decoder, as many images that pass, forward and
backward, variants taking turns in one process; the figure is the median of the ratios of neighbouring runs. On a CPU
the clock is process time, which other programs do not move.
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from models.bench.baselines import LAMBDA_U, MU, Step, packed, separate, usb
from models.bench.flops import count
from models.config.recipe import Encoder, Recipe
from models.encoder.vit import eval_logits
from models.masked.base import Reconstruct
from models.method import StepInfo
from models.methods.semi_mae import SemiMAE, Settings
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError
from pipeline.flags import parse
from pipeline.spec import Data
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
    image_size: int = 224
    patch: int = 16
    pass_rate: float = 0.5
    decoder_depth: tuple[int, ...] = (8, 1)
    decoder_width: int = 512
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    labelled: int = 2
    unlabelled: int = 14
    rounds: int = 5
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
    for run in runs.values():
        run()  # allocations, kernel choices and caches belong to nobody
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run, options.device))
    on_meta = prepare(options, depth, "meta")
    counted = {name: count(on_meta.get(name, run)) / 1e9 for name, run in runs.items()}
    return Measurement(
        decoder_depth=depth,
        seconds={name: statistics.median(values) for name, values in seconds.items()},
        spread={name: (max(values) - min(values)) / statistics.median(values) for name, values in seconds.items()},
        gflops=counted,
        times_faster_than={name: _median_ratio(seconds[name], seconds[OURS]) for name in runs if name != OURS},
        fewer_flops_than={name: counted[name] / counted[OURS] for name in runs if name != OURS},
    )


def prepare(options: Options, depth: int, device: str) -> dict[str, Callable[[], None]]:
    """Each variant as a function that runs one step, forward and backward, on the same networks and inputs.

    Without the method itself on meta tensors: how many images pass is a number that it reads from them.
    """
    torch.manual_seed(0)
    with torch.device(device):
        method = SemiMAE(recipe(options, depth), CLASSES)
    batch = draw_batch(options, method.encoder.patch_embed.num_patches, device)
    half = options.precision == "bf16" and device != "meta"

    def precision() -> AbstractContextManager:
        return torch.autocast(torch.device(device).type, torch.bfloat16) if half else nullcontext()

    def run(loss: Callable[[], Tensor]) -> None:
        for parameter in method.parameters():
            parameter.grad = None
        with precision():
            total = loss()
        total.backward()

    losses = {}
    if device != "meta":
        with precision():
            method.pseudo.threshold.threshold = threshold(method, batch, passing(options))
        losses[OURS] = lambda: method(batch, StepInfo(step=0, labels_only=False)).total
    step = as_step(batch, passing(options))
    for name, variant in VARIANTS.items():
        losses[name] = partial(variant, method.encoder, method.reconstruction.decoder, step)
    return {name: partial(run, loss) for name, loss in losses.items()}


def recipe(options: Options, depth: int) -> Recipe[Settings]:
    """Semi-MAE with the peers' weights and the decoder asked for."""
    decoder = Reconstruct(depth=depth, width=options.decoder_width, heads=options.decoder_heads)
    settings = Settings(lambda_u=LAMBDA_U, mu=MU, smoothing=0.0, reconstruct=decoder)
    return Recipe(settings, Data(size=options.image_size), Encoder(options.model, patch=options.patch))


def passing(options: Options) -> int:
    """Unlabelled images that pass: a count, not a draw, or the ratio of two runs would depend on luck."""
    return round(options.pass_rate * options.unlabelled)


def threshold(method: SemiMAE, batch: Batch, count: int) -> float:
    """The confidence that so many weak images of the batch reach, as the method itself sees them."""
    confidence = (
        eval_logits(method.encoder, batch.unlabelled.weak).float().softmax(-1).amax(-1).sort(descending=True).values
    )
    chosen = 2.0 if count == 0 else float(confidence[count - 1])
    assert int((confidence >= chosen).sum()) == count, "two images are equally sure: use another precision or pass rate"
    return chosen


def draw_batch(options: Options, patches: int, device: str) -> Batch:
    """Random u8 images; their coarse structure differs, so that a new network is not equally sure of all."""
    size, unlabelled = options.image_size, options.unlabelled
    visible = torch.rand(unlabelled, patches).argsort(1)[:, : int(patches * (1 - options.mask_ratio))].sort(1).values
    coarse = [torch.randint(256, (n, 3, 4, 4)).float() for n in (options.labelled, unlabelled, unlabelled)]
    known, weak, strong = (F.interpolate(each, (size, size)).to(torch.uint8).to(device) for each in coarse)
    labels, ids = torch.randint(CLASSES, (options.labelled,)), [torch.arange(len(each)) for each in (known, weak)]
    labelled = Labelled(ids[0].to(device), known, labels.to(device))
    return Batch(0, labelled, Unlabelled(ids[1].to(device), weak, strong, visible.to(device))).check()


def as_step(batch: Batch, count: int) -> Step:
    """The same images for the peers, who take floats; the first `count` pass, whichever they are."""
    known, unknown = batch.labelled, batch.unlabelled
    images = [images / 255 - 0.5 for images in (known.images, unknown.weak, unknown.strong)]
    passed = torch.arange(len(unknown.weak)) < count  # on the host, then moved: meta tensors cannot be counted
    passed = passed if unknown.weak.is_meta else passed.to(unknown.weak.device)
    return Step(images[0], known.labels, *images[1:], unknown.visible, passed)


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one run: CUDA events on a GPU, process time elsewhere."""
    if not device.startswith("cuda"):
        start = time.process_time()
        run()
        return time.process_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _median_ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def check(options: Options) -> None:
    """Raises InputError for rates outside 0..1, fewer than one round, or a device that is not there."""
    if not (0 <= options.pass_rate <= 1 and 0 < options.mask_ratio < 1 and options.rounds >= 1):
        raise InputError(
            "pass rate in 0..1, mask ratio between 0 and 1 and a round or more are expected, "
            f"got {options.pass_rate}, {options.mask_ratio}, {options.rounds}"
        )
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device was found; use --device cpu")


def where(device: str) -> dict[str, str]:
    """What the figures hold for: versions, device, threads."""
    cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} thread(s)"
    return {"device": name, "torch": torch.__version__, "timm": timm.__version__,
            "clock": "CUDA events" if cuda else "process time"}  # fmt: skip


def report(options: Options, measurement: Measurement) -> str:
    """One decoder depth as a few lines of text."""
    lines = [f"decoder {measurement.decoder_depth} x {options.decoder_width}:"]
    for name, seconds in measurement.seconds.items():
        spread, gflops = measurement.spread[name], measurement.gflops[name]
        line = f"  {name:9s}{seconds:9.4f} s  spread {percent(spread):>6s}  {gflops:9.1f} GFLOP"
        if name in measurement.times_faster_than:
            ours = measurement.times_faster_than[name], measurement.fewer_flops_than[name]
            line += f"   {OURS} is {ours[0]:.2f}x faster, {ours[1]:.2f}x fewer FLOPs"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    options = parse(Options, description=__doc__, prog="python -m models.bench")
    check(options)
    if options.json:
        found = [asdict(measure(options, depth)) for depth in options.decoder_depth]
        print(json.dumps({"options": asdict(options), "where": where(options.device), "measurements": found}))
        return
    print(", ".join(f"{key} {value}" for key, value in where(options.device).items()))
    passed = passing(options)
    print(f"{options.model}, {options.labelled} labelled + {options.unlabelled} unlabelled, {passed} pass, "
          f"{options.precision}, n = {options.rounds}")  # fmt: skip
    for depth in options.decoder_depth:
        print(report(options, measure(options, depth)), flush=True)
