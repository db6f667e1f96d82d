"""Define DALI's cases of pipeline.bench: its own operators over the same bytes, one batch ahead and none left over."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import Literal

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.auto_aug import rand_augment

from pipeline.bench.cases import SCALE, Work
from pipeline.bench.rounds import Case
from pipeline.spec import both_sides

OPERATIONS, MAGNITUDE, FILL = 3, 9, 128
ASPECT = (3 / 4, 4 / 3)
Kind = Literal["decode", "one crop", "two crops", "two crops, rand_augment on one"]


@contextmanager
def dali_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield the cases on the CPU, and where there is a GPU also those that decode in "mixed" mode and run on it."""
    kinds: tuple[Kind, ...] = ("decode", "one crop", "two crops", "two crops, rand_augment on one")
    devices = ["cpu", "mixed"] if torch.cuda.is_available() else ["cpu"]
    yield {
        f"DALI {device}: {kind}": partial(_run, _pipeline(work, kind, device), work)
        for device in devices
        for kind in kinds
    }


def _pipeline(work: Work, kind: Kind, device: str):
    source = cycle([[work.jpegs.jpeg(int(i)) for i in ids] for ids in work.batches])

    def crop(image):
        cut = fn.random_resized_crop(
            image, size=list(both_sides(work.size)), random_area=list(SCALE), random_aspect_ratio=list(ASPECT),
            interp_type=types.INTERP_LINEAR, antialias=True,
        )  # fmt: skip
        return fn.flip(cut, horizontal=fn.random.coin_flip())

    @pipeline_def(enable_conditionals=True)
    def define():
        jpeg = fn.external_source(lambda: next(source), batch=True, dtype=types.UINT8)
        image = fn.decoders.image(jpeg, device=device)
        if kind == "decode":
            return image
        if kind == "one crop":
            return crop(image)
        weak, strong = crop(image), crop(image)
        if kind != "two crops":
            sides = list(both_sides(work.size))
            strong = rand_augment.rand_augment(strong, n=OPERATIONS, m=MAGNITUDE, shape=sides, fill_value=FILL)
        return weak, strong

    with warnings.catch_warnings(record=True):  # DALI warns about its own auto_aug, and no filter silences it
        device_id = None if device == "cpu" else 0
        pipeline = define(
            batch_size=work.batch, num_threads=work.threads, device_id=device_id, seed=0,
            prefetch_queue_depth=1,  # else the first call begins more batches, which would be counted in the next case
        )  # fmt: skip
        pipeline.build()
    return pipeline


def _run(pipeline, work: Work) -> int:
    def take() -> None:
        pipeline.share_outputs()
        pipeline.release_outputs()

    pipeline.schedule_run()
    for _ in work.batches[1:]:
        pipeline.schedule_run()
        take()
    take()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(work.ids)
