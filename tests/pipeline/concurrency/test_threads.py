"""Threads that make calls in order, end when nobody holds them, and keep no process alive."""

import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import wait

import pytest

from pipeline.concurrency.threads import Threads
from pipeline.errors import InputError


@pytest.fixture
def three():
    threads = Threads(3, "test")
    yield threads
    threads.close()


def ours() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("test-"))


def test_what_a_call_returns_or_raises_reaches_the_future(three) -> None:
    futures = [three.submit(divmod, 7, by) for by in (2, 0, 3)]
    assert [futures[i].result(10) for i in (0, 2)] == [(3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        futures[1].result(10)


def test_even_an_exit_in_a_thread_reaches_the_future_and_the_thread_goes_on() -> None:
    one = Threads(1, "test")
    with pytest.raises(SystemExit):
        one.submit(sys.exit, 3).result(10)
    assert one.submit(abs, -3).result(10) == 3
    one.close()


def test_closing_cancels_what_has_not_begun_and_wakes_who_waits_for_it() -> None:
    one, began, go_on = Threads(1, "test"), threading.Event(), threading.Event()
    running = one.submit(lambda: began.set() or go_on.wait(10))
    queued = one.submit(abs, -3)
    assert began.wait(10)
    threading.Timer(0.1, go_on.set).start()
    one.close()
    assert wait([queued], 10).done == {queued}
    assert queued.cancelled()
    assert running.result(0)
    assert ours() == []
    one.close()  # again: nothing
    with pytest.raises(RuntimeError, match="closed"):
        one.submit(abs, -3)


def test_threads_end_with_the_last_reference(three) -> None:
    dropped = Threads(2, "test")
    dropped.submit(abs, -3).result(10)
    assert len(ours()) == 5
    del dropped
    gc.collect()
    assert len(ours()) == 3


def test_a_thread_that_is_stuck_is_named_and_left_behind(capfd, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.concurrency.threads.left_behind", [])
    monkeypatch.setattr("pipeline.concurrency.threads.END_S", 0.2)
    two, began, go_on = Threads(2, "test"), threading.Event(), threading.Event()
    two.submit(lambda: began.set() or go_on.wait(10))
    assert began.wait(10)
    since = time.monotonic()
    two.close()
    assert time.monotonic() - since < 5
    assert capfd.readouterr().err in (f"warning: test-{i} did not end within 0.2 s; left behind\n" for i in (0, 1))
    go_on.set()


def test_a_stuck_thread_does_not_keep_the_process_from_ending() -> None:
    code = """if True:
        import ctypes, time
        from pipeline.concurrency import threads
        threads.END_S = 0.2
        one = threads.Threads(1, "test")
        one.submit(ctypes.CDLL(None).sleep, 1000)  # in C, without the GIL, as a kernel would
        time.sleep(0.2)
        print("end of the script", flush=True)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "end of the script\n")
    assert "test-0 did not end" in done.stderr


@pytest.mark.parametrize(("main", "code"), [("lambda: None", 0), ("lambda: 75", 75), ("stop", 2)])
def test_a_command_that_leaves_a_slow_thread_behind_ends_with_its_own_code(main: str, code: int) -> None:
    """Python's shut-down ends the thread where it asks for the GIL: amid torch's C++, which aborts the process."""
    script = f"""if True:
        import time, torch
        from pipeline.concurrency import threads
        from pipeline.errors import InputError, command
        threads.END_S = 0.2
        one, many = threads.Threads(1, "test"), torch.rand(100)
        def slow():
            while True:
                many.sort()
        def stop():
            raise InputError("so")
        one.submit(slow)
        time.sleep(0.2)
        one.close()
        command({main})"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    warning = "warning: test-0 did not end within 0.2 s; left behind\n"
    assert done.stderr == warning + ("error: so\n" if code == 2 else "")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_told_that_the_threads_stayed_behind(three) -> None:
    three.submit(abs, -3).result(10)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            three.submit(abs, -3)
        except InputError as error:
            os.write(write, str(error).encode())
        three.close()  # must neither hang nor touch the parent's
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"open the loader after the fork" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    assert three.submit(abs, -3).result(10) == 3
