"""Decode batches of a .beton by DALI on a thread of its own: batches are fed ahead and taken in order, and where one
fails the images that cannot be decoded are found."""

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

from pipeline.backends.backend import Undecodable, jpeg_source
from pipeline.backends.dali_pipe import Pipe, packed, packing_stream
from pipeline.concurrency.pool import Pool
from pipeline.concurrency.threads import END_S
from pipeline.spec import HW_DECODER_LOAD
from pipeline.store import jpeg_header
from pipeline.store.beton import Beton

MAX_BATCH = 1024  # images that the first pipeline takes at once; for a larger batch another pipeline is built
IN_FLIGHT = 3  # batches inside DALI: one being handed over, one being decoded, one that the threads take next
PARTS = 16  # into which a batch that fails is cut to find the images that cannot be decoded


@final
@dataclass(eq=False)
class Job:
    """A batch to decode.

    ids      i64 [N]
    damaged  waits until their headers are read and says which are damaged, bool [N]
    decoded  their pixels, u8 [pixels, 3]
    pipe     the pipeline that the batch was fed to
    """

    ids: np.ndarray
    damaged: Callable[[], np.ndarray]
    decoded: Future[Tensor]
    pipe: Pipe | None = None


@final
class Decoder:
    """Decoder for any number of threads; one thread of its own calls DALI, whose pipelines are for a single thread.

    The constructor raises InputError where DALI cannot be used. A batch with images that DALI cannot decode fails
    alone, with Undecodable naming them all; batches that were fed after it are fed again, to a new pipeline.

    The pool checks headers first, in parallel, and a batch with a damaged one is not given to DALI: DALI 2.4 reads
    freed memory when one of several threads meets such an image, and ends the process.
    """

    def __init__(
        self,
        beton: Beton,
        device: torch.device | None,
        threads: int,
        pool: Pool,
        hw_decoder_load: float = HW_DECODER_LOAD,
    ):
        self._beton, self._device, self._cores, self._pool = beton, device, threads, pool
        self._max_batch, self._hw_decoder_load = MAX_BATCH, hw_decoder_load
        self._pipe: Pipe | None = self._new(MAX_BATCH)
        self._stream = None if device is None else packing_stream(device)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closing = threading.Event()
        self._in_flight: deque[Job] = deque()
        self._thread = threading.Thread(target=self._serve, name="dali", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # after DALI's import, so before DALI ends its pipelines under our thread

    def start(self, ids: np.ndarray) -> Future[Tensor]:
        """Begin to decode images `ids` (i64 [N]); the future gives them one after another, u8 [pixels, 3] on the
        device."""
        if self._closing.is_set():
            raise RuntimeError("closed: its thread has ended")
        job = Job(ids, self._check_headers(ids), Future())
        self._jobs.put(job)
        return job.decoded

    def close(self) -> None:
        """Drop what is not decoded and join every thread."""
        atexit.unregister(self.close)
        self._closing.set()
        self._jobs.put(None)
        self._thread.join(END_S)

    def _check_headers(self, ids: np.ndarray) -> Callable[[], np.ndarray]:
        source, errors = jpeg_source(self._beton, ids), np.zeros(len(ids), np.int32)
        where = source.offsets, source.sizes, source.heights, source.widths
        wait = self._pool.start(lambda a, b, _: jpeg_header.check(a, b, self._beton.data, *where, errors), len(ids))

        def damaged() -> np.ndarray:
            wait()
            return errors != 0

        return damaged

    def _serve(self) -> None:
        while not self._closing.is_set():
            job = self._next()
            if job is not None:
                self._feed(job)
            if self._in_flight and (job is None or len(self._in_flight) == IN_FLIGHT):
                self._hand_over(self._in_flight.popleft())
        for job in (*self._in_flight, *iter(self._queued, None)):
            job.decoded.cancel()
        self._in_flight.clear()
        self._pipe = None  # the last reference ends DALI's threads

    def _next(self) -> Job | None:
        return self._queued() if self._in_flight else self._jobs.get()

    def _queued(self) -> Job | None:
        try:
            return self._jobs.get_nowait()
        except Empty:
            return None

    def _feed(self, job: Job) -> None:
        try:
            if (damaged := job.damaged()).any():
                raise Undecodable(self._beton, job.ids[damaged])
            if len(job.ids) > self._max_batch:  # the jobs in flight keep the old pipeline
                self._pipe, self._max_batch = None, 1 << (len(job.ids) - 1).bit_length()
            job.pipe = self._pipe = self._pipe or self._new(self._max_batch)
            job.pipe.feed(self._jpegs(job.ids))
            self._in_flight.append(job)
        except Exception as error:
            job.decoded.set_exception(error)

    def _hand_over(self, job: Job) -> None:
        try:
            assert job.pipe is not None  # it was fed
            job.decoded.set_result(packed(job.pipe.take(), self._stream))
        except Exception as error:
            job.decoded.set_exception(self._explain(job.ids, error))
            self._start_over()

    def _start_over(self) -> None:
        in_flight, self._in_flight, self._pipe = self._in_flight, deque(), None
        for job in in_flight:
            self._feed(job)

    def _explain(self, ids: np.ndarray, error: Exception) -> Exception:
        """Name the images of a failed batch that DALI cannot decode by themselves either; `error` if there are none."""
        try:
            undecodable = self._undecodable(ids)
        except Exception:  # the cause is not an image
            return error
        return Undecodable(self._beton, undecodable) if len(undecodable) else error

    def _undecodable(self, ids: np.ndarray) -> np.ndarray:
        ids = np.unique(ids)
        parts = np.array_split(ids, min(len(ids), PARTS))
        pipe, found = None, [np.empty(0, np.int64)]
        for part in parts:
            pipe = pipe or self._new(len(ids))
            try:
                pipe.feed(self._jpegs(part))
                pipe.take()
            except RuntimeError:
                found.append(part if len(part) == 1 else self._undecodable(part))
                pipe = None
        return np.concatenate(found)

    def _new(self, max_batch: int) -> Pipe:
        return Pipe(self._device, self._cores, max_batch, self._hw_decoder_load)

    def _jpegs(self, ids: np.ndarray) -> list[np.ndarray]:
        where = jpeg_source(self._beton, ids)
        ends = where.offsets + where.sizes
        return [self._beton.data[a:b] for a, b in zip(where.offsets.tolist(), ends.tolist(), strict=True)]
