"""--cluster local: the same commands on this machine, without Slurm."""

import json
from dataclasses import asdict

import pytest

from slurm import state
from slurm.request import Request
from tests.slurm.local_toys import TOY, names, toy, until


def test_two_tasks_of_a_snapshot(command, tmp_path):
    said = tmp_path / "said"
    command(*toy(tmp_path / "r", "--say", str(said), tasks=2, code="snapshot"))
    command("wait", str(tmp_path / "r"), "--poll", "0.1")
    assert sorted(said.read_text().splitlines()) == [f"first edition {rank} 2 {rank} 2 127.0.0.1" for rank in (0, 1)]
    assert names(tmp_path / "r") == ["submitted", "started", "done"] or names(tmp_path / "r")[0] == "started"
    assert list((tmp_path / ".code").iterdir())
    assert f"{tmp_path}/r  done " in command("status", str(tmp_path / "r"))


def test_a_crash_is_tried_again(command, tmp_path):
    command(*toy(tmp_path / "r", "--code", "1"))
    assert "failed" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert names(tmp_path / "r").count("crashed") > 1


def test_a_dry_run_shows_what_would_run_here_and_writes_nothing(command, tmp_path):
    said = command(*toy(tmp_path / "r", "--say", "a b", tasks=2)[:-3], "--dry-run", "--", "--say", "a b")
    assert "#SBATCH" not in said
    assert "1 at a time" in said
    assert "--tasks 2 " in said
    assert said.splitlines()[-1] == f"python -m {TOY} --say 'a b'"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("heard", [[], ["--deaf"]])  # by the module, or, as before train.py listens, for it
def test_cancel_ends_it(heard, command, tmp_path):
    command(*toy(tmp_path / "r", "--say", str(tmp_path / "said"), "--sleep", "200", *heard))
    assert "has job" in command(*toy(tmp_path / "r"), code=2)
    until((tmp_path / "said").exists)
    assert command("cancel", str(tmp_path / "r")) == f"{tmp_path}/r  saves and stops\n"
    assert f"{tmp_path}/r  cancelled" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert command("cancel", str(tmp_path / "r")) == f"{tmp_path}/r  is cancelled already\n"


def test_resubmitting_here_leaves_out_what_is_slurms_and_keeps_it_for_slurm(command, tmp_path):
    run = tmp_path / "r"
    run.mkdir()
    request = asdict(Request(nodes=2, gpus=0, mem="500M", setup=("module load cuda",), folder=str(run), code="live"))
    facts = {"target": TOY, "overrides": [], "request": request, "logs": str(run / "slurm"), "root": str(run)}
    (run / state.RECORD).write_text(json.dumps(facts | {"cluster": "slurm", "job": "7"}))
    said = command("resubmit", str(run), "--cluster", "local").splitlines()
    assert said[0].startswith("without --nodes, --mem, --setup: Slurm's own")
    command("wait", str(run), "--poll", "0.1")
    again = command("resubmit", str(run), "--dry-run").splitlines()  # here once more
    assert again[0] == said[0]
    text = command("resubmit", str(run), "--dry-run", "--cluster", "slurm").splitlines()
    assert {"#SBATCH --mem=500M", "#SBATCH --nodes=2", "module load cuda"} <= set(text)
    refused = command("resubmit", str(run), "--dry-run", "--mem", "5G", code=2)
    assert "error: --mem is Slurm's" in refused  # asked for now


def test_without_sbatch_one_line_says_what_to_do(command, tmp_path):
    said = command(TOY, "--folder", str(tmp_path / "r"), "--code", "live", code=2)
    assert said == "error: no sbatch here: submit on a login node of the cluster, or use --cluster local\n"
    assert not state.active_job(tmp_path / "r")
