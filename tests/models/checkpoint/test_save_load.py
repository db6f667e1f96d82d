import os
import resource
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_load
from models.config.recipe import Optim
from models.optim.build import build_optimiser
from models.optim.update import set_lr
from pipeline.errors import InputError
from tests.conftest import same
from tests.models.ranks import run_ranks

STATE = {
    "step": 3,
    "method": {"weight": torch.arange(60_000.0), "count": torch.tensor(7)},
    "optimiser": {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-3}]},
    "note": None,
}

KILLS = """
import os, sys
from pathlib import Path
import torch
from models.checkpoint import save_load
from tests.models.checkpoint.killing import kill_at

folder, weight = Path(sys.argv[1]), torch.arange(20_000.0)

def state(step):
    return {"step": step, "weight": weight + step}

event, finished = 0, False
while not finished:
    for path in folder.iterdir():
        path.unlink()
    save_load.save(folder, state(1))
    save_load.save(folder, state(2))
    child = os.fork()
    if child == 0:
        kill_at(event)
        save_load.save(folder, state(3))
        os._exit(0)
    finished = os.waitpid(child, 0)[1] == 0
    found, path = save_load.latest(folder)
    step = found["step"]
    assert path.name == "last.pt" and step in (2, 3) and torch.equal(found["weight"], weight + step), (event, path)
    assert save_load.load(folder / "previous.pt")["step"] in (1, 2), event
    save_load.save(folder, state(4))
    assert save_load.load(folder / "last.pt")["step"] == 4
    assert save_load.load(folder / "previous.pt")["step"] == step
    assert sorted(path.name for path in folder.iterdir()) == ["last.pt", "previous.pt"], event
    event += 1
print(event)
"""


def test_a_saved_state_comes_back_equal(tmp_path: Path) -> None:
    path = save_load.save(tmp_path, STATE)
    assert path == tmp_path / "last.pt"
    assert same(save_load.load(path), STATE)
    found, where = save_load.latest(tmp_path)
    assert where == path
    assert same(found, STATE)


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    def begin() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        method = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        made = build_optimiser(method, Optim())
        set_lr(made, 1e-2)
        return method, made

    def step(method: torch.nn.Module, made: torch.optim.AdamW, number: int) -> None:
        made.zero_grad()
        method(torch.arange(6.0).reshape(2, 3) + number).square().mean().backward()
        made.step()

    (whole, made), (resumed, fresh) = begin(), begin()
    for number in range(3):
        step(whole, made, number)
    save_load.save(tmp_path, {"method": whole.state_dict(), "optimiser": made.state_dict()})
    state = save_load.load(tmp_path / "last.pt")
    resumed.load_state_dict(state["method"])
    fresh.load_state_dict(state["optimiser"])
    for number in range(3, 6):
        step(whole, made, number)
        step(resumed, fresh, number)
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(made.state_dict()["state"], fresh.state_dict()["state"])


def test_plain_torch_load_opens_a_checkpoint(tmp_path: Path) -> None:
    path = save_load.save(tmp_path, STATE)
    assert same(torch.load(path, weights_only=True), STATE)


def test_an_empty_folder_has_no_latest(tmp_path: Path) -> None:
    assert save_load.latest(tmp_path) is None


def test_a_kill_in_any_phase_of_a_save_leaves_last_loadable(tmp_path: Path) -> None:
    phases = int(run_ranks(KILLS, 1, str(tmp_path))[0])
    assert phases >= 7  # write, checksum, fsync, unlink, link, replace, unlink, replace, fsync, and none


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save_load.save(tmp_path, {"weight": torch.arange(300.0), "step": 1})
    whole = path.read_bytes()
    positions = sorted({*range(0, len(whole), 37), *range(len(whole) - 110, len(whole))})
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|checksum"):
            save_load.load(path)
    path.write_bytes(whole)
    assert save_load.load(path)["step"] == 1


@pytest.mark.parametrize("left", [0, 1, 60, 500, -1, -71, -72, -2000])
def test_a_file_cut_short_is_noticed(tmp_path: Path, left: int) -> None:
    path = save_load.save(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match="checksum"):
        save_load.load(path)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()  # previous.pt may be the same file
    path.write_bytes(content)


def test_a_damaged_last_gives_way_to_previous_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save_load.save(tmp_path, {"step": step})
    damage(tmp_path / "last.pt")
    found, path = save_load.latest(tmp_path)
    assert (found["step"], path.name) == (1, "previous.pt")
    assert len(capsys.readouterr().err.splitlines()) == 1
    save_load.save(tmp_path, {"step": 2})
    assert save_load.load(tmp_path / "previous.pt")["step"] == 1  # not the damaged one
    assert save_load.latest(tmp_path)[0]["step"] == 2
    assert capsys.readouterr().err == ""


def test_two_damaged_checkpoints_end_in_one_line(tmp_path: Path) -> None:
    for step in (1, 2):
        save_load.save(tmp_path, {"step": step})
    damage(tmp_path / "last.pt")
    damage(tmp_path / "previous.pt")
    with pytest.raises(InputError, match=r"^[^\n]*no whole checkpoint[^\n]*$"):
        save_load.latest(tmp_path)


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(save_load, "check_types", lambda value, key: None)
    path = save_load.save(tmp_path, {"step": Malicious()})
    with pytest.raises(InputError, match="more than tensors"):
        save_load.load(path)
    with pytest.raises(InputError, match="more than tensors"):
        save_load.latest(tmp_path)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("state", "key"),
    [
        ({"recipe": {"folder": Path("a")}}, r"state\['recipe'\]\['folder'\] is a PosixPath"),
        ({"parts": [1, {2}]}, r"state\['parts'\]\[1\] is a set"),
        ({"a": {1.5: 0}}, r"state\['a'\] has a key 1.5"),
    ],
)
def test_what_is_neither_tensor_nor_json_is_named_before_saving(tmp_path: Path, state: dict, key: str) -> None:
    with pytest.raises(TypeError, match=key):
        save_load.save(tmp_path, state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [1000, 100_000, 240_000])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, room: int) -> None:
    save_load.save(tmp_path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(InputError, match=r"^cannot save a checkpoint in [^\n]*File too large[^\n]*$"):
            save_load.save(tmp_path, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert save_load.latest(tmp_path)[0]["step"] == 1


def test_without_hard_links_the_old_checkpoint_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        save_load.save(tmp_path, {"step": step})
    assert [save_load.load(tmp_path / name)["step"] for name in ("last.pt", "previous.pt")] == [3, 2]


def test_a_missing_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read checkpoint [^\n]*$"):
        save_load.load(tmp_path / "last.pt")
