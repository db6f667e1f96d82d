"""What is sent of a journal over any number of starts: each row once, in order."""

import json
from pathlib import Path

import pytest

from models.records import events
from models.records.jsonl import append_line
from models.tracking import check_installed, names, tracker_of
from models.tracking.journal import JournalTail, state_of, summary_of, tracked_run
from models.tracking.sender import ROWS, InUse, Sender, redacted, without_secrets
from models.tracking.tracker import Tracker
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole


class Recorder(Tracker):
    """Keeps what it gets; `fails` makes the next call of `log` fail, before or after it took the rows."""

    def __init__(self) -> None:
        self.points, self.opened, self.finished = [], [], []
        self.fails, self.asked = "", []

    def open(self, run, id):
        self.opened.append((run, id))
        return id or f"run-{len(self.opened)}"

    def log(self, points):
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise ConnectionError("no network")
        self.points += points
        if fails == "after":
            raise ConnectionError("no answer")

    def finish(self, summary, state):
        self.finished.append((summary, state))

    def holds(self, point):
        self.asked.append((point.step, point.row))
        return point in self.points

    @property
    def keys(self):
        return [(point.step, point.row) for point in self.points]


def interval(step: int) -> dict:
    timing = {"images_per_s": 100.0, "wait_share": 0.0, "elapsed_s": step / 4}
    row = {"step": step, "epoch": step / 10, "lr": 0.1, "loss": 2.0 / step, "gradient_norm": None}
    return row | {"parts": {"pixels": 1.0}, "timing": timing}


def evaluation(step: int, name: str = "val") -> dict:
    return {"step": step, "epoch": step / 10, "evaluation": name, "values": {"knn": step / 100, "nan": None}}


def write(folder: Path, *written: dict) -> None:
    for row in written:
        append_line(folder / "metrics.jsonl", row)


def replace(folder: Path, *kept: dict) -> None:
    """As a run that is resumed does."""
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))


@pytest.fixture
def folder(tmp_path) -> Path:
    recipe = {
        "name": "mae:digits",
        "run": {"folder": None, "seed": 3},
        "data": {"size": [16, 16]},
        "optim": {"lr": 0.1},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    events.append(tmp_path, "started", rank=0, step=0)
    return tmp_path


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def send(folder: Path, recorder: Recorder) -> int:
    """What a start of its own sends."""
    with Sender(folder, "wandb", recorder) as sender:
        return sender.send()


def test_each_row_is_sent_once_and_rows_that_run_again_are_not(folder, recorder):
    first = [interval(5), interval(10), evaluation(10), interval(15)]
    write(folder, *first)
    assert (send(folder, recorder), send(folder, recorder)) == (4, 0)
    replace(folder, *first[:3])  # resumed from a checkpoint at step 12
    write(folder, interval(15), interval(20), evaluation(20), evaluation(20, "test"))
    assert send(folder, recorder) == 3
    assert recorder.keys == [(5, ""), (10, ""), (10, "val"), (15, ""), (20, ""), (20, "val"), (20, "test")]
    assert [id for _, id in recorder.opened] == [None, "run-1", "run-1"]


def test_an_evaluation_that_comes_after_its_step_was_sent_is_sent(folder, recorder):
    write(folder, interval(5))
    send(folder, recorder)
    write(folder, evaluation(5))
    assert send(folder, recorder) == 1
    assert recorder.keys == [(5, ""), (5, "val")]


def test_names_and_numbers_are_those_of_the_journal(folder, recorder):
    write(folder, interval(5), evaluation(5))
    send(folder, recorder)
    row, judged = recorder.points
    assert row.metrics == {
        "epoch": 0.5, "lr": 0.1, "loss": 0.4, "parts/pixels": 1.0, "timing/images_per_s": 100.0,
        "timing/wait_share": 0.0, "timing/elapsed_s": 1.25,
    }  # fmt: skip
    assert judged.metrics == {"epoch": 0.5, "val/knn": 0.05}
    (begun,) = events.read(folder)
    assert row.time_ms == judged.time_ms == round(1000 * (begun["time"] + 1.25))


@pytest.mark.parametrize(("fails", "again"), [("before", 2), ("after", 0)])
def test_after_an_error_the_rest_is_sent_and_what_was_under_way_is_asked_for(fails, again, folder, recorder):
    write(folder, interval(5), interval(10))
    recorder.fails = fails
    with Sender(folder, "wandb", recorder) as sender:
        with pytest.raises(ConnectionError):
            sender.send()
        assert sender.send() == again
    assert recorder.keys == [(5, ""), (10, "")]
    assert recorder.asked == [(5, ""), (10, "")]


def test_what_was_under_way_when_the_process_was_killed_is_asked_for_at_the_next_start(folder, recorder):
    write(folder, interval(5), interval(10))
    recorder.fails = "after"
    with pytest.raises(ConnectionError):
        send(folder, recorder)
    write(folder, interval(15))
    assert send(folder, recorder) == 1
    assert recorder.keys == [(5, ""), (10, ""), (15, "")]
    assert len(recorder.opened) == 2


def test_many_rows_are_sent_in_parts(folder, recorder, monkeypatch):
    steps = range(1, 2 * ROWS + 2)
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(interval(step)) + "\n" for step in steps))
    sizes, log = [], recorder.log
    monkeypatch.setattr(recorder, "log", lambda points: (sizes.append(len(points)), log(points)))
    assert send(folder, recorder) == len(steps)
    assert sizes == [ROWS, ROWS, 1]
    assert [step for step, _ in recorder.keys] == list(steps)


