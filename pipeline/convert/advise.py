"""Measure on a few images what another --side or --quality would cost: bytes, and images that a core decodes.

print(advice(find("photos"), Choice(side=500, quality=90), seed=0, workers=8))
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.sources.encode import Decoding, Prepared, prepare
from pipeline.sources.source import Source

SIDES, QUALITIES = (256, 320, 400, 500), (80, 90)
LIMIT_S, MOST_IMAGES = 2.5, 200
REPEATS = 3  # of each decode, the fastest of which counts


class Choice(NamedTuple):
    """How a conversion stores images: its --side, --quality and --reencode, and how it reads their pixels."""

    side: int | None
    quality: int
    reencode: bool = False
    decoding: Decoding = Decoding()


@dataclass(frozen=True)
class Cost:
    """What a choice costs: stored kB an image, and images that a core decodes in a second."""

    choice: Choice
    kb: float
    images_per_core_s: float


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
    largest = max(max(each[-1].height, each[-1].width) for each in made)  # the last choice is the original's size
    stored = dict(zip(choices, zip(*made, strict=True), strict=True))
    different = [
        choice for choice in choices
        if choice.side is None or choice.side < largest or choice.reencode != asked.reencode
    ]  # fmt: skip
    return [_cost(choice, stored[choice]) for choice in different], len(made)


def _choices(asked: Choice) -> list[Choice]:
    """The usual choices, the one asked for, the same with --reencode, and the originals; by side, originals last."""
    usual = {asked._replace(side=side, quality=quality) for side in SIDES for quality in QUALITIES}
    found = {*usual, asked, asked._replace(reencode=True), asked._replace(side=None)}
    return sorted(found, key=lambda choice: (choice.side or 1 << 30, choice.quality, not choice.reencode))


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
    jpegs = [(np.frombuffer(each.data, np.uint8), each.height, each.width) for each in stored]
    decode(*jpegs[0])  # compiles
    fastest = [min(_decode_s(jpeg) for _ in range(REPEATS)) for jpeg in jpegs]
    return Cost(choice, sum(len(each.data) for each in stored) / len(stored) / 1e3, len(jpegs) / sum(fastest))


def _decode_s(jpeg: tuple[np.ndarray, int, int]) -> float:
    began = time.thread_time()
    decode(*jpeg)
    return max(time.thread_time() - began, 1e-9)


def advice(source: Source, asked: Choice, seed: int, workers: int, limit_s: float = LIMIT_S) -> str:
    """The costs as a table, a line a choice; a line that says so where no side makes a difference."""
    found, tried = costs(source, asked, seed, workers, limit_s)
    if len(found) < 2:
        return "every side and quality here keeps the images as they are"
    return table(found, tried, len(source), asked)


def table(found: list[Cost], tried: int, n: int, asked: Choice) -> str:
    """A line a choice, for a set of n images."""
    lines = [
        f"what a side and a quality cost, tried on {tried:,} of the images:",
        f"  {'':34s}  kB an image  {f'all {n:,}':>16s}  decoded a core-second",
    ]
    for each in found:
        side, quality, reencode, _ = each.choice
        flags = f"--side {side} --quality {quality}" + " --reencode" * reencode
        mb, here = each.kb * n / 1e3, "  <- as asked" if each.choice == asked else ""
        whole = f"{mb / 1e3:,.0f} GB" if mb > 1e4 else f"{mb:,.1f} MB"
        lines.append(f"  {flags:34s}  {each.kb:11.1f}  {whole:>16s}  {each.images_per_core_s:21,.0f}{here}")
    return "\n".join([*lines, "what a smaller side or a lower quality does to accuracy is not measured here"])
