"""Define slipstream's cases of pipeline.bench: its loader over the same JPEG files, cached as JPEG and as YUV 4:2:0.

It builds its caches from a folder, below SLIPSTREAM_CACHE_DIR, before the first round.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from slipstream import SlipstreamDataset, SlipstreamLoader  # ty: ignore[import-not-found]
from slipstream.decoders import DecodeRandomResizedCrop  # ty: ignore[import-not-found]

from pipeline.bench.cases import SCALE, Work
from pipeline.bench.jpeg_folder import jpeg_folder
from pipeline.bench.rounds import Case
from pipeline.spec import both_sides


@contextmanager
def slipstream_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield the case of one crop, u8, from each of its two formats."""
    before = os.environ.get("SLIPSTREAM_CACHE_DIR")
    with jpeg_folder(work) as folder, TemporaryDirectory(prefix="bench-") as cache:
        os.environ["SLIPSTREAM_CACHE_DIR"] = cache
        try:
            loaders = {kind: _loader(work, folder, kind) for kind in ("jpeg", "yuv420")}
            yield {
                f"slipstream: one crop, {kind}": lambda loader=loader: sum(len(batch["image"]) for batch in loader)
                for kind, loader in loaders.items()
            }
        finally:
            if before is None:
                del os.environ["SLIPSTREAM_CACHE_DIR"]
            else:
                os.environ["SLIPSTREAM_CACHE_DIR"] = before


def _loader(work: Work, folder: str, kind: str) -> SlipstreamLoader:
    crop = DecodeRandomResizedCrop(both_sides(work.size)[0], scale=SCALE)
    return SlipstreamLoader(
        SlipstreamDataset(local_dir=folder), batch_size=work.batch, drop_last=False, image_format=kind,
        pipelines={"image": [crop]}, verbose=False,
    )  # fmt: skip