def test_a_run_that_is_begun_anew_is_another_one(folder, recorder):
    write(folder, interval(5))
    send(folder, recorder)
    replace(folder)
    (old,) = events.read(folder)
    (folder / "events.jsonl").unlink()
    append_line(folder / "events.jsonl", old | {"time": old["time"] + 60})
    write(folder, interval(5))
    assert send(folder, recorder) == 1
    assert [id for _, id in recorder.opened] == [None, None]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"id": 3, "begun": 1, "step": 1, "rows": [], "sending": []}', "\xff"]
)
def test_a_damaged_state_is_said_and_the_run_sent_anew(damage, folder, recorder):
    write(folder, interval(5))
    send(folder, recorder)
    (folder / "tracking" / "wandb.json").write_bytes(damage.encode("latin-1"))
    with Sender(folder, "wandb", recorder) as sender:
        assert sender.note == f"{folder}/tracking/wandb.json is damaged: the run begins anew at wandb"
        assert sender.send() == 1
    with Sender(folder, "wandb", recorder) as sender:
        assert sender.note is None


def test_two_processes_do_not_send_one_run(folder, recorder):
    with Sender(folder, "wandb", recorder):
        with pytest.raises(InUse, match="is being sent by another process"):
            Sender(folder, "wandb", recorder)
        Sender(folder, "mlflow", recorder).__exit__(None, None, None)
    send(folder, recorder)


def test_a_line_that_is_being_written_waits_and_damaged_ones_are_left_out(folder):
    tail = JournalTail(folder)
    assert tail.read() == []
    line = json.dumps(interval(5)) + "\n"
    with (folder / "metrics.jsonl").open("w") as file:
        file.write(line[:20])
        file.flush()
        assert tail.read() == []
        file.write(line[20:] + '{"step": "x"}\nnot JSON\n')
        file.flush()
        assert [point.step for point in tail.read()] == [5]
        assert tail.read() == []
        file.write(json.dumps(interval(10)) + "\n")
        file.flush()
        assert [point.step for point in tail.read()] == [10]


def test_a_file_that_was_replaced_is_read_from_its_beginning(folder):
    write(folder, interval(5), interval(10))
    tail = JournalTail(folder)
    assert len(tail.read()) == 2
    replace(folder, interval(5))
    write(folder, interval(10), interval(15))
    assert [point.step for point in tail.read()] == [5, 10, 15]


