"""Sharded checkpoints: one of two ranks is killed in each phase of a save."""

from pathlib import Path

import pytest

from tests.models.ranks import run_ranks

KILLS = """
import os, shutil, signal, sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from models.checkpoint import save_load, sharded
from models.distributed.process_group import World
from tests.models.checkpoint.killing import kill_at

def join_in(rank, store):
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    return World(rank, 2, rank, torch.device("cpu"), saving=dist.new_group(backend="gloo"))

def save(folder, step, world):  # what split makes of a state, without the second that a first DTensor takes
    whole = torch.arange(5000.0).reshape(5, 1000) + step
    mine = whole[:3] if world.main else whole[3:]
    rest = {"step": step, "method": {"w": {sharded.NUMBER: 0}}, "optimiser": {sharded.NUMBER: 1}}
    save_load.save_sharded(folder, {"step": step, "shards": [mine, -mine], "rest": rest}, world)

def ranks(do):
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            try:
                do(join_in(rank, f"file://{store}"))
            except RuntimeError:
                os._exit(3)
            os._exit(0)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    store.unlink(missing_ok=True)
    return ended

def before(world):
    for step in (1, 2):
        save(folder, step, world)

def broken(world):
    if world.rank == victim:
        kill_at(event, (dist, "all_gather_object"))
    save(folder, 3, world)

root, victim, event, seen = Path(sys.argv[1]), int(sys.argv[2]), 0, []
store = root / "store"
(root / "before").mkdir()
folder = root / "before"
assert ranks(before) == [0, 0]
finished = False
while not finished:
    folder = root / f"event-{event}"
    shutil.copytree(root / "before", folder)
    ended = ranks(broken)
    finished = ended == [0, 0]
    assert finished or (os.WIFSIGNALED(ended[victim]) and os.WTERMSIG(ended[victim]) == signal.SIGKILL), ended
    found, path = save_load.latest(folder)
    whole = torch.arange(5000.0).reshape(5, 1000) + found["step"]
    assert path.name == "last.pt" and found["step"] in (2, 3), (event, path)
    assert torch.equal(found["method"]["w"], whole) and torch.equal(found["optimiser"], -whole)
    assert save_load.load(folder / "previous.pt")["step"] in (1, 2), event
    seen.append(found["step"])
    if event % 4 == 0:
        assert ranks(lambda world: save(folder, 4, world)) == [0, 0]
        assert save_load.load(folder / "last.pt")["step"] == 4
        assert sorted(each.name for each in folder.iterdir()) == ["last.pt", "previous.pt", "shards"], event
        assert sorted(each.name for each in (folder / "shards").iterdir()) == [f"step-{found['step']}", "step-4"], event
    shutil.rmtree(folder)
    event += 1
print(*seen)
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_kill_of_any_rank_in_any_phase_leaves_a_whole_set(tmp_path: Path, victim: int) -> None:
    seen = run_ranks(KILLS, 1, str(tmp_path), str(victim), timeout_s=180)[0].split()
    assert len(seen) >= (20, 9)[victim]
    assert set(seen) == {"2", "3"}
