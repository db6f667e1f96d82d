"""Tables of runs against numbers that were put there, and against the runs' own journals."""

import json
import sys
from statistics import mean, stdev

import pytest

from models.evaluate import compare
from models.evaluate.compare import MARK
from models.evaluate.result_columns import Column, best, differing, flat, heads_of, last_evaluations
from pipeline.errors import InputError
from tests.conftest import rows


@pytest.fixture
def asked(monkeypatch, capsys):
    def run(*argv: object) -> str:
        capsys.readouterr()  # what training said
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, argv)])
        compare.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def made(trained, tmp_path):
    """made(name, top1, seed=..., over=...) -> a folder that looks like a run of supervised:digits."""
    like = json.loads((trained("supervised:digits") / "recipe.json").read_text())

    def run(name: str, top1: float | None, seed: int = 0, over: bool = True, split: str | None = None, lr: float = 0.1):
        folder = tmp_path / name
        folder.mkdir()
        recipe = like | {"run": like["run"] | {"seed": seed}, "data": like["data"] | {"split": split}}
        (folder / "recipe.json").write_text(json.dumps(recipe | {"optim": like["optim"] | {"lr": lr}}))
        journal = [{"step": 7, "loss": 1.0}]
        journal += [{"step": s, "evaluation": "val", "values": {"top1": v}} for s, v in ((7, 0.01), (9, top1)) if top1]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in journal))
        if over:
            (folder / "report.html").touch()
        return folder

    return run


def measured(folder, evaluator: str, values: dict, checkpoint: str = "last.pt", step: int = 9, **flags) -> None:
    flags = {"data": {"root": None, "file": None, "threads": 2}, "device": "cpu", "batch": 256} | flags
    row = {"time": 0, "evaluator": evaluator, "checkpoint": checkpoint, "step": step, "flags": flags, "values": values}
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def row_of(text: str, folder) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {folder} "))


def test_a_runs_own_journal_comes_out(trained, asked):
    runs = [trained("supervised:digits"), trained("mae:digits")]
    text = asked(*runs)
    said = [each for each in rows(runs[0]) if each.get("evaluation") == "test"][-1]["values"]["top1"]
    line = row_of(text, runs[0])
    assert f"{100 * said:.1f} %" in line
    assert "supervised:digits" in line
    assert "train.beton" in line
    assert "not over" not in line
    assert " none " in row_of(text, runs[1])  # MAE reads no label


def test_the_last_evaluation_counts_and_the_best_run_is_marked(made, asked):
    better, worse = made("a", 0.912), made("b", 0.5)
    text = asked(better, worse)
    assert f"91.2 % {MARK}" in row_of(text, better)
    assert "50.0" in row_of(text, worse)
    assert text.count(MARK) == 1


def test_on_test_nothing_is_marked(made, asked):
    runs = made("a", 0.5), made("b", 0.6)
    for run, value in zip(runs, (0.9, 0.8), strict=True):
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 9, "evaluation": "test", "values": {"top1": value}}) + "\n")
    text = asked(*runs)
    assert "90.0" in row_of(text, runs[0])
    assert text.count(MARK) == 1, "that of val"
    assert f"60.0 % {MARK}" in row_of(text, runs[1])


def test_runs_without_numbers_and_unfinished_ones_say_so(made, asked):
    empty, early = made("a", None, over=False), made("b", 0.5, over=False)
    text = asked(empty, early)
    assert f"No numbers yet: {empty}." in text
    assert "9, not over" in row_of(text, early)
    assert MARK not in text
    assert "no numbers yet" in row_of(asked(empty), empty)


def test_numbers_of_another_checkpoint_or_an_earlier_step_have_columns_of_their_own(made, asked):
    run = made("a", 0.5)
    measured(run, "accuracy", {"top1": 0.25}, step=7)
    assert "| accuracy step=7 top1 |" in asked(run).splitlines()[0]
    measured(run, "accuracy", {"top1": 0.2})
    measured(run, "accuracy", {"top1": 0.75}, checkpoint="best.pt", step=7)
    text = asked(run)
    assert "| accuracy step=7 top1 | accuracy top1 | accuracy best.pt top1 |" in text.splitlines()[0]
    assert [cell.strip() for cell in row_of(text, run).split("|")[-4:-1]] == ["25.0 %", "20.0 %", "75.0 %"]


