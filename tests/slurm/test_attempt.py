"""What the batch script does after an attempt, from exit codes, Slurm's state of the job, and the ranks' failures."""

import json
import subprocess
import sys
import time

import pytest

from models.records import failures
from slurm import attempt, first_failure, job_events, launch
from slurm.attempt import JobState, decide

RUNNING, CANCELLED, TIMEOUT = JobState("RUNNING"), JobState("COMPLETING", "None"), JobState("COMPLETING", "TimeLimit")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"code": 0}, ("done", "end")),
        ({"code": 0, "now": CANCELLED}, ("done", "end")),  # it was faster
        ({"code": 75}, ("preempted", "requeue")),
        ({"code": 75, "now": JobState()}, ("preempted", "requeue")),  # the controller does not answer
        ({"code": 75, "worst": 1}, ("crashed", "again")),  # srun ended the others, which then saved
        ({"code": 75, "now": CANCELLED}, ("cancelled", "end")),  # never brought back
        ({"code": 143, "now": CANCELLED}, ("cancelled", "end")),
        ({"code": 75, "now": JobState("COMPLETING", "", 1)}, ("requeued", "end")),  # Slurm has done it
        ({"code": 137, "now": TIMEOUT}, ("failed", "end")),
        ({"code": 1}, ("crashed", "again")),
        ({"code": 1, "stalled": 3}, ("crashed", "again")),
        ({"code": 1, "stalled": 4}, ("failed", "end")),
        ({"code": 2}, ("failed", "end")),  # will not get better
        ({"code": 137, "worst": 2}, ("failed", "end")),  # nor if srun killed the other ranks meanwhile
    ],
)
def test_the_next_step_follows_from_exit_code_and_state(what, expected):
    given = {"worst": what["code"], "now": RUNNING, "restarts": 0, "stalled": 1, "tries": 3} | what
    assert decide(**given) == expected


@pytest.mark.parametrize("module", ["slurm.attempt", "slurm.sweep_table", "slurm.commands"])
def test_what_runs_between_two_starts_and_what_reports_imports_no_torch_and_no_numpy(module):
    ask = f"import sys, {module}; sys.exit(not {{'torch', 'numpy', 'tyro'}}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", ask], cwd=launch.ROOT).returncode == 0


