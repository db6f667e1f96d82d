"""What does each decoder bring on this machine, do they give the same pixels, and which one would a run choose?"""

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch

from models.doctor.photographs import open_photographs
from models.doctor.stage import Context, Row, Stage, no_gpu
from pipeline import rng
from pipeline.backends import dali_pipe, libffcv
from pipeline.backends.decode_rate import dali_rate, ffcv_rate, measured
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.select import choose
from pipeline.concurrency.cores import cores
from pipeline.errors import InputError
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data, View
from pipeline.store.beton import Beton
from pipeline.views.plan import ViewSpec, draw

SIZE, IMAGES = 224, 32
LOADS = 0.0, 0.65, 1.0
"""Shares of a batch that DALI gives to the GPU's own JPEG engine; 0.65 is DALI's default."""
FAR_MEAN, FAR_MOST = 1.5, 24
"""Grey levels, in the median over images, by which nvJPEG's pixels may differ from libjpeg-turbo's fast transform."""


@final
class Backends(Stage):
    """The decoders of this machine."""

    place = 6
    deadline_s = 120

    def run(self, context: Context) -> Iterator[Row]:
        """Yield a row for each decoder, for what a run would choose, and for images that are kept decoded."""
        beton, device = open_photographs(context), torch.device(context.device)
        seconds = 0.5 if context.quick else 1.5
        found = ffcv_rate(beton, device, cores())
        yield Row("ffcv", "ok", f"{found:,.0f} images/s by {cores()} thread(s)", "", {"images_s": found})
        yield from dali_rows(beton, context.cuda, device, seconds)
        data = Data(root=str(beton.path.parent), train=beton.path.name, memory_mb=1)
        yield Row("what backend auto would choose", "ok", choose(data, beton, device).describe(None))
        yield kept_row(open_photographs(replace(context, data=None)), device, seconds)


def dali_rows(beton: Beton, cuda: bool, device: torch.device, seconds: float) -> Iterator[Row]:
    """Yield rows on DALI's decoders: libjpeg-turbo's on the CPU, nvJPEG's, and the GPU's engine for JPEG."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        for what in ("DALI on the CPU", "DALI, nvJPEG", "DALI, the GPU's JPEG engine"):
            yield Row(what, "skipped", "DALI is not installed", "ffcv is used; for DALI run `make setup`")
        return
    if beton.store != "jpeg":
        yield Row("DALI", "skipped", f"{beton.path.name} holds {beton.store}, which needs no decoder", "ffcv is used")
        return
    yield cpu_row(beton, seconds)
    if not cuda:
        yield no_gpu("DALI, nvJPEG")
        yield no_gpu("DALI, the GPU's JPEG engine")
        return
    try:
        yield gpu_row(beton, device)
        yield engine_row(beton, device, seconds)
    except InputError as error:
        yield Row("DALI, nvJPEG", "slow", str(error), "a run decodes by ffcv")


def cpu_row(beton: Beton, seconds: float) -> Row:
    """Measure DALI's decoder on the CPU, whose pixels are libffcv's to the bit."""
    from pipeline.backends.dali import Dali

    cpu = torch.device("cpu")
    try:
        backend = Dali(beton, SIZE, cpu, "cpu", cores())
    except InputError as error:
        return Row("DALI on the CPU", "slow", str(error), "a run decodes by ffcv")
    try:
        rate = measured(backend.decode, beton.n, cpu, seconds)
        _, most = pixels_apart(beton, backend)
    finally:
        backend.close()
    figure = f"{rate:,.0f} images/s; {most:.0f} level(s) from ffcv"
    if most:
        return Row("DALI on the CPU", "slow", figure, "set --data.backend ffcv", {"images_s": rate})
    return Row("DALI on the CPU", "ok", figure, "", {"images_s": rate})


def gpu_row(beton: Beton, device: torch.device) -> Row:
    """Measure nvJPEG through DALI, and how far its pixels are from libffcv's."""
    from pipeline.backends.dali import Dali

    rate = dali_rate(beton, SIZE, device, cores())
    backend = Dali(beton, SIZE, device, "device", cores())
    try:
        mean, most = pixels_apart(beton, backend)
    finally:
        backend.close()
    figure = f"{rate:,.0f} images/s; {mean:.2f} levels from ffcv on average, {most:.0f} at most (medians)"
    far = mean > FAR_MEAN or most > FAR_MOST
    result = "slow" if far else "ok"
    return Row("DALI, nvJPEG", result, figure, "set --data.backend ffcv" * far, {"images_s": rate, "mean": mean})


