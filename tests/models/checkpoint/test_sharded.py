"""Sharded checkpoints: 5 rows over 2 ranks, and 1 row, which leaves the other rank an empty shard."""

import shutil
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_load
from pipeline.errors import InputError
from tests.models.ranks import run_ranks

RANK = """
import os, sys, signal
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from models.checkpoint import save_load, sharded
from models.distributed.process_group import World, finish
from models.checkpoint.async_save import AsyncSaver
from functools import partial

def join_in(rank, store):
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    return World(rank, 2, rank, torch.device("cpu"), saving=dist.new_group(backend="gloo"))

def state(step):
    mesh = init_device_mesh("cpu", (2,))
    def spread(tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)
    whole = torch.arange(5000.0).reshape(5, 1000) + step
    return {"step": step, "method": {"w": spread(whole), "one": spread(whole[:1]), "count": torch.tensor(step)},
            "optimiser": {"state": {0: {"exp_avg": spread(-whole), "step": 1.0}}, "param_groups": [{"params": [0]}]}}

def save(folder, step, world):
    save_load.save_sharded(folder, sharded.split(state(step), main=world.main), world)
"""


def assert_state(found: dict, step: int) -> None:
    whole = torch.arange(5000.0).reshape(5, 1000) + step
    assert found["step"] == found["method"]["count"] == step
    assert torch.equal(found["method"]["w"], whole)
    assert torch.equal(found["method"]["one"], whole[:1])
    assert torch.equal(found["optimiser"]["state"][0]["exp_avg"], -whole)
    assert found["optimiser"]["param_groups"] == [{"params": [0]}]
    assert found.keys() == {"step", "method", "optimiser"}


@pytest.fixture(scope="module")
def three_saves(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    script = (
        RANK
        + """
world = join_in(int(os.environ["RANK"]), "env://")
saver = AsyncSaver(Path(sys.argv[1]), save_as=partial(save_load.save_sharded, world=world))
for step in (1, 2, 3):
    saver.save(sharded.split(state(step), main=world.main))
saver.wait()
saver.close()
finish(world)
"""
    )
    run_ranks(script, 2, str(folder))
    return folder


@pytest.fixture
def saved(three_saves, tmp_path) -> Path:
    return Path(shutil.copytree(three_saves, tmp_path / "saved"))


def test_shard_files_load_as_whole_tensors_and_older_ones_are_removed(saved: Path) -> None:
    assert_state(save_load.load(saved / "last.pt"), 3)
    assert_state(save_load.load(saved / "previous.pt"), 2)
    assert sorted(path.name for path in (saved / "shards").iterdir()) == ["step-2", "step-3"]


def test_each_rank_writes_its_own_rows_only(saved: Path) -> None:
    for rank, rows in enumerate((3, 2)):
        held = torch.load(saved / "shards" / "step-3" / f"{rank}-of-2.pt", weights_only=True)["shards"]
        assert [len(shard) for shard in held] == [rows, 1 - rank, rows]
    assert (saved / "last.pt").stat().st_size < 10_000


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SPOIL = {
    "damaged": damaged,
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "missing": lambda file: file.unlink(),
    "of another save": lambda file: shutil.copy(file.parents[1] / "step-2" / file.name, file),
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", SPOIL)
def test_a_shard_file_that_is_not_what_was_written_gives_way_to_previous(saved: Path, capsys, how, rank) -> None:
    SPOIL[how](saved / "shards" / "step-3" / f"{rank}-of-2.pt")
    found, path = save_load.latest(saved)
    assert path == saved / "previous.pt"
    assert_state(found, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_checkpoint_without_its_folder_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(saved / "last.pt", tmp_path))
    with pytest.raises(InputError, match=r"^[^\n]* sharded and [^\n]* is missing; keep it beside its shards folder$"):
        save_load.load(alone)


def test_whole_checkpoints_after_sharded_ones_leave_no_folder(saved: Path) -> None:
    for step in (4, 5):
        save_load.save(saved, {"step": step})
    assert sorted(path.name for path in saved.iterdir()) == ["last.pt", "previous.pt"]


FULL = (
    RANK
    + """
import resource
from pipeline.errors import InputError
world = join_in(int(os.environ["RANK"]), "env://")
folder = Path(sys.argv[1])
save(folder, 1, world)
if world.rank == int(sys.argv[2]):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
try:
    save(folder, 2, world)
except InputError as error:
    print(error)
if world.rank == int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
dist.barrier()
print(save_load.latest(folder)[0]["step"])
dist.barrier()
save(folder, 3, world)
finish(world)
"""
)


@pytest.mark.parametrize("full", [0, 1])
def test_one_ranks_full_disk_is_raised_by_all_and_the_checkpoint_before_stays(tmp_path: Path, full: int) -> None:
    said = [out.splitlines() for out in run_ranks(FULL, 2, str(tmp_path), str(full))]
    assert [step for _, step in said] == ["1", "1"]
    assert said[full][0].startswith("cannot save a checkpoint in ")
    assert "File too large" in said[full][0]
    assert said[1 - full][0] == f"rank {full}: {said[full][0]}"
    assert_state(save_load.load(tmp_path / "last.pt"), 3)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["step-1", "step-3"]
