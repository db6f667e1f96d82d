"""Host buffers that decoded images pass through on their way to the device: few, of fixed size, used in turn."""

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from pipeline.concurrency.cores import decode_threads

SLOTS, MOST_SLOTS = 4, 8  # one for every two threads; a rank that decodes by many would pin gigabytes with more
SPARE = 4  # pixels: StagedDecode leaves one before the first image and one before the first of RGB, and pads
SLOT_PIXELS = 1 << 24  # 50 MB each: about 90 photographs of 500 pixels, eleven jobs for the pool's threads


class Slot(NamedTuple):
    """A buffer u8 [pixels, 3], pinned where there is a GPU, and the event after the last copy out of it."""

    pixels: Tensor
    copied: "torch.cuda.Event | None" = None


@final
class StagingBuffers:
    """`slots` buffers of `pixels` each, allocated at their first use and handed out in the order of the requests.

    The order rules out a deadlock: of all buffers that one thread has requested, it gets the one first that it uses
    first.
    """

    def __init__(self, slots: int, pixels: int, device: torch.device) -> None:
        self.pixels, self._pinned = pixels, device.type == "cuda"
        self._free: deque[Slot | None] = deque([None] * slots)
        self._requests: deque[Callable[[Slot], None]] = deque()
        self._turn = threading.Lock()

    def request(self, begin: Callable[[Slot], None]) -> None:
        """Call `begin` with a buffer that nothing reads any more, now or when one is given back."""
        self._requests.append(begin)
        self._serve()

    def give_back(self, slot: Slot) -> None:
        """Return a buffer once the copy out of it is enqueued on the current stream."""
        copied = None
        if self._pinned:
            copied = torch.cuda.Event(blocking=True)  # a thread that waits leaves its core to the decoders
            copied.record()
        self._free.append(Slot(slot.pixels, copied))
        self._serve()

    def _serve(self) -> None:
        with self._turn:
            while self._requests and self._free:
                self._requests.popleft()(self._ready(self._free.popleft()))

    def _ready(self, slot: Slot | None) -> Slot:
        if slot is None:
            return Slot(torch.empty(self.pixels + SPARE, 3, dtype=torch.uint8, pin_memory=self._pinned))
        if slot.copied is not None:
            slot.copied.synchronize()  # on the host: if only the stream waited, threads would overwrite what is copied
        return slot


def staging_buffers_for(largest: int, threads: int | None, device: torch.device) -> StagingBuffers:
    """Set up the buffers for images of up to `largest` pixels that so many threads decode."""
    slots = min(max(SLOTS, decode_threads(threads) // 2), MOST_SLOTS)
    return StagingBuffers(slots, max(SLOT_PIXELS, largest), device)
