"""Measure what a step of a recipe costs on this device: seconds, FLOPs and memory, on random images.

run = training_step(recipe, method, synthetic_batch(recipe, 64, 1000, device))
gflops, memory = gflops_per_image(run, 64), peak_gb(run, device)
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from models.bench.flops import count
from models.bench.timing import StepFunction, StepTime, spread
from models.config.recipe import Recipe
from models.distributed.compile import compile_blocks, is_worth_compiling
from models.distributed.precision import precision
from models.encoder.vit import FullImages, encode
from models.method import Method, StepInfo
from models.optim.build import build_optimiser
from models.optim.update import clip_grad_norm
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.thresholds.threshold import Threshold
from pipeline.batch import Batch
from pipeline.spec import both_sides


@final
@dataclass(frozen=True)
class StepCost:
    """Cost of steps of `images` images: the times of each round, GFLOPs an image, and peak memory on CUDA in GB."""

    images: int
    times: Sequence[StepTime]
    gflops: float
    memory_gb: float | None = None

    @property
    def images_per_s(self) -> float:
        """Median over the rounds of images a second on the wall clock."""
        return self.images / statistics.median(each.wall_s for each in self.times)

    @property
    def work_s(self) -> float:
        """Median over the rounds of the seconds of work for one image."""
        return statistics.median(each.work_s for each in self.times) / self.images

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median of the rounds on the wall clock."""
        return spread([each.wall_s for each in self.times])


@final
class FixedShare(Threshold):
    """Let a share of the pseudo-labels pass, the first ones: on random images confidence means nothing.

    varying  draw how many of N from the binomial law of N and the share, as it differs from step to step in a run
    """

    def __init__(self, share: float, *, varying: bool = False) -> None:
        super().__init__()
        self.share, self.varying, self._generator = share, varying, np.random.default_rng(0)

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Weigh the first round(share · N) of N pseudo-labels, or so many as are drawn, by 1, the others by 0: [N]."""
        n = len(confidence)
        passed = self._generator.binomial(n, self.share) if self.varying else round(self.share * n)
        return (torch.arange(n, device=confidence.device) < passed).to(confidence.dtype)


def fix_pass_rate(method: Method, share: float, *, varying: bool = False) -> None:
    """Let this share of each step's pseudo-labels pass from now on, on average if `varying`; a step's cost depends on
    how many do, and on a GPU on whether the number differs from the step before.
    """
    for part in method.modules():
        if isinstance(part, PseudoLabels):
            part.threshold = FixedShare(share, varying=varying)


def training_step(recipe: Recipe, method: Method, batch: Batch, step: int = 0) -> StepFunction:
    """Return one update as train.py makes it, at a learning rate of 0, so that the weights stay as they are.

    Without unlabelled images it is an update of the phase on labels alone.
    """
    method.train()
    device, labels_only = next(method.parameters()).device, batch.unlabelled is None
    descent, info = build_optimiser(method, recipe.optim), StepInfo(step, labels_only)

    return lambda: update(recipe, method, descent, batch, info, device)


def update(
    recipe: Recipe, method: Method, descent: Optimizer, batch: Batch, info: StepInfo, device: torch.device
) -> None:
    """Run forward, backward and update on one batch, as train.py does."""
    with precision(recipe.run, device):
        loss = method(batch, info)
    loss.total.backward()
    for parameter in method.inactive_params(info):
        parameter.grad = None
    clip_grad_norm(method.parameters(), recipe.optim.clip)
    descent.step()
    descent.zero_grad(set_to_none=True)
    method.after_step(info.step)


def inference_step(recipe: Recipe, method: Method, images: int, device: torch.device) -> StepFunction:
    """Return the class scores of `images` images as a step; their tokens where the method has no classifier."""
    shape = images, *both_sides(recipe.data.size), 3
    pixels = torch.randint(256, shape, dtype=torch.uint8).permute(0, 3, 1, 2).to(device)

    def run() -> None:
        with torch.inference_mode(), precision(recipe.run, device):
            if method.has_classifier:
                method.logits(pixels)
            else:
                encode(method.eval_encoder.eval(), [FullImages(pixels, pooled=False)])

    return run


def compile_as_training(recipe: Recipe, method: Method, device: torch.device) -> None:
    """Compile the blocks if training would."""
    if is_worth_compiling(recipe.run.compile, method, device):
        compile_blocks(method)


def gflops_per_image(run: StepFunction, images: int) -> float:
    """Count the GFLOPs an image that a step really executes; call it before the blocks are compiled."""
    return count(run) / images / 1e9


def peak_gb(run: StepFunction, device: torch.device) -> float | None:
    """Measure the largest memory of torch's tensors during a step, in GB, with all that lies there; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 1e9
