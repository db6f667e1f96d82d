"""The packed Semi-MAE step against the way the peers write it.  python -m models.bench --help

Same ViT, same decoder, same inputs, forward and backward, variants taking turns in one process; the figure is the
median of the ratios of neighbouring runs. On a CPU the clock is process time, which other programs do not move.
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import timm
import torch
import tyro

from models.build import build_encoder
from models.decoder import Decoder
from models.flops import count
from models.peers import Step, packed, separate, usb
from pipeline.errors import InputError, command

VARIANTS = {"packed": packed, "usb": usb, "separate": separate}


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
    counted = {name: count(run) / 1e9 for name, run in prepare(options, depth, "meta").items()}
    return Measurement(
        decoder_depth=depth,
        seconds={name: statistics.median(values) for name, values in seconds.items()},
        spread={name: (max(values) - min(values)) / statistics.median(values) for name, values in seconds.items()},
        gflops=counted,
        times_faster_than={name: _median_ratio(seconds[name], seconds["packed"]) for name in runs if name != "packed"},
        fewer_flops_than={name: counted[name] / counted["packed"] for name in runs if name != "packed"},
    )


def prepare(options: Options, depth: int, device: str) -> dict[str, Callable[[], None]]:
    """Each variant as a function that runs one step, forward and backward, on the same networks and inputs."""
    torch.manual_seed(0)
    with torch.device(device):
        vit = build_encoder(options.model, image_size=options.image_size, patch=options.patch, classes=1000)
        decoder = Decoder(
            vit.embed_dim,
            vit.patch_embed.grid_size,
            options.patch,
            width=options.decoder_width,
            depth=depth,
            heads=options.decoder_heads,
            prefix=vit.num_prefix_tokens,
        )
    step = draw_step(options, vit.patch_embed.num_patches, device)
    half = options.precision == "bf16" and device != "meta"

    def run(variant: Callable) -> None:
        for parameter in (*vit.parameters(), *decoder.parameters()):
            parameter.grad = None
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16) if half else nullcontext():
            loss = variant(vit, decoder, step)
        loss.backward()

    return {name: partial(run, variant) for name, variant in VARIANTS.items()}


def draw_step(options: Options, patches: int, device: str) -> Step:
    """Random inputs; exactly round(pass_rate · unlabelled) images pass."""
    size, unlabelled = options.image_size, options.unlabelled
    visible = torch.rand(unlabelled, patches).argsort(1)[:, : int(patches * (1 - options.mask_ratio))]
    # a count, not a draw: the ratio of two runs must not depend on how many happened to pass
    passed = torch.randperm(unlabelled) < round(options.pass_rate * unlabelled)
    images = [torch.randn(n, 3, size, size) for n in (options.labelled, unlabelled, unlabelled)]
    labels = torch.randint(1000, (options.labelled,))
    moved = [tensor.to(device) for tensor in (images[0], labels, *images[1:], visible.sort(1).values)]
    return Step(*moved, passed=passed if device == "meta" else passed.to(device))  # meta tensors cannot be counted


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


def where(options: Options) -> dict[str, str]:
    """What the figures hold for: versions, device, threads."""
    cuda = options.device.startswith("cuda")
    device = torch.cuda.get_device_name(options.device) if cuda else f"CPU, {torch.get_num_threads()} thread(s)"
    return {"device": device, "torch": torch.__version__, "timm": timm.__version__,
            "clock": "CUDA events" if cuda else "process time"}  # fmt: skip


def report(options: Options, measurement: Measurement) -> str:
    """One decoder depth as a few lines of text."""
    lines = [f"decoder {measurement.decoder_depth} x {options.decoder_width}:"]
    for name, seconds in measurement.seconds.items():
        spread, gflops = measurement.spread[name], measurement.gflops[name]
        line = f"  {name:9s}{seconds:9.4f} s  spread {spread:4.0%}  {gflops:9.1f} GFLOP"
        if name in measurement.times_faster_than:
            ours = measurement.times_faster_than[name], measurement.fewer_flops_than[name]
            line += f"   packed is {ours[0]:.2f}x faster, {ours[1]:.2f}x fewer FLOPs"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    options = tyro.cli(Options, description=__doc__, prog="python -m models.bench")
    check(options)
    if options.json:
        found = [asdict(measure(options, depth)) for depth in options.decoder_depth]
        print(json.dumps({"options": asdict(options), "where": where(options), "measurements": found}))
        return
    print(", ".join(f"{key} {value}" for key, value in where(options).items()))
    passed = round(options.pass_rate * options.unlabelled)
    print(f"{options.model}, {options.labelled} labelled + {options.unlabelled} unlabelled, {passed} pass, "
          f"{options.precision}, n = {options.rounds}")  # fmt: skip
    for depth in options.decoder_depth:
        print(report(options, measure(options, depth)), flush=True)


if __name__ == "__main__":
    command(main)
