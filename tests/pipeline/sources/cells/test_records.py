"""Tables that are objects in JSON, and the rows of one part of a data set."""

import json

import pytest

from pipeline.errors import InputError
from pipeline.sources.cells.records import kind_of_records, records
from pipeline.sources.find import find
from pipeline.sources.reading import Reading
from tests.pipeline.sources.test_sources import content, lay

ROWS = [{"file_name": "a.jpg", "label": "cat", "n": 1}, {"file_name": "b.jpg", "label": None, "boxes": [1]},
        {"label": "dog", "file_name": "c.jpg", "n": 2.5}]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("metadata.jsonl", "\n".join(map(json.dumps, ROWS))), ("list.json", json.dumps(ROWS, indent=1)),
     ("x.ndjson", "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS)) + "\n")],
)  # fmt: skip
def test_objects_are_rows(tmp_path, name, text):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = find(tmp_path / name, reading=Reading(label_column="label"))
    assert content(source) == {"a.jpg": 0, "b.jpg": -1, "c.jpg": 1}
    assert source.classes == ("cat", "dog")
    assert any("boxes" in note for note in source.notes)


def test_what_is_no_object_is_named_with_its_line():
    for wrong, said in (("[1]", "got [1]"), ("{1}", "cannot be read"), ('"a"', "got 'a'")):
        with pytest.raises(InputError, match="line 2: ") as refused:
            records('{"file": "a.jpg", "label": "cat"}\n' + wrong)
        assert said in str(refused.value)
    with pytest.raises(InputError, match=r"number 2: .*got 7"):
        records('[{"file": "a.jpg"}, 7]')


@pytest.mark.parametrize(
    "text", ["file,label\na.jpg,{1}\n", "{a}.jpg,cat\n", "[1, 2]", "[]", '{"images": [], "x": {}}']
)
def test_what_is_no_list_of_objects_is_none(text):
    assert kind_of_records(text) is None


TABLE = "file,label,{}\na.jpg,cat,{}\nb.jpg,dog,{}\nc.jpg,cat,{}\nd.jpg,dog,{}\n"


@pytest.mark.parametrize(
    ("column", "cells", "first"),
    [("split", ("train", "train", "val", "test"), "split=train"), ("is_train", ("1", "0", "1", "1"), "is_train=1"),
     ("subset", ("Validation", "TRN", "TRN", ""), "subset=Validation")],
)  # fmt: skip
def test_a_column_of_parts_is_said_and_one_part_is_taken_where_asked_for(tmp_path, column, cells, first):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    table = tmp_path / "t.csv"
    table.write_text(TABLE.format(column, *cells))
    source = find(table)
    assert len(source) == 4
    assert any(f"every row is taken; --rows {first} takes those alone" in note for note in source.notes)
    part = find(table, reading=Reading(rows=first))
    wanted = [name for name, cell in zip("abcd", cells, strict=True) if cell == first.partition("=")[2]]
    assert list(content(part)) == [f"{name}.jpg" for name in wanted]
    for rows, said in (
        (f"{column}=other", "no row has this value"),
        ("gone=1", "no such column"),
        ("x", "COLUMN=VALUE"),
    ):
        with pytest.raises(InputError, match=said):
            find(table, reading=Reading(rows=rows))
    with pytest.raises(InputError, match="--rows: has no meaning for a folder"):
        find(tmp_path, reading=Reading(rows=first))


@pytest.mark.parametrize(
    "cells", [("b1", "b2", "b1", "b2"), ("train", "train", "train", "train"), ("0", "1", "2", "3")]
)
def test_a_column_of_other_things_is_no_part(tmp_path, cells):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (tmp_path / "t.csv").write_text(TABLE.format("fold", *cells))
    assert not any("--rows" in note for note in find(tmp_path / "t.csv", reading=Reading(label_column="label")).notes)


def test_an_image_under_two_names_has_one_label(tmp_path):
    lay(tmp_path, "cat/a.jpg", "cat/b.jpg", "dog/c.jpg")
    (tmp_path / "cat/link.jpg").symlink_to("a.jpg")
    assert any("one file under several names" in note for note in find(tmp_path).notes)
    (tmp_path / "dog/hard.jpg").hardlink_to(tmp_path / "cat/b.jpg")
    with pytest.raises(InputError, match=r"cat/b.jpg and dog/hard.jpg are one file, labelled 'cat' and 'dog'"):
        find(tmp_path)
    table = tmp_path / "t.csv"
    table.write_text(f"file,label\ncat/a.jpg,cat\n{tmp_path}/cat/a.jpg,dog\ndog/c.jpg,dog\n")
    with pytest.raises(InputError, match="listed twice"):
        find(table)


def test_codes_are_no_numbers_and_numbers_as_numpy_writes_them_are(tmp_path):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    table = tmp_path / "t.csv"
    table.write_text("file,label\na.jpg,1E1\nb.jpg,1E2\nc.jpg,100\nd.jpg,2E1\n")
    assert find(table).classes == ("100", "1E1", "1E2", "2E1")
    table.write_text("file,label\na.jpg,1.0000e+00\nb.jpg,0.0000e+00\nc.jpg,1\nd.jpg,0.0\n")
    assert content(find(table)) == {"a.jpg": 1, "b.jpg": 0, "c.jpg": 1, "d.jpg": 0}
    table.write_text("file,label\na.jpg,1\nb.jpg,1.0\nc.jpg,other\nd.jpg,other\n")
    with pytest.raises(InputError, match=r"has both 1 and 1\.0"):
        find(table)


def test_a_table_of_train_takes_no_image_of_test(tmp_path):
    lay(tmp_path, "train/1.jpg", "train/2.jpg", "test/3.jpg", "test/4.jpg")
    (tmp_path / "train.csv").write_text("id,label\n1,x\n2,y\n3,x\n")
    source = find(tmp_path / "train.csv")
    assert content(source) == {"train/1.jpg": 0, "train/2.jpg": 1}
    assert len(source.rejected) == 1


def test_a_table_beside_images_is_pointed_at(tmp_path):
    lay(tmp_path, "a.jpg", "b.jpg")
    assert not any("beside the images" in note for note in find(tmp_path).notes)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.jpg,x\nb.jpg,y\n")
    assert any("metadata.csv" in note and "convert" in note for note in find(tmp_path).notes)


@pytest.mark.parametrize(
    ("start", "said"),
    [(b"ARROW1\0\0", "an Arrow file"), (b"SQLite format 3\0", "SQLite"), (b"\x80\x04\x95abc", "a pickle"),
     (b"\0\0\x08\x03\0\0", "MNIST")],
)  # fmt: skip
def test_what_holds_data_in_another_way_is_named(tmp_path, start, said):
    (tmp_path / "data").write_bytes(start + bytes(40))
    with pytest.raises(InputError, match=said):
        find(tmp_path / "data")
