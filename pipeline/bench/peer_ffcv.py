"""Define FFCV's cases of pipeline.bench: its own loader over the same file, with one decode, or two as in FFCV-SSL."""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import PipelineSpec

from pipeline.bench.cases import SCALE, Work
from pipeline.bench.rounds import Case
from pipeline.spec import both_sides

REPEATS = 2  # passes in one epoch of ffcv.Loader, which allocates its memory again in each epoch
TWO_DECODES = "ffcv.Loader: two crops, two decodes (FFCV-SSL)"


@contextmanager
def ffcv_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield the case of one crop, u8: FFCV's ImageNet recipe before its normalisation."""
    loader = _loader(work, ["image"])
    yield {"ffcv.Loader: one crop": lambda: sum(len(images) for (images,) in loader)}


@contextmanager
def ffcv_ssl_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield the case of two crops, u8, by two decoders on one field: what the fork FFCV-SSL does, in ffcv itself."""
    loader = _loader(work, ["image", "strong"])
    yield {TWO_DECODES: lambda: sum(len(weak) for weak, _ in loader)}


def _loader(work: Work, names: list[str]) -> Loader:
    def pipeline() -> PipelineSpec:
        decoder = RandomResizedCropRGBImageDecoder(both_sides(work.size), scale=SCALE)
        return PipelineSpec("image", decoder=decoder, transforms=[])

    return Loader(
        str(work.beton.path), work.batch, num_workers=work.threads, os_cache=True, order=OrderOption.SEQUENTIAL,
        indices=np.tile(work.ids, REPEATS).tolist(), pipelines={**{name: pipeline() for name in names}, "label": None},
        drop_last=False,
    )  # fmt: skip
