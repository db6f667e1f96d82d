"""What is asked of sbatch, and what is refused before it is asked."""

import json
import os
import shlex
from pathlib import Path

import pytest

from models.config.resolve import resolve
from models.records import events, run_folder
from pipeline.errors import InputError
from slurm import launch, submit
from slurm.request import Request, check, executor_parameters

TOY = "tests.slurm.toy"


def header(capsys, *flags: str) -> dict[str, str]:
    """Options in the batch script of a dry run."""
    assert submit.main([TOY, "--dry-run", *flags]) == 0
    lines = [line.removeprefix("#SBATCH --") for line in capsys.readouterr().out.splitlines() if "#SBATCH" in line]
    return {key: shlex.split(value)[0] if value else "" for key, _, value in (line.partition("=") for line in lines)}


def test_flags_reach_sbatch_under_its_names(capsys):
    flags = "--nodes 2 --gpus 8 --hours 1.5 --partition p --account a --qos q --constraint c --cpus 10 --mem 200G"
    found = header(capsys, *flags.split(), "--sbatch", "mail-type=END", "--sbatch", "nice=5", "--signal-delay", "60")
    assert found["nodes"] == "2"
    assert found["gpus-per-node"] == found["ntasks-per-node"] == "8"
    assert found["time"] == "90"
    assert [found[name] for name in ("partition", "account", "qos", "constraint")] == ["p", "a", "q", "c"]
    assert (found["cpus-per-task"], found["mem"], found["mail-type"], found["nice"]) == ("10", "200G", "END", "5")
    assert found["signal"] == "USR2@60"


def test_what_survival_needs_is_always_on(capsys):
    found = header(capsys)
    assert "requeue" in found
    assert found["kill-on-invalid-dep"] == "yes"
    assert found["open-mode"] == "append"
    assert "chdir" not in found  # relative paths mean what they mean on the login node


