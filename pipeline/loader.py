"""Prepare batches ahead of training: sampler -> plan -> back-end -> Batch.

The loader's state is the number of the next batch and nothing else. Batches that were prepared and not handed out are
prepared again after a resume, with the same content.

    with Loader(spec, open_backend(data, beton, device), device, step=100) as batches:
        batch = next(batches)     # of step 100
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, final

import numpy as np
import torch

from pipeline.backends.backend import Backend, Undecodable
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.concurrency import watchdog
from pipeline.concurrency.threads import Threads
from pipeline.concurrency.transfer import copy_stream, to_device
from pipeline.labels.known import Labels
from pipeline.sampling.replacement import Replacements
from pipeline.sampling.sampler import SampleIds, Sampler
from pipeline.spec import Size
from pipeline.views.plan import Plan, ViewSpec, draw

PLANNERS = 2  # one batch's plan is drawn while another's images decode

Prepared = tuple[Batch, int]  # and how many of its images replace others


@dataclass(frozen=True, eq=False)
class LoaderSpec:
    """What a loader hands out.

    sampler              the images of every step
    labels               by id, i64, -1 where one is hidden (pipeline.labels.splits.known_labels, or an array [n])
    labelled, unlabelled the views of each stream; None where a method does not use the stream
    seed                 of the plans
    chunks, first_chunk  slices of a step over all ranks (ranks x micro-batches), and this rank's first
    micro                micro-batches of this rank in a step
    size_at              step -> size of its images (pipeline.sampling.resolution); the views' own size when absent
    """

    sampler: Sampler
    labels: Labels | np.ndarray
    labelled: ViewSpec | None
    unlabelled: ViewSpec | None
    seed: int = 0
    chunks: int = 1
    first_chunk: int = 0
    micro: int = 1
    size_at: Callable[[int], Size] | None = None

    def view_specs(self, step: int) -> tuple[ViewSpec | None, ViewSpec | None]:
        """Return the views of both streams in a step, in the size of that step."""
        streams = self.labelled, self.unlabelled
        if self.size_at is None:
            return streams
        size = self.size_at(step)
        labelled, unlabelled = (None if stream is None else replace(stream, size=size) for stream in streams)
        return labelled, unlabelled


class Batches(ABC):
    """Endless iterator of a run's micro-batches, which closes what prepares them at the end of a `with`.

    wait_s    seconds that the caller has waited for batches
    replaced  images of the batches that replace others, which do not decode
    """

    wait_s: float
    replaced: int

    def __iter__(self) -> Iterator[Batch]:
        return self

    @abstractmethod
    def __next__(self) -> Batch:
        """Return the next micro-batch."""

    @abstractmethod
    def close(self) -> None:
        """Drop what was prepared and join every thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class Loader(Batches):
    """Endless iterator of micro-batches from `step` on, of which `ahead` are being prepared.

    wait_s    seconds that the caller has waited for batches
    replaced  images of the batches that replace others, which do not decode (pipeline.sampling.replacement)

    next() raises an error of any thread, and raises it again each time. It raises InputError if no batch comes for
    `hang_timeout_s` seconds (None waits for ever), and in a process that was forked since.
    """

    def __init__(
        self,
        spec: LoaderSpec,
        backend: Backend,
        device: torch.device,
        step: int = 0,
        ahead: int = 3,
        hang_timeout_s: float | None = None,
    ):
        self._spec, self._backend, self._device, self._ahead = spec, backend, device, ahead
        self._hang_timeout_s = hang_timeout_s
        self._next = step * spec.micro
        self._pending: deque[Future[Prepared]] = deque()
        self._planners = Threads(PLANNERS, "plan")
        self._stream = copy_stream(device)
        self._replacements = Replacements()
        self.wait_s, self.replaced = 0.0, 0

    def __next__(self) -> Batch:
        while len(self._pending) < self._ahead:
            self._pending.append(self._planners.submit(self._prepare, self._next))
            self._next += 1
        began = time.perf_counter()
        batch, replaced = watchdog.result(self._pending[0], self._hang_timeout_s, self._doing)
        self._pending.popleft()
        self.wait_s += time.perf_counter() - began
        self.replaced += replaced
        if self._stream is not None:
            _used_on(torch.cuda.current_stream(self._device), batch)
        return batch

    def close(self) -> None:
        """Drop what was prepared and join every thread."""
        self._planners.close()
        self._backend.close()

    def _prepare(self, number: int) -> Prepared:
        if self._device.type == "cuda" and self._device.index is not None:
            torch.cuda.set_device(
                self._device
            )  # each thread has a device of its own: without this, pinning opens a context on GPU 0
        spec = self._spec
        step, micro = divmod(number, spec.micro)
        with torch.cuda.stream(self._stream):  # no effect where there is no GPU
            plans, views, replaced = self._make_views(step, spec.first_chunk + micro)
            batch = Batch(step, self._labelled(plans[0], views[0]), self._unlabelled(plans[1], views[1])).check()
            if self._stream is not None:
                done = torch.cuda.Event(blocking=True)  # waiting for it must not spin on a core that could decode
                done.record()
                done.synchronize()  # on this thread, so that `wait_s` counts the time if the batch is late
        return batch, replaced

    def _doing(self) -> str:
        first, prepared = self._next - len(self._pending), sum(future.done() for future in self._pending)
        step, micro = divmod(first, self._spec.micro)
        return (
            f"waiting for batch {first} (step {step}, micro-batch {micro}); "
            f"{prepared} of the {len(self._pending) - 1} after it are prepared"
        )

    def _make_views(self, step: int, chunk: int) -> tuple[list[Plan | None], list[list[torch.Tensor] | None], int]:
        """Make the plans and views of both streams, and count the images that were replaced as they do not decode."""
        while True:  # each time at least one more image is known to be undecodable
            plans, replaced = self._plans(step, chunk)
            started = [None if plan is None else self._backend.start(plan) for plan in plans]
            views, errors = [], []
            for finish in started:  # all of them, even after an error: work that is not waited for keeps its buffers
                try:
                    views.append(None if finish is None else finish())
                except Exception as error:
                    errors.append(error)
            if not errors:
                return plans, views, replaced
            for error in errors:
                if not isinstance(error, Undecodable):
                    raise error
                self._replacements.add(error.ids, error, error.named)

    def _plans(self, step: int, chunk: int) -> tuple[list[Plan | None], int]:
        plans, replaced = [], 0
        both = self._spec.sampler.at(step, chunk, self._spec.chunks)
        for stream, (views, samples) in enumerate(zip(self._spec.view_specs(step), both, strict=True)):
            if views is not None and samples is not None:
                samples, n = self._replacements.replace(samples, partial(self._later, stream, step, chunk))
                replaced += n
            plans.append(self._plan(views, samples))
        return plans, replaced

    def _later(self, stream: int, step: int, chunk: int, steps: int) -> SampleIds:
        samples = self._spec.sampler.at(step + steps, chunk, self._spec.chunks)[stream]
        assert samples is not None  # a stream that is replaced is one that is read
        return samples

    def _plan(self, views: ViewSpec | None, samples: SampleIds | None) -> Plan | None:
        if views is None or samples is None:
            return None
        heights, widths = (sides[samples.ids] for sides in (self._backend.heights, self._backend.widths))
        return draw(views, samples, heights, widths, self._spec.seed)

    def _labelled(self, plan: Plan | None, views: list[torch.Tensor] | None) -> Labelled | None:
        if plan is None or views is None:
            return None
        labels = self._spec.labels[plan.ids]
        assert (labels >= 0).all(), "an image without a known label is in the labelled pool"
        return Labelled(self._to_device(plan.ids), views[0], self._to_device(labels), *self._masked(plan))

    def _unlabelled(self, plan: Plan | None, views: list[torch.Tensor] | None) -> Unlabelled | None:
        if plan is None or views is None:
            return None
        visible, hidden = self._masked(plan)
        return Unlabelled(
            self._to_device(plan.ids), visible=visible, hidden=hidden, **dict(zip(plan.names, views, strict=True))
        )

    def _masked(self, plan: Plan) -> list[torch.Tensor | None]:
        return [None if ids is None else self._to_device(ids) for ids in (plan.visible, plan.hidden)]

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return to_device(array, self._device)


def _used_on(stream: torch.cuda.Stream, batch: Batch) -> None:
    """Keep the memory of a batch, which was allocated on another stream, until `stream` has done its work with it."""
    for part in batch.parts.values():
        for tensor in vars(part).values():
            if tensor is not None:
                tensor.record_stream(stream)
