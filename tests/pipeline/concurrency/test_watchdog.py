"""A loader that gets no batch says where its threads stand and ends; one that is slow, compiles or sleeps does not."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

import train
from pipeline.backends.backend import Backend, PendingViews
from pipeline.batch import Batch
from pipeline.concurrency import watchdog
from pipeline.concurrency.pool import Pool
from pipeline.errors import InputError
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.spec import Data, Needs
from pipeline.train_data import loader_spec, open_train_data
from pipeline.views.plan import Plan
from tests.processes import PRELOAD

CPU = torch.device("cpu")
WEAK = Needs(unlabelled=True)


class Grey(Backend):
    """Grey views, made by a pool that runs `work` on each slice of a batch first."""

    def __init__(self, beton, work):
        self.heights, self.widths, self.work = beton.heights, beton.widths, work
        self.pool = Pool(1, lambda: None)

    def start(self, plan: Plan) -> PendingViews:
        wait = self.pool.start(lambda first, last, _: self.work(first, last), len(plan.ids))
        return lambda: wait() or [torch.zeros(len(plan.ids), 3, 16, 16, dtype=torch.uint8) for _ in plan.names]

    def close(self) -> None:
        self.pool.close()


def loader(beton, work, hang_timeout_s: float | None) -> Loader:
    data = Data(str(beton.path.parent), batch=16, size=16)
    fed = loader_spec(open_train_data(data, WEAK), data, WEAK, patch=8, total_steps=10)
    return Loader(fed, Grey(beton, work), CPU, hang_timeout_s=hang_timeout_s)


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    monkeypatch.setattr("pipeline.concurrency.watchdog.TICK_S", 0.05)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_no_batch_for_too_long_says_where_every_thread_stands_and_raises(beton, capfd) -> None:
    go_on = threading.Event()

    def stuck_kernel(first: int, last: int) -> None:
        go_on.wait(20)

    with loader(beton, stuck_kernel, 0.3) as batches:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"^no batch for 0.3 s, see above .* data.hang_timeout_s"):
            next(batches)
        assert 0.3 <= time.monotonic() - began < 5
        go_on.set()
    told = capfd.readouterr().err
    assert told.startswith("waiting for batch 0 (step 0, micro-batch 0); 0 of the 2 after it are prepared\n")
    for part in ("\ndecode-0 sleeps:", " stuck_kernel\n", "\nplan-0 sleeps:", "\nplan-1 ", " _prepare\n", "MainThread"):
        assert part in told
    assert "threads of libraries: " in told


def test_a_loader_that_is_only_slow_is_left_alone(beton, capfd) -> None:
    with loader(beton, lambda first, last: time.sleep(0.1), 1.0) as batches:  # a batch: 0.2 s
        for _ in range(5):
            next(batches)
    with loader(beton, lambda first, last: time.sleep(0.3), None) as batches:
        next(batches)
    assert capfd.readouterr().err == ""


def test_time_spent_outside_does_not_count(beton) -> None:
    with loader(beton, lambda first, last: time.sleep(0.05), 0.4) as batches:
        for _ in range(2):
            next(batches)
            time.sleep(0.6)


def test_compiling_does_not_count(beton, monkeypatch) -> None:
    @njit(nogil=True)
    def compiled_late(x):
        return np.median(x)

    def work(first: int, last: int) -> None:
        compiled_late(np.random.default_rng(0).normal(size=9))

    began = time.monotonic()
    with loader(beton, work, 0.1) as batches:
        next(batches)
    assert time.monotonic() - began > 0.15  # so it would have tripped
    monkeypatch.setattr(watchdog, "_compiling", lambda: True)
    monkeypatch.setattr(watchdog, "COMPILE_S", 0.2)
    with loader(beton, lambda first, last: time.sleep(1), 0.2) as batches, pytest.raises(InputError, match="no batch"):
        next(batches)  # compiling without end is being stuck


def test_a_process_that_was_suspended_is_not_stuck() -> None:
    code = """if True:
        import os, signal, threading, time
        from concurrent.futures import Future
        from pipeline.concurrency import watchdog
        future = Future()
        threading.Timer(1.0, future.set_result, [3]).start()
        print("waiting", flush=True)
        watchdog.TICK_S = 0.1
        print(watchdog.result(future, 2.0, lambda: ""), flush=True)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.read() == "3\n"
    assert process.returncode == 0


