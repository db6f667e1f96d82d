"""The table of a chain: numbers of the runs that are over, beside the paper's, and a name for every one that is not."""

import json
from pathlib import Path
from statistics import stdev

import pytest

from models.config.chain import FILE, OWN, Chain, Stage, facts
from models.evaluate import chain_table
from models.evaluate.chain_table import read_facts, state_of, table
from models.evaluate.evaluation_log import FILE as EVALUATIONS
from models.records import events
from models.records.run_folder import REPORT
from pipeline.errors import InputError

TUNE, NEAR = Stage("tune", "finetune:digits", "tuned"), Stage("near", "knn", "k-NN", "knn_5")
PAPER = {"tune": (84.8, None)}
KNOWN = facts("x:y", Chain("Table 1", "blocks", ("1", "8"), (TUNE, NEAR), PAPER), (0, 1))


def trained(run: Path, **values: float) -> None:
    """A run that is over, with its last top-1 accuracies by file; an earlier evaluation of each was worse."""
    run.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "evaluation": file, "values": {"top1": value * step / 9, "top5": 1.0}}
            for step in (5, 9) for file, value in values.items()]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    events.append(run, "started", rank=0)
    events.append(run, "done", rank=0, node="n1", step=9)
    (run / REPORT).write_text("over")


def lines_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_numbers_are_mean_and_spread_of_the_seeds_that_are_over_beside_the_papers(tmp_path):
    for row, seed, value in ((0, "", 0.5), (0, "-seed1", 0.6), (1, "-seed1", 0.7)):
        trained(tmp_path / f"{row}{seed}", val=0.1)
        trained(tmp_path / f"{row}{seed}" / "tune", val=value, test=value / 2)
    text = table(tmp_path, KNOWN)
    head, _, first, second = lines_of(text)
    assert head == ["blocks", "tuned, paper", "tuned, val", "tuned, test", "k-NN, val"]
    spread, half = 100 * stdev((0.5, 0.6)), 100 * stdev((0.25, 0.3))
    assert first == ["1", "84.8 %", f"55.0 ± {spread:.1f} % (2)", f"27.5 ± {half:.1f} % (2)", "not yet run"]
    assert second == ["8", "", "70.0 %", "35.0 %", "not yet run"]
    assert text.splitlines()[0] == "x:y beside Table 1"
    assert text.splitlines()[-2:] == ["3 of 8 numbers are there", "8, seed 0, tuned: not yet run"]
    whole = facts("x:y", Chain("T", "blocks", ("1",), (TUNE,), {}), (0, 1), ["--optim.epochs", "9"])
    text = table(tmp_path, whole)
    assert text.splitlines()[0] == "x:y beside T; with --optim.epochs 9"
    assert lines_of(text)[2] == ["tuned", f"55.0 ± {spread:.1f} % (2)", f"27.5 ± {half:.1f} % (2)"]  # a line a stage
    assert "are there" not in text


def test_an_evaluators_number_is_that_of_its_job_not_of_a_later_one_by_hand(tmp_path):
    member, job = tmp_path / "0", tmp_path / "0" / "near"
    job.mkdir(parents=True)
    for event in ("submitted", "started", "done"):
        events.append(job, event, job="7")
    end = max(row["time"] for row in events.read(job))
    measured = (-9, "knn", 0.2), (-1, "knn", 0.4), (-1, "rankme", 0.9), (99, "knn", 0.6)
    rows = [
        {"time": end + later, "evaluator": name, "flags": {}, "values": {"knn_5": value}}
        for later, name, value in measured
    ]
    (member / EVALUATIONS).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"damaged": 1}\n')
    assert lines_of(table(tmp_path, KNOWN))[2][-1] == "40.0 %"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], ("not yet run", None)),
        ([("queued", {"job": "1"})], ("submitted", None)),
        ([("started", {"job": "1", "nodes": "n1"})], ("running", None)),
        ([("started", {"rank": 0}), ("decoding", {"rank": 0, "backend": "x"})], ("interrupted", None)),
        ([("stopped", {"rank": 0, "step": 5})], ("stopped", None)),
        ([("started", {"job": "1"}), ("preempted", {"job": "1"})], ("stopped", None)),
        ([("failed", {"job": "1", "code": 1, "error": "no room", "node": "n1", "rank": "0"})], ("failed", "no room")),
        ([("failed", {"job": "1", "code": 1})], ("failed", None)),
        ([("cancelled", {"job": "1"})], ("cancelled", None)),
    ],
)
def test_a_run_without_a_number_says_why(said, words, tmp_path):
    run = tmp_path / "0" / "tune"
    for event, more in said:
        run.mkdir(parents=True, exist_ok=True)
        events.append(run, event, **more)
    assert state_of(run) == words
    text = table(tmp_path, facts("x:y", Chain("T", "blocks", ("1", "8"), (TUNE,), PAPER), (0,)))
    assert lines_of(text)[2] == ["1", "84.8 %", words[0]]
    assert (f"1, tuned: {words[0]}: {words[1]}" in text.splitlines()) == (words[1] is not None)


def test_a_members_failure_is_that_of_what_follows_it(tmp_path):
    (tmp_path / "0" / "tune").mkdir(parents=True)
    events.append(tmp_path / "0", "failed", job="1", code=1, error="no room", node="n1", rank="0")
    events.append(tmp_path / "0" / "tune", "submitted", job="2")
    text = table(tmp_path, KNOWN)
    assert lines_of(text)[2][2:] == ["member failed / not yet run"] * 2
    assert "1, seed 0, tuned, k-NN: member failed: no room" in text.splitlines()
    told = chain_table.table(tmp_path, KNOWN, lambda run: ("queued", None))
    assert lines_of(told)[2][2:] == ["queued", "queued"]


def test_a_member_that_nothing_follows_counts_by_itself_and_a_cell_without_a_run_is_empty(tmp_path):
    stages = (Stage("tune", (OWN, "finetune:digits", None), "tuned"), Stage("cost", "throughput", "hours", "hours"))
    paper = {"tune": (82.3, 83.6, None), "cost": (364.0, 95.9, None)}
    chain = Chain("T", "method", ("scratch", "mae", "other"), stages, paper)
    trained(tmp_path / "0", val=0.5)
    trained(tmp_path / "1", val=0.1)
    lines = lines_of(table(tmp_path, facts("x:y", chain, (0,))))
    assert lines[2] == ["scratch", "82.3 %", "50.0 %", "364", "not yet run"]
    assert lines[3] == ["mae", "83.6 %", "not yet run", "95.9", "not yet run"]
    assert lines[4] == ["other", "", "", "", "not yet run"]


def test_a_chain_is_found_by_its_name_and_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, known = read_facts("mae_ablations:digits_mask_tokens")
    assert (str(root), known["rows"]) == ("runs/mae_ablations-digits_mask_tokens", ["with mask tokens", "without"])
    root.mkdir(parents=True)
    (root / FILE).write_text(json.dumps(KNOWN))
    assert read_facts("mae_ablations:digits_mask_tokens") == read_facts(str(root)) == (root, KNOWN)
    (root / FILE).write_text(json.dumps({"rows": [1]}))
    with pytest.raises(InputError, match="does not describe a chain"):
        table(*read_facts(str(root)))
    for given, said in (
        ("runs", "holds no chain"),
        ("mae:digits_mask_ratio", "says nothing of"),
        ("mae:no", "no sweep is"),
    ):
        with pytest.raises(InputError, match=said):
            read_facts(given)
