"""best.pt, early stopping, and average and raw weights in turn, as runs use them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.distributed.process_group import World
from models.evaluate import evaluation_log
from models.evaluate.validator import Validator
from models.load import load_run
from models.records import events
from models.training.preflight import open_inputs
from pipeline.errors import InputError
from tests.conftest import DECODER, TINY, rows, same, weights

FLAGS = ["--method.pseudo.threshold=0.108", "--encoder.drop-path=0.3", "--run.evaluate-steps=2"]
BEST = [*FLAGS, "--run.best=top1"]
SCORES = {2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4, 10: 0.2, 12: 0.1}
"""What val is made to say after these steps."""


@pytest.fixture
def scored(monkeypatch):
    """Let val and test say what SCORES holds, by the number of updates that a network has had."""
    steps = {"done": 0}

    def counted(run, batches, step=train.train_step):
        step(run, batches)
        steps["done"] = run.step

    def begun(*given, prepare=train.prepare):
        run = prepare(*given)
        steps["done"] = run.step
        return run

    monkeypatch.setattr(train, "train_step", counted)
    monkeypatch.setattr(train, "prepare", begun)
    monkeypatch.setattr(Validator, "_measure", lambda self, method: {"top1": SCORES.get(steps["done"], 0.0)})


def step_of(folder: Path, name: str) -> int:
    return save_load.load(folder / name)["step"]


def ended(folder: Path) -> dict:
    return [row for row in events.read(folder) if row["event"] == "done"][-1]


def test_best_is_the_first_of_the_best_and_the_run_ends_as_without_it(scored, tiny, tmp_path, capsys):
    assert tiny("semi_mae:digits", tmp_path / "without", *FLAGS) == 0
    assert tiny("semi_mae:digits", tmp_path / "with", *BEST, report=False) == 0
    assert not (tmp_path / "without" / "best.pt").exists()
    assert same(weights(tmp_path / "without"), weights(tmp_path / "with"))
    assert rows(tmp_path / "without") == rows(tmp_path / "with")
    assert (step_of(tmp_path / "with", "best.pt"), step_of(tmp_path / "with", "last.pt")) == (4, 12)
    assert "best val top1 50.0 % after step 4, kept as best.pt" in capsys.readouterr().out


def test_the_best_checkpoint_holds_the_weights_of_its_step(scored, tiny, tmp_path):
    assert tiny("semi_mae:digits", tmp_path / "whole", *BEST) == 0
    assert tiny("semi_mae:digits", tmp_path / "stopped", *BEST, "--run.stop-step=4") == 75
    assert same(save_load.load(tmp_path / "whole" / "best.pt")["method"], weights(tmp_path / "stopped"))


@pytest.mark.parametrize("stop", [3, 4, 5, 11])
def test_a_run_that_goes_on_keeps_the_same_best_checkpoint_and_count(stop, scored, tiny, tmp_path):
    early = [*BEST, "--run.stop-after=3"]
    assert tiny("semi_mae:digits", tmp_path / "straight", *early) == 0
    goes_on = 75 if stop < 10 else 0
    assert tiny("semi_mae:digits", tmp_path / "run", *early, f"--run.stop-step={stop}") == goes_on
    assert tiny("semi_mae:digits", tmp_path / "run", *early) == 0
    found, expected = (save_load.load(tmp_path / name / "best.pt") for name in ("run", "straight"))
    assert found["step"] == 4
    assert all(same(found[part], expected[part]) for part in ("method", "optimiser", "journal"))
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")
    assert step_of(tmp_path / "run", "last.pt") == 10  # evaluations 6, 8 and 10 were not better


def test_a_run_that_falls_back_to_before_the_best_says_so_and_makes_it_again(scored, tiny, tmp_path, capsys):
    assert tiny("semi_mae:digits", tmp_path, *BEST, "--run.stop-step=3") == 75
    older = (tmp_path / "last.pt").read_bytes()
    assert tiny("semi_mae:digits", tmp_path, *BEST, "--run.stop-step=5") == 75
    expected = save_load.load(tmp_path / "best.pt")
    for name in ("last.pt", "previous.pt"):  # not written over: best.pt may be a second name of the same file
        (tmp_path / name).unlink()
    (tmp_path / "last.pt").write_bytes(older)
    assert tiny("semi_mae:digits", tmp_path, *BEST) == 0
    assert "best.pt is lost or not that of the best val top1 30.0 % after step 2" in capsys.readouterr().out
    found = save_load.load(tmp_path / "best.pt")
    assert found["step"] == expected["step"] == 4
    assert same(found["method"], expected["method"])


def test_a_best_checkpoint_that_is_lost_and_not_made_again_is_not_said_to_be_kept(scored, tiny, tmp_path, capsys):
    assert tiny("semi_mae:digits", tmp_path, *BEST, "--run.stop-step=7") == 75
    (tmp_path / "best.pt").unlink()
    assert tiny("semi_mae:digits", tmp_path, *BEST) == 0
    assert "best val top1 50.0 % after step 4, and lost since: best.pt" in capsys.readouterr().out
    assert not (tmp_path / "best.pt").exists()


def test_a_damaged_last_checkpoint_gives_way_to_the_one_that_is_the_best(scored, tiny, tmp_path):
    assert tiny("semi_mae:digits", tmp_path, *BEST, "--run.stop-step=5") == 75
    (tmp_path / "last.pt").write_bytes(b"damaged")
    assert tiny("semi_mae:digits", tmp_path, *BEST) == 0
    assert (step_of(tmp_path, "best.pt"), step_of(tmp_path, "last.pt")) == (4, 12)


def test_a_best_at_the_last_step_is_the_last_checkpoint(scored, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, 12, 0.9)
    assert tiny("semi_mae:digits", tmp_path, *BEST) == 0
    assert step_of(tmp_path, "best.pt") == 12
    (tmp_path / "best.pt").unlink()  # as after a kill before the link: the journal knows
    (tmp_path / "report.html").unlink()
    assert tiny("semi_mae:digits", tmp_path, *BEST) == 0
    assert step_of(tmp_path, "best.pt") == 12


def test_a_run_without_progress_ends_as_finished_and_says_so(scored, tiny, tmp_path, capsys):
    early = [*BEST, "--run.stop-after=2"]
    assert tiny("semi_mae:digits", tmp_path, *early, report=True) == 0
    said = capsys.readouterr().out
    why = "no better val top1 in 2 evaluations"
    assert f"ended early, after step 8 of 12: {why} (run.stop_after)" in said
    assert "best val top1 50.0 % after step 4, kept as best.pt" in said
    page = (tmp_path / "report.md").read_text()
    assert f"Ended early, after step 8 of 12: {why} (run.stop_after)." in page
    assert "Best val top1 50.0 % after step 4, kept as best.pt." in page
    assert {name: ended(tmp_path)[name] for name in ("step", "why", "stop_after")} == {
        "step": 8, "why": why, "stop_after": 2,
    }  # fmt: skip
    assert [row["step"] for row in rows(tmp_path) if row.get("evaluation") == "test"] == [8]
    assert tiny("semi_mae:digits", tmp_path, *early) == 0
    assert f"is finished: semi_mae:digits, step 8, {why}" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"ended early, after step 8 .* raise --run\.stop-after, or leave it out"):
        tiny("semi_mae:digits", tmp_path, *early, "--run.extend=4")
    assert tiny("semi_mae:digits", tmp_path, *BEST) == 0  # without it: to the end
    assert (step_of(tmp_path, "last.pt"), step_of(tmp_path, "best.pt")) == (12, 4)
    assert "why" not in ended(tmp_path)


def test_an_extension_goes_on_after_a_run_that_ended_without_progress_at_its_very_end(scored, tiny, tmp_path):
    early = [*BEST, "--run.stop-after=4"]  # 6, 8, 10 and the last, 12, are not better
    assert tiny("semi_mae:digits", tmp_path, *early) == 0
    assert "why" not in ended(tmp_path)
    assert tiny("semi_mae:digits", tmp_path, *early, "--run.extend=6") == 0
    assert step_of(tmp_path, "last.pt") == 18  # 14, 16: a count of its own
    assert step_of(tmp_path, "best.pt") == 4


def test_the_best_checkpoint_starts_a_run_and_is_evaluated_by_its_path(scored, tiny, tmp_path, monkeypatch):
    assert tiny("semi_mae:digits", tmp_path / "run", *BEST) == 0
    best = tmp_path / "run" / "best.pt"
    loaded = load_run(best)
    assert loaded.step == 4
    still = "--optim.lr=0", "--optim.final-lr=0"
    assert tiny("supervised:digits", tmp_path / "next", f"--run.start={best}", *still) == 0
    for name, tensor in loaded.method.eval_encoder.state_dict().items():
        assert torch.equal(tensor, weights(tmp_path / "next")[f"encoder.{name}"]), name
    from models.evaluate import __main__ as evaluate

    monkeypatch.setattr(sys, "argv", ["evaluate", "accuracy", str(best)])
    evaluate.main()
    (row,) = evaluation_log.read_evaluations(tmp_path / "run")
    assert (row["checkpoint"], row["step"]) == ("best.pt", 4)


def test_average_and_raw_weights_are_judged_under_names_of_their_own(tiny, tmp_path, capsys):
    """The raw values are those of a run without an average, which trains the same weights."""
    supervised = ["--run.evaluate-steps=5", "--optim.ema-decay=0.5"]
    for judge in ("average", "raw", "both"):
        assert tiny("supervised:digits", tmp_path / judge, *supervised, f"--run.judge={judge}") == 0
    assert tiny("supervised:digits", tmp_path / "alone", "--run.evaluate-steps=5", "--optim.ema-decay=None") == 0

    def values(folder: str) -> list[dict]:
        return [row["values"] for row in rows(tmp_path / folder) if "values" in row]

    raw = [{f"{name}_raw": value for name, value in each.items()} for each in values("alone")]
    assert len(raw) == 4
    assert values("raw") == raw
    assert values("both") == [average | other for average, other in zip(values("average"), raw, strict=True)]
    assert values("average") != values("alone")  # the average is another network
    assert same(weights(tmp_path / "both"), weights(tmp_path / "average"))
    assert "top1_raw" in capsys.readouterr().out
    assert list(values("both")[0]) == ["top1", "top5", "top1_raw", "top5_raw"]


@pytest.mark.parametrize(
    ("flags", "checkpoint", "said", "why"),
    [
        (["--run.judge=raw"], "last.pt", "top1_raw", "run.judge is raw"),
        (["--run.judge=both", "--run.best=top1_raw"], "best.pt", "top1_raw", "run.best is top1_raw"),
        (["--run.judge=both", "--run.best=top1_raw"], "last.pt", "top1", ""),
        (["--run.judge=both", "--run.best=top1"], "best.pt", "top1", ""),
    ],
)
def test_afterwards_the_weights_by_which_a_run_was_judged_are_judged_and_exported(
    flags, checkpoint, said, why, tiny, tmp_path, monkeypatch, capsys
):
    from models.evaluate import __main__ as evaluate
    from models.export import __main__ as export

    run = tmp_path / "run"
    assert tiny("supervised:digits", run, "--run.evaluate-steps=5", "--optim.ema-decay=0.5", *flags) == 0
    step = step_of(run, checkpoint)
    (own,) = (row["values"] for row in rows(run) if row.get("evaluation") == "val" and row["step"] == step)
    capsys.readouterr()
    for module, *argv in ((evaluate, "accuracy", str(run / checkpoint)), (export, str(run / checkpoint))):
        monkeypatch.setattr(sys, "argv", ["module", *argv])
        module.main()
        assert (f"not their average, as {why}" in capsys.readouterr().out) == bool(why)
    (found,) = evaluation_log.read_evaluations(run)
    assert found["values"]["top1"] == pytest.approx(own[said])
    card = (run / "export-timm" / "README.md").read_text()
    assert ("the weights themselves, not their average" in card) == bool(why)
    assert ("the average of the weights" in card) == (not why)
    assert f"| {step:,} |" in card.split("## Results")[1].split("## Recipe")[0]
    held = load_file(run / "export-timm" / "model.safetensors")
    state = save_load.load(run / checkpoint)["method"]
    assert load_run(run / checkpoint).method.state_dict().keys() == state.keys()  # it could be trained on
    kind = "encoder." if why else "ema.module."
    assert all(torch.equal(value, state[f"{kind}{name}"]) for name, value in held.items())


def test_what_is_judged_may_change_and_the_best_may_be_of_the_raw_weights(tiny, tmp_path):
    flags = ["--run.best=knn_raw", "--run.judge=both", "--optim.ema-decay=0.5", "--run.evaluate-steps=4"]
    assert tiny("mae:digits", tmp_path, *flags, "--run.stop-step=6") == 75
    assert tiny("mae:digits", tmp_path, *flags[:1], "--run.judge=raw", *flags[2:]) == 0
    values = {row["step"]: row["values"] for row in rows(tmp_path) if row.get("evaluation") == "val"}
    assert [sorted(each) for each in values.values()] == [["knn", "knn_raw"], ["knn_raw"], ["knn_raw"]]
    best = max(values, key=lambda step: (values[step]["knn_raw"], -step))
    assert step_of(tmp_path, "best.pt") == best
    assert json.loads((tmp_path / "recipe.json").read_text())["run"]["judge"] == "raw"


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("semi_mae:digits", []),
        ("semi_mae:digits", ["--run.knn", "--run.probe", "--run.rankme", "--run.judge=both"]),
        ("mae:digits", ["--run.rankme"]),
        ("mae:digits", ["--run.probe", "--run.judge=raw", "--optim.ema-decay=0.9"]),
    ],
)
def test_the_names_that_may_be_the_best_are_those_that_val_has(recipe, flags, tiny, digits, tmp_path):
    short = ["--optim.epochs=1", "--optim.warmup-epochs=0", *flags]
    assert tiny(recipe, tmp_path, *short) == 0
    (row,) = [row for row in rows(tmp_path) if row.get("evaluation") == "val"]
    decoder = DECODER if "mae" in recipe else []
    asked = resolve(recipe, [*TINY, *decoder, *short, f"--data.root={digits}"])
    inputs = open_inputs(asked, World(0, 1, 0, torch.device("cpu")))
    assert sorted(inputs.validators["val"].names) == sorted(row["values"])