def test_a_dry_run_shows_a_script_that_bash_can_read_and_writes_nothing(capsys, tmp_path):
    import subprocess

    folder = tmp_path / "a run's folder"
    flags = ["--folder", str(folder), "--setup", "module load cuda", "--notify", 'mail -s "$EVENT" me <<< $RUN']
    assert submit.main([TOY, "--dry-run", "--srun-args=--cpu-bind=none", *flags]) == 0
    text = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    assert "--kill-on-bad-exit=1 --cpu-bind=none" in text
    assert text.index("module load cuda") < text.index("srun --unbuffered")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"nodes": 0}, "--nodes is 0, expected at least 1"),
        ({"gpus": -1}, "--gpus is -1"),
        ({"gpus": 8, "tasks": 4}, "one process per GPU"),
        ({"hours": 0.0}, "--hours is 0, expected above 0"),
        ({"hours": 0.01}, "--signal-delay is 120 s, expected within --hours 0.01"),
        ({"tries": -1}, "--tries is -1"),
        ({"sbatch": ("exclusive",)}, "--sbatch exclusive has no '='"),
        ({"cluster": "local", "nodes": 2}, "--nodes is Slurm's, and would do nothing with --cluster local; drop it"),
        ({"cluster": "local", "after": ("runs/x",)}, "--after is Slurm's"),
        ({"cluster": "local", "srun_args": ("--cpu-bind=none",)}, "--srun-args is Slurm's"),
        ({"cluster": "local", "notify": "true"}, "--notify is Slurm's"),
    ],
)
def test_flags_that_are_wrong_alone_or_together_are_refused(flags, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        check(Request(**flags))


@pytest.mark.parametrize("target", ["models.evaluate", "models.evaluate.__main__"])
def test_a_package_is_run_as_python_would(target, tmp_path):
    (job,) = launch.plan(target, ["knn", "runs/x"], str(tmp_path)).jobs
    assert job.module == "models.evaluate.__main__"  # which has a main()


def test_flags_that_need_no_slurm_are_accepted_with_cluster_local():
    own = {"gpus": 2, "hours": 3.0, "parallel": 4, "signal_delay": 60, "code": "live", "folder": "x", "dry_run": True}
    check(Request(cluster="local", **own))
    check(Request(cluster="local", gpus=0, tasks=2))


def test_without_gpus_there_are_as_many_processes_as_asked_for():
    check(Request(gpus=0, tasks=4))
    words = executor_parameters(Request(gpus=0, tasks=4), "x", None, [], [])
    assert words["ntasks_per_node"] == 4
    assert "gpus_per_node" not in words


HERE = {  # what a job would find out hours later
    "less than a step": (
        "mae_ablations:digits_mask -- --optim.epochs=0.5 --optim.warmup-epochs=0",
        "less than one step",
    ),
    "a sweep's short epochs": ("ladder:digits_5 -- --optim.labels-only-epochs=1e6", "labels_only_epochs is 1e+06 of"),
    "a batch over seven": ("semi_mae:digits --gpus 7", "does not divide over 7 devices"),
    "an unknown split": ("semi_mae:digits -- --data.split=6-per-class", "no split '6-per-class'"),
    "what a method cannot do": ("crossmae:digits -- --method.reconstruct.predict=0.9", "of which only 0.5 are hidden"),
    "a target nobody fitted": (
        "mae_ablations:digits_target",
        "cannot read data/digits/pca.pt: No such file or directory; make it with `python -m models.masked.fit_pca "
        "{root}/train.beton --recipe mae_ablations:digits_target/2 --out data/digits/pca.pt`",
    ),
}


@pytest.mark.parametrize("what", HERE)
def test_what_a_job_would_refuse_is_refused_before_it_waits(what, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv, said = HERE[what]
    argv = [*argv.split(), *([] if "--" in argv.split() else ["--"]), f"--data.root={digits}"]
    with pytest.raises(InputError) as refused:
        submit.main([*argv[:1], "--dry-run", *argv[1:]])
    assert said.format(root=digits) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["here", "on/the/nodes/alone"])
def test_what_a_job_would_run_is_submitted_also_where_its_data_is_on_the_nodes_alone(
    root, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flags = ["--dry-run", "--gpus", "8", "--", f"--data.root={digits if root == 'here' else root}"]
    for target in ("semi_mae:digits", "ladder:digits_5", "crossmae:digits", "semiformer:digits_mae"):
        assert submit.main([target, *flags]) == 0
        assert "#SBATCH" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_recipe_is_refused_but_what_is_done_is_not_looked_at_again(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "ladder-digits_5" / "0"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text(json.dumps({"name": "ladder:digits_4000/0"}))
    (run / "report.html").touch()
    with pytest.raises(InputError, match="was begun with name ladder:digits_4000/0"):
        submit.main(["ladder:digits_5", "--dry-run", "--", f"--data.root={digits}"])
    monkeypatch.setattr(launch, "_done", lambda path: path == run)
    assert submit.main(["ladder:digits_5", "--dry-run", "--", f"--data.root={digits}"]) == 0


@pytest.mark.parametrize("target", ["mae:digits", "mae:digits_mask_ratio"])
def test_a_run_that_is_done_is_submitted_again_to_be_extended_and_not_otherwise(target, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_done", lambda _: True)
    data = f"--data.root={digits}"
    plan = launch.plan(target, [data])
    for job in plan.jobs:  # as train.py leaves it
        recipe = resolve(job.argv[0], [data, f"--run.folder={job.run}"])
        os.close(run_folder.claim(Path(job.run), recipe))
        for name in ("last.pt", "report.html"):
            Path(job.run, name).touch()
        events.append(Path(job.run), "done", rank=0, node="n1", step=1800)
    assert launch.plan(target, [data]).unfinished().jobs == ()
    extended = launch.plan(target, [data, "--run.extend", "900"]).unfinished()
    assert [job.run for job in extended.jobs] == [job.run for job in plan.jobs]
    assert all(job.argv[2:4] == ["--run.extend", "900"] for job in extended.jobs)
    with pytest.raises(InputError, match=r"was not extended, now --run\.extend asks for 900 epochs"):
        launch.plan(target, [data, "--run.extend", "900", "100"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["semi_mae:digts"], "did you mean semi_mae:digits"),
        (["semi_mae:digits", "--", "--optim.lrr", "1"], "did you mean --optim.lr"),
        (["semi_mae:digits", "--optim.lr", "1"], "put those behind `--`"),
        (["semi_mae:digits", "--", "--optim.lr", "-1"], "optim.lr is -1"),
        (["semi_mae:digits", "--", "--run.stop-step", "10"], "drop --run.stop-step"),
        (["semi_mae:digits", "--", "--run.fresh"], "drop --run.fresh"),
        (["semi_mae:digits", "--folder", "x"], "run.folder x"),
        (["nonsense"], "neither a recipe"),
        (["stat"], "stat is a module without a main"),
        (["mae:digits_mask_ratio/7"], "mae:digits_mask_ratio/0 to mae:digits_mask_ratio/2"),
        (["tests.slurm.toy", "--after", "runs/nothing"], "was not submitted from here"),
        (["status", "runs/nothing"], "was not submitted from here"),
        (["resubmit"], "wants a run folder"),
    ],
)
def test_a_mistake_is_refused_on_the_login_node(argv, said):
    with pytest.raises(InputError, match=said) as refused:
        submit.main(argv)
    assert "\n" not in str(refused.value)
