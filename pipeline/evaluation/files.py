"""Image files of any kind, read ahead and shown as images are evaluated: what `predict` looks at."""

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import cpu_views, kernels, libffcv, staged_decode
from pipeline.backends.select import views_on
from pipeline.backends.staging_buffers import SLOT_PIXELS, StagingBuffers, staging_buffers_for
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.cores import cores
from pipeline.concurrency.pool import CHUNK, Pool
from pipeline.concurrency.threads import Threads
from pipeline.errors import InputError
from pipeline.executors.gpu_views import check_device
from pipeline.sources.encode import Decoding, prepare
from pipeline.sources.listing import Listing, listing, unreadable
from pipeline.sources.regular import MOST_BYTES, open_regular
from pipeline.spec import Data, both_sides
from pipeline.store.jpeg_header import plain_size
from pipeline.store.sample_names import escape
from pipeline.text import some
from pipeline.views.plan import ViewParams, evaluation_plan

ROOM = SLOT_PIXELS  # pixels of each thread's scratch too; memory that no image touches costs nothing
QUALITY = 100  # of what libffcv does not take (PNG, turned or CMYK JPEG): it goes through a JPEG in memory


class Shown(NamedTuple):
    """Images u8 [n, 3, H, W] of `paths`, and (path, reason) of the files of this batch that are no images."""

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


class Given(NamedTuple):
    """Files that may be images, (path, reason) of those that are none by their kind, and how many other files."""

    paths: list[Path]
    rejected: list[tuple[Path, str]]
    ignored: Counter[str]


def find_images(given: Sequence[Path]) -> list[Path]:
    """List the files among `given`, and the images below its folders, as `find_files` does; only the images."""
    return find_files(given).paths


def find_files(given: Sequence[Path]) -> Given:
    """List the files among `given`, and what is below its folders, in alphabetical order.

    A file that is named itself may be an image, whatever its name; below folders `pipeline.sources.listing` decides.
    Raises InputError for a path that is not there, and if there is no image at all.
    """
    found, empty = Given([], [], Counter()), []
    for path in given:
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except (OSError, ValueError) as error:
            came = "nothing" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
            raise InputError(f"{escape(str(path))}: expected an image or a folder of images, found {came}") from None
        below = listing(path) if is_folder else Listing([""])
        empty += [] if below.images else [(path, "a folder without images")]
        found.paths.extend(path / name for name in below.images)
        found.rejected.extend((path / name, reason) for name, reason in (*below.rejected, *below.skipped))
        found.ignored.update(below.ignored)
    if not found.paths:
        others = [f"{count} {kind}" for kind, count in sorted(found.ignored.items())]
        others += [f"{escape(str(path))} ({reason})" for path, reason in found.rejected]
        came = "none" + (f", but {some(others, 10)}" if others else "")
        raise InputError(f"{', '.join(escape(str(path)) for path in given)}: expected images, found {came}")
    found.rejected.extend(empty)
    return found


def sweep_files(
    paths: Sequence[Path], data: Data, device: torch.device, batch: int, decoding: Decoding | None = None
) -> Iterator[Shown]:
    """Every file once, in order, through the evaluation view of `data`; `decoding` is how a conversion reads pixels.

    While a batch is used the next one is decoded, and the one after it read.
    """
    libffcv.load()
    decoding = decoding or Decoding()
    threads, views, memory = Threads(data.threads or cores(), "read"), _ViewMaker(data, device), _ReadBuffers()

    def read() -> Iterator[tuple[list[Path], list[Future[Chunk]]]]:
        for first in range(0, len(paths), batch):
            part = list(paths[first : first + batch])
            chunks = [part[at : at + CHUNK] for at in range(0, len(part), CHUNK)]
            yield part, [threads.submit(_read_all, chunk, memory, decoding) for chunk in chunks]

    try:
        for finish in ahead(_begin(*part, data, device, views, memory, decoding) for part in ahead(read())):
            yield finish()
    finally:
        threads.close()
        views.close()


def _read_all(paths: list[Path], memory: "_ReadBuffers", decoding: Decoding) -> Chunk:
    sizes = [_size(path) for path in paths]
    ends = np.cumsum(sizes)
    taken = memory.take(int(ends[-1]))
    places = zip(paths, sizes, ends, strict=True)
    return Chunk(taken, [_read(path, taken[end - n : end], decoding) for path, n, end in places])


def _size(path: Path) -> int:
    try:
        size = os.stat(path).st_size
    except OSError:
        return 0  # reading it will say why
    return size if size <= MOST_BYTES else 0


def _read(path: Path, target: np.ndarray, decoding: Decoding) -> Read | str:
    """A file, read into `target` u8 [its size], as a JPEG that libffcv takes; or why it is none."""
    if reason := unreadable(path.name):
        return reason
    try:
        jpeg = _content(path, target)
    except OSError as error:
        return error.strerror or type(error).__name__
    except InputError as error:
        return str(error)
    size = plain_size(jpeg)
    if size is not None and size[0] * size[1] <= decoding.max_pixels:
        return Read(jpeg, *size)
    return _prepared(jpeg, decoding)


