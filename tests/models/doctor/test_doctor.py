"""The doctor's command: stages in their order, each in a process that may hang or crash, and files that are whole."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.doctor import __main__ as doctor
from models.doctor import listing, supervise
from models.doctor.findings import JSON, PAGE
from models.doctor.listing import Listed
from models.doctor.stage import Row
from models.doctor.supervise import Ended, outside_of_a_job, run_stage
from pipeline.errors import InputError

ORDER = ["machine", "attention", "correctness", "views", "throughput", "backends", "end_to_end", "ranks"]
GOOD = 'import sys, json\nout = open(sys.argv[2], "a")\nprint(json.dumps({"host": "here"}), file=out, flush=True)\n'
GOOD += (
    'print(json.dumps({"what": "a", "result": "ok", "figure": "1", "to_do": "", "values": {}}), file=out, flush=True)\n'
)


def test_every_file_is_a_stage_and_they_run_in_the_issues_order():
    assert [stage.name for stage in listing.stages()] == ORDER
    assert all(stage.deadline_s > 0 for stage in listing.stages())
    assert [stage.name for stage in listing.chosen(("views", "machine"))] == ["machine", "views"]


def test_each_stages_numbers_are_those_of_its_class():
    from importlib import import_module

    from models.config.catalogue import own_class
    from models.doctor.stage import Stage

    for listed in listing.stages():
        found = own_class(import_module(f"models.doctor.stages.{listed.name}"), Stage)
        assert (found.place, found.deadline_s) == listed[1:]


@pytest.mark.parametrize(("flags", "said"), [
    (["--only", "view"], "no stage is called 'view'; did you mean views?"),
    (["--data", "/nowhere/train.beton"], "/nowhere/train.beton"),
    (["--out", "/dev/null/x"], "the folder cannot be made"),
    (["--rounds", "3"], "--rounds"),
])  # fmt: skip
def test_bad_flags_are_refused_in_a_line(flags, said, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["doctor", "--out", str(tmp_path / "out"), *flags])
    monkeypatch.setattr(doctor, "run_stage", lambda *_, **__: pytest.fail("a stage ran"))
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        doctor.main()


def run(script: str, folder: Path, deadline_s: int = 30) -> Ended:
    return run_stage(Listed("planted", 1, deadline_s), folder, quick=False, data=None, child=("-c", script))


def test_a_stage_that_ends_well_adds_nothing_to_its_rows(tmp_path):
    ended = run(GOOD, tmp_path)
    assert (ended.rows, ended.where) == ([Row("a", "ok", "1")], {"host": "here"})


@pytest.mark.parametrize(("more", "figure", "said"), [
    ("import os; os.abort()", "ended by SIGABRT", "logs/planted.txt"),
    ("raise KeyError('planted')", "ended with code 1", "KeyError: 'planted'"),
    ('out.write(\'{"what": "cut o\'); out.flush(); raise SystemExit(3)', "ended with code 3", "logs/planted.txt"),
])  # fmt: skip
def test_a_crash_is_a_row_and_the_rows_before_it_stay(more, figure, said, tmp_path):
    first, last = run(GOOD + more, tmp_path).rows
    assert first == Row("a", "ok", "1")
    assert (last.what, last.result) == ("planted", "wrong")
    assert figure in last.figure
    assert said in last.to_do


def test_a_hang_is_ended_with_all_that_the_stage_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "GRACE_S", 0)
    more = "import subprocess, time\nchild = subprocess.Popen(['sleep', '1000'])\n"
    more += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\ntime.sleep(1000)"
    first, last = run(GOOD + more, tmp_path, deadline_s=1).rows
    assert (first.result, last.figure) == ("ok", "not over after 1 s, and ended")
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    until = time.monotonic() + 30  # a killed process takes a moment where cores are busy
    while state.exists() and state.read_text().split()[2] != "Z":  # nobody may be there to wait for it
        assert time.monotonic() < until
        time.sleep(0.01)


HANGING = """
import time
from models.doctor.stage import Row, Stage
class Hanging(Stage):
    place, deadline_s = 1, 2
    def run(self, context):
        yield Row("before", "ok", "x")
        time.sleep(1000)
