"""Tables as people have them: each image gets its own label, or the table is refused with its columns."""

import csv
import json
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.convert.__main__ import main
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.sources.find import find
from pipeline.sources.reading import Reading
from pipeline.sources.tables import from_csv
from pipeline.store.beton import open_beton
from pipeline.store.manifest import Manifest, read_manifest
from pipeline.store.sample_names import read_names
from tests.pipeline.sources import fuzz_tables
from tests.pipeline.sources.test_sources import content, lay

ABCD = "a.jpg", "b.jpg", "c.jpg", "d.jpg"


@pytest.fixture
def read(tmp_path):
    """read(text, *files, **reading) -> {file: class name or None} of a table beside these files; ABCD where none is."""

    def of(text: str | bytes, *files: str, **reading) -> dict[str, str | None]:
        lay(tmp_path, *(files or ABCD))
        (tmp_path / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        source = find(tmp_path / "t.csv", reading=Reading(**reading))
        of.source = source
        return {name: None if label < 0 else source.classes[label] for name, label in content(source).items()}

    return of


CATS = {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat", "d.jpg": "dog"}


@pytest.mark.parametrize("text", [
    "path,patient,label\na.jpg,7,cat\nb.jpg,7,dog\nc.jpg,8,cat\nd.jpg,9,dog\n",
    "filename,split,label\na.jpg,train,cat\nb.jpg,train,dog\nc.jpg,val,cat\nd.jpg,val,dog\n",
    "filename,width,height,class\na.jpg,100,49,cat\nb.jpg,100,50,dog\nc.jpg,9,51,cat\nd.jpg,9,52,dog\n",
    "lesion_id,image_id,dx,dx_type,age,sex\nH1,a,cat,h,80,m\nH1,b,dog,h,80,m\nH2,c,cat,c,75,f\nH3,d,dog,h,60,f\n",
    "image,cat,dog\na.jpg,1.0,0.0\nb.jpg,0.0,1.0\nc,1,0\nd.jpg,0,1\n",
    "image_id,diagnosis\na,cat\nb,dog\nc,cat\nd,dog\n",
    "id_code,diagnosis\na,cat\nb,dog\nc,cat\nd,dog\n",
    "label,path\ncat,a.jpg\ndog,b.jpg\ncat,c.jpg\ndog,d.jpg\n",
    "cat,a.jpg\ndog,b.jpg\ncat,c.jpg\ndog,d.jpg\n",
    "path;label\na.jpg;cat\nb.jpg;dog\nc.jpg;cat\nd.jpg;dog\n",
    "path\tlabel\na.jpg\tcat\nb.jpg\tdog\nc.jpg\tcat\nd.jpg\tdog\n",
    "path|label\na.jpg|cat\nb.jpg|dog\nc.jpg|cat\nd.jpg|dog\n",
    "a.jpg cat\nb.jpg dog\nc.jpg  cat\nd.jpg dog\n",
    "path,label\r\na.jpg,cat\r\nb.jpg,dog\r\nc.jpg,cat\r\nd.jpg,dog\r\n",
    "path,label\ra.jpg,cat\rb.jpg,dog\rc.jpg,cat\rd.jpg,dog\r",
    '"path","label"\n"a.jpg","cat"\n"b.jpg", "dog"\nc.jpg,cat\n"d.jpg",dog',
    "path,label,\na.jpg,cat,\nb.jpg,dog,\nc.jpg,cat,\nd.jpg,dog,\n",
    ",path,animal\n0,a.jpg,cat\n1,b.jpg,dog\n2,c.jpg,cat\n3,d.jpg,dog\n",
    "path,label,label_name\na.jpg,0,cat\nb.jpg,1,dog\nc.jpg,0,cat\nd.jpg,1,dog\n",
    ".\\a.jpg,cat\n./b.jpg,dog\nx/../c.jpg,cat\nd.JPG,dog\n",
    "sep=;\r\npath;label\r\na.jpg;cat\r\nb.jpg;dog\r\nc.jpg;cat\r\nd.jpg;dog\r\n",
    "Photo,Species\nA,cat\nB.JPG,dog\nc,cat\nD,dog\n",
])  # fmt: skip
def test_each_image_gets_its_own_class(read, tmp_path, text):
    (tmp_path / "x").mkdir()
    assert read(text) == CATS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_each_image_gets_its_own_class_in_every_encoding(read, encoding):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    text = f"{mark}path;label\r\na.jpg;café\r\nb.jpg;thé\r\n".encode(encoding)
    assert read(text, "a.jpg", "b.jpg") == {"a.jpg": "café", "b.jpg": "thé"}
    assert ("cp1252" in read.source.notes[0]) == (encoding == "latin-1")


@pytest.mark.parametrize(("text", "classes", "labels"), [
    ("path,label\na.jpg,dog\nb.jpg,cat\nc.jpg,\n", ("cat", "dog"), [1, 0, -1]),
    ("a.jpg,2\nb.jpg,0\nc.jpg,-1", ("0", "1", "2"), [2, 0, -1]),
    ("a.jpg\nb.jpg\n\nc.jpg\n", None, [-1, -1, -1]),
    ("\ufeffFilename , label\n a.jpg , dog \nb.jpg,7\nc.jpg", ("7", "dog"), [1, 0, -1]),
    ("path,label\na.jpg,1\nb.jpg,2\nc.jpg,3\n", ("1", "2", "3"), [0, 1, 2]),
    ("path,label\na.jpg,1.0\nb.jpg,nan\nc.jpg,0.0\n", ("0", "1"), [1, -1, 0]),
    ("image,NV,MEL,BCC\na,0,1,0\nb,1,0,0\nc,0,0,1\n", ("NV", "MEL", "BCC"), [1, 0, 2]),
])  # fmt: skip
def test_csv_rows_become_labels(tmp_path, text, classes, labels):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    source = find(tmp_path / "list.csv")
    assert source.classes == classes
    assert content(source) == dict(zip(["a.jpg", "b.jpg", "c.jpg"], labels, strict=True))


def test_what_was_found_is_said(read):
    read("image_id;diagnosis\na;cat\nb;\nB;dog\n".replace("B;", "c;"))
    assert read.source.notes == (
        "table: 3 rows, utf-8, semicolon; files from column image_id with .jpg, classes from column diagnosis",
        "rows without a label: 1 (empty 1)",
    )
    read("a.jpg,cat\nb.jpg,dog\nC.jpg,cat\n")
    assert read.source.notes == (
        "table: 3 rows, utf-8, comma, no header; files from column 1, 1 of them spelled otherwise, "
        "classes from column 2",
    )


@pytest.mark.parametrize(("text", "reading", "expected"), [
    ("filename,animal,colour\na.jpg,cat,red\nb.jpg,dog,red\n", {"label_column": "animal"},
     {"a.jpg": "cat", "b.jpg": "dog"}),
    ("filename,animal,colour\na.jpg,cat,red\nb.jpg,dog,red\n", {"label_column": "3"}, {"a.jpg": "red", "b.jpg": "red"}),
    ("a.jpg,cat,train\nb.jpg,dog,val\n", {"label_column": "2"}, {"a.jpg": "cat", "b.jpg": "dog"}),
    ("x,y,label\na.jpg,b.jpg,1\nc.jpg,d.jpg,2\n", {"path_column": "y"}, {"b.jpg": "1", "d.jpg": "2"}),
    ("image,sex,A,B\na.jpg,1,1,0\nb.jpg,0,0,1\nc.jpg,0,0,0\n", {"one_hot": ("A", "B")},
     {"a.jpg": "A", "b.jpg": "B", "c.jpg": None}),
    ("image,A,B,C\na.jpg,1,0,0\nb.jpg,0,0,1\n", {"one_hot": ("C", "A")}, {"a.jpg": "A", "b.jpg": "C"}),
    ("filename,split\na.jpg,train\nb.jpg,val\n", {"label_column": "split"}, {"a.jpg": "train", "b.jpg": "val"}),
    ("path,label\na.jpg,cat\nb.jpg,unsure\n", {"missing": ("unsure",)}, {"a.jpg": "cat", "b.jpg": None}),
])  # fmt: skip
def test_flags_say_what_the_columns_are(read, text, reading, expected):
    assert read(text, **reading) == expected


def test_a_suffix_is_found_where_there_is_one_file_and_asked_for_where_there_are_two(read):
    files = "1.jpg", "1.png", "2.jpg", "2.png", "3.webp"
    text = "id,label\n1,x\n2,y\n"
    with pytest.raises(InputError, match=r"it could be 1\.jpg, 1\.png; say which with --suffix"):
        read(text, *files)
    assert read(text, *files, suffix=".png") == {"1.png": "x", "2.png": "y"}
    assert read("id,label\n1.png,x\n3,y\n", *files) == {"1.png": "x", "3.webp": "y"}
    with pytest.raises(InputError, match="--suffix: expected a dot and letters"):
        read(text, *files, suffix="png")


def test_classes_that_are_called_as_files_are_no_files(read):
    """A column of classes 1 and 2 names the files 1.jpg and 2.jpg, too, and must not be taken for that of the files."""
    assert read("id,label\n3,1\n4,2\n5,1\n", *(f"{i}.jpg" for i in range(1, 6))) == {
        "3.jpg": "1", "4.jpg": "2", "5.jpg": "1",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"found none of the 2 of column path: x/1\.jpg"):
        read("path,label\nx/1.jpg,a\nx/2.jpg,b\n")
    with pytest.raises(InputError, match="of column id 0 of 2 cells are files"):
        read("id,label\nx1,a\nx2,b\n")


def test_files_in_folders_beside_the_table_are_found_where_each_is_in_one_of_them(read, tmp_path):
    text = "image_id,dx\n1,nv\n2,mel\n"
    assert read(text, "part_1/1.jpg", "part_2/2.jpg") == {"part_1/1.jpg": "nv", "part_2/2.jpg": "mel"}
    with pytest.raises(InputError, match=r"it could be masks/1\.png, part_1/1\.jpg; say which with --image-folder"):
        read(text, "masks/1.png", "masks/2.png")
    assert read(text, "part_1/1.jpg", image_folder=tmp_path / "masks") == {"1.png": "nv", "2.png": "mel"}
    with pytest.raises(InputError, match=r"--image-folder .*absent: expected a folder"):
        read(text, image_folder=tmp_path / "absent")


@pytest.mark.parametrize("by", [",", ";", "\t", "|", " "])
def test_the_delimiter_is_found_where_the_files_lie_in_a_folder_beside(read, tmp_path, by):
    names = [f"val_{i}.JPEG" for i in range(12)]
    lay(tmp_path, *(f"val/{name}" for name in names), "train/x.JPEG")
    text = "".join(f"{name}{by}{i % 3}{by}{i % 2}\n" for i, name in enumerate(names))
    expected = {f"val/{name}": str(i % 3) for i, name in enumerate(names)}
    assert read(text, label_column="2") == expected
    assert read(text.replace(".JPEG", ""), label_column="2") == expected


def test_paths_may_lead_out_or_be_absolute(read, tmp_path):
    lay(tmp_path, "a.jpg", "sub/b.jpg")
    (tmp_path / "sub/t.csv").write_text(f"path,label\n../a.jpg,cat\n{tmp_path}/sub/b.jpg,dog\n")
    source = find(tmp_path / "sub/t.csv")
    assert content(source) == {"../a.jpg": 0, f"{tmp_path}/sub/b.jpg": 1}
    convert(source, tmp_path / "t.beton")
    assert sorted(read_names(open_beton(tmp_path / "t.beton"))) == sorted(content(source))


@pytest.mark.parametrize(("text", "message"), [
    ("filename,animal,colour\na.jpg,cat,red\nb.jpg,dog,red\n",
     "not clear which column holds the classes; columns: filename, animal, colour; choose with --label-column"),
    ("a.jpg,cat,train\nb.jpg,dog,val\n",
     r"columns: 1 \('a.jpg'\), 2 \('cat'\), 3 \('train'\); choose with --label-column"),
    ("id,diagnosis,target\na,cat,0\nb,dog,0\n",
     "several columns could hold the classes: diagnosis, target; columns: id, diagnosis, target; choose"),
    ("name,is_valid\na.jpg,True\nb.jpg,False\n", "column is_valid does not look like classes; columns: name, is_valid"),
    ("image,Usage\na.jpg,Public\nb.jpg,Private\n", "column Usage does not look like classes"),
    ("image,data_split\na.jpg,1\nb.jpg,2\n", "column data_split does not look like classes"),
    ("image,train_set\na.jpg,1\nb.jpg,0\n", "column train_set does not look like classes"),
    ("#Image CLASS-ID SPECIES BREED ID\na 1 1 2\nb 2 1 1\nc 2 1 1\n", "line 1 has 5 cells, .*; remove lines that are"),
    ("filename,split\na.jpg,train\nb.jpg,val\n", "column split does not look like classes; columns: filename, split"),
    ("image,patient_id\na.jpg,1\nb.jpg,2\n", "column patient_id does not look like classes"),
    ("a,b\na.jpg,c.jpg\nb.jpg,d.jpg\n", "several columns name files: a, b; choose with --path-column"),
    ("image,cat,dog\na.jpg,1,1\nb.jpg,0,1\n", "not clear which column holds the classes; columns: image, cat, dog"),
    ("image,Male,Smiling\na.jpg,1,-1\nb.jpg,-1,1\n", "not clear which column holds the classes"),
    ("image,is_train,is_test\na.jpg,1,0\nb.jpg,0,1\n", "not clear which column holds the classes"),
    ("path,label\na.jpg,1\n./a.jpg,2\nb.jpg,3\n", r"listed twice \(1\): ./a.jpg \(lines 2 and 3, once as a.jpg\)"),
    ("path,label\na.jpg,1\na,2\nb.jpg,3\n", r"listed twice \(1\): a \(lines 2 and 3, once as a.jpg\)"),
    ("path,label\na.jpg,cat, black\nb.jpg,dog\nc.jpg,dog\n", "line 2 has 3 cells, others have 2; .*double quotes"),
    ("path,patient,label\na.jpg,7,cat\nb.jpg,8\nc.jpg,8,cat\n", "line 3 has 2 cells, others have 3"),
    ("# mine\npath,label\na.jpg,cat\nb.jpg,dog\n", "its second row reads like the header; .*: # mine"),
    ("# mine\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n", "line 1 has 1 cell, others have 2, and it names no file: '# mine'"),
    ("our,table\npath,label\na.jpg,cat\nb.jpg,dog\n", "its second row reads like the header; .*: our"),
    ("label\na\nb\n", "column label is called as classes are; if it names the files, give --path-column"),
    ("x" * 9000 + ",y" * 30 + "\n" + "a" + ",b" * 30, "columns name files: x{60}[.]{3}, y, y"),
    ("", "it is empty"), ("\n \n", "it is empty"), ("path,label\n", "expected rows with images below the header"),
    (b"path,label\na.jpg,c\0at\n", "a NUL byte on line 2"), ('path,label\n"a.jpg,cat\n', "line 2: unexpected end"),
    ("path,label\na.jpg," + "9" * 100_000, "one of 100000 characters"), (b"\xff\xd8\xff\xe0", "is an image; .*UTF-8"),
    (b"PK\x03\x04\0\0", "a ZIP archive or a spreadsheet; unpack it, or save the spreadsheet as CSV in UTF-8"),
    (b"\x1f\x8b\x08\0", "a gzip archive; unpack it"), (b"PAR1\x15", "a Parquet file; open it with Hugging Face"),
    (b"a.jpg".ljust(257, b"\0") + b"ustar", "a TAR archive; unpack it"), ("[" * 50_000, "a column that names files"),
    ('{"images": [{"file_name": "a.jpg"}]}', "a column that names files"),
    ("hello\nworld\n", "a column that names files"),
    ("path,label\na.jpg,1\nb.jpg,-5\n", "column label: expected class numbers from 0, got -5"),
])  # fmt: skip
def test_a_table_without_one_reading_is_refused_in_a_line(read, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    (b"a.jpg,1\na.jpg,2", "twice"), (b"a.jpg,99999999", "class numbers"), (b"path,label\n", "found none"),
    (b"a.jpg,-5\nb.jpg,2", "class numbers from 0, got -5"), (b"a.jpg,cat\nb.jpg,dog", "found none of the 2"),
    (b"\xff\xd8\xff\xe0", "UTF-8"),
])  # fmt: skip
def test_wrong_csvs_are_refused_though_their_files_are_not_there(tmp_path, text, message):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(InputError, match=message):
        from_csv(tmp_path / "list.csv")


@pytest.mark.parametrize(("reading", "message"), [
    ({"label_column": "species"}, "--label-column species: no such column; columns: filename, animal, colour"),
    ({"path_column": "9"}, "--path-column 9: no such column"),
    ({"one_hot": ("cat", "emu")}, "--one-hot cat: no such column"),
    ({"one_hot": ("animal",)}, "--one-hot: expected two or more different columns"),
    ({"one_hot": ("animal", "colour")}, "line 2: expected 1 for one of the classes and 0 for others, got animal cat"),
    ({"one_hot": ("a", "b"), "label_column": "animal"}, "expected one of them, got both"),
    ({"levels": 2}, "--levels: has no meaning for a table"),
])  # fmt: skip
def test_flags_that_do_not_fit_are_refused(read, reading, message):
    with pytest.raises(InputError, match=message):
        read("filename,animal,colour\na.jpg,cat,red\nb.jpg,dog,red\n", **reading)


def test_one_class_only_is_worth_a_word(read):
    read("path,label\na.jpg,cat\nb.jpg,cat\n")
    assert read.source.notes[-1] == "one class only, cat: labels teach nothing; were several classes meant?"


def test_columns_that_number_the_rows_are_no_classes(read):
    files = [f"{i}.jpg" for i in range(12)]
    text = "".join(f"{i} {name}\n" for i, name in enumerate(files))
    with pytest.raises(InputError, match="column 1 is different in each row, as no classes are"):
        read(text, *files)
    assert len(read(text, *files, label_column="1")) == 12


def test_rows_whose_file_is_not_there_are_rejected_by_their_line(read, tmp_path):
    lay(tmp_path, "raw.dng")
    os.mkfifo(tmp_path / "pipe.jpg")
    text = "path,label\na.jpg,cat\nx.jpg,dog\n,dog\nraw.dng,cat\nb.jpg,dog\npipe.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"
    assert read(text) == {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat", "d.jpg": "dog"}
    assert read.source.rejected == (
        ("x.jpg", "line 3: no such file"), ("a row without a file", "line 4: no such file"),
        ("raw.dng", "line 5: a camera's raw file, which cannot be read here; export it as JPEG or TIFF"),
        ("pipe.jpg", "line 7: a FIFO, expected a regular file"),
    )  # fmt: skip
    with pytest.raises(InputError, match="4 of 8 files rejected"):
        convert(tmp_path / "t.csv", tmp_path / "t.beton")
    assert convert(tmp_path / "t.csv", tmp_path / "t.beton", Options(max_bad=1)).n == 4


def test_classes_that_only_rows_without_a_file_have_are_said(read):
    assert read("x;Titel\nDatei;Klasse\na.jpg;Hund\nb.jpg;Katze\n") == {"a.jpg": "Hund", "b.jpg": "Katze"}
    assert "classes of rows whose file is not there: Klasse (1 in all)" in read.source.notes


def test_a_first_row_is_a_header_only_if_it_is_no_row(read):
    assert read("x.jpg,cat\na.jpg,dog\nb.jpg,cat\n") == {"a.jpg": "dog", "b.jpg": "cat"}
    assert read.source.rejected == (("x.jpg", "line 1: no such file"),)
    assert read("x,cat\na,dog\nb,cat\n") == {"a.jpg": "dog", "b.jpg": "cat"}  # cat comes again, so it is no name
    assert read.source.rejected == (("x", "line 1: no such file"),)
    assert read("x,was ist es\na,dog\nb,cat\n") == {"a.jpg": "dog", "b.jpg": "cat"}
    assert not read.source.rejected


NAME = st.text(st.sampled_from("abc ,;|'\"é猫-_()#1."), min_size=1, max_size=8).map(lambda name: name.strip() or "x")
NAMES = st.lists(NAME, min_size=2, max_size=6, unique_by=str.casefold)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, seed=st.integers(0, 10**6))
def test_tables_that_the_csv_module_writes_are_read_with_every_delimiter(tmp_path, names, seed):
    """Names of files and classes hold delimiters and quotes; the header is known, the order of columns is not."""
    chance = random.Random(seed)
    folder = tmp_path / str(chance.getrandbits(64))
    files = {f"{name}.jpg": chance.choice(["cat, black", "dog;", "e\"m'u", "fox|2"]) for name in names}
    lay(folder, *files)
    rows = [[name, label, str(i % 2)] for i, (name, label) in enumerate(files.items())]
    order = chance.sample(range(3), 3)
    with (folder / "t.csv").open("w", newline="", encoding=chance.choice(["utf-8", "utf-8-sig", "utf-16"])) as file:
        writer = csv.writer(file, delimiter=chance.choice(",;\t|"), lineterminator=chance.choice(["\n", "\r\n"]))
        writer.writerows([[row[i] for i in order] for row in [["filename", "class", "fold"], *rows]])
    source = find(folder / "t.csv")
    assert {name: source.classes[label] for name, label in content(source).items()} == files


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blob=st.one_of(
    st.binary(max_size=80),
    st.text(st.sampled_from("abcd.jpg,;\t|\"\n\r 01-\\/é\0"), max_size=80).map(str.encode),
    st.lists(st.sampled_from(["a.jpg", "b.jpg", "c", "x", ",", ";", "\n", '"', "1", "nan", "label"]), max_size=30)
    .map(lambda parts: "".join(parts).encode()),
))  # fmt: skip
def test_whatever_the_bytes_of_a_table_are_it_is_read_or_refused_in_a_line(tmp_path, blob):
    lay(tmp_path, *ABCD)
    (tmp_path / "t.csv").write_bytes(blob)
    source, refused = None, ""
    try:
        source = from_csv(tmp_path / "t.csv")
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused
    labels = content(source).values() if source else ()
    assert all(-1 <= label < len(source.classes or ()) for label in labels)


