"""Measure on a few images what another --store, --side or --quality would cost: bytes, images that a core makes ready
for a GPU, and what a disk must bring.

print(advice(find("photos"), Choice(side=500, quality=90), seed=0, workers=8))
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from pipeline.backends.pixels import to_pixels
from pipeline.errors import InputError
from pipeline.sources.encode import Decoding, Prepared, prepare
from pipeline.sources.source import Source
from pipeline.store.file_format import STORES, Store

SIDES, QUALITIES = (256, 320, 400, 500), (80, 90)
LIMIT_S, MOST_IMAGES = 2.5, 200
REPEATS = 3  # of each decode, the fastest of which counts
GPU_IMAGES_PER_S = 4100  # that Semi-MAE with ViT-S trains on an H100, by its FLOPs (docs/scale.md)


class Choice(NamedTuple):
    """How a conversion stores images: its --side, --quality, --reencode and --store, and how it reads their pixels."""

    side: int | None
    quality: int
    reencode: bool = False
    decoding: Decoding = Decoding()
    store: Store = "jpeg"


@dataclass(frozen=True)
class Cost:
    """What a choice costs: stored kB an image; images that a core makes ready for GPU views in a second, which it
    decodes (JPEG) or copies; and those that it turns into RGB, as it does for CPU views."""

    choice: Choice
    kb: float
    images_per_core_s: float
    rgb_per_core_s: float


def costs(source: Source, asked: Choice, seed: int, workers: int, limit_s: float) -> tuple[list[Cost], int]:
    """The cost of every choice that makes a difference here, and how many images it was measured on.

    Images are taken for `limit_s` seconds, up to MOST_IMAGES. Those that cannot be read are passed over: a conversion
    names them. Without any image there are no costs.
    """
    choices, images, made = _choices(asked), _images(source, seed), []
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        while len(made) < MOST_IMAGES and time.perf_counter() - began < limit_s:
            part = list(islice(images, workers))
            if not part:
                break
            made += [each for each in pool.map(lambda image: _prepared(image, choices), part) if each]
    if not made:
        return [], 0
    largest = max(max(image.height, image.width) for each in made for image in each)  # of some choice: the original's
    stored = dict(zip(choices, zip(*made, strict=True), strict=True))
    different = [
        choice for choice in choices
        if choice.side is None or choice.side < largest or choice.reencode != asked.reencode
        or (choice.store != asked.store and choice.side == asked.side)
    ]  # fmt: skip
    return [_cost(choice, stored[choice]) for choice in different], len(made)


def _choices(asked: Choice) -> list[Choice]:
    """The usual choices, the one asked for, the same with --reencode, the originals, and the other stores; by store and
    side, originals last."""
    jpeg = asked._replace(store="jpeg")
    usual = {jpeg._replace(side=side, quality=quality) for side in SIDES for quality in QUALITIES}
    found = {*usual, jpeg, jpeg._replace(reencode=True), jpeg._replace(side=None), asked}
    pixels = asked._replace(reencode=False)  # no JPEG is made: quality changes nothing
    found |= {pixels._replace(store=store, side=side) for store in STORES[1:] for side in (*SIDES, asked.side)}
    found |= {pixels._replace(store=asked.store, side=None)}
    return sorted(found, key=_place)


def _place(choice: Choice) -> tuple[int, int, int, bool]:
    return STORES.index(choice.store), choice.side or 1 << 30, choice.quality, not choice.reencode


def _images(source: Source, seed: int) -> Iterator[Any]:
    """Images in the order in which a conversion reads them: the first are still in memory."""
    for i in np.random.default_rng(seed).permutation(len(source)).tolist():
        try:
            yield source.read(i)[0]
        except (InputError, OSError):
            continue


def _prepared(image: Any, choices: list[Choice]) -> list[Prepared] | None:
    try:
        return [prepare(image, *choice) for choice in choices]
    except InputError:
        return None


def _cost(choice: Choice, stored: tuple[Prepared, ...]) -> Cost:
    images = [(np.frombuffer(each.data, np.uint8), each.height, each.width, choice.store) for each in stored]
    to_pixels(*images[0])  # compiles
    rgb = len(images) / sum(min(_rgb_s(image) for _ in range(REPEATS)) for image in images)
    ready = rgb if choice.store == "jpeg" else len(images) / min(_copies_s([each[0] for each in images]))
    return Cost(choice, sum(len(each.data) for each in stored) / len(stored) / 1e3, ready, rgb)


def _rgb_s(image: tuple[np.ndarray, int, int, Store]) -> float:
    began = time.thread_time()
    to_pixels(*image)
    return max(time.thread_time() - began, 1e-9)


def _copies_s(images: list[np.ndarray]) -> list[float]:
    """Seconds to copy images u8 [bytes] one behind another, as into the buffer that crosses to a GPU; several times."""
    ends = np.cumsum([len(each) for each in images])
    target, found = np.zeros(int(ends[-1]), np.uint8), []
    for _ in range(REPEATS):
        began = time.thread_time()
        for end, each in zip(ends, images, strict=True):
            target[end - len(each) : end] = each
        found.append(max(time.thread_time() - began, 1e-9))
    return found


def advice(source: Source, asked: Choice, seed: int, workers: int, limit_s: float = LIMIT_S) -> str:
    """The costs as a table, a line a choice; a line that says so where there is no image to measure on."""
    found, tried = costs(source, asked, seed, workers, limit_s)
    if not found:
        return "there is no image that can be read: nothing was measured"
    return table(found, tried, len(source), asked)


def table(found: list[Cost], tried: int, n: int, asked: Choice) -> str:
    """A line a choice, for a set of n images."""
    lines = [
        f"what a store, a side and a quality cost, tried on {tried:,} of the images:",
        f"  {'':34s}  {'kB':>7s}  {f'a node, {n:,}':>18s}  {'a core-second':>14s}  {'as RGB':>8s}  {'disk MB/s':>9s}",
    ]
    for each in found:
        mb, here = each.kb * n / 1e3, "  <- as asked" if each.choice == asked else ""
        whole = f"{mb / 1e3:,.0f} GB" if mb > 1e4 else f"{mb:,.1f} MB"
        lines.append(
            f"  {_flags(each.choice):34s}  {each.kb:7.1f}  {whole:>18s}  {each.images_per_core_s:14,.0f}"
            f"  {each.rgb_per_core_s:8,.0f}  {each.kb * GPU_IMAGES_PER_S / 1e3:9,.0f}{here}"
        )
    notes = (
        f"a node: page cache that holds all of it. a core-second: images that a core decodes, or copies as they are "
        f"stored, for GPU views; as RGB: that it turns into pixels. disk MB/s: random reads for a GPU at "
        f"{GPU_IMAGES_PER_S:,} images/s while nothing is cached.",
        "what a smaller side, a lower quality or halved chroma (yuv420) does to accuracy is not measured here",
    )
    return "\n".join([*lines, *notes])


def _flags(choice: Choice) -> str:
    if choice.store != "jpeg":
        return f"--store {choice.store} --side {choice.side}"
    return f"--side {choice.side} --quality {choice.quality}" + " --reencode" * choice.reencode