@pytest.fixture
def job(monkeypatch, tmp_path):
    """job(code, checkpoint=None) starts and ends an attempt; -> what the script does."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setattr(attempt, "job_state", lambda: RUNNING)
    monkeypatch.setattr(attempt, "silent_nodes", lambda nodes: "")

    def run_attempt(code: int, checkpoint: str | None = None, number: int = 0) -> str:
        monkeypatch.setenv("ATTEMPT", str(number))
        attempt.begin(tmp_path, tmp_path, "7")
        if checkpoint:
            (tmp_path / "new").write_text(checkpoint)
            (tmp_path / "new").rename(tmp_path / "last.pt")
        return attempt.end(tmp_path, tmp_path, "7", code, tries=2, pause_s=5)

    return run_attempt


def test_only_starts_without_a_new_checkpoint_count(job, tmp_path):
    assert [job(1), job(1)] == ["again 5", "again 10"]
    assert job(1, "step 10") == "again 5"
    assert [job(1), job(1)] == ["again 10", "end failed"]
    names = [row["event"] for row in job_events.read(tmp_path)]
    assert names == ["started", "crashed"] * 4 + ["started", "failed"]


def test_the_first_error_goes_into_the_event(job, tmp_path, monkeypatch):
    first_failure.write(
        tmp_path, "7_0_0", first_failure.Failure("n1", "0", "RuntimeError: Connection closed by peer", "a", 1, 10.0)
    )
    first_failure.write(tmp_path, "7_0_0", first_failure.Failure("n2", "1", "ValueError: the cause", "b", 5, 11.0))
    job(1)
    row = job_events.read(tmp_path)[-1]
    assert (row["node"], row["rank"], row["error"], row["log"], row["line"]) == (
        "n2",
        "1",
        "ValueError: the cause",
        "b",
        5,
    )


def test_a_silent_node_sends_the_job_back_to_the_queue(job, monkeypatch):
    monkeypatch.setattr(attempt, "silent_nodes", lambda nodes: "n2")
    assert job(1) == "requeue"


@pytest.mark.parametrize(("lost", "event"), [("n2", "node failed"), ("", "requeued")])
def test_a_start_records_the_end_of_an_earlier_one_that_slurm_ended(lost, event, job, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTEMPT", "0")
    attempt.begin(tmp_path, tmp_path, "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(attempt, "silent_nodes", lambda nodes: lost)
    attempt.begin(tmp_path, tmp_path, "7")
    assert [row["event"] for row in job_events.read(tmp_path)] == ["started", event, "started"]


def test_srun_names_the_rank_that_a_signal_ended(tmp_path):
    log = tmp_path / "7_0_log.err"
    log.write_text("srun: error: n9: task 9: Killed\nepoch 1\nsrun: error: n2: task 1: Killed\n"
                   "srun: error: n1: task 0: Terminated\n")  # fmt: skip
    first_failure.write(
        tmp_path, "x", first_failure.Failure("n1", "0", "RuntimeError: Connection reset by peer", "a", 1, 10.0)
    )
    found = first_failure.first(tmp_path, "x", log, start=len("srun: error: n9: task 9: Killed\n"))
    assert (found.node, found.rank, found.error, found.line) == ("n2", "1", "Killed", 3)


def test_the_record_of_a_rank_that_ended_at_once_names_the_line_of_its_log(tmp_path):
    """The trainer's own record of a rank that hung; an earlier start's is left out."""
    log = tmp_path / "7_1_log.err"
    log.write_text("one\ntwo\n")
    failures.record(tmp_path, 0, "KeyError: of yesterday", log=str(log))
    since = time.time()
    failures.record(tmp_path, 1, "TimeoutError: no step for 4 s", log=str(log))
    with open(log, "a") as file:
        file.write("MainThread sleeping\n")
    (found,) = first_failure.recorded_by_trainer(tmp_path, since)
    assert (found.rank, found.error, found.code) == ("1", "TimeoutError: no step for 4 s", 1)
    assert log.read_text().splitlines()[found.line - 1] == "MainThread sleeping"


def test_a_rank_that_stopped_on_request_did_not_break(job, tmp_path):
    (tmp_path / "7_0_log.err").write_text("srun: error: n1: task 0: Exited with exit code 75\n")
    assert first_failure.first(tmp_path, "7_0_0", tmp_path / "7_0_log.err").code == 75


def test_without_any_trace_there_is_no_failure(tmp_path):
    assert first_failure.first(tmp_path, "x", tmp_path / "absent") is None


def test_a_torn_line_is_not_an_event(tmp_path):
    job_events.append(tmp_path, "submitted", "7")
    with open(tmp_path / job_events.FILE, "a") as file:
        file.write('{"time": 1, "eve\n')
    job_events.append(tmp_path, "started", "7", nodes=None)
    rows = [json.dumps(row) for row in job_events.read(tmp_path)]
    assert len(rows) == 2
    assert "nodes" not in rows[1]


@pytest.mark.parametrize("content", ["{", "[]", '{"began": "today"}', '{"stalled": 1.5}'])
def test_damaged_notes_count_as_none_and_are_named(content, job, tmp_path, capsys):
    (tmp_path / "7_attempt.json").write_text(content)
    assert job(1) == "again 5"
    assert "7_attempt.json" in capsys.readouterr().err
    assert job(1) == "again 10"
    assert not capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"node": "n1"}'])
def test_a_damaged_failure_is_left_out_and_named(content, job, tmp_path, capsys):
    (tmp_path / "7_0_0_0_error.json").write_text(content)
    first_failure.write(tmp_path, "7_0_0", first_failure.Failure("n2", "1", "ValueError: the cause", "b", 5, 11.0))
    assert job(1) == "again 5"
    assert job_events.read(tmp_path)[-1]["error"] == "ValueError: the cause"
    assert "7_0_0_0_error.json" in capsys.readouterr().err
