"""--run.shard: the losses and weights of DDP, in checkpoints that any number of ranks carries on from."""

from pathlib import Path

import pytest

from models.training import checkpoint

from .conftest import DECODER, TINY, assert_close, rows, weights
from .processes import Started, start_ranks

RECIPES = {
    "semi_mae:digits": ["--method.threshold=0.108", "--optim.labels-only-epochs=4", *DECODER],
    "fixmatch:digits": ["--method.threshold=0.108", "--method.teacher=self", "--optim.clip=0.5"],
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
    end(start_ranks(argv(recipe, root / "shard", SHARD), root / "log", 2))
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
    one, other = (checkpoint.load(folder / "last.pt")["optimiser"] for folder in (a, b))
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
    assert [checkpoint.load(sharded / name)["step"] for name in ("last.pt", "previous.pt")] == [12, 8]
