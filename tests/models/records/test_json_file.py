"""A file that should hold a JSON object and does not is one line, wherever such files are read."""

import json

import pytest

from models.evaluate import compare
from models.evaluate.ladder_table import check
from models.export.model_card import model_card
from models.load import load_run
from models.methods.ladder import rungs
from models.records.json_file import read_object
from models.reporting.report import write_report
from pipeline.errors import InputError

BROKEN = {"cut": b'{"a": 1', "of bytes": b"\xff\xfe", "nested": b"[" * 100_000, "a list": b"[1]", "empty": b""}


def test_an_object_comes_back_and_a_missing_file_is_what_the_caller_says(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_object(tmp_path / "a.json", "restore it") == {"a": [1]}
    assert read_object(tmp_path / "b.json", "restore it", absent={}) == {}
    with pytest.raises(InputError, match=r"b\.json: no such file; restore it"):
        read_object(tmp_path / "b.json", "restore it")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line(kind, tmp_path):
    (tmp_path / "a.json").write_bytes(BROKEN[kind])
    for absent in (None, {}):
        with pytest.raises(
            InputError, match=r"a\.json( is not JSON|: expected a JSON object, got).*; restore it"
        ) as no:
            read_object(tmp_path / "a.json", "restore it", absent=absent)
        assert "\n" not in str(no.value)


def test_a_folder_in_its_place_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory; restore it"):
        read_object(tmp_path, "restore it", absent={})


def refused(call, *given, **named) -> str:
    with pytest.raises(InputError) as no:
        call(*given, **named)
    assert "\n" not in str(no.value)
    return str(no.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_compare_ladder_report_and_model_card_say_so(kind, tmp_path, trained):
    for name in ("recipe.json", "environment.json"):
        (tmp_path / name).write_bytes(BROKEN[kind])
    said = [
        refused(compare.summary_of, tmp_path, {}),
        refused(check, tmp_path, next(iter(rungs("digits_5")))),
        refused(write_report, tmp_path, recipe_name="x", rows=[], final=[], pictures=[], verdict=""),
    ]
    assert all("recipe.json" in line for line in said)
    loaded = load_run(trained("supervised:digits"))
    object.__setattr__(loaded, "path", tmp_path / "last.pt")
    assert "environment.json" in refused(model_card, loaded, "timm", None, "")


@pytest.mark.parametrize("saved", [{}, {"data": []}, {"name": "x", "data": {"root": 3}}])
def test_an_object_that_is_no_recipe_is_one_line(saved, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    assert "is no recipe" in refused(compare.summary_of, tmp_path, {})
    assert "is no recipe" in refused(check, tmp_path, next(iter(rungs("digits_5"))))
