"""Build a DALI pipeline that decodes JPEG, or raise an error that says why there can be none.

DALI is imported when the first pipeline is built, as the import takes a second that other runs need not wait.
"""

import contextlib
import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.spec import HW_DECODER_LOAD

REMEDY = "run `make setup` (drivers before 580: `make setup EXTRA=cuda12`), or choose data.backend ffcv"


@final
class Pipe:
    """Decodes batches of up to `max_batch` JPEGs to RGB, in the order in which they were fed; for one thread at a time.

    device           a GPU: nvJPEG, and its own engine where there is one. None: libjpeg-turbo on `threads` threads
    hw_decoder_load  share of a batch that this engine decodes, 0..1; threads and the GPU's cores decode the rest

    DALI's options are set to what libffcv does: the fast inverse transform, interpolated chroma, EXIF ignored. So the
    pixels on the CPU are libffcv's, bit by bit; nvJPEG has a transform of its own.

    Raises InputError if DALI is not installed, or finds no driver, GPU or nvJPEG that it can use.
    """

    def __init__(
        self, device: torch.device | None, threads: int, max_batch: int, hw_decoder_load: float = HW_DECODER_LOAD
    ):
        dali = load()
        if device is not None:
            _check_nvjpeg(dali)
        try:
            self._pipeline = _build(dali, device, threads, max_batch, hw_decoder_load)
        except RuntimeError as error:
            why = f"{_versions(dali)}, and says: {reason(error)}"
            raise InputError(f"DALI cannot start on {device or 'the CPU'}: it {why}; {REMEDY}") from error

    def feed(self, jpegs: list[np.ndarray]) -> None:
        """Begin to decode a batch, u8 [bytes] each, and return at once; their memory must stay until the batch is
        taken."""
        self._pipeline.feed_input("jpegs", jpegs)
        self._pipeline.schedule_run()

    def take(self) -> Any:
        """Wait for the oldest batch: a DALI TensorList of u8 [height, width, 3], which keeps its own memory.

        Raises RuntimeError if any image cannot be decoded; the pipeline must not be used after that.
        """
        (images,) = self._pipeline.share_outputs()
        self._pipeline.release_outputs()
        return images


def packed(images: Any, stream: "torch.cuda.Stream | None" = None) -> Tensor:
    """Pack the pixels of a TensorList one image after another, u8 [pixels, 3], without a copy where they lie so
    already, as those that nvJPEG cannot decode and the CPU does may not.

    stream  of the GPU on which a copy is made: without one it would stand behind the training step, and wait for it

    The pixels are there on return, for any stream. DALI uses the memory again as soon as the tensor is gone, even while
    a GPU still reads it.
    """
    pixels = sum(height * width for height, width, _ in images.shape())
    with torch.cuda.stream(stream):  # no effect without one
        with contextlib.suppress(RuntimeError):  # which DALI raises where each image lies by itself
            return torch.from_dlpack(images.as_reshaped_tensor([pixels, 3]))
        together = torch.cat([torch.from_dlpack(image).reshape(-1, 3) for image in images])
        if stream is not None:
            copied = torch.cuda.Event(blocking=True)  # a spinning thread would keep a core from the decoders
            copied.record(stream)
            copied.synchronize()  # another stream reads them next, and DALI overwrites what they are copied from
    return together


@cache  # torch keeps freed memory by stream: with one for each decoder it would grow each time
def packing_stream(device: torch.device) -> "torch.cuda.Stream":
    """Return the stream on which decoded images are packed, beside those that compute and make views."""
    return torch.cuda.Stream(device)


def load() -> ModuleType:
    """Import DALI. Raises InputError if it is not installed, or is but cannot be imported."""
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except ModuleNotFoundError as error:
        if error.name in ("nvidia", "nvidia.dali"):
            raise InputError(f"data.backend dali needs NVIDIA DALI, which is not installed; {REMEDY}") from error
        raise InputError(f"NVIDIA DALI is installed without {error.name}, which it needs; {REMEDY}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(f"NVIDIA DALI is installed but cannot be loaded ({reason(error)}); {REMEDY}") from error
    return nvidia.dali


def reason(error: BaseException) -> str:
    """Find the one line of a DALI error that says what happened, among those that say where and how severe it is."""
    lines = [line.strip() for line in str(error).splitlines()]
    dull = ("Critical error", "Current pipeline", "Error in", "which was used", "File ", "encountered:")
    return next((line.rstrip(":. ") for line in lines if line and not line.startswith(dull)), type(error).__name__)


def _build(dali: ModuleType, device: torch.device | None, threads: int, max_batch: int, hw_decoder_load: float) -> Any:
    fn, types = dali.fn, dali.types
    device_id = None
    if device is not None:
        device_id = torch.cuda.current_device() if device.index is None else device.index
    # a queue of one does not limit how much is fed; the first run starts as many batches as the queue has places, and
    # one batch has been fed by then
    pipeline = dali.Pipeline(max_batch, threads, device_id, seed=0, prefetch_queue_depth=1)
    with pipeline:
        jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1, no_copy=True)
        images = fn.decoders.image(
            jpegs, device="cpu" if device_id is None else "mixed", output_type=types.RGB, adjust_orientation=False,
            use_fast_idct=True, jpeg_fancy_upsampling=True,
            hw_decoder_load=hw_decoder_load,
            affine=False,  # else the threads of several processes on a machine are pinned to the same cores
        )  # fmt: skip
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline


def _check_nvjpeg(dali: ModuleType) -> None:
    """Raise InputError without nvJPEG, where DALI's "mixed" would decode on the CPU and say so on stderr alone."""
    name = f"libnvjpeg.so.{_major(dali)}"
    wheels = [found for folder in _wheels() for found in sorted(Path(folder).glob(f"*/lib/{name}"))]
    for path in (name, *wheels, Path("/usr/local/cuda/lib64") / name):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path))
            return
    raise InputError(f"DALI finds no nvJPEG ({name}) and would decode on the CPU; {REMEDY}")


def _wheels() -> Sequence[str]:
    import nvidia

    return list(nvidia.__path__)


def _versions(dali: ModuleType) -> str:
    return f"is made for CUDA {_major(dali)}, torch for {torch.version.cuda or 'the CPU'}"


def _major(dali: ModuleType) -> int:
    return int(str(dali.__cuda_version__)[:2])
