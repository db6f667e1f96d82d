"""Compare the images that a model's step takes with those that a machine's cores prepare, and say which waits."""

from dataclasses import dataclass

import torch

from pipeline.concurrency.cores import cores
from pipeline.errors import InputError

GFLOP = {
    "vit_tiny_patch16_224": 34.7,
    "vit_small_patch16_224": 54.9,
    "vit_base_patch16_224": 133.7,
    "vit_large_patch16_224": 411.8,
}
"""Of one image in a packed Semi-MAE step (labelled 1 : 7, half of the pseudo-labels pass, MAE's decoder of 8 x 512),
forward and backward, counted by models.bench.flops: python -m models.bench --model NAME."""
ASSUMED_TFLOPS = 225
"""TFLOP/s that a step is assumed to reach where none was measured: what published ViTs sustain on an H100
(docs/scale.md)."""


@dataclass(frozen=True)
class Machine:
    """The cores that this process may use, the GPUs that it sees, and their name."""

    cores: int
    gpus: int = 0
    gpu: str = ""


@dataclass(frozen=True)
class Need:
    """What a step takes: decoded images a second on one GPU, and where the figure is from."""

    model: str
    images_per_s: float
    origin: str


def machine() -> Machine:
    """Describe this machine."""
    gpus = torch.cuda.device_count()
    return Machine(cores(), gpus, torch.cuda.get_device_name() if gpus else "")


def need(model: str, images_per_s: float | None = None) -> Need:
    """Find a model's need from a measured rate, or from its FLOPs. Raises InputError for a model without either."""
    if images_per_s is not None:
        return Need(model, images_per_s, "as you say")
    if model not in GFLOP:
        raise InputError(f"--model knows {', '.join(GFLOP)}, got {model!r}; for another one say --step-images-per-s")
    assumed = f"assumed, not measured: {GFLOP[model]:g} GFLOP an image at {ASSUMED_TFLOPS} TFLOP/s"
    return Need(model, ASSUMED_TFLOPS * 1000 / GFLOP[model], f"{assumed}, as published ViTs sustain on an H100")


def verdict(need: Need, gpu_views: float, cpu_views: float, here: Machine, end_to_end: float | None = None) -> str:
    """Say in one sentence whether the GPU or its cores would wait, and for how much of their time.

    gpu_views, cpu_views  images per core-second with the views made on the GPU, and on the CPU
    end_to_end            images/s of GPU views on this GPU, if measured with all cores that each GPU has here
    """
    share = here.cores / max(here.gpus, 1)
    feeds = end_to_end or share * gpu_views
    step = f"{need.model} at {need.images_per_s:,.0f} images/s ({need.origin})"
    start = f"A {here.gpu}" if here.gpus else "No GPU is here: one"
    supply = f"{share:.3g} core(s), which feed {'(measured) ' if end_to_end else ''}{feeds:,.0f}"
    if feeds < need.images_per_s:
        waits = f"would wait {100 * (1 - feeds / need.images_per_s):.0f} % of its time for its {supply}"
    else:
        waits = f"would not wait for its {supply}: these wait {100 * (1 - need.images_per_s / feeds):.0f} % of theirs"
    on_gpu, on_cpu = (f"{need.images_per_s / rate:.1f}" for rate in (gpu_views, cpu_views))
    return (
        f"{start} that trains {step} {waits}; the recipe needs {on_gpu} cores a GPU with GPU views, {on_cpu} with "
        "CPU views."
    )
