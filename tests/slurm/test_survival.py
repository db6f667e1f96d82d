"""Training on a real Slurm that preempts, loses nodes and kills: it comes back by itself and ends on the same bits.

Each test prints a row of docs/reliability.md. SHOTCRETE_LONG=1 adds those that wait for Slurm's own timeouts.
"""

import os
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from slurm import job_events, results, state, submit
from tests import local_slurm
from tests.conftest import rows, same, weights
from tests.slurm import hanging, slowly
from tests.slurm.runs import LOG_STEPS, METHOD, SAVE_STEPS, STEPS, Job, submitted

pytestmark = pytest.mark.slurm
long = pytest.mark.skipif(not os.environ.get("SHOTCRETE_LONG"), reason="waits a minute for Slurm; set SHOTCRETE_LONG=1")
KILLS = int(os.environ.get("SHOTCRETE_KILLS", 0))
HALFWAY = 36


@pytest.fixture
def train(cluster, digits, tmp_path):
    """train(*flags) submits the run of all these tests, in no hurry from `slow_from` on; or another recipe."""

    def start(*flags: str, recipe: str | None = None, slow_from: int = HALFWAY) -> Job:
        own, overrides = submit.split(flags)
        if recipe is None:
            own += ["--folder", str(tmp_path / "run")]
            overrides += METHOD["semi_mae:digits"]
            slowly.begin_at(slow_from, tmp_path / "run")
        return submitted(digits, tmp_path / "run", recipe or "tests.slurm.slowly", *own, "--", *overrides)

    return start


@pytest.fixture(scope="module")
def straight(cluster, digits, tmp_path_factory) -> tuple[Job, float]:
    """The run that nothing disturbs, and its seconds."""
    job = submitted(digits, tmp_path_factory.mktemp("straight"), "semi_mae:digits")
    assert submit.main(["wait", str(job.run), "--poll", "0.2"]) == 0, job.said()
    return job, time.monotonic() - job.began


@pytest.fixture
def ends_equal(straight, capsys):
    """ends_equal(job, name, events) waits; weights and journal must be those of the undisturbed run, to the bit."""

    def check(job: Job, name: str, expected: list[str], repeated: int = 0) -> None:
        assert submit.main(["wait", str(job.run), "--poll", "0.2"]) == 0, f"{job.events}\n{job.said()}"
        seconds = time.monotonic() - job.began
        assert job.events == expected
        difference = max(float((a - b).abs().max()) for a, b in zip(
            weights(job.run).values(), weights(straight[0].run).values(), strict=True))  # fmt: skip
        with capsys.disabled():
            print(f"\n| {name} | {seconds:.0f} (undisturbed {straight[1]:.0f}) | {expected.count('started') - 1} | "
                  f"{max(repeated, job.repeated())} | {difference:g} |")  # fmt: skip
        assert same(weights(job.run), weights(straight[0].run))
        assert rows(job.run) == rows(straight[0].run)

    return check


def kill_a_rank(job: Job, _: Path) -> None:
    """It starts again in the same allocation, from the last checkpoint."""
    os.kill(rank(job, "1"), signal.SIGKILL)


def requeue(job: Job, _: Path) -> None:
    subprocess.run(["scontrol", "requeue", job.id], check=True)


def preempt(_job: Job, _: Path) -> None:
    """A job of a higher partition needs all nodes. Slurm sends the job's own signal (SIGUSR2), then waits for the
    partition's grace time."""
    wrap = ["sbatch", "-p", "main", "-N3", "-c4", "-o", "/dev/null", "--wrap", "sleep 1"]
    subprocess.run(wrap, check=True, capture_output=True)


def preempt_by_sigterm_only(job: Job, cluster: Path) -> None:
    conf = cluster / "slurm.conf"
    conf.write_text(conf.read_text().replace(local_slurm.TOLD, ""))
    subprocess.run(["scontrol", "reconfigure"], check=True)
    preempt(job, cluster)


INTERRUPTIONS = {
    "kill -9 of one rank": ("crashed", kill_a_rank),
    "`scontrol requeue`": ("requeued", requeue),
    "preempted, SIGUSR2": ("preempted", preempt),
    "preempted, SIGTERM only": ("preempted", preempt_by_sigterm_only),
}
one_by_one = [pytest.param([name], marks=long, id=name) for name in INTERRUPTIONS]


@pytest.fixture
def as_configured(cluster):
    """Slurm tells preempted jobs by their own signal again, whatever a test had it do."""
    conf = cluster / "slurm.conf"
    text = conf.read_text()
    yield
    if conf.read_text() != text:
        conf.write_text(text)
        subprocess.run(["scontrol", "reconfigure"], check=True)


@pytest.mark.parametrize("names", [pytest.param(list(INTERRUPTIONS), id="all in turn"), *one_by_one])
def test_interrupted_it_ends_as_if_nothing_had_been(names, train, ends_equal, cluster, as_configured):
    steps = [HALFWAY] if len(names) == 1 else [12, 24, 36, 48]
    expected = ["submitted", "started"]
    job = train("--partition", "preempt", "--cpus", "4", slow_from=steps[0])
    for name, step, following in zip(names, steps, [*steps[1:], STEPS], strict=True):
        event, interrupt = INTERRUPTIONS[name]
        job.at(step)
        slowly.begin_at(following, job.run)
        interrupt(job, cluster)
        expected += [event, "started"]
    ends_equal(job, ", ".join(names), [*expected, "done"])
    said = [(row["rank"], row["error"]) for row in job_events.read(job.run) if row["event"] == "crashed"]
    assert said == [("1", "Killed")] * names.count("kill -9 of one rank")
    assert job.repeated() <= SAVE_STEPS * len(said)