def test_a_sender_whose_journal_is_replaced_meanwhile_sends_no_row_twice(folder, recorder):
    write(folder, interval(5), interval(10))
    with Sender(folder, "wandb", recorder) as sender:
        recorder.fails = "before"
        with pytest.raises(ConnectionError):
            sender.send()
        replace(folder, interval(5))
        write(folder, interval(10), interval(15))
        assert sender.send() == 3
    assert recorder.keys == [(5, ""), (10, ""), (15, "")]


def test_who_a_run_is(folder):
    (folder / "environment.json").write_text(json.dumps({"device": "CPU", "cores": 2}))
    run = tracked_run(folder)
    assert (run.name, run.group, run.files) == ("mae:digits", None, folder / "tracking")
    assert run.config == {
        "name": "mae:digits", "run.folder": None, "run.seed": 3, "data.size": "[16, 16]", "optim.lr": 0.1,
        "environment.device": "CPU", "environment.cores": 2,
    }  # fmt: skip


def test_members_of_a_sweep_are_grouped_by_it_and_a_folder_of_its_own_names_a_run(folder):
    recipe = {"name": "mae:digits_mask_ratio/2", "run": {"folder": "runs/sweep/third"}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    run = tracked_run(folder)
    assert (run.name, run.group) == ("third", "mae:digits_mask_ratio")
    (folder / "recipe.json").write_text(json.dumps(recipe | {"run": {}}))
    assert tracked_run(folder).name == "mae:digits_mask_ratio/2"


@pytest.mark.parametrize(("content", "said"), [
    (None, "cannot read .*recipe.json"), ("{", "recipe.json is not JSON"), ("[]", "has no name, expected the recipe"),
])  # fmt: skip
def test_a_folder_that_is_no_run_is_refused(content, said, folder, recorder):
    (folder / "recipe.json").unlink()
    if content is not None:
        (folder / "recipe.json").write_text(content)
    with pytest.raises(InputError, match=said):
        Sender(folder, "wandb", recorder)
    assert not (folder / "tracking").exists()


@pytest.mark.parametrize(("event", "state"), [
    ("started", "running"), ("resumed", "running"), ("stopped", "stopped"), ("failed", "failed"), ("done", "finished"),
])  # fmt: skip
def test_the_summary_says_how_a_run_stands_and_its_last_scores(event, state, folder, recorder):
    write(folder, interval(5), evaluation(5), interval(10), evaluation(10), evaluation(10, "test"))
    events.append(folder, event, rank=0, step=10)
    events.append(folder, "submitted", job="7")
    assert state_of(folder) == state
    found = summary_of(folder, state)
    assert found.pop("state") == state
    assert {name: found.pop(name) for name in ("final/val/knn", "final/test/knn")} == {
        "final/val/knn": 0.1, "final/test/knn": 0.1
    }  # fmt: skip
    assert found == ({"events/started": 2.0} if event == "started" else {"events/started": 1.0, f"events/{event}": 1.0})
    (folder / "report.html").touch()
    assert summary_of(folder, state)["report"] == str(folder / "report.html")


def test_secrets_are_not_printed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sesame")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    assert redacted("at postgresql://me:x@host/db as sesame, 0123456789") == "at postgresql://***@host/db as ***, ***"
    assert without_secrets(OSError("first 0123456789\nsecond")) == "OSError: first ***"
    assert without_secrets(InputError("no key")) == "no key"
    assert without_secrets(KeyError()) == "KeyError"
    assert redacted("https://host/a@b") == "https://host/a@b"
    assert len(redacted(1000 * "x")) == 203


def test_every_service_has_a_tracker_and_its_names_are_those_of_the_files():
    assert names() == ["mlflow", "trackio", "wandb"]
    assert all(isinstance(tracker_of(name), Tracker) for name in names())
    check_installed(None)
    with pytest.raises(
        InputError, match="--to is 'tensorbord', and no service is called so; there are mlflow, trackio"
    ):
        check_installed("tensorbord", "--to")
