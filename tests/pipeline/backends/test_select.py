"""data.backend auto: every branch of its rule, tripped by numbers; and the measuring, on a clock that does not run."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.backends import decode_rate, select
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.select import Choice, rule
from pipeline.errors import InputError
from pipeline.open import open_backend
from pipeline.spec import Data

CPU = torch.device("cpu")
LARGE = (2000.0, 1024.0)


def never() -> float:
    raise AssertionError("measured, though nothing depended on it")


def rate(images_per_s: float) -> Callable[[], float]:
    return lambda: images_per_s


def absent() -> float:
    raise InputError("DALI cannot start on cuda: no driver")


@pytest.mark.parametrize(
    ("memory", "on_gpu", "there", "before", "ffcv", "dali", "backend", "why"),
    [
        ((1024.0, 1024.0), True, True, "dali", never, never, "memory", "1,024 MB, fit data.memory_mb 1,024"),
        (LARGE, False, True, "dali", never, never, "ffcv", "views are made on the CPU"),
        (LARGE, True, False, "dali", never, never, "ffcv", "DALI is not installed"),
        (LARGE, True, True, "dali", never, never, "dali", "what this run was begun on"),
        (LARGE, True, True, "ffcv", never, never, "ffcv", "what this run was begun on"),
        (LARGE, True, True, "memory", rate(5000), never, "ffcv", "5,000 images/s here, a step takes 5,000 at most"),
        (LARGE, True, True, None, rate(4999), rate(9000), "dali", "DALI decodes 9,000 images/s here, ffcv 4,999"),
        (LARGE, True, True, None, rate(4000), rate(4400), "ffcv", "DALI decodes 4,400 images/s here, ffcv 4,000"),
        (LARGE, True, True, None, rate(4000), rate(4401), "dali", "DALI decodes 4,401 images/s here, ffcv 4,000"),
        (LARGE, True, True, None, rate(4000), absent, "ffcv", "and DALI cannot start on cuda: no driver"),
    ],
)
def test_the_rule(memory, on_gpu, there, before, ffcv, dali, backend, why):
    chosen = rule(memory, on_gpu, there, before, ffcv, dali)
    assert chosen.backend == backend
    assert why in chosen.why


def test_a_change_is_said_and_nothing_else():
    chosen = Choice("ffcv", "so")
    assert chosen.describe(None) == chosen.describe("ffcv") == "back-end ffcv: so"
    assert chosen.describe("dali") == "back-end ffcv: so; until now the run was on dali"


def test_what_the_recipe_says_is_not_questioned(beton, monkeypatch):
    monkeypatch.setattr(select, "rule", never)
    assert select.choose(Data(backend="ffcv"), beton, CPU, "dali") == Choice("ffcv", "as data.backend says")


def test_auto_asks_for_what_the_file_and_the_machine_are(beton):
    data = Data(size=32)
    assert select.choose(data, beton, CPU).backend == "memory"
    assert select.choose(replace(data, memory_mb=0), beton, CPU).backend == "ffcv"


def test_what_is_opened_is_what_was_chosen_and_one_look_is_streamed(beton):
    auto = Data(size=32)
    for data, kind in ((auto, InMemoryBackend), (replace(auto, memory_mb=0), FFCV), (select.streamed(auto), FFCV)):
        with closing(open_backend(data, beton, CPU)) as backend:
            assert type(backend) is kind
    asked = ("auto", "memory", "ffcv", "dali")
    assert [select.streamed(Data(backend=each)).backend for each in asked] == ["ffcv", "ffcv", "ffcv", "dali"]


def test_measuring_counts_images_of_the_time_it_waited(monkeypatch):
    """Each batch takes a second on this clock, and it reads the clock once before, once a batch and once after."""
    clock, begun, finished = [0.0], [], []

    def start(ids: np.ndarray) -> Callable[[], None]:
        begun.append(len(ids))

        def finish() -> None:
            clock[0] += 1
            finished.append(len(ids))

        return finish

    monkeypatch.setattr(decode_rate.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(decode_rate, "IMAGES", 5)
    monkeypatch.setattr(decode_rate, "BATCH", 3)
    assert decode_rate.measured(start, 100, CPU, 3.0) == (3 + 2 + 3 + 2) / 4
    assert begun == finished == [3, 2] * 3
    assert decode_rate.measured(start, 2, CPU, 1.0) == 2  # fewer images than a batch: the one there is, again and again


def test_ffcv_is_measured_on_the_file(beton, monkeypatch):
    monkeypatch.setattr(decode_rate, "FFCV_S", 0.05)
    assert decode_rate.ffcv_rate(beton, CPU, threads=2) > 0


def test_dali_is_measured_on_the_file(beton, monkeypatch):
    pytest.importorskip("nvidia.dali", reason="DALI is an extra")
    pytest.importorskip("pipeline.backends.dali")
    monkeypatch.setattr(decode_rate, "DALI_S", 0.05)
    assert select.dali_there()
    assert decode_rate.dali_rate(beton, 32, CPU, threads=1) > 0
