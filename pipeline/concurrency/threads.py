"""Run calls in threads that cannot keep a process from ending, even if one of them is stuck.

future = Threads(2, "plan").submit(pow, 2, 10)
future.result()     # 1024
"""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, final

from pipeline.errors import InputError, left_behind

END_S = 30  # seconds; a thread that runs longer waits for a dead mount or a hung driver, and nothing can free it


class Job(NamedTuple):
    """A call to make, and the future of its result."""

    future: Future
    call: Callable[..., Any]
    arguments: tuple[Any, ...]


Jobs = SimpleQueue[Job | None]


@final
class Threads:
    """`count` threads called name-0, name-1, ... that make calls in the order in which they were submitted.

    concurrent.futures joins its threads without a limit when Python ends, so that one that is stuck would turn an error
    into a hang. These are joined for END_S seconds at most: by close(), when the object is collected, or at exit.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: Jobs = SimpleQueue()
        self._process = os.getpid()
        names = [f"{name}-{i}" for i in range(count)]
        threads = [threading.Thread(target=_serve, args=(self._jobs,), name=each, daemon=True) for each in names]
        for thread in threads:
            thread.start()
        self._end = weakref.finalize(self, _end, self._jobs, threads, self._process)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future:
        """Have a thread make a call; the future returns or raises what the call does.

        Raises InputError in a process that was forked since: threads do not cross a fork, so the future would wait
        for ever.
        """
        if os.getpid() != self._process:
            raise InputError(
                "the threads that prepare batches stayed in the process that this one was forked from; open the "
                "loader after the fork (an open Beton may cross it)"
            )
        if not self._end.alive:
            raise RuntimeError("closed: its threads have ended")
        job = Job(Future(), call, arguments)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Cancel calls that have not begun and join the threads; a line on stderr names those that do not end."""
        self._end()


def _serve(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        if job.future.set_running_or_notify_cancel():
            try:
                job.future.set_result(job.call(*job.arguments))
            except BaseException as error:  # of any kind: the future's caller waits for it
                job.future.set_exception(error)
        del job  # an idle thread must not keep a batch, or the loader itself


def _end(jobs: Jobs, threads: list[threading.Thread], process: int) -> None:
    if os.getpid() != process:  # they do not run in a forked child
        return
    try:
        while True:
            if (job := jobs.get_nowait()) is not None and job.future.cancel():
                job.future.set_running_or_notify_cancel()  # only this wakes concurrent.futures.wait
    except Empty:
        pass
    for _ in threads:
        jobs.put(None)
    until = time.monotonic() + END_S
    # this thread may be one of them, where it drops the last reference
    others = [thread for thread in threads if thread is not threading.current_thread()]
    for thread in others:
        thread.join(max(0, until - time.monotonic()))
    stuck = [thread.name for thread in others if thread.is_alive()]
    if stuck:
        left_behind.extend(stuck)
        print(f"warning: {', '.join(stuck)} did not end within {END_S:g} s; left behind", file=sys.stderr)
