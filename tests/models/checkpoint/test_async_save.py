import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_load
from models.checkpoint.async_save import AsyncSaver
from pipeline.errors import InputError
from tests.conftest import same
from tests.models.ranks import run_ranks


def state(step: int) -> dict:
    return {
        "step": step,
        "method": {"weight": torch.arange(60_000.0) + step, "count": torch.tensor(step)},
        "optimiser": {"state": {0: {"exp_avg": torch.full((4,), float(step))}}, "groups": [{"betas": (0.9, 0.99)}]},
        "empty": [],
        "none": None,
    }


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[AsyncSaver]:
    made = AsyncSaver(tmp_path)
    yield made
    made.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits for it; copying does not."""
    opened, save = threading.Event(), save_load.save

    def late(folder: Path, state: dict) -> Path:
        assert opened.wait(30)
        return save(folder, state)

    monkeypatch.setattr(save_load, "save", late)
    return opened


def test_what_two_keys_share_is_copied_and_written_once(saver: AsyncSaver, tmp_path: Path) -> None:
    frozen = torch.arange(60_000.0)
    for step in (1, 2):
        saver.save({"step": step, "encoder": frozen.detach(), "average": frozen.detach(), "part": frozen[:4]})
        saver.wait()
    loaded = save_load.load(tmp_path / "last.pt")
    assert torch.equal(loaded["average"], frozen)
    assert torch.equal(loaded["encoder"], frozen)
    assert torch.equal(loaded["part"], frozen[:4])
    assert (tmp_path / "last.pt").stat().st_size < 1.1 * frozen.nbytes


def test_what_changes_after_a_save_is_not_in_it(saver: AsyncSaver, tmp_path: Path, gate: threading.Event) -> None:
    held = state(1)
    saver.save(held)
    assert not (tmp_path / "last.pt").exists()  # it went on without the disk
    held["method"]["weight"].zero_()
    held["optimiser"]["groups"][0]["betas"] = None
    held["optimiser"]["state"].clear()
    gate.set()
    saver.wait()
    assert same(save_load.load(tmp_path / "last.pt"), state(1))
    assert saver.save_s > 0


def test_one_save_waits_for_the_other_and_buffers_are_used_again(saver: AsyncSaver, tmp_path: Path) -> None:
    saver.save(state(1))
    before = {key: buffer.data_ptr() for key, buffer in saver._buffers.items()}
    saver.save(state(2))
    assert {key: buffer.data_ptr() for key, buffer in saver._buffers.items()} == before
    saver.save(state(3) | {"method": {"weight": torch.ones(3, dtype=torch.int64)}})  # another shape
    saver.wait()
    assert same(save_load.load(tmp_path / "previous.pt"), state(2))
    assert save_load.load(tmp_path / "last.pt")["method"]["weight"].tolist() == [1, 1, 1]


def full(saver: AsyncSaver, call: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        saver.save(state(2))
        saver._saving.exception(30)  # it has ended, and has raised nowhere yet
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    {"check": saver.check, "wait": saver.wait, "save": lambda: saver.save(state(3))}[call]()


@pytest.mark.parametrize("raised_by", ["check", "wait", "save"])
def test_a_full_disk_is_raised_in_the_loop_in_one_line(saver: AsyncSaver, tmp_path: Path, raised_by: str) -> None:
    saver.save(state(1))
    saver.check()
    saver.wait()
    with pytest.raises(InputError, match=r"^cannot save a checkpoint in [^\n]*File too large[^\n]*$"):
        full(saver, raised_by)
    assert same(save_load.latest(tmp_path)[0], state(1))
    saver.save(state(4))  # there is room again
    saver.wait()
    assert same(save_load.latest(tmp_path)[0], state(4))


def test_what_is_neither_tensor_nor_json_is_named_at_once(saver: AsyncSaver, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['method'\] is a set"):
        saver.save({"method": {1}})
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from models.checkpoint import save_load
from models.checkpoint.async_save import AsyncSaver
from tests.models.checkpoint.killing import kill_at

def state(step):
    return {"step": step, "weight": torch.arange(20_000.0) + step}

def train_on(folder, phase):
    kill_at(phase)
    saver = AsyncSaver(folder)
    saver.save(state(3))
    while saver._saving is not None:  # training goes on
        saver.check()
    os._exit(0)

phase, finished = 0, False
while not finished:
    folder = Path(sys.argv[1], str(phase))
    folder.mkdir()
    for step in (1, 2):
        save_load.save(folder, state(step))
    if (child := os.fork()) == 0:
        train_on(folder, phase)
    ended = os.waitpid(child, 0)[1]
    finished = ended == 0
    assert finished or os.WTERMSIG(ended) == signal.SIGKILL
    found, path = save_load.latest(folder)
    assert path.name == "last.pt" and torch.equal(found["weight"], state(found["step"])["weight"]), phase
    assert found["step"] in ((3,) if finished else (2, 3)), phase
    phase += 1
print(phase - 1)
"""


def test_a_kill_in_any_phase_of_the_threads_work_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    assert int(run_ranks(KILLED, 1, str(tmp_path))[0]) >= 7


@pytest.mark.gpu
def test_copies_from_a_gpu_are_what_was_there_at_the_save(saver: AsyncSaver, tmp_path: Path) -> None:
    weight = torch.zeros(8_000_000, device="cuda")
    for step in range(1, 4):
        weight.fill_(step)
        saver.save({"step": step, "weight": weight})
        weight.fill_(-1)
    saver.wait()
    assert save_load.load(tmp_path / "last.pt")["weight"].unique().tolist() == [3.0]
    assert all(buffer.is_pinned() for buffer in saver._buffers.values())
