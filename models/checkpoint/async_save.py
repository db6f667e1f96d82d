"""Checkpoints written beside training, which waits only until its tensors are copied to the host."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from models.checkpoint import checkpoint

Copied = tuple[dict, torch.cuda.Event | None]


@final
class Writer:
    """Writes `folder`/last.pt on a thread of its own, one save after the other, as checkpoint.save does.

    The host's copies are allocated once, pinned where they come from a GPU: as much memory as a checkpoint is large.
    What went wrong on the thread is raised by the next call of `check`, `save` or `close`, whichever comes first.
    """

    def __init__(self, folder: Path, *first: Path, put: Callable[[Path, dict], object] | None = None) -> None:
        """first: files that must be on disk before a new checkpoint takes its name; put: instead of checkpoint.save."""
        self.folder, self.first, self.put = folder, first, put
        self.save_s = 0.0
        """Seconds that the last save took, from its copy to its name."""
        self._buffers: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: dict) -> None:
        """Copy `state`, once the save before is done, and begin to write it.

        Raises TypeError as checkpoint.save does, and InputError if the save before could not be written.
        """
        checkpoint.check_types(state, "state")
        self.wait()
        began = time.monotonic()
        copied = self._copy(state)
        self._writing = self._thread.submit(self._write, copied, began)

    def check(self) -> None:
        """Raise what the save under way has met, if it has ended; costs nothing."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return once the last save is on disk; raise InputError if it cannot be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """End the thread, after what it writes; errors are the business of `wait`."""
        self._thread.shutdown()

    def _write(self, copied: Copied, began: float) -> None:
        state, copies_done = copied
        if copies_done is not None:
            copies_done.synchronize()
        for path in self.first:
            _sync(path)
        (self.put or checkpoint.save)(self.folder, state)
        self.save_s = time.monotonic() - began

    def _copy(self, state: dict) -> Copied:
        """The same state on the host; from a GPU the copies are only ordered, before any later step's work."""
        known, self._buffers = self._buffers, {}
        for key, tensor in _tensors(state, "state"):
            self._buffers[key] = _buffer(known.get(key), tensor).copy_(tensor.detach(), non_blocking=True)
        done = None
        if any(buffer.is_pinned() for buffer in self._buffers.values()):
            done = torch.cuda.Event(blocking=True)
            done.record()
        return _rebuilt(state, "state", self._buffers), done


def _tensors(value: object, key: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield key, value
    for name, held in _items(value):
        yield from _tensors(held, f"{key}.{name}")


def _rebuilt(value: object, key: str, buffers: dict[str, Tensor]) -> object:
    """The containers of `value` anew, so that nothing in them changes while it is written."""
    if isinstance(value, Tensor):
        return buffers[key]
    parts = {name: _rebuilt(held, f"{key}.{name}", buffers) for name, held in _items(value)}
    if isinstance(value, dict):
        return parts
    return type(value)(parts.values()) if isinstance(value, (list, tuple)) else value


def _items(value: object) -> list[tuple[object, object]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else []


def _buffer(known: Tensor | None, tensor: Tensor) -> Tensor:
    if known is not None and known.shape == tensor.shape and known.dtype == tensor.dtype:
        return known
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")


def _sync(path: Path) -> None:
    if path.exists():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
