"""Threads that run compiled kernels over slices of a batch, each with scratch memory of its own."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from pipeline.concurrency.threads import Threads

CHUNK = 8  # images in a job: small enough that threads finish together, large enough that Python stays below 1 %

Work = Callable[[int, int, Any], None]


def cores() -> int:
    """Cores this process may use: the affinity that Slurm or taskset gave it, not what the machine has."""
    return len(os.sched_getaffinity(0))


class Pool:
    """A thread pool for nogil kernels; an exception in any thread reaches whoever waits for the batch."""

    def __init__(self, threads: int | None, scratch: Callable[[], Any]):
        self._scratch, self._local = scratch, threading.local()
        self._threads = Threads(threads or cores(), "decode")

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
    wait(jobs)  # all, before the first error is raised: none may still write into what the caller then lets go
    for job in jobs:
        job.result()
