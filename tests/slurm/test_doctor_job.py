"""The doctor as a job: started once, on every node, where no node's findings end the others."""

from slurm import submit


def script(capsys, *argv: str) -> str:
    assert submit.main(["doctor", "--dry-run", *argv]) == 0
    return capsys.readouterr().out


def test_a_node_that_finds_something_wrong_ends_neither_the_others_nor_starts_again(capsys):
    text = script(capsys, "--nodes", "2", "--gpus", "8", "--", "--quick")
    (srun,) = [line for line in text.splitlines() if line.startswith("srun ")]
    assert srun.index("--kill-on-bad-exit=0") > srun.index("--kill-on-bad-exit=1")  # the later one holds
    assert "--tries 0 " in text
    assert "#SBATCH --ntasks-per-node=8" in text
    assert "#SBATCH --time=30" in text


def test_flags_that_are_given_stay(capsys, tmp_path):
    folder = tmp_path / "there"
    text = script(capsys, "--hours", "2", "--folder", str(folder), "--srun-args=--cpu-bind=none")
    assert "#SBATCH --time=120" in text
    assert "--kill-on-bad-exit=0 --cpu-bind=none" in text
    assert str(folder / "slurm") in text


def test_the_findings_lie_in_the_jobs_folder_unless_another_is_named(tmp_path):
    from slurm.request import Request

    module, flags, request = submit.doctor_job(["--quick"], Request(folder=str(tmp_path)))
    assert (module, flags) == ("models.doctor", ["--quick", "--out", str(tmp_path)])
    assert request.folder == str(tmp_path)
    assert submit.doctor_job(["--out=/elsewhere"], Request())[1] == ["--out=/elsewhere"]


def test_on_this_machine_slurms_own_flags_are_left_out():
    from slurm.request import Request, check

    _, _, request = submit.doctor_job([], Request(cluster="local", gpus=0))
    check(request)
    assert request.tries == 0
