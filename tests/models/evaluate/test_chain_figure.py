"""The figure of a chain: means and spreads of the seeds that are there beside the paper's points, and a name for every
point that is missing."""

import io
import json
import re
from dataclasses import replace
from importlib import util
from pathlib import Path
from statistics import fmean, stdev

import pytest
from PIL import Image

from models.config.chain import FILE as CHAIN
from models.config.chain import Chain, Stage, facts
from models.config.figure import FILE, Figure, Line, Panel, PaperLine, line_along
from models.evaluate import chain_figure, chain_figure_axes
from models.evaluate.chain_figure import PAGE, write
from models.evaluate.chain_figure_points import drawing, read_figure
from models.evaluate.evaluation_log import FILE as EVALUATIONS
from models.records import events
from models.records.run_folder import REPORT
from pipeline.errors import InputError

TUNE, COST = Stage("tune", "finetune:digits", "tuned"), Stage("cost", "throughput", "hours", "hours")
ROWS = ("a tenth", "half", "most")
PLAIN = Figure("hidden (%)", (Panel((line_along("fine-tuning", "tune", (10, 50, 90)),)),), "digits")
COSTS = Panel((line_along("fine-tuning", "tune", "cost", rows=(0, 1, 2)),))
AGAINST_COST = replace(PLAIN, panels=(COSTS,), joined=False)
PAPER = {"tune": (83.2, None, 83.0), "cost": (9.0, 4.0, None)}
CHAIN_OF = Chain("MAE Figure 5: ViT-L", "hidden", ROWS, (TUNE, COST), PAPER, PLAIN)
KNOWN = facts("x:y", CHAIN_OF, (0, 1), ["--optim.epochs", "9"])


