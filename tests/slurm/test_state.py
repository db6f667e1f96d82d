"""A run's state in a word, from events, squeue, sacct, or none of them."""

import fcntl
import json
import socket
import time

import pytest

from pipeline.errors import InputError, Unavailable
from slurm import commands, job_events, launch, rendezvous, results, state, submit, sweep_table
from slurm.state import QueueEntry, state_of


@pytest.mark.parametrize(
    ("last", "seen", "expected"),
    [
        ("submitted", QueueEntry("PENDING"), "queued"),
        ("started", QueueEntry("RUNNING"), "running"),
        ("preempted", QueueEntry("COMPLETING"), "running"),
        ("preempted", QueueEntry("PENDING"), "queued"),
        ("done", QueueEntry("COMPLETING"), "done"),
        ("done", None, "done"),  # Slurm forgets after minutes; without accounting for good
        ("failed", QueueEntry("FAILED"), "failed"),
        ("submitted", QueueEntry("CANCELLED by 1000"), "cancelled"),  # it waited for one that failed
        ("started", QueueEntry("COMPLETED"), "done"),
        ("started", QueueEntry("TIMEOUT"), "failed"),
        ("started", None, "gone"),
    ],
)
def test_the_state_of_a_job(last, seen, expected):
    assert state_of([{"event": last}], seen) == expected


@pytest.mark.parametrize(("last", "expected"), [("preempted", "stopped"), ("crashed", "failed"), ("started", "gone")])
def test_the_state_of_a_local_job_that_is_no_more(last, expected):
    assert state_of([{"event": last}], None, "local") == expected


def test_squeue_counts_more_than_sacct_and_either_may_be_silent(monkeypatch):
    said = {"sacct": ["1|COMPLETED|n1", "3_0|FAILED|n2"], "squeue": ["3_0|RUNNING|n2|None", "4|PENDING||Priority"]}
    monkeypatch.setattr(state, "_lines", lambda command, needed: said[command[0]])
    assert state.query_slurm() == {
        "1": QueueEntry("COMPLETED", "n1"),
        "3_0": QueueEntry("RUNNING", "n2", "None"),
        "4": QueueEntry("PENDING", "", "Priority"),
    }
    said["sacct"] = []
    assert set(state.query_slurm()) == {"3_0", "4"}


def test_a_missing_program_says_nothing():
    assert state._lines(["/nowhere/sacct"]) == []
    assert state._lines(["sh", "-c", "echo '1|FAILED'; exit 1"]) == []


def test_a_controller_that_does_not_answer_is_waited_for_and_makes_no_job_gone(run, tmp_path, monkeypatch, capsys):
    """A squeue that fails, as in the seconds in which a controller restarts, then knows the job again."""
    said = tmp_path / "squeue"
    said.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    said.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"squeue does not answer: .* Unable to contact slurm controller") as refused:
        submit.main(["status", str(run)])
    assert "\n" not in str(refused.value)

    def sleep(seconds: float) -> None:
        said.write_text("#!/bin/sh\necho '7|COMPLETED|n1|None'\n")

    monkeypatch.setattr(time, "sleep", sleep)
    capsys.readouterr()
    assert submit.main(["wait", str(run)]) == 0
    out, err = capsys.readouterr()
    assert " done " in out
    assert err.count("still waiting") == 1


@pytest.fixture
def run(tmp_path):
    """A run with a job, an error and a journal."""
    facts = {"job": "7", "cluster": "slurm", "logs": str(tmp_path / "slurm"), "root": str(tmp_path)}
    (tmp_path / state.RECORD).write_text(json.dumps(facts))
    job_events.append(tmp_path, "submitted", "6")
    job_events.append(tmp_path, "started", "7", restart=0)
    job_events.append(tmp_path, "submitted", "7")
    job_events.append(tmp_path, "crashed", "7", node="n2", rank="1", error="ValueError: x", log="a.err", line=12)
    job_events.append(tmp_path, "started", "7", restart=0, attempt=1)
    with open(tmp_path / job_events.FILE, "a") as file:
        file.write('{"time": 1, "event": "done", "rank": 0}\n')  # a rank's own word
    (tmp_path / results.metrics.FILE).write_text('{"step": 8, "loss": 1.5}\n{"step": 12, "lo')
    return tmp_path


