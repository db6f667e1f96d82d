"""What a step of a recipe costs on this device: seconds, FLOPs and memory, on synthetic images, so nothing waits for
data."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from models.bench.flops import count
from models.config.recipe import Recipe
from models.distributed.compile import compile_blocks
from models.distributed.precision import precision
from models.encoder.vit import FullImages, encode
from models.method import Method, StepInfo, method_class
from models.optim.optimiser import clip, optimiser
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.thresholds.base import Threshold
from pipeline import rng
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.sampling.sampler import shares
from pipeline.views.masks import draw as draw_mask

Step = Callable[[], object]


class Turn(NamedTuple):
    """Seconds of one step: on the wall's clock, and of work: CPU seconds of the process, which other programs do not
    move. On CUDA both are the device's."""

    wall_s: float
    work_s: float


@dataclass(frozen=True)
class Cost:
    """Of steps of `images` images: their turns, GFLOPs an image, and peak memory on CUDA."""

    images: int
    turns: Sequence[Turn]
    gflops: float
    memory_gb: float | None = None

    @property
    def images_per_s(self) -> float:
        """Median of the rounds."""
        return self.images / statistics.median(turn.wall_s for turn in self.turns)

    @property
    def work_s(self) -> float:
        """Of an image: median of the rounds."""
        return statistics.median(turn.work_s for turn in self.turns) / self.images

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        walls = [turn.wall_s for turn in self.turns]
        return (max(walls) - min(walls)) / statistics.median(walls)


@final
class Share(Threshold):
    """The first so many of the guesses pass, whatever they are: of noise, confidence means nothing."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        place = torch.arange(len(confidence), device=confidence.device)
        return (place < round(self.share * len(confidence))).to(confidence.dtype)


def let_pass(method: Method, share: float) -> None:
    """From now on this share of each step's pseudo-labels passes: those that do not may cost nothing."""
    for part in method.modules():
        if isinstance(part, PseudoLabels):
            part.threshold = Share(share)


def synthetic(recipe: Recipe, images: int, classes: int, device: torch.device, *, labels_only: bool = False) -> Batch:
    """Noise in the shapes of a (micro-)batch of `images` of the recipe: labelled and unlabelled in its ratio (or all
    labelled), with the views and masks that its method reads. Raises InputError where one of the parts would be empty.
    """
    data, needs = recipe.data, method_class(recipe).needs(recipe)
    known, unknown = (images, 0) if labels_only else shares(images, data.ratio, needs.labelled, needs.unlabelled)
    generator = torch.Generator().manual_seed(0)

    def view(n: int) -> Tensor:
        shape = n, data.size, data.size, 3  # as the loader's lie
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2).to(device)

    def masks(n: int, asked: bool) -> list[Tensor | None]:
        if not asked:
            return [None, None]
        drawn = draw_mask(data.mask, rng.keys(0, 0, np.arange(n), rng.MASK), data.size // recipe.encoder.patch)
        return [None if ids is None else torch.from_numpy(ids).to(device) for ids in drawn]

    labelled = unlabelled = None
    if known:
        labels = torch.randint(classes, (known,), generator=generator).to(device)
        ids = torch.arange(known, device=device)
        labelled = Labelled(ids, view(known), labels, *masks(known, needs.labelled_visible))
    if unknown:
        strong = view(unknown) if needs.strong else None
        ids = torch.arange(unknown, device=device)
        unlabelled = Unlabelled(ids, view(unknown), strong, *masks(unknown, needs.unlabelled_visible))
    return Batch(0, labelled, unlabelled).check()


def training(recipe: Recipe, method: Method, batch: Batch, step: int = 0) -> Step:
    """One update as train.py makes it, at a rate of 0, so that the weights stay; without unlabelled images that of the
    labels-only phase."""
    method.train()
    device, labels_only = next(method.parameters()).device, batch.unlabelled is None
    stepper, now = optimiser(method, recipe.optim), StepInfo(step, labels_only)

    def run() -> None:
        with precision(recipe.run, device):
            loss = method(batch, now)
        loss.total.backward()
        for parameter in method.inactive_params(now):
            parameter.grad = None
        clip(method.parameters(), recipe.optim.clip)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        method.after_step(now.step)

    return run


def inference(recipe: Recipe, method: Method, images: int, device: torch.device) -> Step:
    """Class scores of `images` images; tokens where the method has no classifier."""
    size = recipe.data.size
    shown = torch.randint(256, (images, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)

    def run() -> None:
        with torch.inference_mode(), precision(recipe.run, device):
            if method.has_classifier:
                method.logits(shown)
            else:
                encode(method.eval_encoder.eval(), [FullImages(shown, pooled=False)])

    return run


def compiled(recipe: Recipe, method: Method, device: torch.device) -> None:
    """Compile the blocks if training would."""
    if recipe.run.compile == "on" or (recipe.run.compile == "auto" and device.type == "cuda"):
        compile_blocks(method)


def flops(run: Step, images: int) -> float:
    """GFLOPs an image that a step really executes; before its blocks are compiled."""
    return count(run) / images / 1e9


def peak_gb(run: Step, device: torch.device) -> float | None:
    """Most memory that torch's tensors take on CUDA, everything that is there included."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 1e9


def rounds(steps: dict[str, Step], n: int, repeat: int, device: torch.device) -> dict[str, list[Turn]]:
    """Every step in each of `n` rounds, `repeat` times in a row; they take turns, after one round that warms up."""
    found: dict[str, list[Turn]] = {name: [] for name in steps}
    for number in range(n + 1):
        for name, run in steps.items():
            turn = timed(run, repeat, device)
            if number:
                found[name].append(turn)
    return found


def timed(run: Step, repeat: int, device: torch.device) -> Turn:
    """Means of `repeat` steps in a row, which the host may queue ahead of the device as it does in training."""
    if device.type == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(repeat):
            run()
        ended.record()
        ended.synchronize()
        seconds = began.elapsed_time(ended) / 1000 / repeat
        return Turn(seconds, seconds)
    wall, work = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        run()
    return Turn((time.perf_counter() - wall) / repeat, max(time.process_time() - work, 1e-9) / repeat)
