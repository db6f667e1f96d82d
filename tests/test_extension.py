"""A run that has ended is extended: to the bit where it is stopped, and again; or it is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import train
from models.checkpoint import save_load
from models.methods.mae import MAE
from models.records import events
from pipeline.errors import InputError
from tests.conftest import rows, same, weights

FLAGS = ["--method.pseudo.threshold=0.108", "--encoder.drop-path=0.3", "--run.evaluate-steps=5",
         "--optim.labels-only-epochs=2"]  # fmt: skip
EXTEND = [*FLAGS, "--run.extend", "8"]  # 12 steps, then 8


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ended")


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("straight")


@pytest.fixture
def finished(tiny, ended, tmp_path):
    """A copy of a run that has ended, made once."""
    if not (ended / "last.pt").exists():
        assert tiny("semi_mae:digits", ended, *FLAGS) == 0
    return copied(ended, tmp_path / "run")


@pytest.fixture
def extended(tiny, finished, straight) -> Path:
    """That run with an extension that nothing interrupted, made once: only look at it."""
    if not (straight / "last.pt").exists():
        copied(finished, straight)
        assert tiny("semi_mae:digits", straight, *EXTEND) == 0
    return straight


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run's folder, as plain files."""
    return Path(shutil.copytree(run, folder, dirs_exist_ok=True))


def named(folder: Path, event: str) -> list[dict]:
    return [row for row in events.read(folder) if row["event"] == event]


def test_the_rates_and_the_event_are_those_of_a_re_warmed_half_cosine(extended, ended):
    assert rows(extended)[: len(rows(ended))] == rows(ended)  # the run before it is left as it was
    losses = [row for row in rows(extended) if "loss" in row]
    assert [row["step"] for row in losses] == [3, 6, 9, 12, 15, 18, 20]
    assert [row["step"] for row in rows(extended) if row.get("evaluation") == "test"] == [12, 20]
    peak, final = (json.loads((ended / "recipe.json").read_text())["optim"][name] for name in ("lr", "final_lr"))
    for row in losses[4:]:  # of 8 steps 1 warms up, as 2 of 12 did
        share = torch.tensor((row["step"] - 1 - 12 - 1) / 7 * torch.pi, dtype=torch.float64)
        assert row["lr"] == pytest.approx(final + (peak - final) * (1 + share.cos().item()) / 2, rel=1e-9)
    (begun,) = named(extended, "extended")
    assert {name: begun[name] for name in ("step", "steps", "epochs", "schedule")} == {
        "step": 12, "steps": 8, "epochs": 8, "schedule": "rewarm",
    }  # fmt: skip
    assert named(extended, "done")[-1]["extensions"] == 1


@pytest.mark.parametrize("stop", [13, 15, 17])
def test_an_extension_that_is_stopped_and_goes_on_ends_as_one_that_never_was(stop, tiny, finished, extended):
    assert tiny("semi_mae:digits", finished, *EXTEND, f"--run.stop-step={stop}") == 75
    assert tiny("semi_mae:digits", finished, *EXTEND) == 0
    assert same(save_load.load(finished / "last.pt")["optimiser"], save_load.load(extended / "last.pt")["optimiser"])
    assert same(weights(finished), weights(extended))
    assert rows(finished) == rows(extended)
    assert len(named(finished, "extended")) == 1


def test_from_the_checkpoint_before_the_end_the_run_goes_through_it_to_the_same_bits(tiny, finished, extended, capfd):
    (finished / "last.pt").write_bytes(b"damaged")
    assert tiny("semi_mae:digits", finished, *EXTEND) == 0
    assert "going on from" in capfd.readouterr().err
    assert same(weights(finished), weights(extended))
    assert rows(finished) == rows(extended)
    assert [row["step"] for row in named(finished, "extended")] == [12]


