"""train.py in processes of its own, forked from one that has imported it: to be killed, signalled and starved."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOAD = ["tests.preload"]


@dataclass(frozen=True)
class Started:
    """A run in progress; what it prints, and a line "step id id ..." for each update, is in files of `log`."""

    process: BaseProcess
    log: Path

    def end(self, timeout_s: float = 300) -> int:
        """Wait for it; -> exit code, or minus the signal that ended it."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"still running: {self.out}"
        return self.process.exitcode

    def wait_for(self, text: str, timeout_s: float = 180) -> None:
        """Return once it has printed `text`."""
        self._wait(lambda: text in self.out, timeout_s)

    def wait_for_steps(self, count: int, timeout_s: float = 180) -> None:
        """Return once it has done (nearly) this many steps."""
        self._wait(lambda: len(self.steps) >= count, timeout_s)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    @property
    def out(self) -> str:
        return _text(self.log / "out")

    @property
    def err(self) -> str:
        return _text(self.log / "err")

    @property
    def steps(self) -> list[int]:
        """The step of each update, one after the other."""
        return [int(line.split()[0]) for line in _text(self.log / "batches").splitlines()]

    def ids(self) -> dict[int, list[int]]:
        """The images of each step, sorted."""
        found: dict[int, list[int]] = {}
        for line in _text(self.log / "batches").splitlines():
            step, *ids = (int(word) for word in line.split())
            found.setdefault(step, []).extend(ids)
        return {step: sorted(ids) for step, ids in found.items()}

    def _wait(self, holds: Callable[[], bool], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not holds():
            assert self.process.is_alive(), f"ended too early: {self.out} {self.err}"
            assert time.monotonic() < until, self.out
            time.sleep(0.002)


def start(argv: list[str], log: Path, *, file_bytes: int | None = None, **environment: str) -> Started:
    """Start `python train.py ARGV`, without the report; `file_bytes`: no file may grow beyond, as on a full disk.

    SLOW="12": from step 12 on each takes a while, so that whoever signals there finds it training on any machine.
    """
    log.mkdir(parents=True, exist_ok=True)
    return Started(forked(_run, argv, log, file_bytes, environment), log)


def forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start target(*arguments) in a process forked from one that has imported torch, the trainer and methods."""
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(PRELOAD)
    process = fork.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def prints_into(folder: Path) -> None:
    """Let all that this process prints go into the files "out" and "err" of a folder."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def start_ranks(argv: list[str], log: Path, ranks: int, **environment: str) -> list[Started]:
    """What `torchrun --nproc-per-node RANKS train.py ARGV` starts; FAULT="rank step hang|raise" breaks one of them."""
    return [start(argv, log / own["RANK"], **own, **environment) for own in worlds(ranks)]


def worlds(ranks: int) -> list[dict[str, str]]:
    """What torchrun adds to the environment of each rank on one machine."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks))
    return [shared | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(ranks)]


def _run(argv: list[str], log: Path, file_bytes: int | None, environment: dict[str, str]) -> None:
    prints_into(log)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    sys.argv = ["train.py", *argv]
    import torch

    import train
    from models.optim.update import FiniteGuard
    from models.records.failures import run_rank
    from models.training import finish

    torch.set_num_threads(1)
    batches, stepped = os.open(log / "batches", os.O_WRONLY | os.O_CREAT | os.O_APPEND), FiniteGuard.step

    broken, slow = os.environ.get("FAULT", "").split(), float(os.environ.get("SLOW", "inf"))

    def noted(self, optimiser, loss, norm, ids, step):
        if broken[:2] == [os.environ.get("RANK"), str(step)]:
            if broken[2] == "raise":
                raise KeyError("planted")
            time.sleep(1e6)
        if step >= slow:
            time.sleep(0.05)
        stepped(self, optimiser, loss, norm, ids, step)
        os.write(batches, f"{step} {' '.join(str(int(i)) for i in ids)}\n".encode())

    FiniteGuard.step = noted
    finish._pictures = lambda *_: []  # seconds of plotting that test_train.py spends once
    finish.write_report = lambda folder, **_: folder / "left out"
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    run_rank(train.main)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