def _prepared(content: np.ndarray, decoding: Decoding) -> Read | str:
    """A file's contents u8 [bytes] as a conversion would store them, at their full size; or why it would not."""
    try:
        made = prepare(content.tobytes(), None, QUALITY, False, decoding)
    except InputError as error:
        return str(error)
    return Read(np.frombuffer(made.data, np.uint8), made.height, made.width)


def _content(path: Path, target: np.ndarray) -> np.ndarray:
    done = 0
    with open_regular(path) as file:
        while done < len(target) and (n := file.readinto(target[done:].data)):
            done += n
    return target[:done]


def _begin(
    paths: list[Path],
    jobs: list[Future[Chunk]],
    data: Data,
    device: torch.device,
    views: "_ViewMaker",
    memory: "_ReadBuffers",
    decoding: Decoding,
) -> Callable[[], Shown]:
    chunks = [job.result() for job in jobs]
    results = [each for chunk in chunks for each in chunk.files]
    good = {i: each for i, each in enumerate(results) if isinstance(each, Read)}
    reasons = {i: each for i, each in enumerate(results) if isinstance(each, str)}
    wait = _start(list(good.values()), data, device, views)

    def finish() -> Shown:
        images, errors = wait()
        order, mended = list(good), dict[int, Read]()  # which file each image is of; files by the place of their image
        for place in np.flatnonzero(errors).tolist():  # libjpeg may have merely warned: a conversion encodes such again
            made = _prepared(good[order[place]].jpeg, decoding)
            if isinstance(made, Read):
                mended[place] = made
            else:
                reasons[order[place]] = made
        memory.give_back(chunks)
        others, errors = _start(list(mended.values()), data, device, views, alone=True)()
        for place, image, error in zip(mended, others, errors.tolist(), strict=True):
            images[place] = image
            if error:
                reasons[order[place]] = "corrupt or truncated JPEG"
        kept = [place for place, i in enumerate(order) if i not in reasons]
        if len(kept) < len(order):
            images = images[torch.tensor(kept, dtype=torch.int64).to(device)]
        shown = [paths[order[place]] for place in kept]
        return Shown(shown, images, [(paths[i], why) for i, why in sorted(reasons.items())])

    return finish


def _start(
    files: list[Read], data: Data, device: torch.device, views: "_ViewMaker", *, alone: bool = False
) -> Callable[[], tuple[Tensor, np.ndarray]]:
    """Begin to decode files; the result waits: images u8 [n, 3, H, W], and errors i32 [n], 0 where all is well.

    alone  the result is waited for while a batch that began before has not been: these files get buffers of their own
    """
    if not files:
        nothing = torch.empty(0, 3, *both_sides(data.size), dtype=torch.uint8, device=device)
        return lambda: (nothing, np.zeros(0, np.int32))
    jpegs, heights, widths = zip(*files, strict=True)
    heights, widths, sizes = (np.array(column, np.int64) for column in (heights, widths, list(map(len, jpegs))))
    places = np.array([jpeg.ctypes.data for jpeg in jpegs], np.int64)  # each where it was read to: nothing is copied
    source = kernels.Source(0, places, sizes, heights, widths, kernels.JPEG)
    plan = evaluation_plan(data, np.zeros(len(files), np.int64), heights, widths)
    wait = views.start(source, plan.params, alone)

    def finish(_keep: Sequence[np.ndarray] = jpegs) -> tuple[Tensor, np.ndarray]:  # the decoder holds addresses only
        (images,), errors = wait()
        return images, errors

    return finish


@final
class _ViewMaker:
    """Makes views where the recipe says, with memory for the largest image so far: scratch of threads, or the staging
    buffers through which decoded pixels cross. Batches of smaller images may still use the memory before it."""

    def __init__(self, data: Data, device: torch.device) -> None:
        self.data, self.device, self.on_cpu = data, device, views_on(data, device) == "cpu"
        self.largest, self.pools = 0, []
        self.buffers: StagingBuffers | None = None
        self.own_buffers: StagingBuffers | None = None
        if not self.on_cpu:
            check_device(device)

    def start(
        self, source: kernels.Source, params: ViewParams, alone: bool
    ) -> Callable[[], tuple[list[Tensor], np.ndarray]]:
        pixels, size = int((source.heights * source.widths).max()), both_sides(self.data.size)
        if pixels > self.largest:
            self._grow(pixels)
        if self.on_cpu:
            return cpu_views.start_views(self.pools[-1], source, params, size, self.device)
        buffers = self.own_buffers if alone else self.buffers  # the next batch may hold all of the others
        assert buffers is not None  # _grow made both
        return staged_decode.start_views(self.pools[-1], buffers, source, params, size, self.device)

    def close(self) -> None:
        for pool in self.pools:
            pool.close()

    def _grow(self, pixels: int) -> None:
        self.largest = largest = max(pixels, 2 * self.largest, ROOM)
        if self.on_cpu:
            self.pools.append(Pool(self.data.threads, lambda: kernels.scratch(largest, self.data.size)))
            return
        self.pools = self.pools or [Pool(self.data.threads, lambda: None)]
        self.buffers, self.own_buffers = (staging_buffers_for(largest, self.data.threads, self.device) for _ in "ab")


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
