"""Training views of a set as a torch Dataset, and a loader that makes batches of it ahead of training.

The views of an image are a pure function of (seed, pass, image), and the images of a step one of the step, so that the
loader's state is the number of the next batch and nothing else.

    with DenseLoader(dataset, sampler, device, step=100) as batches:
        batch = next(batches)     # of step 100: batch.dense.images, batch.dense.classes
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import rng
from pipeline.batch import Batch, Dense
from pipeline.concurrency import watchdog
from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads
from pipeline.concurrency.transfer import to_device
from pipeline.dense.cut import cut
from pipeline.dense.files import DenseSet
from pipeline.sampling.sampler import Sampler
from pipeline.spec import Size

Sample = tuple[int, int]
"""Id of an image, and how often the stream has gone through the set before."""


@final
class DenseDataset(Dataset[tuple[Tensor, Tensor]]):
    """The training view of any image of a set in any pass.

    image, classes = DenseDataset(found, size=512, seed=0)[3, 0]     # u8 [3, 512, 512], u8 [512, 512]
    """

    def __init__(self, found: DenseSet, size: Size, seed: int) -> None:
        self.found, self.size, self.seed = found, size, seed

    def __len__(self) -> int:
        return self.found.n

    def __getitem__(self, index: Sample) -> tuple[Tensor, Tensor]:
        image, passes = index
        key = rng.keys(self.seed, passes, image, rng.DENSE)
        return cut(*self.found.read(image), self.found.labels, self.size, key)


@final
class DenseLoader:
    """Endless iterator of micro-batches from `step` on, of which `ahead` are being prepared.

    micro, chunks, first_chunk  as of pipeline.loader.LoaderSpec
    wait_s                      seconds that the caller has waited for batches
    replaced                    0: an image that no longer decodes is an error, as its set was checked

    next() raises an error of any thread, and raises it again each time. It raises Unavailable if no image comes for
    `hang_timeout_s` seconds (None waits for ever).
    """

    def __init__(
        self,
        dataset: DenseDataset,
        sampler: Sampler,
        device: torch.device,
        step: int = 0,
        *,
        micro: int = 1,
        chunks: int = 1,
        first_chunk: int = 0,
        threads: int | None = None,
        ahead: int = 3,
        hang_timeout_s: float | None = None,
    ) -> None:
        self._dataset, self._sampler, self._device = dataset, sampler, device
        self._micro, self._chunks, self._first_chunk = micro, chunks, first_chunk
        self._ahead, self._hang_timeout_s, self._next = ahead, hang_timeout_s, step * micro
        self._threads = Threads(decode_threads(threads), "decode")
        self._pending: deque[tuple[int, np.ndarray, list[Future]]] = deque()
        self.wait_s, self.replaced = 0.0, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while len(self._pending) < self._ahead:
            self._pending.append(self._begin(self._next))
            self._next += 1
        began = time.perf_counter()
        step, ids, futures = self._pending[0]
        doing = f"waiting for the images of step {step}"
        pairs = [watchdog.result(future, self._hang_timeout_s, lambda: doing) for future in futures]
        self._pending.popleft()
        images, classes = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        self.wait_s += time.perf_counter() - began
        return Batch(step, None, None, Dense(*(self._to_device(each) for each in (ids, images, classes)))).check()

    def close(self) -> None:
        """Drop what was prepared and join every thread."""
        self._threads.close()

    def __enter__(self) -> "DenseLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, number: int) -> tuple[int, np.ndarray, list[Future]]:
        step, micro = divmod(number, self._micro)
        samples, _ = self._sampler.at(step, self._first_chunk + micro, self._chunks)
        assert samples is not None  # the labelled stream is the one that a dense set has
        each = zip(samples.ids.tolist(), samples.passes.tolist(), strict=True)
        return step, samples.ids, [self._threads.submit(self._dataset.__getitem__, sample) for sample in each]

    def _to_device(self, part: np.ndarray | Tensor) -> Tensor:
        return to_device(part, self._device)