def pixels_apart(beton: Beton, backend: Any) -> tuple[float, float]:
    """Return the mean and the largest difference in levels to libffcv's pixels, each the median over images."""
    ids = np.arange(min(IMAGES, beton.n))
    packed = backend.decode(ids)()
    flat, means, most = packed.pixels.cpu().numpy(), [], []
    for i, place in zip(ids, packed.places, strict=True):
        height, width = int(beton.heights[i]), int(beton.widths[i])
        expected = libffcv.decode(beton.jpeg(i), height, width)
        assert expected is not None  # it was whole when it was written
        apart = abs(flat[place : place + height * width].reshape(height, width, 3).astype(int) - expected)
        means.append(float(apart.mean()))
        most.append(float(apart.max()))
    return float(np.median(means)), float(np.median(most))


def engine_row(beton: Beton, device: torch.device, seconds: float) -> Row:
    """Measure nvJPEG with shares of a batch on the GPU's own engine; equal rates mean that there is none."""
    what, dali = "DALI, the GPU's JPEG engine", dali_pipe.load()
    rates = {load: engine_rate(dali, beton, device, load, seconds) for load in LOADS}
    figure = "; ".join(f"share {load:g}: {rate:,.0f} images/s" for load, rate in rates.items())
    values = {f"load_{load:g}": rate for load, rate in rates.items()}
    return Row(what, "ok", figure, "", values)


def engine_rate(dali: Any, beton: Beton, device: torch.device, load: float, seconds: float) -> float:
    """Return the images a second that DALI decodes with a share of them on the GPU's engine."""
    ids = np.arange(min(256, beton.n))
    jpegs = [np.array(beton.jpeg(i)) for i in ids]
    pipeline = dali.Pipeline(len(ids), cores(), device.index or 0, seed=0, prefetch_queue_depth=2)
    with pipeline:
        source = dali.fn.external_source(name="jpegs", dtype=dali.types.UINT8, ndim=1, no_copy=True)
        images = dali.fn.decoders.image(
            source, device="mixed", output_type=dali.types.RGB, adjust_orientation=False, hw_decoder_load=load,
            affine=False,
        )  # fmt: skip
        pipeline.set_outputs(images)
    pipeline.build()
    for _ in range(2):
        pipeline.feed_input("jpegs", jpegs)
        pipeline.schedule_run()
    for limit_s in (seconds / 4, seconds):  # the first settles the engine and the memory
        torch.cuda.synchronize()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < limit_s:
            pipeline.share_outputs()
            pipeline.release_outputs()
            pipeline.feed_input("jpegs", jpegs)
            pipeline.schedule_run()
            done += len(ids)
        torch.cuda.synchronize()
        rate = done / (time.perf_counter() - began)
    return rate


def kept_row(beton: Beton, device: torch.device, seconds: float) -> Row:
    """Measure weak and strong views of images that lie decoded in memory, that of the device where it is a GPU."""
    where = "device" if device.type == "cuda" else "cpu"
    backend = InMemoryBackend(beton, SIZE, device, where, cores())
    spec = ViewSpec({"weak": (View(), rng.WEAK), "strong": (View(augment="timm", erase="random"), rng.STRONG)}, SIZE)
    ids = np.arange(beton.n)
    plan = draw(spec, SampleIds(ids, np.zeros_like(ids)), beton.heights[ids], beton.widths[ids], 0)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    try:
        backend.start(plan)()
        synchronise()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            backend.start(plan)()
            done += len(ids)
        synchronise()
        rate = done / (time.perf_counter() - began)
    finally:
        backend.close()
    figure = f"{rate:,.0f} images/s, weak and strong views of {3 * beton.pixels / 1e6:,.0f} MB on the {device.type}"
    return Row("images kept decoded", "ok", figure, "", {"images_s": rate})
