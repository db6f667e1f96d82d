"""Define SPDL's case of pipeline.bench: its pipeline over the same JPEG files, as its example of image loading has it.

The whole image is resized by FFmpeg, as SPDL has no crop at random: it does less than the other cases do.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import spdl.io  # ty: ignore[import-not-found]
from spdl.pipeline import PipelineBuilder  # ty: ignore[import-not-found]

from pipeline.bench.cases import Work
from pipeline.bench.jpeg_folder import jpeg_folder
from pipeline.bench.rounds import Case
from pipeline.spec import both_sides


@contextmanager
def spdl_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield the case of one view, u8: each image resized as a whole, in batches."""
    with jpeg_folder(work) as folder:
        yield {"SPDL: one view, resized without a crop": partial(_run, work, sorted(Path(folder).rglob("*.jpg")))}


def _run(work: Work, paths: list[Path]) -> int:
    height, width = both_sides(work.size)

    def load(some: list[str]):
        return spdl.io.to_numpy(spdl.io.load_image_batch(some, width=width, height=height, pix_fmt="rgb24"))

    builder = PipelineBuilder().add_source(map(str, paths)).aggregate(work.batch).pipe(load, concurrency=work.threads)
    pipeline = builder.add_sink(2).build(num_threads=work.threads)
    with pipeline.auto_stop():
        return sum(len(batch) for batch in pipeline)
