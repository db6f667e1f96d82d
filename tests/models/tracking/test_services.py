"""The adapters: what they ask the packages for, with stand-ins, and what packages keep that are installed."""

import json
import os
import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from models.records import events
from models.tracking import follow, tracker_of
from models.tracking.follow import following
from models.tracking.tracker import Point, TrackedRun
from pipeline.errors import InputError
from tests.models.tracking.standin import SOURCE, calls

POINTS = [
    Point(5, "", {"loss": 2.0, "lr": 0.1}, 1000),
    Point(10, "", {"loss": 1.0, "lr": 0.1}, 2000),
    Point(10, "val", {"val/top1": 0.5}, 2000),
]
CONFIG = {"name": "mae:digits/1", "optim.lr": 0.1, "run.folder": None, "environment.device": "CPU"}


@pytest.fixture
def run(tmp_path) -> TrackedRun:
    return TrackedRun("third", "mae:digits", CONFIG, tmp_path)


@pytest.fixture
def bare(monkeypatch) -> pytest.MonkeyPatch:
    """None of the services' own variables is set."""
    for name in [each for each in os.environ if each.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def wandb(bare, tmp_path) -> Path:
    """The stand-in of wandb is what `import wandb` gives; -> its log."""
    module = ModuleType("wandb")
    exec(SOURCE, module.__dict__)
    bare.setitem(sys.modules, "wandb", module)
    bare.setenv("STANDIN_FILE", str(tmp_path / "log"))
    bare.setenv("WANDB_API_KEY", "sesame")
    return tmp_path / "log"


def test_wandb_gets_config_rows_and_summary(wandb, run):
    tracker = tracker_of("wandb")
    id = tracker.open(run, None)
    tracker.log(POINTS)
    tracker.finish({"state": "finished"}, "finished")
    (begun,) = calls(wandb, "init")
    assert (begun["id"], begun["name"], begun["group"], begun["dir"]) == (id, "third", "mae:digits", str(run.files))
    assert calls(wandb, "config")[0]["config"] == CONFIG
    assert [(row["name"], row["step_metric"]) for row in calls(wandb, "define")] == [("*", "step")]
    assert [(row["step"], row["values"]) for row in calls(wandb, "log")] == [
        (5, {"loss": 2.0, "lr": 0.1, "step": 5}),
        (10, {"loss": 1.0, "lr": 0.1, "step": 10}),
        (10, {"val/top1": 0.5, "step": 10}),
    ]
    assert [row["values"] for row in calls(wandb, "summary")] == [{"state": "finished"}]
    assert [row["code"] for row in calls(wandb, "finish")] == [0]
    assert not calls(wandb, "preempting")


def test_wandb_gets_a_row_of_an_earlier_step_at_its_latest(wandb, run):
    tracker = tracker_of("wandb")
    assert tracker.open(run, "known") == "known"
    tracker._run.step = 11  # as a run that is resumed has after step 10
    tracker.log(POINTS[2:])
    assert [(row["step"], row["values"]["step"]) for row in calls(wandb, "log")] == [(11, 10)]


@pytest.mark.parametrize(("state", "code", "preempting"), [("stopped", 1, 1), ("running", 1, 1), ("failed", 1, 0)])
def test_wandb_is_left_as_the_run_stands(state, code, preempting, wandb, run):
    tracker = tracker_of("wandb")
    tracker.open(run, None)
    tracker.finish({}, state)
    assert [row["code"] for row in calls(wandb, "finish")] == [code]
    assert len(calls(wandb, "preempting")) == preempting


def test_wandb_is_not_let_ask_for_a_key_and_offline_needs_none(wandb, run, bare):
    bare.delenv("WANDB_API_KEY")
    with pytest.raises(InputError, match=r"no API key; run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"):
        tracker_of("wandb").open(run, None)
    assert not calls(wandb, "init")
    bare.setattr(sys.modules["wandb"]._Setup, "settings", SimpleNamespace(mode="offline"))
    bare.setenv("WANDB_PROJECT", "mine")
    bare.setenv("WANDB_DIR", "/there")
    tracker = tracker_of("wandb")
    tracker.open(run, None)
    assert tracker.where() == "folder"
    assert [(row["project"], row["dir"]) for row in calls(wandb, "init")] == [("mine", "/there")]


class Client:
    """Stands in for mlflow.MlflowClient, with the limits of its API."""

    tracking_uri = "sqlite:///there"

    def __init__(self):
        self.experiments, self.runs, self.batches, self.status = {}, [], [], []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        self.experiments[name] = f"{len(self.experiments)}"
        return self.experiments[name]

    def create_run(self, experiment, tags, run_name):
        self.runs.append((experiment, tags, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run-{len(self.runs)}"))

    def update_run(self, id, status):
        self.status.append((id, status))

    set_terminated = update_run

    def log_batch(self, id, metrics=(), params=(), tags=()):
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        self.batches.append((id, list(metrics), list(params), list(tags)))

    def get_metric_history(self, id, name):
        held = [metric for _, metrics, _, _ in self.batches for metric in metrics if metric[0] == name]
        return [SimpleNamespace(step=metric[3]) for metric in held]


@pytest.fixture
def mlflow(bare) -> Client:
    client = Client()
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    entities.Metric = entities.Param = entities.RunTag = lambda *values: values
    module.MlflowClient = lambda: client
    bare.setitem(sys.modules, "mlflow", module)
    bare.setitem(sys.modules, "mlflow.entities", entities)
    return client


def test_mlflow_gets_params_tags_and_metrics(mlflow, run):
    tracker = tracker_of("mlflow")
    assert tracker.open(run, None) == "run-1"
    tracker.log(POINTS)
    tracker.finish({"state": "finished", "report": "x" * 9000}, "finished")
    assert mlflow.experiments == {"shotcrete": "0"}
    assert mlflow.runs == [("0", {"mlflow.runName": "third", "sweep": "mae:digits"}, "third")]
    _, params, environment, metrics, summary = [None, *mlflow.batches]
    assert params[2] == [("name", "mae:digits/1"), ("optim.lr", "0.1"), ("run.folder", "None")]
    assert environment[3] == [("environment.device", "CPU")]
    assert metrics[1] == [
        ("loss", 2.0, 1000, 5), ("lr", 0.1, 1000, 5), ("loss", 1.0, 2000, 10), ("lr", 0.1, 2000, 10),
        ("val/top1", 0.5, 2000, 10),
    ]  # fmt: skip
    assert summary[3] == [("state", "finished"), ("report", "x" * 5000)]
    assert mlflow.status == [("run-1", "FINISHED")]
    assert [tracker.holds(point) for point in (*POINTS, Point(15, "", {"loss": 1.0}, 0))] == [True, True, True, False]
    assert tracker.where() == "run run-1 at sqlite:///there"


def test_mlflow_goes_on_with_a_run_and_never_sets_its_params_again(mlflow, run, bare):
    bare.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    mlflow.experiments["mine"] = "7"
    tracker_of("mlflow").open(run, None)
    assert mlflow.runs[0][0] == "7"
    before = len(mlflow.batches)
    tracker = tracker_of("mlflow")
    assert tracker.open(run, "run-1") == "run-1"
    tracker.finish({}, "stopped")
    assert mlflow.status == [("run-1", "RUNNING"), ("run-1", "SCHEDULED")]
    assert len(mlflow.batches) == before
    tracker.finish({}, "failed")
    assert mlflow.status[-1] == ("run-1", "FAILED")


def test_mlflow_gets_no_more_at_once_than_it_takes(mlflow, run):
    tracker = tracker_of("mlflow")
    many = {f"field{i}": i for i in range(205)} | {f"environment.{i}": i for i in range(101)}
    tracker.open(TrackedRun("x", None, many, run.files), None)
    tracker.log([Point(step, "", {"a": 1.0, "b": 2.0}, 0) for step in range(600)])
    sizes = [(len(metrics), len(params), len(tags)) for _, metrics, params, tags in mlflow.batches]
    assert sizes == [(0, 100, 0), (0, 100, 0), (0, 5, 0), (0, 0, 100), (0, 0, 1), (1000, 0, 0), (200, 0, 0)]


def test_trackio_finds_a_run_by_a_name_of_its_own(bare, run):
    made, logged = [], []
    shown = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end"))
    module = ModuleType("trackio")
    module.init = lambda **given: (made.append(given), shown)[1]
    bare.setitem(sys.modules, "trackio", module)
    tracker = tracker_of("trackio")
    name = tracker.open(run, None)
    assert name.startswith("third ")
    assert tracker.open(run, name) == name
    tracker.log(POINTS)
    tracker.finish({"state": "stopped"}, "stopped")
    tracker.finish({"state": "finished"}, "finished")
    assert [(each["name"], each["group"], each["resume"], each["project"]) for each in made] == [
        (name, "mae:digits", "allow", "shotcrete")
    ] * 2
    assert made[0]["config"] == CONFIG
    assert logged == [*((point.step, point.metrics) for point in POINTS), "end",
                      (10, {"summary/state": "finished"}), "end"]  # fmt: skip


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A run of which a service knows nothing yet."""
    made = tmp_path / "run"
    made.mkdir()
    for name in ("recipe.json", "environment.json", "metrics.jsonl"):
        (made / name).write_bytes((trained("mae:digits") / name).read_bytes())
    events.append(made, "started", rank=0, step=0)
    return made


def twice(folder: Path, service: str, patch: pytest.MonkeyPatch) -> dict:
    """Follow a run that is stopped and goes on; -> what is known of it then."""
    patch.setattr(follow, "END_S", 120)
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    for part, event in ((rows[:2], "stopped"), (rows, "done")):
        with following(folder, service):
            (folder / "metrics.jsonl").write_text("".join(part))
            events.append(folder, event, rank=0, step=12)
    return json.loads((folder / "tracking" / f"{service}.json").read_text())


def installed(service: str) -> pytest.MarkDecorator:
    found = find_spec(service)
    return pytest.mark.skipif(found is None or found.origin is None, reason=f"{service} is not installed")


@installed("wandb")
def test_wandb_itself_keeps_a_run_offline(folder, bare):
    bare.setenv("WANDB_MODE", "offline")
    known = twice(folder, "wandb", bare)
    kept = [*(folder / "tracking" / "wandb").glob(f"offline-run-*-{known['id']}/run-{known['id']}.wandb")]
    assert 1 <= len(kept) <= 2  # one a start, unless both begin in one second
    assert b"val/knn" in b"".join(path.read_bytes() for path in kept)
    assert (known["step"], known["rows"]) == (12, ["", "val", "test"])


@installed("mlflow")
def test_mlflow_itself_keeps_each_row_once(folder, bare):
    bare.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    id = twice(folder, "mlflow", bare)["id"]
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        assert base.execute("select run_uuid, status from runs").fetchall() == [(id, "FINISHED")]
        tags, params = (dict(base.execute(f"select key, value from {table}")) for table in ("tags", "params"))
        kept = base.execute("select key, step from metrics order by step").fetchall()
    assert (tags["events/started"], tags["state"], params["name"]) == ("1.0", "finished", "mae:digits")
    assert [step for key, step in kept if key == "loss"] == [3, 6, 9, 12]
    assert [step for key, step in kept if key == "val/knn"] == [12]


@installed("trackio")
def test_trackio_itself_keeps_each_row_once(folder, bare):
    bare.setenv("TRACKIO_DIR", str(folder / "trackio"))
    known = twice(folder, "trackio", bare)
    with closing(sqlite3.connect(folder / "trackio" / "shotcrete.db")) as base:
        kept = base.execute("select step, run_name, metrics from metrics order by id").fetchall()
    assert [step for step, _, _ in kept] == [3, 6, 9, 12, 12, 12, 12]
    assert {name for _, name, _ in kept} == {known["id"]}
    assert "summary/state" in json.loads(kept[-1][2])
