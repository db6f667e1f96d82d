"""What follows the members of a sweep: who waits for whom, what runs again, and whose flags are whose."""

import itertools
import json
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from models.config.chain import FILE, Chain, Stage, facts
from models.config.figure import Figure, Panel, line_along
from models.config.resolve import resolve
from models.config.sweep import changed
from models.methods import finetune
from models.records.run_folder import RECIPE, REPORT
from pipeline.errors import InputError
from pipeline.labels.splits import split_name
from slurm import chain_jobs, launch, state, submit, sweep_table
from slurm.job import Job
from slurm.request import Request
from tests.slurm.chain_toys import STAGES, begun, toy_chain
from tests.slurm.local_toys import ended, names, until

TUNE, PROBE = Stage("tune", "finetune:digits", "tuned"), Stage("probe", "probe:digits", "probed")
NEAR = Stage("near", "knn", "neighbours", "knn_1")


def states(lines: list[str], root: Path) -> list[tuple[str, str]]:
    """Run, below the chain's folder, and state, of the lines that begin with a run folder."""
    held = [line.split(maxsplit=2) for line in lines if line.startswith(f"{root}/")]
    return [(first.removeprefix(f"{root}/"), word) for first, word, *_ in held]


def test_each_stage_follows_its_member_and_one_whose_member_fails_is_left_out_and_named(tmp_path):
    code, lines = ended(begun(tmp_path, [], ["--code", "2"], after=[]))
    assert code == 1
    assert lines[0].startswith("6 of 6 runs, 1 at a time")
    runs = [(run, word) for run, word in states(lines, tmp_path) if word != "started"]
    assert runs == [("0", "done"), ("0/tune", "done"), ("0/probe", "done"),
                    ("1", "failed"), ("1/tune", "not"), ("1/probe", "not")]  # fmt: skip
    assert f"{tmp_path}/1/tune  not started, as it follows {tmp_path}/1: failed" in lines
    assert names(tmp_path / "1" / "tune") == ["queued"]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert table[0] == ["toy", "tune, val", "probe, val"]
    assert table[2:] == [["row 0", "no top1", "no top1"], ["row 1", "member failed", "member failed"]]
    assert "0 of 4 numbers are there" in lines


def test_a_second_call_runs_what_is_missing_alone_wherever_the_first_was_stopped(tmp_path):
    said = tmp_path / "said"
    root = tmp_path / "chain"
    going = begun(root, ["--say", str(said)], ["--say", str(said)], after=["--sleep", "200"])
    until(lambda: (root / "0" / "tune").exists() and "started" in names(root / "0" / "tune"))
    going.send_signal(signal.SIGINT)
    going.communicate(timeout=240)
    assert state.status(root / "0" / "tune").state == "running"  # a terminal would have sent Ctrl-C to it, too
    submit.main(["cancel", str(root / "0" / "tune")])
    until(lambda: state.status(root / "0" / "tune").over)
    assert said.read_text().count("\n") == 1  # the second member's turn had not come
    code, lines = ended(begun(root, ["--say", str(said)], ["--say", str(said)], after=[]))
    assert code == 0
    assert states(lines, root)[0] == ("0", "done")
    assert said.read_text().count("\n") == 2
    assert [names(root / "0").count("started"), names(root / "1").count("started")] == [1, 1]
    code, lines = ended(begun(root, ["--code", "1"], ["--code", "1"], after=["--code", "1"]))
    assert code == 0
    assert not [line for line in lines if "started" in line]


def test_jobs_go_into_one_array_a_stage_and_wait_place_by_place():
    jobs = toy_chain(Path("/x"), [], [], after=[]).jobs
    found = chain_jobs.arrays(jobs)
    assert [(array.stage, [job.run for job in array.jobs], array.waits) for array in found] == [
        ("", ["/x/0", "/x/1"], False),
        ("tune", ["/x/0/tune", "/x/1/tune"], True),
        ("probe", ["/x/0/probe", "/x/1/probe"], True),
    ]
    assert found[0].dependency({}) is None
    assert found[1].dependency({"/x/0": "7_0", "/x/1": "7_1"}) == "aftercorr:7"
    (_, alone, _) = chain_jobs.arrays(toy_chain(Path("/x"), [], after=[]).jobs)
    assert alone.dependency({"/x/0": "7"}) == "afterok:7"


