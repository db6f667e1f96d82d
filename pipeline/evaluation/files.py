"""Image files of any kind, read ahead and shown as images are evaluated: what `predict` looks at."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.backends import cpu_views, kernels, libffcv, staged_decode
from pipeline.backends.gpu_views import check_device
from pipeline.backends.select import views_on
from pipeline.backends.staging_buffers import SLOT_PIXELS, staging_buffers_for
from pipeline.concurrency.pool import CHUNK, Pool, cores
from pipeline.concurrency.threads import Threads
from pipeline.errors import InputError
from pipeline.sampling.sampler import SampleIds
from pipeline.sources.encode import prepare
from pipeline.sources.listing import listing
from pipeline.spec import Data
from pipeline.store.image_size import MAX_PIXELS
from pipeline.store.jpeg_header import plain_size
from pipeline.views.plan import ViewParams, ViewSpec, draw

ROOM = SLOT_PIXELS  # pixels of each thread's scratch too; memory that no image touches costs nothing
QUALITY = 100  # of what libffcv does not take (PNG, turned or CMYK JPEG): it goes through a JPEG in memory


class Shown(NamedTuple):
    """Images u8 [n, 3, S, S] of `paths`, and (path, reason) of the files of this batch that are no images."""

    paths: list[Path]
    images: Tensor
    rejected: list[tuple[Path, str]]


class Read(NamedTuple):
    """One file as a JPEG: u8 [bytes] and its size in pixels."""

    jpeg: np.ndarray
    height: int
    width: int


class Chunk(NamedTuple):
    """Some files, or why they are no images, and the memory u8 [bytes] that they were read into."""

    memory: np.ndarray
    files: list[Read | str]


def find_images(given: Sequence[Path]) -> list[Path]:
    """The files among `given`, and the images below its folders, in alphabetical order, hidden ones left out.

    Raises InputError for a path that is not there, and if there is no image at all.
    """
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise InputError(f"{path}: expected an image or a folder of images, found nothing")
        found += [path / name for name in listing(path).images] if path.is_dir() else [path]
    if not found:
        raise InputError(f"{', '.join(map(str, given))}: expected images, found none")
    return found


def sweep_files(paths: Sequence[Path], data: Data, device: torch.device, batch: int) -> Iterator[Shown]:
    """Every file once, in order, through the evaluation view of `data`.

    While a batch is used the next one is decoded, and the one after it read.
    """
    libffcv.load()
    threads, views, memory = Threads(data.threads or cores(), "read"), _Views(data, device), _ReadBuffers()
    read: deque[tuple[list[Path], list[Future[Chunk]]]] = deque()
    begun: deque[Callable[[], Shown]] = deque()
    try:
        for first in range(0, len(paths) + 2 * batch, batch):
            if part := list(paths[first : first + batch]):
                chunks = [part[at : at + CHUNK] for at in range(0, len(part), CHUNK)]
                jobs = [threads.submit(_read_all, chunk, memory) for chunk in chunks]
                read.append((part, jobs))
            if len(read) > 1 or (read and not part):
                begun.append(_begin(*read.popleft(), data, device, views, memory))
            if len(begun) > 1 or (begun and not part and not read):
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()
    finally:
        threads.close()
        views.close()


def _read_all(paths: list[Path], memory: "_ReadBuffers") -> Chunk:
    sizes = [_size(path) for path in paths]
    ends = np.cumsum(sizes)
    taken = memory.take(int(ends[-1]))
    return Chunk(taken, [_read(path, taken[end - n : end]) for path, n, end in zip(paths, sizes, ends, strict=True)])


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # reading it will say why


def _read(path: Path, target: np.ndarray) -> Read | str:
    """A file, read into `target` u8 [its size], as a JPEG that libffcv takes; or why it is none."""
    try:
        jpeg = _content(path, target)
        size = plain_size(jpeg)
        if size is not None and size[0] * size[1] <= MAX_PIXELS:
            return Read(jpeg, *size)
        made = prepare(jpeg.tobytes(), None, QUALITY, reencode=False)
    except OSError as error:
        return error.strerror or type(error).__name__
    except InputError as error:
        return str(error)
    return Read(np.frombuffer(made.jpeg, np.uint8), made.height, made.width)


def _content(path: Path, target: np.ndarray) -> np.ndarray:
    done = 0
    with open(path, "rb", buffering=0) as file:
        while done < len(target) and (n := file.readinto(target[done:])):
            done += n
    return target[:done]


def _begin(
    paths: list[Path],
    jobs: list[Future[Chunk]],
    data: Data,
    device: torch.device,
    views: "_Views",
    memory: "_ReadBuffers",
) -> Callable[[], Shown]:
    chunks = [job.result() for job in jobs]
    results = [each for chunk in chunks for each in chunk.files]
    rejected = [(path, why) for path, why in zip(paths, results, strict=True) if isinstance(why, str)]
    good = [(path, each) for path, each in zip(paths, results, strict=True) if isinstance(each, Read)]
    if not good:
        memory.give_back(chunks)
        nothing = torch.empty(0, 3, data.size, data.size, dtype=torch.uint8, device=device)
        return lambda: Shown([], nothing, rejected)
    jpegs, heights, widths = zip(*(each for _, each in good), strict=True)
    heights, widths, sizes = (np.array(column, np.int64) for column in (heights, widths, list(map(len, jpegs))))
    places = np.array([jpeg.ctypes.data for jpeg in jpegs], np.int64)  # each where it was read to: nothing is copied
    source = kernels.Source(0, places, sizes, heights, widths, False)
    samples = SampleIds(np.zeros(len(good), np.int64), np.zeros(len(good), np.int64))
    plan = draw(ViewSpec({"images": (data.evaluate, rng.WEAK)}, data.size), samples, heights, widths, 0)
    wait = views.start(source, plan.params)

    def finish(_keep: Sequence[np.ndarray] = jpegs) -> Shown:  # the decoder holds their addresses only
        (images,), errors = wait()
        memory.give_back(chunks)
        broken = [(path, "corrupt or truncated JPEG") for (path, _), e in zip(good, errors, strict=True) if e]
        if broken:
            images = images[torch.from_numpy(np.flatnonzero(errors == 0)).to(device)]
        whole = [path for (path, _), e in zip(good, errors, strict=True) if not e]
        return Shown(whole, images, rejected + broken)

    return finish


@final
class _Views:
    """What makes views, where the recipe wants them made, with memory for the largest image so far: scratch of threads
    that make them, or the ring through which decoded pixels cross. Smaller images may still be at work in the old."""

    def __init__(self, data: Data, device: torch.device) -> None:
        self.data, self.device, self.on_cpu = data, device, views_on(data, device) == "cpu"
        self.largest, self.pools, self.buffers = 0, [], None
        if not self.on_cpu:
            check_device(device)

    def start(self, source: kernels.Source, plan: ViewParams) -> Callable[[], tuple[list[Tensor], np.ndarray]]:
        pixels = int((source.heights * source.widths).max())
        if pixels > self.largest:
            self._grow(pixels)
        if self.on_cpu:
            return cpu_views.start_views(self.pools[-1], source, plan, self.data.size, self.device)
        return staged_decode.start_views(self.pools[-1], self.buffers, source, plan, self.data.size, self.device)

    def close(self) -> None:
        for pool in self.pools:
            pool.close()

    def _grow(self, pixels: int) -> None:
        self.largest = largest = max(pixels, 2 * self.largest, ROOM)
        if self.on_cpu:
            self.pools.append(Pool(self.data.threads, lambda: kernels.scratch(largest, self.data.size)))
            return
        self.pools = self.pools or [Pool(self.data.threads, lambda: None)]
        self.buffers = staging_buffers_for(largest, self.data.threads, self.device)


@final
class _ReadBuffers:
    """What files are read into, used again and again: fresh memory costs more than the reading."""

    def __init__(self) -> None:
        self.free: deque[np.ndarray] = deque()

    def take(self, size: int) -> np.ndarray:
        try:
            found = self.free.pop()
        except IndexError:  # all of it is in use
            found = np.empty(0, np.uint8)
        return found if len(found) >= size else np.empty(2 * size, np.uint8)

    def give_back(self, chunks: list[Chunk]) -> None:
        self.free.extend(chunk.memory for chunk in chunks)
