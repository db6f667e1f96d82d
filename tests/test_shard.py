"""--run.shard: the losses and weights of DDP, in checkpoints that any number of ranks carries on from."""

import shutil
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_load
from models.records import events
from tests.conftest import DECODER, TINY, assert_close, rows, same, weights
from tests.processes import Started, start, start_ranks

RECIPES = {
    "semi_mae:digits": ["--method.pseudo.threshold=0.108", "--optim.labels-only-epochs=4", *DECODER],
    "fixmatch:digits": ["--method.pseudo.threshold=0.108", "--method.pseudo.teacher=self", "--optim.clip=0.5"],
    "mae:digits": ["--optim.layer-decay=0.75", "--run.device-images=8", "--run.evaluate-steps=5", *DECODER],
}
SHARD = "--run.shard"


@pytest.fixture(scope="module")
def argv(digits):
    """argv(recipe, folder, *flags): a tiny run's command line."""
    return lambda recipe, folder, *flags: [
        recipe, *TINY, *RECIPES[recipe], f"--data.root={digits}", f"--run.folder={folder}", *flags
    ]  # fmt: skip


def end(ranks: list[Started], code: int = 0) -> None:
    for rank in ranks:
        assert rank.end() == code, rank.err


@pytest.fixture(scope="module", params=RECIPES)
def runs(request, argv, tmp_path_factory) -> tuple[str, Path, Path]:
    """A recipe on two ranks, sharded and not."""
    root, recipe = tmp_path_factory.mktemp("runs"), request.param
    sharded = start_ranks(argv(recipe, root / "shard", SHARD), root / "log", 2)
    end(sharded)
    assert [rank.err for rank in sharded] == ["", ""]
    end(start_ranks(argv(recipe, root / "ddp"), root / "log ddp", 2))
    return recipe, root / "shard", root / "ddp"


def assert_equal_but_for_rounding(a: Path, b: Path) -> None:
    """Losses, gradient norms, evaluations and pseudo-labels in every row; weights and moments at the end."""
    for x, y in zip(rows(a), rows(b), strict=True):
        assert x["step"] == y["step"]
        for name in ("loss", "gradient_norm"):
            assert x.get(name, 0) == pytest.approx(y.get(name, 0), rel=1e-4)
        assert x.get("parts", {}) == pytest.approx(y.get("parts", {}), rel=1e-5)
        assert x.get("values", {}) == pytest.approx(y.get("values", {}))
        assert x.get("pseudo", {}).get("passed", 0) == pytest.approx(y.get("pseudo", {}).get("passed", 0))
    assert_close(weights(a), weights(b))
    one, other = (save_load.load(folder / "last.pt")["optimiser"] for folder in (a, b))
    assert one["param_groups"] == other["param_groups"]
    for number, held in other["state"].items():
        assert one["state"][number]["step"] == held["step"]
        assert one["state"][number]["exp_avg"].shape == held["exp_avg"].shape


def test_sharded_ranks_learn_what_ddp_learns(runs):
    _, sharded, plain = runs
    assert_equal_but_for_rounding(sharded, plain)


def test_a_sharded_run_leaves_two_whole_sets_of_pieces(runs):
    _, sharded, _ = runs
    assert sorted(path.name for path in (sharded / "shards").iterdir()) == ["step-12", "step-8"]
    assert sorted(path.name for path in (sharded / "shards" / "step-12").iterdir()) == ["0-of-2.pt", "1-of-2.pt"]
    assert [save_load.load(sharded / name)["step"] for name in ("last.pt", "previous.pt")] == [12, 8]


SEMI_MAE = pytest.mark.parametrize("runs", ["semi_mae:digits"], indirect=True)


@pytest.fixture(scope="module")
def stopped_once(argv, tmp_path_factory) -> Path:
    """A sharded run that stopped on two ranks, after a step that is no save's."""
    root = tmp_path_factory.mktemp("stopped")
    end(start_ranks(argv("semi_mae:digits", root / "run", SHARD, "--run.stop-step=5"), root / "log", 2), 75)
    return root / "run"


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


@SEMI_MAE
def test_a_sharded_run_that_was_stopped_goes_on_to_the_bit(runs, argv, stopped, tmp_path):
    end(start_ranks(argv(runs[0], stopped, SHARD), tmp_path / "then", 2))
    assert same(weights(stopped), weights(runs[1]))
    assert rows(stopped) == rows(runs[1])
    one, other = (save_load.load(folder / "last.pt")["optimiser"]["state"] for folder in (stopped, runs[1]))
    assert all(same(one[number], other[number]) for number in other)


@SEMI_MAE
@pytest.mark.parametrize(("ranks", "flags"), [(4, [SHARD]), (2, []), (1, [])])
def test_a_sharded_run_goes_on_with_other_ranks_or_whole(runs, argv, stopped, tmp_path, ranks, flags):
    end(start_ranks(argv(runs[0], stopped, *flags), tmp_path / "then", ranks))
    assert_equal_but_for_rounding(stopped, runs[2])
    assert (stopped / "shards").exists() == bool(flags)


@SEMI_MAE
def test_a_run_that_was_not_sharded_goes_on_sharded(runs, argv, tmp_path):
    end([start(argv(runs[0], tmp_path / "run", "--run.stop-step=5"), tmp_path / "first")], 75)
    end(start_ranks(argv(runs[0], tmp_path / "run", SHARD), tmp_path / "then", 2))
    assert_equal_but_for_rounding(tmp_path / "run", runs[2])


@SEMI_MAE
def test_one_process_starts_from_the_encoder_of_a_sharded_run(runs, argv, tmp_path):
    flags = f"--run.start={runs[1] / 'last.pt'}", "--run.stop-step=1", "--optim.lr=0", "--optim.ema-decay=None"
    one = start(argv("fixmatch:digits", tmp_path / "run", *flags), tmp_path / "log")
    end([one], 75)
    assert "tensors of the encoder from" in one.out
    taken = {name: tensor for name, tensor in weights(tmp_path / "run").items() if name.startswith("encoder.")}
    judged = weights(runs[1])
    assert all(torch.equal(taken[name], judged[f"ema.module.{name.removeprefix('encoder.')}"]) for name in taken)


def test_one_process_is_not_sharded(argv, tmp_path):
    one = start(argv("mae:digits", tmp_path / "run", SHARD), tmp_path / "log")
    assert one.end() == 2
    assert one.err == ("error: run.shard needs several processes, one was started; use torchrun, or drop --run.shard\n")
    assert not (tmp_path / "run").exists()


def test_a_rank_that_is_killed_while_saving_leaves_a_checkpoint_to_go_on_from(argv, tmp_path):
    flags = argv("mae:digits", tmp_path / "run", SHARD, "--run.save-steps=1", "--optim.epochs=30")
    ranks = start_ranks(flags, tmp_path / "log", 2)
    ranks[1].wait_for_steps(6)
    ranks[1].process.kill()
    assert ranks[0].end(60) == 1
    assert ranks[0].err == f"rank 0 on {events.NODE}: connection closed by peer: it ended without an error of its own\n"
    assert save_load.load(tmp_path / "run" / "last.pt")["step"] >= 3
    end(start_ranks(flags, tmp_path / "again", 2))
