"""The ladder: rows differ in what they say they differ in, start from runs that there are, and add up to a table."""

import json
from dataclasses import asdict, replace

import pytest

from models.config.catalogue import sweeps
from models.config.sweep import members
from models.evaluate.ladder_table import Cell, table
from models.methods import ladder
from pipeline.convert.digits import SPLITS
from pipeline.errors import InputError
from pipeline.labels.splits import split_name

LISTED = [name.removeprefix("ladder:") for name, _ in sweeps() if name.startswith("ladder:")]


def start_of(recipe) -> tuple[str, int]:
    sweep, index, _ = recipe.run.start.removeprefix("runs/ladder-").split("/")
    return sweep, int(index)


def test_every_sweep_is_listed_and_its_members_are_its_rungs():
    assert sorted(LISTED) == sorted(ladder.RUNGS)
    for name in LISTED:
        assert [replace(m, name="") for m in members(f"ladder:{name}")] == [rung.recipe for rung in ladder.rungs(name)]


@pytest.mark.parametrize("name", LISTED)
def test_rows_share_network_data_and_steps_and_seeds_change_the_labels(name):
    rungs = ladder.rungs(name)
    one = rungs[0].recipe
    for rung in rungs:
        r = rung.recipe
        assert (r.encoder, r.optim.epochs, r.optim.lr) == (one.encoder, one.optim.epochs, one.optim.lr)
        assert (r.data.batch, r.data.size, r.data.weak) == (one.data.batch, one.data.size, one.data.weak)
        assert r.run.seed == rung.seed
        assert r.data.split is None or r.data.split.endswith("per-class" + (f"-{rung.seed}" if rung.seed else ""))
        assert r.optim.labels_only_epochs in (0, round(r.optim.epochs * 500 / 1800), r.optim.epochs / 4)
    assert len({(rung.row, rung.seed) for rung in rungs}) == len(rungs)
    recipes = [replace(rung.recipe, name="") for rung in rungs]
    assert all(a != b for i, a in enumerate(recipes) for b in recipes[:i])


@pytest.mark.parametrize("name", LISTED)
def test_a_start_is_a_run_of_the_same_seed_and_network_that_saw_no_label_but_ours(name):
    for rung in ladder.rungs(name):
        if rung.recipe.run.start:
            sweep, index = start_of(rung.recipe)
            before = ladder.rungs(sweep)[index]
            assert before.seed == rung.seed
            assert before.recipe.encoder == rung.recipe.encoder
            assert before.recipe.data.split in (None, rung.recipe.data.split)
            if before.recipe.data.split is None and name.startswith("digits"):
                assert before.row.startswith("MAE")  # which reads no labels
            assert before.recipe.run.start is None


def test_the_embedded_digits_have_every_split_that_the_ladder_asks_for():
    asked = {r.recipe.data.split for name in LISTED if name.startswith("digits") for r in ladder.rungs(name)} - {None}
    assert asked == {split_name(None, k, seed) for k, seed in SPLITS}


def test_a_table_has_mean_spread_and_number_of_finished_runs(tmp_path):
    for index, rung in enumerate(ladder.rungs("digits_5")):
        if rung.row == "FixMatch" and rung.seed < 2:
            run = tmp_path / "ladder-digits_5" / str(index)
            run.mkdir(parents=True)
            rows = [{"step": 9, "evaluation": "val", "values": {"top1": 0.1}}]
            rows += [
                {"step": 10, "evaluation": f, "values": {"top1": 0.90 + 0.02 * rung.seed}} for f in ("val", "test")
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (run / "report.html").write_text("over")
            (run / "recipe.json").write_text(json.dumps(asdict(rung.recipe)))
    lines = table(["digits_5", "digits_1"], tmp_path).splitlines()
    assert lines[0].count("|") == 6
    (fixmatch,) = (line for line in lines if line.startswith("| FixMatch"))
    assert fixmatch == "| FixMatch | 91.0 ± 1.4 % (2) | 91.0 ± 1.4 % (2) | not yet run | not yet run |"
    (tmp_path / "ladder-digits_5" / "2" / "report.html").unlink()  # seed 0, not over yet
    (fixmatch,) = (line for line in table(["digits_5"], tmp_path).splitlines() if line.startswith("| FixMatch"))
    assert fixmatch == "| FixMatch | 92.0 % | 92.0 % |"
    assert str(Cell(())) == "not yet run"
    with pytest.raises(InputError, match="no sweep 'digits_6'"):
        table(["digits_6"], tmp_path)


def test_a_run_that_was_another_row_when_it_had_this_number_is_refused(tmp_path):
    run = tmp_path / "ladder-digits_5" / "1"
    run.mkdir(parents=True)
    (run / "report.html").write_text("over")
    (run / "metrics.jsonl").write_text("")
    other, own = (ladder.rungs("digits_5")[index].recipe for index in (2, 1))
    (run / "recipe.json").write_text(json.dumps(asdict(other)))
    with pytest.raises(InputError, match="is not supervised, FixMatch's labelled views with seed 0, as it is now"):
        table(["digits_5"], tmp_path)
    (run / "recipe.json").write_text(json.dumps(asdict(own)))
    table(["digits_5"], tmp_path)