def tuned(root: Path, row: int, seed: int, **values: float) -> None:
    """A member of this seed, fine-tuned to these top-1 accuracies by file."""
    run = root / (f"{row}-seed{seed}" if seed else f"{row}") / "tune"
    run.mkdir(parents=True)
    rows = [{"step": 9, "evaluation": file, "values": {"top1": value}} for file, value in values.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    events.append(run, "done", rank=0, node="n1", step=9)
    (run / REPORT).write_text("over")


def costing(root: Path, row: int, hours: float) -> None:
    """The hours that a member's throughput job measured."""
    run = root / f"{row}" / "cost"
    run.mkdir(parents=True)
    events.append(run, "done", job="7")
    line = {"time": 0.0, "evaluator": "throughput", "flags": {}, "values": {"hours": hours}}
    (root / f"{row}" / EVALUATIONS).write_text(json.dumps(line) + "\n")


def said(svg: str) -> list[str]:
    """The texts of a picture: matplotlib writes each as a comment beside its outlines, which may not hold --."""
    return [text.replace("- -", "--") for text in re.findall(r"<!-- (.*?) -->", svg)]


def test_points_are_the_seeds_means_and_the_papers_values_and_missing_ones_are_named(tmp_path):
    for row, seed, value in ((0, 0, 0.5), (0, 1, 0.6), (2, 1, 0.7)):
        tuned(tmp_path, row, seed, val=value / 2, test=value)
    made = drawing(tmp_path, KNOWN, PLAIN)
    ((curve,),) = made.panels
    assert [(point.name, point.x, point.y) for point in curve.ours] == [
        ("a tenth", (10,), pytest.approx((50.0, 60.0))), ("half", (50,), ()), ("most", (90,), pytest.approx((70.0,))),
    ]  # fmt: skip
    assert [(point.x, point.y) for point in curve.paper] == [((10,), (83.2,)), ((90,), (83.0,))]
    assert (made.file, made.seeds(), made.missing()) == ("test", "n = 1 to 2", "fine-tuning: half")
    assert made.count() == "2 of 3 points of ours are there; with --optim.epochs 9"
    tuned(tmp_path, 1, 0, val=0.4)
    made = drawing(tmp_path, KNOWN, PLAIN)
    assert (made.file, made.missing()) == ("val", "")  # one run has no test, so all are on val
    assert fmean(made.panels[0][0].ours[0].y) == pytest.approx(27.5)


def test_against_cost_each_point_is_at_its_own_hours_and_the_papers_are_where_both_numbers_are(tmp_path):
    tuned(tmp_path, 0, 0, val=0.5)
    tuned(tmp_path, 1, 0, val=0.6)
    costing(tmp_path, 0, 2.5)
    ((curve,),) = drawing(tmp_path, KNOWN, AGAINST_COST).panels
    assert [(point.x, point.y) for point in curve.ours] == [((2.5,), (50.0,)), ((), (60.0,)), ((), ())]
    assert [(point.name, point.x, point.y) for point in curve.paper] == [("a tenth", (9.0,), (83.2,))]
    write(tmp_path, KNOWN, AGAINST_COST)
    drawn = said((tmp_path / FILE).read_text())
    assert "a tenth" in drawn
    assert "1 of 3 points of ours are there; with --optim.epochs 9" in drawn


def test_a_line_across_the_stages_of_one_row_has_their_titles_and_another_axis_beside_it(tmp_path):
    line = Line("MAE", ((0, "tune"), (0, "cost")), (0, 4), (0, 24))
    ((curve, other),) = drawing(
        tmp_path, KNOWN, replace(PLAIN, panels=(Panel((line,), (PaperLine("MoCo", (1, 2), (3, 4)),)),))
    ).panels
    assert [point.name for point in curve.ours] == ["tuned", "hours"]
    assert [point.x for point in curve.paper] == [(0,), (24,)]
    assert (other.ours, [(point.x, point.y) for point in other.paper]) == ((), [((1,), (3,)), ((2,), (4,))])


def test_one_pair_of_axes_holds_both_and_two_the_papers_to_the_left(tmp_path):
    tuned(tmp_path, 0, 0, val=0.5)
    tuned(tmp_path, 0, 1, val=0.6)
    write(tmp_path, KNOWN, PLAIN)
    drawn = said((tmp_path / FILE).read_text())
    assert {"fine-tuning, MAE Figure 5: ViT-L", "fine-tuning, ours: digits, on val, n = 2", "hidden (%)"} <= {*drawn}
    assert drawn.count("accuracy (%)") == 1
    apart = replace(PLAIN, apart=True, paper_x="epochs", log=True)
    write(tmp_path, KNOWN, apart, png=True)
    drawn = said((tmp_path / FILE).read_text())
    assert {"MAE Figure 5: ViT-L", "ours: digits, on val, n = 2", "epochs", "hidden (%)", "accuracy on val (%)"} <= {
        *drawn
    }
    assert {"83.2", "83.0", "55.0", "10", "90"} <= {*drawn}
    first = (tmp_path / FILE).read_bytes()
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width > 2 * picture.height
    write(tmp_path, KNOWN, apart)
    assert (tmp_path / FILE).read_bytes() == first  # the same bytes again
    page = (tmp_path / PAGE).read_text()
    assert f"55.0 ± {100 * stdev((0.5, 0.6)):.1f} % (2)" in page
    assert "data:image/png;base64" in page


def test_the_spread_that_is_drawn_is_the_sample_standard_deviation(tmp_path):
    tuned(tmp_path, 0, 0, val=0.5)
    tuned(tmp_path, 0, 1, val=0.6)
    from matplotlib.figure import Figure as Page

    axes = Page().subplots()
    made = drawing(tmp_path, KNOWN, PLAIN)
    chain_figure_axes._ours(axes, made.panels[0], made)
    ((_, _, (bars,)),) = axes.containers
    (ends,) = bars.get_segments()
    assert ends[:, 1] == pytest.approx([55 - stdev((50, 60)), 55 + stdev((50, 60))])
    line = next(each for each in axes.lines if each.get_label().startswith("fine-tuning"))
    assert line.get_ydata()[0] == pytest.approx(55)
    assert line.get_ydata()[1] != line.get_ydata()[1]  # a missing point interrupts the line


def door(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["chain_figure", *flags])
    chain_figure.main()


def test_the_door_draws_a_folder_or_a_name_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs" / "mae_ablations-digits_ratio"
    door(monkeypatch, "mae_ablations:digits_ratio", "--png")
    assert {path.name for path in root.iterdir()} == {FILE, PAGE, "figure.png"}
    assert Image.open(io.BytesIO((root / "figure.png").read_bytes())).format == "PNG"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "figure: runs/mae_ablations-digits_ratio/figure.svg"
    assert lines[2].startswith("0 of 20 points of ours are there, without fine-tuning: 10%, 20%, 30%")
    drawn = said((root / FILE).read_text())
    assert {"none is there yet", "83.2", "54.6", "0 of 20 points of ours are there"} <= {*drawn}
    folder = tmp_path / "chain"
    tuned(folder, 0, 0, val=0.5)
    (folder / CHAIN).write_text(json.dumps(KNOWN))
    door(monkeypatch, str(folder))
    assert "1 of 3 points of ours are there" in capsys.readouterr().out
    earlier = facts("mae_ablations:digits_ratio", replace(CHAIN_OF, figure=None), (0,))
    (folder / CHAIN).write_text(json.dumps(earlier))
    with pytest.raises(InputError, match="does not have the figure's cells"):
        door(monkeypatch, str(folder))  # the figure is the one declared now, the rows are not
    with pytest.raises(InputError, match="is no figure in its paper"):
        door(monkeypatch, "mae_ablations:digits_mask")
    (folder / CHAIN).write_text("{}")
    with pytest.raises(InputError, match="None is no figure"):
        door(monkeypatch, str(folder))


@pytest.mark.parametrize("spoilt", [{}, {"panels": 3}, {"panels": [{"lines": [{"cells": 1}], "others": []}]}])
def test_damaged_facts_are_named(spoilt, tmp_path):
    assert read_figure(KNOWN) == PLAIN
    with pytest.raises(InputError, match="hold no figure"):
        read_figure(KNOWN | {"figure": spoilt})
    with pytest.raises(InputError, match="does not have the figure's cells"):
        drawing(tmp_path, KNOWN, replace(PLAIN, panels=(Panel((line_along("a", "tune", (1,), rows=(7,)),)),)))
    with pytest.raises(InputError, match="does not have the figure's cells"):
        drawing(tmp_path, KNOWN, replace(PLAIN, panels=(Panel((line_along("a", "no", (1,)),)),)))


def test_without_matplotlib_it_is_said_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(chain_figure, "find_spec", lambda name: None if name == "matplotlib" else util.find_spec(name))
    with pytest.raises(InputError, match="matplotlib is not installed"):
        write(tmp_path / "new", KNOWN, PLAIN)
    assert list(tmp_path.iterdir()) == []