@long
def test_one_rank_hangs(train, ends_equal, tmp_path):
    """It ends itself, saying where it stands, though no connection has closed; then as after a kill."""
    patient = [*METHOD["semi_mae:digits"], "--run.hang-timeout-s=4"]
    job = train("--folder", str(tmp_path / "run"), "--", *patient, recipe="tests.slurm.hanging")
    ends_equal(job, "one rank hangs", ["submitted", "started", "crashed", "started", "done"])
    row = next(row for row in job_events.read(job.run) if row["event"] == "crashed")
    assert row["rank"] == "1"
    assert row["error"].startswith(f"TimeoutError: no step for 4 s after step {hanging.STEP}, in hanging.py:")
    log = Path(row["log"]).read_text().splitlines()
    assert row["error"] in "\n".join(log[row["line"] - 1 :])
    assert log[row["line"] - 1].startswith(("---", "Thread", "thread", "MainThread"))
    assert job.repeated() <= SAVE_STEPS


@pytest.mark.skipif(not KILLS, reason="ten seconds a kill; set SHOTCRETE_KILLS=100")
def test_either_rank_is_killed_again_and_again(train, digits, tmp_path, capsys):
    more, chance = f"--optim.epochs={40 * KILLS}", random.Random(0)
    train = partial(train, recipe="semi_mae:digits")
    straight = submitted(digits, tmp_path / "straight", "semi_mae:digits", "--hours", "2", "--", more)
    assert submit.main(["wait", str(straight.run), "--poll", "0.5"]) == 0, straight.said()
    job = train("--hours", "2", "--tries", "20", "--", more)
    for kill in range(KILLS):
        job.until(lambda kill=kill: job.events.count("started") == kill + 1)
        before = written(job.run / "last.pt")
        job.until(lambda before=before: written(job.run / "last.pt") > before)  # without progress it would pause longer
        time.sleep(chance.uniform(0, 1))
        os.kill(rank(job, chance.choice("01")), signal.SIGKILL)
        job.until(lambda kill=kill: job.events.count("crashed") == kill + 1)
    assert submit.main(["wait", str(job.run), "--poll", "0.5"]) == 0, job.said()
    with capsys.disabled():
        print(f"\n| {KILLS} kills | {time.monotonic() - job.began:.0f} | {KILLS} | {job.repeated()} |")
    assert same(weights(job.run), weights(straight.run))
    assert rows(job.run) == rows(straight.run)


def test_a_sweep_is_one_array_and_a_table_and_a_signal_to_one_member_is_its_own_affair(train, tmp_path):
    root = tmp_path / "run"
    steps = STEPS * 4  # of some milliseconds each: long enough to ask for the status and to signal before the last
    train("--nodes", "1", "--parallel", "2", "--", f"--optim.epochs={steps}", recipe="mae:digits_mask_ratio")
    members = [Job(root / str(number), 0.0) for number in range(3)]
    assert len({job.id.partition("_")[0] for job in members}) == 1
    members[1].at(LOG_STEPS)
    assert state.status(members[2].run).state == "queued"  # two at a time
    subprocess.run(["scancel", "--signal=USR2", members[1].id], check=True)
    assert submit.main(["wait", str(root), "--poll", "0.2"]) == 0, members[1].said()
    assert [job.events.count("started") for job in members] == [1, 2, 1]
    lines = (root / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:5]] == ["run", "data.mask.ratio", "state", "step"]
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["0.5", "0.75", "0.9"]
    assert all(line.split("|")[4].strip() == str(steps) for line in lines[2:])


@long
def test_the_time_limit(train, digits, tmp_path, capsys):
    """A minute is the shortest that Slurm knows, and it warns up to one early: a run of several minutes' steps."""
    more = f"--optim.epochs={STEPS * 20}"
    straight = submitted(digits, tmp_path / "straight", "semi_mae:digits", "--", more)
    assert submit.main(["wait", str(straight.run), "--poll", "0.5"]) == 0, straight.said()
    job = train("--hours", "0.0166", "--signal-delay", "30", "--", more, recipe="semi_mae:digits")
    assert submit.main(["wait", str(job.run), "--poll", "0.5"]) == 0, job.said()
    again = job.events.count("started") - 1
    with capsys.disabled():
        print(f"\n| time limit, {STEPS * 20} steps | {time.monotonic() - job.began:.0f} | {again} | {job.repeated()} |")
    assert again >= 1
    assert not {"failed", "crashed"} & set(job.events)
    assert same(weights(job.run), weights(straight.run))
    assert rows(job.run) == rows(straight.run)


@long
@pytest.mark.parametrize(("which", "name"), [(1, "node dies"), (0, "batch host dies")])
def test_a_node_dies(which, name, train, ends_equal, cluster):
    job = train().at(HALFWAY)
    slowly.begin_at(STEPS, job.run)
    node, reached = job.nodes()[which], results.last_step(job.run)
    local_slurm.kill_node(cluster, node)
    try:
        assert submit.main(["wait", str(job.run), "--poll", "0.5"]) == 0, job.said()
    finally:
        local_slurm.start_node(cluster, node)
    found = job.events
    assert found[:2] + found[-2:] == ["submitted", "started", "started", "done"]
    resumed = next(row["step"] for row in job_events.read(job.run) if row["event"] == "resumed")
    ends_equal(job, name, found, reached - resumed)  # the batch host's last lines are lost with it


def written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def rank(job: Job, number: str) -> int:
    """The process of a rank: the one below its step manager."""
    for pid, environment in local_slurm._members(Path(os.environ["SLURM_CONF"]).parent).items():
        asked = {f"SLURM_PROCID={number}".encode(), f"SLURM_JOB_ID={job.id}".encode()}
        if asked <= set(environment) and b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"no rank {number} of {job.id}")