def test_every_set_of_jobs_that_is_missing_waits_for_the_right_ones():
    """All subsets of a chain of two members: each job once, after its member or without waiting, places in step."""
    every = toy_chain(Path("/x"), [], [], after=[]).jobs
    for size in range(1, len(every) + 1):
        for jobs in itertools.combinations(every, size):
            missing = [job.run for job in jobs]
            for live in ([], ["/x/0"], ["/x/0", "/x/1"]):
                if set(live) & set(missing):
                    continue
                found = chain_jobs.arrays(jobs, live)
                assert sorted(job.run for array in found for job in array.jobs) == sorted(missing)
                sent = [job.run for job in found[0].jobs] if not found[0].stage else []
                assert sent == [run for run in ("/x/0", "/x/1") if run in missing]
                for array in found[bool(sent) :]:
                    after = [job.after for job in array.jobs]
                    assert array.waits == all(run in sent or run in live for run in after)
                    assert len(after) == 1 or not array.waits or after == sent


def test_flags_are_shared_out():
    flags = ["--data.root", "/d", "--optim.epochs", "5", "--run.no-shard", "--tune.optim.epochs=3", "--probe.run.seed",
             "4", "--near.k", "1", "5", "--run.folder", "/r", "--run.device-images=8"]  # fmt: skip
    members, after = chain_jobs.shared_out(flags, (TUNE, PROBE, NEAR))
    shared = ["--data.root", "/d", "--run.no-shard", "--run.device-images=8"]
    assert members == ["--data.root", "/d", "--optim.epochs", "5", "--run.no-shard", "--run.folder", "/r",
                       "--run.device-images=8"]  # fmt: skip
    assert sorted(after["tune"]) == sorted([*shared, "--optim.epochs=3"])
    assert sorted(after["probe"]) == sorted([*shared, "--run.seed", "4"])
    assert after["near"] == ["--k", "1", "5"]
    both = (Stage("one", "finetune:digits", ""), Stage("two", "finetune:digits", ""))
    assert [*chain_jobs.shared_out(["--finetune.optim.lr=1"], both)[1].values()] == [["--optim.lr=1"]] * 2
    with pytest.raises(InputError, match="the seeds of a chain are --seeds"):
        chain_jobs.shared_out(["--run.seed=3"], (TUNE,))


@pytest.mark.parametrize("split", ["5-per-class", "0.10", None, "mine", "5-per-class-2"])
def test_a_seed_draws_other_labels_where_the_split_was_drawn_by_the_first(split):
    recipe = changed(finetune.digits(), {"data.split": split})
    drawn = {"5-per-class": split_name(None, 5, 1), "0.10": split_name(0.1, None, 1)}.get(split)
    assert chain_jobs.seed_flags(recipe, 0) == []
    assert chain_jobs.seed_flags(recipe, 1) == ["--run.seed=1", *([f"--data.split={drawn}"] if drawn else [])]


