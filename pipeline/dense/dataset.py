"""Training views of a set as a torch Dataset, and a loader that makes batches of it ahead of training.

The views of an image are a pure function of (seed, pass, image), and the images of a step one of the step, so that the
loader's state is the number of the next batch and nothing else.

    with DenseLoader(dataset, sampler, device, step=100) as batches:
        batch = next(batches)     # of step 100: batch.dense.images, batch.dense.classes
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from typing import Generic, TypeVar, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import rng
from pipeline.batch import Batch, Boxes, Dense
from pipeline.concurrency import watchdog
from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads
from pipeline.concurrency.transfer import to_device
from pipeline.dense.boxes import BoxSet
from pipeline.dense.cut import cut
from pipeline.dense.cut_boxes import BoxView, cut_boxes
from pipeline.dense.pixels import PixelSet
from pipeline.loader import Batches
from pipeline.sampling.sampler import Sampler
from pipeline.spec import Size

Sample = tuple[int, int]
"""Id of an image, and how often the stream has gone through the set before."""
PixelView = tuple[Tensor, Tensor]
"""An image u8 [3, H, W] and the classes of its pixels u8 [H, W]."""
View = TypeVar("View", PixelView, BoxView)


class DenseDataset(Dataset[View], ABC, Generic[View]):
    """The training view of any image of a set in any pass, and how views become a part of a batch."""

    def __init__(self, found: PixelSet | BoxSet, size: Size, seed: int) -> None:
        self.found, self.size, self.seed = found, size, seed

    def __len__(self) -> int:
        return self.found.n

    def key(self, index: Sample) -> np.ndarray:
        """Return the key u64 [1] that all chance of a view comes from."""
        image, passes = index
        return rng.keys(self.seed, passes, image, rng.DENSE)

    @abstractmethod
    def __getitem__(self, index: Sample) -> View:
        """Make the view of an image in a pass."""

    @abstractmethod
    def part(self, ids: Tensor, views: Sequence[View]) -> Dense | Boxes:
        """Join views, those of the images `ids` i64 [N], to a part of a batch, on the host."""


@final
class PixelDataset(DenseDataset[PixelView]):
    """Crops of images and of their masks.

    image, classes = PixelDataset(found, size=512, seed=0)[3, 0]     # u8 [3, 512, 512], u8 [512, 512]
    """

    found: PixelSet

    def __getitem__(self, index: Sample) -> PixelView:
        return cut(*self.found.read(index[0]), self.found.labels, self.size, self.key(index))

    def part(self, ids: Tensor, views: Sequence[PixelView]) -> Dense:
        """Stack images and classes."""
        images, classes = zip(*views, strict=True)
        return Dense(ids, torch.stack(images), torch.stack(classes))


@final
class BoxDataset(DenseDataset[BoxView]):
    """Crops of images with the boxes and masks of their objects.

    BoxDataset(found, size=1024, seed=0)[3, 0].boxes     # f32 [m, 4]
    """

    found: BoxSet

    def __getitem__(self, index: Sample) -> BoxView:
        image, objects = self.found.read(index[0]), self.found.objects[index[0]]
        return cut_boxes(image, objects, self.found.labels, self.size, self.key(index))

    def part(self, ids: Tensor, views: Sequence[BoxView]) -> Boxes:
        """Stack images, and join the objects of all."""
        masks = [view.masks for view in views if view.masks is not None]
        return Boxes(
            ids,
            torch.stack([view.image for view in views]),
            torch.tensor([view.sides for view in views]),
            torch.tensor([len(view.boxes) for view in views]),
            torch.cat([view.boxes for view in views]),
            torch.cat([view.classes for view in views]),
            torch.cat(masks) if masks else None,
        )


@final
class DenseLoader(Batches):
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

    def __next__(self) -> Batch:
        while len(self._pending) < self._ahead:
            self._pending.append(self._begin(self._next))
            self._next += 1
        began = time.perf_counter()
        step, ids, futures = self._pending[0]
        doing = f"waiting for the images of step {step}"
        views = [watchdog.result(future, self._hang_timeout_s, lambda: doing) for future in futures]
        self._pending.popleft()
        part = self._to_device(self._dataset.part(torch.from_numpy(ids), views))
        self.wait_s += time.perf_counter() - began
        dense, boxes = (None, part) if isinstance(part, Boxes) else (part, None)
        return Batch(step, None, None, dense, boxes).check()

    def close(self) -> None:
        """Drop what was prepared and join every thread."""
        self._threads.close()

    def _begin(self, number: int) -> tuple[int, np.ndarray, list[Future]]:
        step, micro = divmod(number, self._micro)
        samples, _ = self._sampler.at(step, self._first_chunk + micro, self._chunks)
        assert samples is not None  # the labelled stream is the one that a dense set has
        each = zip(samples.ids.tolist(), samples.passes.tolist(), strict=True)
        return step, samples.ids, [self._threads.submit(self._dataset.__getitem__, sample) for sample in each]

    def _to_device(self, part: Dense | Boxes) -> Dense | Boxes:
        held = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **{name: to_device(each, self._device) for name, each in held.items() if each is not None})
