import base64
import errno
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.reporting import figures
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from models.reporting.render import Folded, Picture, Section, Table, Text, html, markdown
from models.reporting.report import speed, verdict, write_report
from pipeline.store import atomic_write
from tests.models.reporting.synthetic import picture, report, rows


class Reader(HTMLParser):
    """Collects text, sources and tags that stay open, as a browser would meet them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.sources, self.tags, self.text = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    report(made)
    return made


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Reader(text)
    assert page.open == []
    assert "://" not in text
    assert len(page.sources) == 10
    for source in page.sources:
        head, _, content = source.partition(",")
        assert head == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).verify()


def test_the_page_says_what_was_trained_and_measured(folder: Path) -> None:
    text = Reader((folder / "report.html").read_text()).text
    for said in (
        "semi_mae:digits",
        "300 steps of 256 images, 40 epochs, in 2 min 03 s",
        "50 known labels, seed 0: ",
        "2 min 03 s",
        "Final accuracy top1 92.7 %",
        "k nearest neighbours",
        "90.0 %",
    ):
        assert said in text
    for section in ("Results", "Curves", "Pseudo-labels", "Throughput", "Environment", "Reconstructions"):
        assert section in text
    assert '"threshold": 0.7' in text  # the recipe


def test_the_markdown_shows_the_same_pictures(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(links) == 10
    for link in links:
        Image.open(folder / link).verify()
    inside = [source.partition(",")[2] for source in Reader((folder / "report.html").read_text()).sources]
    assert [base64.b64encode((folder / link).read_bytes()).decode() for link in links] == inside
    assert "| k nearest neighbours | 90.0 % |" in text


def test_a_run_on_pixels_alone_says_so(tmp_path: Path) -> None:
    path = write_report(tmp_path, recipe_name="mae:digits", rows=rows(), final=[], pictures=[], verdict="")
    assert "no label:" in path.read_text()


def test_a_disk_that_fills_up_leaves_the_report_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(tmp_path)
    before = contents(tmp_path)
    room = len(before["report.html"]) + len(before["report.md"])

    def until_full(path: Path, content: str | bytes) -> None:
        nonlocal room
        data = content.encode() if isinstance(content, str) else content
        written, room = path.write_bytes(data[:room]), max(0, room - len(data))
        if written < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    for free in (0, room // 2, room):
        room = free
        with monkeypatch.context() as patch:
            patch.setattr(atomic_write, "write_synced", until_full)
            with pytest.raises(OSError, match="No space"):
                report(tmp_path)
        after = contents(tmp_path)
        assert after.keys() == before.keys()
        for name in ("report.html", "report.md"):
            assert len(after[name]) == pytest.approx(len(before[name]), rel=0.01)  # whole
    report(tmp_path)
    assert contents(tmp_path).keys() == before.keys()


def test_pictures_of_the_report_before_are_gone(tmp_path: Path) -> None:
    sections = [Section("", [picture()] * 2)]
    for count in (2, 1):
        markdown("a", [Section("", sections[0].blocks[:count])], tmp_path)
        assert len(list(tmp_path.iterdir())) == count


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    bad = "<script>alert('&')</script>"
    blocks = [Text(bad), Table((bad,), ((bad,),)), Folded(bad, bad), Picture(bad, bad, picture().png)]
    page = Reader(html(bad, [Section(bad, blocks)]))
    assert "script" not in page.tags
    assert page.text.count(bad) >= 8
    markdown(bad, [Section(bad, blocks)], tmp_path / "pictures")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["01-script-alert-script.png"]


def test_a_run_without_a_row_still_has_a_report(tmp_path: Path) -> None:
    path = write_report(tmp_path, recipe_name="mae:digits", rows=[], final=[], pictures=[], verdict="")
    assert "No step has been logged" in path.read_text()


def test_a_method_without_pseudo_labels_has_no_such_section(tmp_path: Path) -> None:
    plain = [{key: value for key, value in row.items() if key != "pseudo"} for row in rows()]
    path = write_report(tmp_path, recipe_name="mae:digits", rows=plain, final=[], pictures=[], verdict="Fast.")
    assert "Pseudo-labels" not in path.read_text()
    assert "Fast." in path.read_text()


def test_what_correct_means_is_said_where_hidden_labels_were_read(tmp_path: Path, folder: Path) -> None:
    blind = [row | {"pseudo": {"passed": 0.001}} if "pseudo" in row else row for row in rows()]
    none = PseudoLabelCounts(10)
    path = write_report(tmp_path, recipe_name="a", rows=blind, final=[], pictures=[], verdict="", pseudo_labels=none)
    assert "Correct:" in (folder / "report.html").read_text()
    text = path.read_text()
    assert "Passed: share of all pseudo-labels." in text
    assert "Correct:" not in text
    assert "0.1 % passed the threshold at the end" in text
    assert "at the end" not in (folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["日本", "$x_$", "5$ or 6$"])
def test_a_class_may_have_any_name(name: str) -> None:
    """A folder's: no script that the font lacks is warned of (warnings are errors here), and no dollar is a formula."""
    names, passed = [name, "b", "c"], np.array([3, 2, 1])
    for drawn in (figures.confusions(np.eye(3), names), figures.classes(passed, None, names)):
        assert drawn is not None
        assert drawn.startswith(b"\x89PNG")