def test_status_names_node_rank_error_log_and_line(run, monkeypatch, capsys):
    monkeypatch.setattr(state, "query_slurm", lambda: {"7": QueueEntry("RUNNING", "n[1-2]", "None")})
    assert commands.status([str(run)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=1)[1] == "running    job 7  step 8  n[1-2]  1 restart"
    assert second.strip().endswith("on n2, rank 1: ValueError: x  a.err:12")


def test_a_job_that_nobody_knows_is_gone_and_over(run, monkeypatch):
    monkeypatch.setattr(state, "query_slurm", dict)
    assert state.status(run).state == "gone"
    assert submit.main(["wait", str(run)]) == 1


def test_a_run_without_a_job_is_known_by_its_lock_and_its_own_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state, "query_slurm", lambda: pytest.fail("Slurm knows nothing of it"))
    run = tmp_path / "runs" / "mae-digits"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (run / results.RECIPE).write_text("{}")
    evaluated = {"step": 8, "evaluation": "val", "values": {"top1": 0.75, "nll": None}}
    (run / results.metrics.FILE).write_text(f'{{"step": 8, "loss": 1.5}}\n{json.dumps(evaluated)}\n')

    def status() -> list[str]:
        assert commands.status([]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    assert status() == ["runs/mae-digits not started no job step 8 val top1 75.0 %"]
    with open(run / state.LOCK, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as its process does
        job_events.events.append(run, "started", rank=0)
        assert status() == ["runs/mae-digits running no job step 8"]
    assert status() == ["runs/mae-digits gone no job step 8 val top1 75.0 %"]
    job_events.events.append(run, "failed", rank=0, node="n1", error="ValueError: x")
    assert status()[0].startswith("runs/mae-digits failed")
    assert status()[1].endswith("on n1, rank 0: ValueError: x")
    assert submit.main(["wait", str(run)]) == 1
    for event in ("resumed", "decoding", "done"):
        job_events.events.append(run, event, rank=0)
    capsys.readouterr()
    assert status() == ["runs/mae-digits done no job step 8 val top1 75.0 %"]
    assert submit.main(["wait", str(run)]) == 0
    for verb in ("logs", "resubmit"):
        with pytest.raises(InputError, match="was started there without a job"):
            submit.main([verb, str(run)])


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_slurm_is_asked_to_wait_for_its_own_jobs_alone(cluster, tmp_path, monkeypatch):
    launch._record(tmp_path, {"cluster": cluster, "root": str(tmp_path), "logs": ""}, "7", "submitted")
    monkeypatch.setattr(state, "_controller", lambda pid: True)
    monkeypatch.setattr(state, "query_slurm", lambda: {"7": QueueEntry("RUNNING")})
    if cluster == "slurm":
        assert launch.dependency([str(tmp_path)]) == "afterok:7"
        return
    with pytest.raises(InputError, match=f"{tmp_path} is running outside of Slurm, which cannot wait for it"):
        launch.dependency([str(tmp_path)])


def test_where_there_is_no_run_status_names_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.status([]) == 0
    assert capsys.readouterr().out == f"no run below {tmp_path}/runs; name run folders\n"


def test_the_table_of_a_sweep_shows_what_differs_and_what_came_out(tmp_path):
    members = [tmp_path / str(number) for number in range(3)]
    for number, member in enumerate(members[:2]):
        member.mkdir()
        recipe = {"name": f"x/{number}", "optim": {"lr": 10.0**-number, "epochs": 3}, "run": {"folder": str(member)}}
        (member / results.RECIPE).write_text(json.dumps(recipe))
        rows = [
            {"step": 3, "loss": 2.0 - number},
            {"step": 3, "evaluation": "val", "values": {"top1": 0.5 + number / 4}},
        ]
        (member / results.metrics.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
        job_events.events.append(member, "started", rank=0)
        job_events.events.append(member, "done", rank=0)
    (tmp_path / state.RECORD).write_text(json.dumps({"members": [str(member) for member in members]}))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in sweep_table.table(tmp_path).splitlines()]
    assert cells[0] == ["run", "optim.lr", "state", "step", "loss", "val top1"]
    assert cells[2:] == [
        ["0", "1", "done", "3", "2", "50.0 %"],
        ["1", "0.1", "done", "3", "1", "75.0 %"],
        ["2", "", "not started", "0", "", ""],
    ]
    (tmp_path / state.RECORD).write_text("{}")
    with pytest.raises(InputError, match="is no sweep"):
        sweep_table.table(tmp_path)


def test_the_table_of_a_sweep_has_the_states_that_status_prints(tmp_path, monkeypatch, capsys):
    """By hand; failed before its job's first word; lost by Slurm; cancelled while it waited; by hand after its job."""
    monkeypatch.setattr(state, "query_slurm", lambda: {"8": QueueEntry("FAILED"), "10": QueueEntry("CANCELLED by 0")})
    members = [tmp_path / str(number) for number in range(6)]
    for member, job in zip(members[1:5], ("8", "9", "10", "11"), strict=True):
        member.mkdir()
        (member / state.RECORD).write_text(json.dumps({"job": job, "cluster": "slurm", "logs": "", "root": "."}))
        job_events.append(member, "submitted", job)
    job_events.append(members[4], "failed", "11", code=1)
    members[0].mkdir()
    for member in (members[0], members[4]):
        job_events.events.append(member, "started", rank=0)
        job_events.events.append(member, "done", rank=0)
    (members[0] / results.RECIPE).write_text("{}")
    (tmp_path / state.RECORD).write_text(json.dumps({"members": [str(member) for member in members]}))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in sweep_table.table(tmp_path).splitlines()]
    column = [row[cells[0].index("state")] for row in cells[2:]]
    assert column == ["done", "failed", "gone", "cancelled", "done", "not started"]
    assert commands.status(list(map(str, members[:5]))) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == column[:5]


def test_a_node_without_any_address_is_refused_in_seconds(monkeypatch):
    monkeypatch.setattr(rendezvous, "node_address", lambda node: None)
    began = time.monotonic()
    with pytest.raises(InputError, match="node no-such-node does not resolve"):
        rendezvous.environment(1, 2, 0, ["no-such-node", "n2"], "7_0_0")
    assert time.monotonic() - began < 20


def test_every_rank_knows_the_same_place_and_the_next_start_another_port():
    nodes = [socket.gethostname(), "other"]
    ranks = [rendezvous.environment(rank, 4, rank % 2, nodes, "7_0_0") for rank in range(4)]
    assert [row["RANK"] for row in ranks] == ["0", "1", "2", "3"]
    assert {row["LOCAL_WORLD_SIZE"] for row in ranks} == {"2"}
    assert len({(row["MASTER_ADDR"], row["MASTER_PORT"]) for row in ranks}) == 1
    assert rendezvous.environment(0, 4, 0, nodes, "7_0_1")["MASTER_PORT"] != ranks[0]["MASTER_PORT"]
    assert int(ranks[0]["MASTER_PORT"]) in rendezvous.PORTS


def test_gloo_gets_its_interface_where_the_hosts_name_is_this_host_alone(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(rendezvous, "_local_only", lambda name: True)
    monkeypatch.setattr(rendezvous, "_loopback", lambda name: False)
    monkeypatch.setattr(rendezvous, "resolvable_address", lambda node: "127.0.0.1")
    assert rendezvous.environment(0, 2, 0, ["a", "b"], "x")["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setattr(rendezvous, "_local_only", lambda name: False)
    assert "GLOO_SOCKET_IFNAME" not in rendezvous.environment(0, 2, 0, ["a", "b"], "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"job\.json is not JSON"),
        (b"\xff", r"job\.json is not JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b'{"job": "7"}', r"job\.json: no cluster"),
        (b'{"job": 7, "cluster": "slurm", "root": "."}', r"job\.json: job is int, expected str"),
    ],
)
def test_a_damaged_record_of_a_submission_is_one_line(content, message, tmp_path):
    (tmp_path / state.RECORD).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        state.status(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[]", b"\xff", b"{"])
def test_a_damaged_recipe_or_journal_leaves_a_sweeps_table_whole(content, tmp_path):
    (tmp_path / results.RECIPE).write_bytes(content)
    (tmp_path / results.metrics.FILE).write_bytes(content + b"\n")
    assert results.differing([tmp_path]) == [{}]
    assert results.final(tmp_path) == {}
    assert results.last_step(tmp_path) == 0