def test_a_chain_is_planned_with_folders_starts_and_labels_of_each_seed(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [f"--data.root={digits}", "--optim.epochs=200", "--probe.optim.epochs", "40"]
    plan = launch.plan("mae_ablations:digits_mask_tokens", flags, seeds=(0, 1))
    root = tmp_path / "runs" / "mae_ablations-digits_mask_tokens"
    assert [str(Path(job.run).relative_to(root)) for job in plan.jobs] == [
        f"{member}{seed}{stage}"
        for seed in ("", "-seed1")
        for member in (0, 1)
        for stage in ("", "/finetune", "/probe", "/knn")
    ]
    member, tuned, probed, near = plan.jobs[4:8]
    assert member.argv == ["mae_ablations:digits_mask_tokens/1", *flags[:2], f"--run.folder={root}/1"]
    assert tuned.argv == ["finetune:digits", flags[0], f"--run.start={root}/1", f"--run.folder={root}/1/finetune"]
    assert "--optim.epochs" in probed.argv
    assert (near.module, near.argv) == (chain_jobs.ALONE, ["knn", f"{root}/1"])
    assert "--data.split=5-per-class-1" in plan.jobs[9].argv
    assert plan.chain is not None
    assert plan.chain["seeds"] == [0, 1]
    assert list(tmp_path.iterdir()) == []
    done = root / "0-seed1" / "finetune"
    done.mkdir(parents=True)
    (done / REPORT).touch()
    (done / RECIPE).write_text(json.dumps(asdict(resolve("finetune:digits", plan.jobs[9].argv[1:]))))
    (root / FILE).write_text(json.dumps(plan.chain))
    launch.plan("mae_ablations:digits_mask_tokens", flags)
    with pytest.raises(InputError, match=r"0-seed1/finetune was begun with optim\.lr 0\.002, now it is 0\.5"):
        launch.plan("mae_ablations:digits_mask_tokens", [*flags, "--finetune.optim.lr=0.5"])
    (root / FILE).write_text(json.dumps(plan.chain | {"rows": ["with", "without"]}))
    with pytest.raises(InputError, match="holds the rows"):
        launch.plan("mae_ablations:digits_mask_tokens", flags)


def test_where_a_chain_is_a_figure_the_table_ends_in_it_and_says_so_without_matplotlib(tmp_path, monkeypatch):
    chain = Chain("MAE Figure 7: ViT-L", "epochs", ("1", "2"), (TUNE,), {"tune": (82.0, 83.0)})
    panel = Panel((line_along("fine-tuning", "tune", (1, 2)),))
    drawn = replace(chain, figure=Figure("epochs", (panel,), "digits", apart=True))
    (tmp_path / state.RECORD).write_text(json.dumps({"members": []}))
    for each in (chain, drawn):
        (tmp_path / FILE).write_text(json.dumps(facts("a:chain", each, (0,))))
        last = sweep_table.write(tmp_path).read_text().splitlines()[-1]
        shown = each is drawn
        assert last == ("![MAE Figure 7: ViT-L, and ours](figure.svg)" if shown else "0 of 2 numbers are there")
        assert [(tmp_path / name).exists() for name in ("figure.svg", "table.html")] == [shown] * 2
    monkeypatch.setattr(sweep_table, "find_spec", lambda name: None)
    assert "matplotlib is not installed" in sweep_table.write(tmp_path).read_text().splitlines()[-1]


def test_seeds_are_of_chains_and_an_evaluator_is_one_process():
    with pytest.raises(InputError, match="--seeds is for a sweep that says what follows"):
        launch.plan("mae:digits", [], seeds=(1,))
    with pytest.raises(InputError, match="--no-follow is for a sweep"):
        launch.plan("mae:digits_mask_ratio", [], follow=False)
    found = chain_jobs.alone(Request(nodes=4, gpus=8))
    assert (found.nodes, found.gpus, found.ranks) == (1, 1, 1)
    assert chain_jobs.alone(Request(gpus=0, tasks=4)).ranks == 1
    with pytest.raises(InputError, match="did you mean --k"):
        chain_jobs.check_evaluator(Job(chain_jobs.ALONE, ["knn", "runs/x", "--kk", "1"], "runs/x/knn"))


def test_on_slurm_arrays_wait_for_each_other_and_a_failure_takes_its_own_stages_alone(cluster, tmp_path):
    request = Request(gpus=0, code="live")
    plan = toy_chain(tmp_path, ["--sleep", "1"], ["--code", "2"], ["--sleep", "0"], after=[])
    assert submit.submit_plan(plan, request) == 0
    assert len({state.read_record(Path(job.run))["job"].partition("_")[0] for job in plan.jobs}) == 3
    assert submit.main(["wait", str(tmp_path), "--poll", "0.2"]) == 1
    for row in ("0", "2"):
        assert [state.status(tmp_path / row / name).state for name in STAGES] == ["done", "done"]
    assert {state.status(tmp_path / "1" / name).state for name in STAGES} <= {"cancelled", "gone"}
    assert not any("started" in names(tmp_path / "1" / name) for name in STAGES)
    again = toy_chain(tmp_path, [], [], [], after=[])
    assert submit.submit_plan(again, request) == 0
    assert submit.main(["wait", str(tmp_path), "--poll", "0.2"]) == 0
    assert [names(tmp_path / row).count("started") for row in "012"] == [1, 2, 1]
    assert names(tmp_path / "0" / "tune").count("started") == 1


def test_on_slurm_what_waits_or_runs_is_left_alone_and_what_is_missing_waits_for_it(cluster, tmp_path):
    plan, request = toy_chain(tmp_path, ["--sleep", "5"], after=[]), Request(gpus=0, code="live")

    def ids() -> list[str]:
        return [state.read_record(Path(job.run))["job"] for job in plan.jobs]

    assert submit.submit_plan(plan, request) == 0
    before = ids()
    assert submit.submit_plan(plan, request) == 0
    assert ids() == before
    assert submit.main(["cancel", str(tmp_path / "0" / "probe")]) == 0
    assert submit.submit_plan(plan, request) == 0
    assert [one == other for one, other in zip(ids(), before, strict=True)] == [True, True, False]
    assert submit.main(["wait", str(tmp_path), "--poll", "0.2"]) == 0
    assert [names(Path(job.run)).count("started") for job in plan.jobs] == [1, 1, 1]
