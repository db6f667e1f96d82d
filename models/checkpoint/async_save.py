"""Save checkpoints on a thread beside training, which waits only until its tensors are copied to the host."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from models.checkpoint import save_load
from models.checkpoint.nested import map_nested

HostState = tuple[dict, torch.cuda.Event | None]
"""A state on the host, and the event after which copies from a GPU are complete."""


@final
class AsyncSaver:
    """Saves `folder`/last.pt on a thread of its own, one checkpoint after the other.

    saver = AsyncSaver(folder)
    saver.save(state)      # returns when the state is copied
    saver.check()          # every so many steps: raises the error of a save that failed
    saver.wait()           # returns when the last save is on disk

    The copies on the host are allocated once, in pinned memory where they come from a GPU; they take as much memory as
    a checkpoint. An error on the thread is raised by the next call of `check`, `save` or `wait`.
    """

    def __init__(self, folder: Path, *sync_first: Path, save_as: Callable[[Path, dict], object] | None = None) -> None:
        """sync_first: files to sync to disk before a new checkpoint is; save_as: in place of `save_load.save`."""
        self.folder, self.sync_first, self.save_as = folder, sync_first, save_as
        self.save_s = 0.0
        """Seconds that the last save took, from the start of the copy until it was on disk."""
        self._buffers: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None

    def save(self, state: dict, then: Callable[[], object] | None = None) -> None:
        """Wait for the save before, copy `state` to the host and begin to save it; call `then` once it is on disk.

        Raises TypeError as `save_load.save` does, and InputError if the save before failed.
        """
        save_load.check_types(state, "state")
        self.wait()
        began = time.monotonic()
        copied = self._copy(state)
        self._saving = self._thread.submit(self._write, copied, began, then)

    def check(self) -> None:
        """Raise the error of the save in the background, if it has ended with one; does not wait."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Return once the last save is on disk. Raises InputError if it failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Finish the save in the background and end the thread; an error of it is raised by `wait`, not here."""
        self._thread.shutdown()

    def _write(self, copied: HostState, began: float, then: Callable[[], object] | None) -> None:
        state, copies_done = copied
        if copies_done is not None:
            copies_done.synchronize()
        for path in self.sync_first:
            _sync(path)
        (self.save_as or save_load.save)(self.folder, state)
        if then is not None:
            then()
        self.save_s = time.monotonic() - began

    def _copy(self, state: dict) -> HostState:
        """Copy a state to the host. Copies from a GPU are queued on its stream, ahead of the work of later steps."""
        known, self._buffers = self._buffers, {}
        # an average shares frozen weights with its network: one copy of each here, and one in the file
        first_keys: dict[tuple[object, ...], str] = {}

        def copied(value: object, key: str) -> object:
            if not isinstance(value, Tensor):
                return value
            memory = value.device, value.data_ptr(), value.shape, value.stride(), value.dtype
            first = first_keys.setdefault(memory, key) if value.numel() else key
            if first == key:
                self._buffers[key] = _buffer(known.get(key), value).copy_(value.detach(), non_blocking=True)
            return self._buffers[first]

        on_host, done = map_nested(state, copied), None
        if any(buffer.is_pinned() for buffer in self._buffers.values()):
            done = torch.cuda.Event(blocking=True)
            done.record()
        return on_host, done


def _buffer(known: Tensor | None, tensor: Tensor) -> Tensor:
    if known is not None and known.shape == tensor.shape and known.dtype == tensor.dtype:
        return known
    # in the tensor's own order of memory: fused AdamW pairs weights and moments by place, and convolutions' weights are
    # channels-last
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")


def _sync(path: Path) -> None:
    if path.exists():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