def test_a_batch_that_is_there_costs_no_wait() -> None:
    future: Future = Future()
    future.set_result(3)
    began = time.perf_counter()
    for _ in range(1000):
        watchdog.result(future, 1.0, lambda: "")
    assert time.perf_counter() - began < 0.5


def test_a_thread_in_c_is_listed_as_asleep(capfd) -> None:
    thread = threading.Thread(target=ctypes.CDLL(None).usleep, args=(300_000,), name="in C")
    thread.start()
    time.sleep(0.05)
    assert "in C sleeps:\n  " in watchdog.standing()
    thread.join()


@njit(nogil=True)
def _raise(first):
    raise ValueError("in a kernel")


@pytest.mark.parametrize("error", [ValueError("in Python"), KeyboardInterrupt("odd"), TimeoutError("of the work")])
def test_an_error_in_a_decoder_reaches_each_next(beton, error) -> None:
    def work(first: int, last: int) -> None:
        raise error

    with loader(beton, work, 5.0) as batches:
        for _ in range(2):  # not the batch after it, as if nothing had been
            with pytest.raises(type(error), match=str(error)):
                next(batches)


def test_an_error_in_a_kernel_reaches_the_caller(beton) -> None:
    with loader(beton, lambda first, last: _raise(first), 5.0) as batches, pytest.raises(ValueError, match="in a kern"):
        next(batches)


@pytest.mark.parametrize("views_on", ["cpu", "device"])
def test_an_error_in_the_decoder_itself_reaches_the_caller_and_holds_up_no_other_thread(
    beton, views_on, monkeypatch, capfd
) -> None:
    def broken(*_) -> None:
        raise ZeroDivisionError("in the decoder")

    monkeypatch.setattr("pipeline.concurrency.threads.END_S", 2)
    monkeypatch.setattr("pipeline.backends.kernels.make_views", broken)
    monkeypatch.setattr("pipeline.backends.kernels.decode_mixed", broken)
    monkeypatch.setattr("pipeline.backends.staging_buffers.SLOT_PIXELS", 1)  # many parts, few buffers
    data = Data(str(beton.path.parent), batch=32, size=16, backend="ffcv", views_on=views_on, threads=2)
    fed = loader_spec(open_train_data(data, WEAK), data, WEAK, patch=8, total_steps=10)
    with Loader(fed, open_backend(data, beton, CPU), CPU, hang_timeout_s=5.0) as batches:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="in the decoder"):
                next(batches)
    assert capfd.readouterr().err == ""


def test_an_error_while_planning_reaches_the_caller(beton) -> None:
    batches = loader(beton, lambda first, last: None, 5.0)
    with batches:
        assert isinstance(next(batches), Batch)
    broken = loader(beton, lambda first, last: None, 5.0)
    broken._spec = replace(broken._spec, sampler=None)
    with broken, pytest.raises(AttributeError):
        next(broken)


def hang(argv: list[str], err: Path) -> None:
    """train.py in a process of its own, with a decoder that never comes back from C."""
    from pipeline.backends.in_memory import InMemoryBackend
    from pipeline.concurrency import threads
    from pipeline.errors import command

    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    sys.argv, threads.END_S, InMemoryBackend.start = argv, 0.2, lambda *_: lambda: ctypes.CDLL(None).sleep(1000)
    command(train.main)


def test_train_ends_with_one_line_and_exit_code_1_though_a_thread_never_ends(digits, tmp_path) -> None:
    argv = ["train.py", "mae:digits", f"--data.root={digits}", f"--run.folder={tmp_path}", "--run.device=cpu"]
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(PRELOAD)
    run = fork.Process(target=hang, args=([*argv, "--data.hang-timeout-s=1"], tmp_path / "err"), daemon=True)
    run.start()
    run.join(60)
    told = (tmp_path / "err").read_text()
    assert run.exitcode == 1, told
    assert "\nplan-0 sleeps:\n" in told
    assert told.splitlines()[-1].startswith("error: no batch for 1 s, see above")
    assert "warning: plan-0, plan-1 did not end within 0.2 s; left behind\n" in told