def test_damaged_tables_of_many_seeds_are_read_or_refused(tmp_path):
    """The seeds of fuzz_tables that once ended otherwise, and some more; it runs for as long as one lets it."""
    fuzz_tables.lay(tmp_path)
    assert sum(fuzz_tables.check(seed, tmp_path) for seed in (*fuzz_tables.KEPT, *range(100)))


def test_the_command_line_has_every_flag(tmp_path, monkeypatch, capsys):
    lay(tmp_path, "in/a.png", "in/b.png", "in/a.jpg", "in/b.jpg")
    (tmp_path / "t.csv").write_text("id,kind,is_cat,is_dog\na,DE,1,0\nb,NA,0,1\n")
    (tmp_path / "classes.txt").write_text("is_dog\nis_cat\n")

    def converted(*flags: str) -> Manifest:
        out = tmp_path / "t.beton"
        argv = ["convert", tmp_path / "t.csv", out, "--overwrite", *flags, "--image-folder", tmp_path / "in"]
        monkeypatch.setattr("sys.argv", [str(each) for each in argv])
        main()
        return read_manifest(out)

    found = converted("--suffix", ".png", "--path-column", "id", "--one-hot", "is_cat", "is_dog",
                      "--classes-from", str(tmp_path / "classes.txt"))  # fmt: skip
    assert (found.classes, found.class_counts) == (("is_dog", "is_cat"), (1, 1))
    assert found.arguments["one_hot"] == ("is_cat", "is_dog") or found.arguments["one_hot"] == ["is_cat", "is_dog"]
    assert found.arguments["classes_from"] == str(tmp_path / "classes.txt")
    found = converted("--suffix", ".jpg", "--label-column", "kind", "--missing", "NA")
    assert (found.classes, found.n_unlabelled) == (("DE",), 1)
    lay(tmp_path, "deep/a/b/1.jpg", "deep/a/c/1.jpg")
    monkeypatch.setattr("sys.argv", ["convert", str(tmp_path / "deep"), str(tmp_path / "d.beton"), "--levels", "2"])
    main()
    assert json.loads((tmp_path / "d.beton.json").read_text())["classes"] == ["a/b", "a/c"]
    capsys.readouterr()