def test_what_evaluators_kept_are_columns_named_by_the_flags_that_differ(made, asked):
    one, other = made("a", 0.5), made("b", 0.6)
    measured(one, "accuracy", {"images": 9.0, "top1": 0.1})
    measured(one, "accuracy", {"images": 9.0, "top1": 0.25, "nll": 1.5})
    measured(other, "accuracy", {"images": 9.0, "top1": 0.2, "nll": 0.5}, batch=8)
    measured(other, "accuracy", {"images": 9.0, "top1": 0.3}, data={"root": None, "file": "t.beton", "threads": 1})
    text = asked(one, other)
    head = text.splitlines()[0]
    assert "accuracy top1" in head
    assert "accuracy data.file=t.beton top1" in head
    assert "images" not in head
    assert "nll" not in head
    assert f"25.0 % {MARK}" in row_of(text, one)
    assert "30.0" in row_of(text, other)
    text = asked(one, other, "--every")
    assert f"0.5 {MARK}" in row_of(text, other)  # of the likelihood less is better, and it is no share


def test_seeds_together_are_mean_and_sample_deviation_of_the_finished_runs(made, asked):
    values = 0.90, 0.94, 0.92
    runs = [made(f"s{i}", v, seed=i, split=f"5-per-class-{i}" if i else "5-per-class") for i, v in enumerate(values)]
    early, apart = made("early", 0.1, seed=5, split="5-per-class", over=False), made("c", 0.8, lr=0.2)
    text = asked(*runs, early, apart, "--together")
    percent = [100 * v for v in values]
    assert f"{mean(percent):.1f} ± {stdev(percent):.1f} % (3) {MARK}" in text
    assert "4 runs" in text
    assert "80.0" in row_of(text, apart)


def test_markdown_and_html_hold_the_same_numbers(made, asked, tmp_path):
    runs = made("a", 0.912), made("b", 0.5)
    asked(*runs, "--markdown", tmp_path / "t.md", "--html", tmp_path / "t.html")
    head, rule, *lines = (tmp_path / "t.md").read_text().splitlines()[:4]
    assert [cell.strip() for cell in head.split("|")][-2] == "val top1"
    assert set(rule) <= set("| -:")
    assert [line.split("|")[-2].strip() for line in lines] == ["**91.2 %**", "50.0 %"]
    page = (tmp_path / "t.html").read_text()
    assert f"<td>91.2 % {MARK}</td>" in page
    assert "<td>50.0 %</td>" in page


def test_patterns_take_the_runs_and_leave_the_rest(made, asked, tmp_path):
    runs = made("a", 0.5), made("b", 0.6)
    (tmp_path / "no-run").mkdir()
    text = asked(f"{tmp_path}/*", runs[0])
    assert text.count("supervised:digits") == 2
    assert "no-run" not in text


