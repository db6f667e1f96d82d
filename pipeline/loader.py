"""Batches, prepared ahead: order -> plan -> back-end -> Batch.

The loader's whole state is the number of the next batch. What was prepared and not yet handed out is drawn again,
identically, by whoever resumes.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np
import torch

from pipeline.backends.base import Backend, Undecodable
from pipeline.backends.replacement import Bad
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.concurrency import watchdog
from pipeline.concurrency.threads import Threads
from pipeline.concurrency.transfer import copies, send
from pipeline.labels.known import Labels
from pipeline.sampling.sampler import SampleIds, Sampler
from pipeline.views.plan import Plan, ViewSpec, draw

PLANNERS = 2  # one batch's plan is drawn while another's images decode

Prepared = tuple[Batch, int]  # and how many of its images stand in for others


@dataclass(frozen=True, eq=False)
class LoaderSpec:
    """What a loader hands out.

    sampler              which images
    labels               by id, i64, -1 where one is hidden (pipeline.labels.splits.known_labels, or an array [n])
    labelled, unlabelled the views of each stream; None where a method has no use for it
    chunks, first_chunk  slices of a step over all ranks (ranks x micro-batches), and this rank's first
    micro                micro-batches of this rank in a step
    size_at              side of the images in a step (pipeline.sampling.resolution); the views' own when absent
    """

    sampler: Sampler
    labels: Labels | np.ndarray
    labelled: ViewSpec | None
    unlabelled: ViewSpec | None
    seed: int = 0
    chunks: int = 1
    first_chunk: int = 0
    micro: int = 1
    size_at: Callable[[int], int] | None = None

    def wanted(self, step: int) -> tuple[ViewSpec | None, ViewSpec | None]:
        """The views of both streams in a step."""
        streams = self.labelled, self.unlabelled
        if self.size_at is None:
            return streams
        size = self.size_at(step)
        return tuple(None if stream is None else replace(stream, size=size) for stream in streams)


@final
class Loader:
    """Endless micro-batches from `step` on; `wait_s` counts the seconds its caller has waited for them,
    `replaced` the images in them that stand in for others, which do not decode (pipeline.backends.replacement).

    An error in any thread is raised by next(), and again by each next() after it. So is InputError if no batch comes
    for `hang_timeout_s` seconds (None: for ever), or in a process forked since.
    """

    def __init__(
        self,
        feed: LoaderSpec,
        backend: Backend,
        device: torch.device,
        step: int = 0,
        ahead: int = 3,
        hang_timeout_s: float | None = None,
    ):
        self._feed, self._backend, self._device, self._ahead = feed, backend, device, ahead
        self._hang_timeout_s = hang_timeout_s
        self._next = step * feed.micro
        self._pending: deque[Future[Prepared]] = deque()
        self._planners = Threads(PLANNERS, "plan")
        self._copies = copies(device)
        self._bad = Bad()
        self.wait_s, self.replaced = 0.0, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while len(self._pending) < self._ahead:
            self._pending.append(self._planners.submit(self._prepare, self._next))
            self._next += 1
        began = time.perf_counter()
        batch, replaced = watchdog.result(self._pending[0], self._hang_timeout_s, self._doing)
        self._pending.popleft()
        self.wait_s += time.perf_counter() - began
        self.replaced += replaced
        if self._copies is not None:
            _used_on(torch.cuda.current_stream(self._device), batch)
        return batch

    def close(self) -> None:
        """Drop what was prepared and join every thread."""
        self._planners.close()
        self._backend.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, number: int) -> Prepared:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # each thread has its own: else pinning would open a context on GPU 0
        feed = self._feed
        step, micro = divmod(number, feed.micro)
        with torch.cuda.stream(self._copies):  # no effect where there is no GPU
            plans, made, replaced = self._views(step, feed.first_chunk + micro)
            batch = Batch(step, self._labelled(plans[0], made[0]), self._unlabelled(plans[1], made[1])).check()
            if self._copies is not None:
                done = torch.cuda.Event(blocking=True)  # waiting for it must not spin on a core that could decode
                done.record()
                done.synchronize()  # on this thread, ahead of time: else `wait_s` would miss it
        return batch, replaced

    def _doing(self) -> str:
        first, prepared = self._next - len(self._pending), sum(future.done() for future in self._pending)
        step, micro = divmod(first, self._feed.micro)
        return (
            f"waiting for batch {first} (step {step}, micro-batch {micro}); "
            f"{prepared} of the {len(self._pending) - 1} after it are prepared"
        )

    def _views(self, step: int, chunk: int) -> tuple[list[Plan | None], list[list[torch.Tensor] | None], int]:
        """Plans and views of both streams, and how many images were replaced because they do not decode."""
        while True:  # each time round, at least one more image is known not to
            plans, replaced = self._plans(step, chunk)
            started = [None if plan is None else self._backend.start(plan) for plan in plans]
            made, errors = [], []
            for views in started:  # all of them, whatever one says: what is not waited for keeps the back-end's buffers
                try:
                    made.append(None if views is None else views())
                except Exception as error:
                    errors.append(error)
            if not errors:
                return plans, made, replaced
            for error in errors:
                if not isinstance(error, Undecodable):
                    raise error
                self._bad.add(error)

    def _plans(self, step: int, chunk: int) -> tuple[list[Plan | None], int]:
        plans, replaced = [], 0
        picked = self._feed.sampler.at(step, chunk, self._feed.chunks)
        for stream, (wanted, samples) in enumerate(zip(self._feed.wanted(step), picked, strict=True)):
            if wanted is not None and samples is not None:
                samples, n = self._bad.replaced(samples, partial(self._later, stream, step, chunk))
                replaced += n
            plans.append(self._plan(wanted, samples))
        return plans, replaced

    def _later(self, stream: int, step: int, chunk: int, steps: int) -> SampleIds:
        return self._feed.sampler.at(step + steps, chunk, self._feed.chunks)[stream]

    def _plan(self, wanted: ViewSpec | None, samples: SampleIds | None) -> Plan | None:
        if wanted is None or samples is None:
            return None
        b = self._backend
        return draw(wanted, samples, b.heights[samples.ids], b.widths[samples.ids], self._feed.seed)

    def _labelled(self, plan: Plan | None, views: list[torch.Tensor] | None) -> Labelled | None:
        if plan is None:
            return None
        labels = self._feed.labels[plan.ids]
        assert (labels >= 0).all(), "an image without a known label is in the labelled pool"
        return Labelled(self._send(plan.ids), views[0], self._send(labels), *self._masked(plan))

    def _unlabelled(self, plan: Plan | None, views: list[torch.Tensor] | None) -> Unlabelled | None:
        if plan is None:
            return None
        visible, hidden = self._masked(plan)
        made = dict(zip(plan.names, views, strict=True))
        return Unlabelled(self._send(plan.ids), visible=visible, hidden=hidden, **made)

    def _masked(self, plan: Plan) -> list[torch.Tensor | None]:
        return [None if ids is None else self._send(ids) for ids in (plan.visible, plan.hidden)]

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return send(array, self._device)


def _used_on(stream: torch.cuda.Stream, batch: Batch) -> None:
    """Keep a batch's memory, which is the copies' stream's, until the caller's is done with it; it is made by now."""
    for part in (batch.labelled, batch.unlabelled):
        for tensor in vars(part).values() if part is not None else ():
            if tensor is not None:
                tensor.record_stream(stream)