"""


@pytest.mark.slow
def test_a_stage_ends_itself_at_its_deadline_and_prints_where_it_hangs(tmp_path):
    """Also where whoever started it is gone."""
    (tmp_path / "hanging.py").write_text(HANGING)
    code = "import sys\nimport models.doctor.stages as stages\nfrom models.doctor import child\n"
    code += f"stages.__path__.append({str(tmp_path)!r})\nraise SystemExit(child.main(sys.argv[1:]))"
    argv = ["hanging", str(tmp_path / "rows"), str(tmp_path / "scratch"), "0", ""]
    import os

    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=supervise.ROOT, env=os.environ | {"SHOTCRETE_DEADLINE_S": "15"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "hanging.py" in done.stderr
    where, rows = supervise.read_rows(tmp_path / "rows")
    assert where["device"]
    assert rows == [Row("before", "ok", "x")]


@pytest.fixture
def examined(monkeypatch, tmp_path, capsys):
    """examined(rows of the first stage, ...) -> exit code, doctor.json, what was printed."""

    def call(*rows: list[Row], flags=()):
        answers = iter(rows)
        monkeypatch.setattr(doctor, "run_stage", lambda *_, **__: Ended(next(answers), {"host": "here"}, 1.5))
        only = ["--only", *ORDER[: len(rows)]]
        monkeypatch.setattr(sys, "argv", ["doctor", "--out", str(tmp_path), *only, *flags])
        code = doctor.main()
        return code, json.loads((tmp_path / JSON).read_text()), capsys.readouterr().out

    return call


def test_what_is_wrong_is_exit_code_1_and_what_is_slow_is_not(examined, tmp_path):
    code, found, printed = examined(
        [Row("a", "ok", "1"), Row("b", "slow", "2 | 3", "do")], [Row("c", "skipped", "no GPU")]
    )
    assert (code, found["wrong"]) == (0, 0)
    assert [row["what"] for row in found["rows"]] == ["a", "b", "c"]
    assert found["where"] == {"host": "here"}
    assert "| machine | b | slow | 2 / 3 | do |" in printed
    assert "1 ok, 1 slow, 1 skipped; 3 s" in (tmp_path / PAGE).read_text()
    assert examined([Row("a", "wrong", "1")])[0] == 1


def test_what_was_found_before_the_end_is_there(monkeypatch, tmp_path):
    def once(stage, *_, **__):
        if stage.name != "machine":
            raise KeyboardInterrupt
        return Ended([Row("a", "ok", "1")], {}, 1.0)

    monkeypatch.setattr(doctor, "run_stage", once)
    monkeypatch.setattr(sys, "argv", ["doctor", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        doctor.main()
    assert json.loads((tmp_path / JSON).read_text())["rows"][0]["what"] == "a"
    assert "| machine | a | ok | 1 |  |" in (tmp_path / PAGE).read_text()


def test_of_a_nodes_processes_one_checks_and_each_node_has_a_folder(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(doctor, "run_stage", lambda stage, folder, **_: ran.append(folder) or Ended([], {}, 0.0))
    monkeypatch.setattr(doctor, "exchange", lambda: Ended([Row("all-reduce", "ok", "3 GB/s")], {}, 1.0))
    monkeypatch.setattr(sys, "argv", ["doctor", "--out", str(tmp_path), "--only", "machine"])
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert doctor.main() == 0
    assert ran == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert doctor.main() == 0
    (folder,) = ran
    assert folder.parent == tmp_path
    assert "all-reduce" in (folder / PAGE).read_text()


def test_a_stage_is_no_process_of_the_job_that_it_runs_in():
    job = {"RANK": "3", "WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}
    assert outside_of_a_job(job) == {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin"}


def test_the_machines_stage_runs_as_a_user_runs_it(digits, tmp_path):
    command = [sys.executable, "-m", "models.doctor", "--only", "machine", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--data", str(digits / "train.beton")],
        cwd=supervise.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / JSON).read_text())
    whats = [row["what"] for row in found["rows"]]
    assert {"versions", "cores", "/dev/shm", "disk rate of train.beton", "page cache"} <= {*whats}
    assert found["where"]["torch"]
