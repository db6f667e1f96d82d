"""Write the JPEG files of pipeline.bench as a folder of one class, for peers that read files.

with jpeg_folder(work) as folder: ...     # folder/all/00000007.jpg
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.bench.cases import Work


@contextmanager
def jpeg_folder(work: Work) -> Generator[str]:
    """Yield a temporary folder with the stored JPEG of every image, removed at the end."""
    with TemporaryDirectory(prefix="bench-") as folder:
        kind = Path(folder) / "all"
        kind.mkdir()
        for i in work.ids.tolist():
            (kind / f"{i:08d}.jpg").write_bytes(work.jpegs.jpeg(i).tobytes())
        yield folder