def test_wrong_input_is_said(made, asked, tmp_path):
    run = made("a", 0.5)
    with pytest.raises(InputError, match="expected the folder of a run"):
        asked(tmp_path)
    with pytest.raises(InputError, match="found none"):
        asked(f"{tmp_path}/nothing*")
    with pytest.raises(InputError, match="found none"):
        asked()
    with pytest.raises(InputError, match="expected an existing folder"):
        asked(run, "--html", "/nowhere/t.html")
    (run / "recipe.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        asked(run)


def test_of_errors_and_costs_the_least_is_the_best_and_a_lone_number_is_not_marked():
    same = ["a"] * 4
    assert best(Column("val", "top1"), [0.1, None, 0.3, 0.3], same) == {2, 3}
    assert best(Column("val", "top1"), [0.1, 0.2, 0.3, 0.4], ["a", "a", "b", "b"]) == {1, 3}
    assert best(Column("accuracy", "nll"), [0.1, None, 0.3], same) == {0}
    assert best(Column("robustness", "mean_corruption_error"), [0.1, 0.3], same) == {0}
    assert best(Column("val", "top1"), [0.1, None], same) == set()
    assert best(Column("val", "top1"), [0.1, 0.2], ["a", "b"]) == set()


def test_flags_that_differ_are_found_and_those_that_say_how_are_left_out():
    one = flat({"data": {"file": None, "threads": 1}, "batch": 1, "bins": 15})
    other = flat({"data": {"file": "a", "threads": 2}, "batch": 2, "bins": 15})
    assert one == {"data.file": None, "bins": "15"}
    assert differing([("x", one), ("x", other), ("y", one)]) == {"x": ["data.file"], "y": []}


def test_an_evaluation_without_values_is_none():
    assert last_evaluations([{"step": 1, "evaluation": "val", "values": {}}, {"step": 1, "loss": 2}]) == {}
    row = {"step": 1, "evaluation": "val", "values": {"box_ap": 0.5, "box_ap_large": None}}
    assert last_evaluations([row]) == {Column("val", "box_ap"): 0.5}


def test_long_flags_go_into_footnotes():
    long = Column("few_shot shots=[5, 20, 50] mode=linear protocol=honest", "mean")
    heads, notes = heads_of([Column("val", "top1"), long, Column("knn k=20", "knn"), long._replace(name="spread")])
    assert heads == ["val top1", "few_shot mean (1)", "knn k=20 knn", "few_shot spread (1)"]
    assert notes == [f"(1) {long.where}"]


def changed(folder, group: str, **values) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe[group] |= values
    (folder / "recipe.json").write_text(json.dumps(recipe))


def test_starts_are_one_kind_only_where_their_runs_are(made, asked):
    short, again, long = made("short", 0.1), made("again", 0.1, seed=1), made("long", 0.1, lr=0.2)
    tuned = [made(f"tuned-{i}", 0.2 + i / 10, seed=i) for i in range(3)]
    for folder, start in zip(tuned, (short, again, long), strict=True):
        changed(folder, "run", start=str(start))
    text = asked(*tuned, "--together")
    assert "25.0 ± 7.1 % (2)" in text
    assert "40.0 %" in row_of(text, tuned[2])
    changed(tuned[1], "run", start="released.pth")
    assert "±" not in asked(*tuned, "--together")


def test_one_run_counts_once_and_a_copy_is_said(made, asked, tmp_path):
    one, copy = made("one", 0.3), made("copy", 0.3)
    (tmp_path / "link").symlink_to(one)
    assert "±" not in asked(one, tmp_path / "link", f"{one}/", "--together")
    assert f"their spread is none of seeds: {one} and {copy}" in asked(one, copy, "--together")
    assert "none of seeds" not in asked(one, made("other", 0.3, seed=1), "--together")


def test_data_is_the_same_by_its_files_and_not_by_the_name_of_their_folder(made, asked, digits, tmp_path):
    runs = made("a", 0.3), made("b", 0.4, seed=1)
    for folder, name in zip(runs, "pq", strict=True):
        (tmp_path / name / "set").mkdir(parents=True)
        for file in digits.glob("*.beton*"):
            (tmp_path / name / "set" / file.name).symlink_to(file)
        changed(folder, "data", root=str(tmp_path / name / "set"))
    assert "35.0 ± 7.1 % (2)" in asked(*runs, "--together")
    for file in ("val.beton", "val.beton.json"):
        (tmp_path / "q" / "set" / file).unlink()
        (tmp_path / "q" / "set" / file).symlink_to(digits / file.replace("val", "test"))
    text = asked(*runs, "--together")
    assert "±" not in text
    assert MARK not in text


def test_rankme_is_shown_and_no_width_and_evaluations_of_a_run_before_are_named(made, asked):
    one, two = made("a", 0.3), made("b", 0.4)
    for folder, rank in ((one, 3.5), (two, 2.5)):
        measured(folder, "rankme", {"rankme": rank, "images": 100.0, "width": 32.0})
    assert "3.5" in row_of(asked(one, two), one)
    assert "width" not in asked(one, two, "--every")
    (two / "events.jsonl").write_text(json.dumps({"time": 5.0, "event": "started", "rank": 0}) + "\n")
    text = asked(one, two)
    assert "rankme before this run" in text
    assert MARK not in row_of(text, one)