def test_many_classes_are_shown_without_a_confusion(tmp_path: Path) -> None:
    text = Reader(report(tmp_path, classes=100).read_text()).text
    assert "Per class" in text
    assert "Confusion" not in text


@pytest.mark.parametrize(
    ("wait", "said"),
    [(0.0, "never short"), (0.029, "never short"), (0.1, "1,111"), (0.5, "limited by the data path, up to 2,000")],
)
def test_the_verdict_says_who_waited(wait: float, said: str) -> None:
    sentence = verdict(1000.0, wait)
    assert said in sentence
    assert sentence.count(".") - sentence.count(f"{100 * wait:.1f} %") == 1
    assert f"{100 * wait:.1f} %" in sentence


def test_speed_is_the_median_of_timed_rows() -> None:
    timings = [(10.0, 0.1), (None, 0.0), (1000.0, 0.5), (20.0, 0.2)]
    made = [{"step": 1, "timing": {"images_per_s": i, "wait_share": w}} for i, w in timings]
    assert speed([*made, {"step": 1, "evaluation": "accuracy", "values": {}}]) == (20.0, 0.2)
    assert speed([]) == (0.0, 0.0)


def test_series_leave_out_what_a_row_does_not_have() -> None:
    made = [{"step": 1, "parts": {"a": 1.0}}, {"step": 2, "parts": {"a": None, "b": 2.0}}, {"step": 3}]
    assert figures.series(made, lambda row: row.get("parts")) == {"a": ([1], [1.0]), "b": ([2], [2.0])}


def test_a_journal_that_once_called_every_target_pixels_is_drawn_beside_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, drawn, curves = rows(), [], figures.curves
    new = [row | {"parts": {"tokens": row["loss"]}} for row in old if "parts" in row]
    monkeypatch.setattr(figures, "curves", lambda lines, **how: drawn.append(set(lines)) or curves(lines, **how))
    write_report(tmp_path, recipe_name="mae:digits", rows=old + new, final=[], pictures=[], verdict="")
    assert {"loss", "label", "pseudo", "pixels", "tokens"} in drawn


def test_only_shares_are_drawn_as_evaluations() -> None:
    drawn = figures.evaluations(rows())
    assert drawn.keys() >= {"accuracy top1", "accuracy top5"}
    assert all(0 <= value <= 1 for _, values in drawn.values() for value in values)


def test_rank_has_a_curve_of_its_own_and_is_no_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [{"knn": 0.2, "rankme": 1.0}, {"knn": 0.3, "rankme": 4.5}, {"knn": 0.4, "rankme": None}]
    held = [{"step": 5 * i, "evaluation": "val", "values": each} for i, each in enumerate(values)]
    assert figures.evaluations(held) == {"val knn": ([0, 5, 10], [0.2, 0.3, 0.4])}
    assert figures.effective_ranks(rows() + held) == {"val rankme": ([0, 5], [1.0, 4.5])}
    drawn, curves = [], figures.curves
    monkeypatch.setattr(figures, "curves", lambda lines, **how: drawn.append((set(lines), how)) or curves(lines, **how))
    write_report(tmp_path, recipe_name="mae:digits", rows=rows() + held, final=[], pictures=[], verdict="")
    assert ({"val rankme"}, {"points": True}) in drawn


@pytest.mark.parametrize(("lowest", "highest"), [(0.05, 1.1), (0.11, 9.0), (0.3, 250.0), (1e-3, 2.0), (1e-6, 10.0)])
def test_a_log_axis_has_a_few_marks_whatever_its_range(lowest: float, highest: float) -> None:
    _, axes = figures._axes(figures.FLAT)
    axes.plot([0, 1], [lowest, highest])
    figures._logarithmic(axes, highest / lowest)
    marks = [mark for mark in axes.yaxis.get_majorticklocs() if lowest <= mark <= highest]
    assert 3 <= len(marks) <= 12


def test_there_is_no_figure_of_nothing() -> None:
    none = np.zeros(3, dtype=np.int64)
    assert figures.curves({}) is None
    assert figures.curves({"top1": ([300], [0.9])}) is None
    assert figures.curves({"top1": ([150, 300], [0.5, 0.9])}) is not None
    assert figures.classes(none, None, "abc") is None
    assert figures.confusions(np.zeros((3, 3)), "abc") is None
