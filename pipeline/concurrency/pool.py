"""Run compiled kernels over slices of a batch, by threads that have scratch memory of their own.

wait = Pool(threads=8, scratch=lambda: np.empty(1000)).start(lambda first, last, own: ..., n=256)
wait()
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads

CHUNK = 8  # images in a job: small enough that threads finish together, large enough that Python stays below 1 %

Work = Callable[[int, int, Any], None]


class Pool:
    """Thread pool for kernels that release the GIL; waiting for a batch raises an exception of any of its threads."""

    def __init__(self, threads: int | None, scratch: Callable[[], Any]):
        self._scratch, self._local = scratch, threading.local()
        self._threads = Threads(decode_threads(threads), "decode")

    def start(self, work: Work, n: int) -> Callable[[], None]:
        """Begin work(first, last, scratch) over slices of range(n); the returned function waits for all of them."""
        jobs = [self._threads.submit(self._run, work, first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]
        return lambda: _wait(jobs)

    def close(self) -> None:
        """Drop what has not begun and join the threads."""
        self._threads.close()

    def _run(self, work: Work, first: int, last: int) -> None:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = self._scratch()
        work(first, last, self._local.scratch)


def _wait(jobs: list[Future[None]]) -> None:
    wait(jobs)  # all of them, before an error is raised: the caller then frees the memory that they write into
    for job in jobs:
        job.result()
