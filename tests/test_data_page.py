"""docs/data.md says what data is accepted, and what is done to it: each row of its table is made, and tried."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from pipeline.convert.conversion import convert
from pipeline.convert.summary import summary
from pipeline.errors import InputError
from pipeline.evaluation.files import find_files, sweep_files
from pipeline.spec import Data, View
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import escape, read_names
from tests.data_page import conversions, files, sources  # noqa: F401 -- they fill ROWS
from tests.data_page.cases import ROWS, Case

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
STORED = {"kept": "passed through", "encoded again": "re-encoded", "resized": "resized"}
OUTCOMES = {*STORED, "left out", "ignored", "read", "refused"}
GOOD = "good.jpg"


class Stated(NamedTuple):
    """What the page says of a row: its outcome, and the phrases that are to be found in the summary or the error."""

    outcome: str
    phrases: list[str]


def stated(text: str) -> dict[str, Stated]:
    """The rows of the page's last table, headings left out."""
    table = text[text.index("| What there is | Outcome |") :]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:] if line.startswith("|")]
    return {name: Stated(outcome, re.findall(r"`([^`]+)`", said)) for name, outcome, said in rows if outcome}


PAGE_ROWS = stated(PAGE.read_text())


def tried(case: Case, out: Path) -> Stated:
    """What becomes of a case, and the words of the summary or of the error."""
    refused = None
    try:
        if case.instead is not None:
            case.instead(out)
            return Stated("read", [])
        manifest = convert(case.source, out, case.options, reading=case.reading, unlabelled=case.unlabelled)
    except InputError as error:
        refused = str(error)
    if refused is not None:
        assert "\n" not in refused
        assert not out.parent.exists() or not list(out.parent.iterdir())
        return Stated("refused", [refused])
    beton = open_beton(out, verify=True)
    assert case.check(beton)
    said = [" ".join(summary(beton, []).split())]
    if case.about is None:
        return Stated("read", said)
    if case.about in dict(manifest.rejected):
        return Stated("left out", said)
    if case.about not in read_names(beton):
        return Stated("ignored", said)
    counts = {how: sum(kinds.get(how, 0) for kinds in manifest.kinds.values()) for how in STORED.values()}
    good = read_names(beton).count(GOOD)  # kept as it is, except where all are encoded again
    found = [name for name, how in STORED.items() if counts[how] - good * (name == "kept") > 0]
    return Stated(found[0] if found else "kept", said)


def test_each_row_of_the_page_is_made_and_nothing_else():
    assert set(PAGE_ROWS) - set(ROWS) == set()
    assert set(ROWS) - set(PAGE_ROWS) == set()
    assert {each.outcome for each in PAGE_ROWS.values()} <= OUTCOMES


@pytest.mark.parametrize("name", ROWS)
def test_a_row_holds(name, tmp_path):
    expected = PAGE_ROWS[name]
    cases = list(ROWS[name](tmp_path / "made"))
    if not cases:
        pytest.skip("its package is installed")
    for i, case in enumerate(cases):
        found = tried(case, tmp_path / f"out{i}" / "a.beton")
        assert found.outcome == expected.outcome, found.phrases
        if i == 0 or expected.outcome in ("refused", "left out"):
            assert [phrase for phrase in expected.phrases if not any(phrase in said for said in found.phrases)] == [], (
                found.phrases
            )


@pytest.mark.parametrize(
    "name", [name for name, row in PAGE_ROWS.items() if row.outcome in (*STORED, "left out", "ignored")]
)
def test_predict_shows_what_a_conversion_stores_and_names_what_it_leaves_out(name, tmp_path):
    data = Data(size=32, threads=1, evaluate=View(crop="centre", short_side=1.25, flip=False))
    for case in ROWS[name](tmp_path):
        if case.about is None or not Path(case.source).is_dir():
            continue
        given = find_files([case.source])
        parts = list(sweep_files(given.paths, data, torch.device("cpu"), 8, case.options.decoding))
        shown = {escape(path.name) for part in parts for path in part.paths}
        rejected = {escape(path.name) for path, _ in given.rejected}
        rejected |= {escape(path.name) for part in parts for path, _ in part.rejected}
        assert GOOD in shown
        assert (case.about in shown, case.about in rejected) == {
            "left out": (False, True), "ignored": (False, False)
        }.get(PAGE_ROWS[name].outcome, (True, False))  # fmt: skip


def test_a_row_that_the_table_lacks_and_a_phrase_that_nobody_says_are_found():
    page = "| What there is | Outcome | What |\n|---|---|---|\n| **Head** | | |\n| a | kept | `x y`, not z, `w` |\n"
    assert stated(page) == {"a": Stated("kept", ["x y", "w"])}