def test_a_kill_between_the_recipe_and_the_first_step_leaves_an_extension_that_goes_on(
    tiny, finished, extended, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_to_end", lambda *_: 1)
        assert tiny("semi_mae:digits", finished, *EXTEND) == 1
    lines = (finished / "events.jsonl").read_text().splitlines(keepends=True)
    known = next(number for number, line in enumerate(lines) if '"extended"' in line)
    (finished / "events.jsonl").write_text("".join(lines[:known]))  # as if killed before it
    assert tiny("semi_mae:digits", finished, *EXTEND) == 0
    assert same(weights(finished), weights(extended))
    assert len(named(finished, "extended")) == 1


def test_it_is_extended_again_and_the_page_says_both_and_how_to_train_all_of_it(tiny, finished, capsys):
    assert tiny("semi_mae:digits", finished, *EXTEND) == 0
    again = [*FLAGS, "--run.extend", "8", "4", "--run.extend-schedule", "rewarm", "constant", "--run.extend-lr", "None",
             "1e-4"]  # fmt: skip
    with pytest.raises(InputError, match=r"was extended by 8 epochs \(rewarm\), now --run\.extend asks for no"):
        tiny("semi_mae:digits", finished, *FLAGS)
    capsys.readouterr()
    assert tiny("semi_mae:digits", finished, *again, report=True) == 0
    said = capsys.readouterr().out
    for line in ("extended by 8 steps, from step 12: re-warmed over", "from step 20: a constant rate of 0.0001"):
        assert line in said
        assert line[1:] in (finished / "report.md").read_text()
    assert "24 steps, the first 2 on labels alone, on 1 x cpu, from step 20" in said
    page = (finished / "report.md").read_text()
    assert page.count("python train.py semi_mae:digits") == 3
    assert "--run.extend 8.0 4.0 --run.extend-schedule rewarm constant --run.extend-lr None 0.0001" in page
    assert [row["lr"] for row in rows(finished) if "loss" in row][-2:] == [1e-4, 1e-4]  # steps 21 and 24
    assert [row["step"] for row in named(finished, "extended")] == [12, 20]
    assert tiny("semi_mae:digits", finished, *again) == 0
    assert "is finished: semi_mae:digits, step 24 of 24" in capsys.readouterr().out


@pytest.mark.parametrize(
    "recipe", ["supervised:digits", "fixmatch:digits", "uda:digits", "semi_vit:digits", "mae:digits", "supmae:digits",
               "lomar:digits", "simmim:digits", "crossmae:digits", "semiformer:digits", "finetune:digits",
               "probe:digits"],
)  # fmt: skip
def test_every_method_is_extended(recipe, tiny, tmp_path):
    short = ["--optim.epochs=3", "--optim.warmup-epochs=1", "--run.log-steps=1"]
    assert tiny(recipe, tmp_path, *short) == 0
    before = weights(tmp_path)
    assert tiny(recipe, tmp_path, *short, "--run.extend=2") == 0
    assert not same(before, weights(tmp_path))
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == [1, 2, 3, 4, 5]


def test_images_that_grow_stay_at_their_last_size(tiny, tmp_path, monkeypatch):
    sizes, forward = [], MAE.forward

    def noted(self, batch, info):
        sizes.append(batch.unlabelled.weak.shape[-1])
        return forward(self, batch, info)

    monkeypatch.setattr(MAE, "forward", noted)
    growing = ["--data.sizes", "8", "16", "--optim.epochs=4", "--optim.warmup-epochs=1"]
    assert tiny("mae:digits", tmp_path, *growing) == 0
    assert tiny("mae:digits", tmp_path, *growing, "--run.extend=3") == 0
    assert sizes == [8, 8, 16, 16, 16, 16, 16]


def test_the_rate_of_an_extension_may_change_after_a_loss_that_was_not_finite(tiny, finished):
    def with_rate(rate: str) -> list[str]:
        return [*EXTEND, "--run.extend-lr", rate, "--optim.clip=None"]

    (finished / "not_finite.json").write_text("{}")  # frees optim.clip
    with pytest.raises(InputError, match=r"not finite in step 14 .*in an extension run\.extend_lr"):
        tiny("semi_mae:digits", finished, *with_rate("1e30"))
    (finished / "not_finite.json").rename(finished / "kept")
    with pytest.raises(InputError, match=r"was begun with optim\.clip|was extended by 8 epochs \(rewarm at 1e\+30\)"):
        tiny("semi_mae:digits", finished, *with_rate("1e-3"))
    (finished / "kept").rename(finished / "not_finite.json")
    with pytest.raises(InputError, match=r"was extended by 8 epochs \(rewarm at 1e\+30\), now"):
        tiny("semi_mae:digits", finished, *with_rate("1e-3"), "--run.extend-schedule=constant")
    assert tiny("semi_mae:digits", finished, *with_rate("1e-3")) == 0
    assert [row["lr"] for row in named(finished, "extended")] == [1e30, 1e-3]
    assert max(row["lr"] for row in rows(finished) if "loss" in row and row["step"] > 12) <= 1e-3
    with pytest.raises(InputError, match=r"was extended by 8 epochs \(rewarm at 0\.001\), now"):
        tiny("semi_mae:digits", finished, *with_rate("1e-4"))


def test_what_cannot_be_extended_is_refused_in_one_line_and_left_as_it_was(tiny, finished, tmp_path):
    def refused(folder: Path, *flags: str) -> str:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(InputError) as said:
            tiny("semi_mae:digits", folder, *flags)
        assert "\n" not in str(said.value)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return str(said.value)

    assert "holds no run, and --run.extend goes on with one that has ended" in refused(tmp_path / "none", *EXTEND)
    assert not (tmp_path / "none").exists()
    assert "add --run.extend EPOCHS once it has ended" in refused(finished, *FLAGS, "--optim.epochs=20")
    assert "was begun with run.seed 0, now it is 1" in refused(finished, *EXTEND, "--run.seed=1")
    assert "was not extended, now --run.extend asks for 8 epochs" in refused(finished, *EXTEND, "4")
    assert "run.extend_schedule is rewarm constant, expected one value" in refused(
        finished, *EXTEND, "--run.extend-schedule", "rewarm", "constant"
    )
    assert tiny("semi_mae:digits", tmp_path / "begun", *FLAGS, "--run.stop-step=4") == 75
    assert "has not ended, and --run.extend 8 goes on from the end" in refused(tmp_path / "begun", *EXTEND)
    for name in ("last.pt", "previous.pt"):
        (finished / name).unlink()
    assert "holds no checkpoint any more, and --run.extend goes on from one; restore last.pt" in refused(
        finished, *EXTEND
    )
