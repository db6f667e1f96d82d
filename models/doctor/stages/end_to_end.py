"""Does a small run train, stop, resume to the same bits, and can its checkpoint be evaluated and exported?"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import final

from models.doctor.own_commands import HALF, Done, apart, digits, ran, stopped, train
from models.doctor.stage import Context, Row, Stage
from models.records.run_folder import LAST
from pipeline.concurrency.cores import cores

ROUNDED = 1e-3
"""Relative difference of the weights after 24 steps that sums in another order may make on a GPU."""
REPORT = "read the log, and report it"


@final
class EndToEnd(Stage):
    """Semi-MAE on digits by the commands that a user types."""

    place = 7
    deadline_s = 240

    def run(self, context: Context) -> Iterator[Row]:
        """Yield a row for the run, its resume, its evaluation and its export."""
        root, folder = digits(context.folder), fresh(context.folder / "end_to_end")
        flags = ["--data.batch=32", "--run.devices=1" if context.cuda else "--run.device=cpu"]
        whole, halves = folder / "whole", folder / "halves"
        with ThreadPoolExecutor(2 if cores() > 2 else 1) as side_by_side:  # most of each is its imports
            straight = side_by_side.submit(train, whole, root, *flags)
            first = side_by_side.submit(train, halves, root, f"--run.stop-step={HALF}", *flags)
            yield trained_row(straight.result())
            begun = first.result()
            if not stopped(begun):
                yield Row("stopped and resumed", "wrong", f"expected to stop, {begun.last}", REPORT)
                return
            resumed = side_by_side.submit(train, halves, root, *flags)
            drawn = find_spec("matplotlib") is not None  # which the page of an evaluation wants
            judged = side_by_side.submit(ran, ["-m", "models.evaluate", "accuracy", str(whole)]) if drawn else None
            exported = side_by_side.submit(ran, ["-m", "models.export", str(whole), "--to", "timm"])
            yield resumed_row(resumed.result(), whole, halves, cuda=context.cuda)
            absent = Row("evaluated", "skipped", "matplotlib is not installed", "run `make setup`")
            yield command_row("evaluated", judged.result(), "top1 ") if judged else absent
            yield command_row("exported to timm, and compared with it", exported.result(), "outputs")


def fresh(folder: Path) -> Path:
    """Return a folder without what an earlier doctor left in it."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def trained_row(done: Done) -> Row:
    """Judge the run without a stop."""
    if done.code != 0:
        return Row("24 steps of semi_mae:digits", "wrong", f"exit code {done.code}: {done.last}", REPORT)
    scores = [line for line in done.printed.splitlines() if " test: " in line]
    return Row("24 steps of semi_mae:digits", "ok", scores[-1].split("test: ")[-1] if scores else done.last)


def resumed_row(done: Done, whole: Path, halves: Path, *, cuda: bool) -> Row:
    """Compare the weights of the run that was stopped with those of the one that was not."""
    what = "stopped after 12 steps and resumed"
    if done.code != 0 or not (whole / LAST).exists():
        return Row(what, "wrong", f"exit code {done.code}: {done.last}", REPORT)
    far = apart(halves, whole)
    if far == 0:
        return Row(what, "ok", "the weights of a run without a stop, to the bit", "", {"apart": far})
    figure = f"{far:.0e} from a run without a stop"
    if cuda and far < ROUNDED:
        return Row(what, "ok", f"{figure}: the GPU adds in no fixed order", "", {"apart": far})
    return Row(what, "wrong", figure, REPORT, {"apart": far})


def command_row(what: str, done: Done, word: str) -> Row:
    """Judge a command by its exit code, and quote the line that has a word in it."""
    if done.code != 0:
        return Row(what, "wrong", f"exit code {done.code}: {done.last}", REPORT)
    lines = [line.rpartition(": ")[2] for line in done.printed.splitlines() if word in line]
    return Row(what, "ok", " ".join((lines or [done.last])[0].split()))
