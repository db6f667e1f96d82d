"""Batches of a .beton decoded by DALI on a thread of its own: fed ahead, taken in order, mended where one fails."""

import atexit
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends.base import Undecodable, jpeg_source
from pipeline.backends.dali_pipe import Pipe, packed
from pipeline.concurrency.pool import Pool
from pipeline.concurrency.threads import END_S
from pipeline.store import jpeg_header
from pipeline.store.beton import Beton

MOST = 1024  # images in a batch, at first; a larger one has a pipeline built that takes it
RUNNING = 3  # batches inside DALI: one being handed over, one decoding, one that the threads turn to without a pause
PARTS = 16  # into which a batch that fails is cut to find the images to blame


@final
@dataclass(eq=False)
class Job:
    """ids i64 [N], asked for; unsound: waits, bool [N]; decoded: their pixels to come; the pipe that has them."""

    ids: np.ndarray
    unsound: Callable[[], np.ndarray]
    decoded: Future[Tensor]
    pipe: Pipe | None = None


@final
class Decoder:
    """Any thread may ask; one thread talks to DALI, whose pipelines are for one and give batches in order.

    The constructor raises InputError where DALI cannot be used. A batch with images that DALI does not decode fails
    alone, with Undecodable naming them all: what was fed after it is fed again, to a new pipeline.

    A header that cannot be read never reaches DALI (2.4 reads memory that is gone when one of several threads meets
    such an image, and ends the process): the pool looks at headers, which also has their pages read in parallel.
    """

    def __init__(self, beton: Beton, device: torch.device | None, threads: int, pool: Pool):
        self._beton, self._device, self._cores, self._pool = beton, device, threads, pool
        self._most = MOST
        self._pipe: Pipe | None = self._new(MOST)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closing = threading.Event()
        self._running: deque[Job] = deque()
        self._thread = threading.Thread(target=self._serve, name="dali", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # after DALI's import, so before DALI ends its pipelines under our thread

    def start(self, ids: np.ndarray) -> Future[Tensor]:
        """Ask for images `ids` (i64 [N]), one after another in u8 [pixels, 3] on the device."""
        if self._closing.is_set():
            raise RuntimeError("closed: its thread has ended")
        job = Job(ids, self._look(ids), Future())
        self._jobs.put(job)
        return job.decoded

    def close(self) -> None:
        """Drop what is not decoded and join every thread."""
        atexit.unregister(self.close)
        self._closing.set()
        self._jobs.put(None)
        self._thread.join(END_S)

    def _look(self, ids: np.ndarray) -> Callable[[], np.ndarray]:
        source, errors = jpeg_source(self._beton, ids), np.zeros(len(ids), np.int32)
        where = source.offsets, source.sizes, source.heights, source.widths
        wait = self._pool.start(lambda a, b, _: jpeg_header.check(a, b, self._beton.data, *where, errors), len(ids))

        def unsound() -> np.ndarray:
            wait()
            return errors != 0

        return unsound

    def _serve(self) -> None:
        while not self._closing.is_set():
            job = self._next()
            if job is not None:
                self._feed(job)
            if self._running and (job is None or len(self._running) == RUNNING):
                self._hand_over(self._running.popleft())
        for job in (*self._running, *iter(self._waiting, None)):
            job.decoded.cancel()
        self._running.clear()
        self._pipe = None  # the last reference ends DALI's threads

    def _next(self) -> Job | None:
        return self._waiting() if self._running else self._jobs.get()

    def _waiting(self) -> Job | None:
        try:
            return self._jobs.get_nowait()
        except Empty:
            return None

    def _feed(self, job: Job) -> None:
        try:
            if (unsound := job.unsound()).any():
                raise Undecodable(self._beton, job.ids[unsound])
            if len(job.ids) > self._most:  # the old pipeline lives on with the jobs that it still has
                self._pipe, self._most = None, 1 << (len(job.ids) - 1).bit_length()
            job.pipe = self._pipe = self._pipe or self._new(self._most)
            job.pipe.feed(self._jpegs(job.ids))
            self._running.append(job)
        except Exception as error:
            job.decoded.set_exception(error)

    def _hand_over(self, job: Job) -> None:
        try:
            job.decoded.set_result(packed(job.pipe.take()))
        except Exception as error:
            job.decoded.set_exception(self._blame(job.ids, error))
            self._start_over()

    def _start_over(self) -> None:
        running, self._running, self._pipe = self._running, deque(), None
        for job in running:
            self._feed(job)

    def _blame(self, ids: np.ndarray, error: Exception) -> Exception:
        """The images that DALI does not decode on their own, either; the error itself if there are none."""
        try:
            bad = self._bad(ids)
        except Exception:  # it is not the images
            return error
        return Undecodable(self._beton, bad) if len(bad) else error

    def _bad(self, ids: np.ndarray) -> np.ndarray:
        ids = np.unique(ids)
        parts = np.array_split(ids, min(len(ids), PARTS))
        pipe, bad = None, [np.empty(0, np.int64)]
        for part in parts:
            pipe = pipe or self._new(len(ids))
            try:
                pipe.feed(self._jpegs(part))
                pipe.take()
            except RuntimeError:
                bad.append(part if len(part) == 1 else self._bad(part))
                pipe = None
        return np.concatenate(bad)

    def _new(self, most: int) -> Pipe:
        return Pipe(self._device, self._cores, most)

    def _jpegs(self, ids: np.ndarray) -> list[np.ndarray]:
        where = jpeg_source(self._beton, ids)
        ends = where.offsets + where.sizes
        return [self._beton.data[a:b] for a, b in zip(where.offsets.tolist(), ends.tolist(), strict=True)]
