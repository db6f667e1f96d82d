"""What a conversion says at its end: each thing that can go wrong with a source is seen on one screen."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.convert.conversion import Options, convert
from pipeline.convert.summary import WIDTH, classes, summary
from pipeline.sources.objects import Dataset
from pipeline.sources.reading import Reading
from pipeline.sources.source import Source
from pipeline.store.beton import open_beton
from pipeline.store.manifest import Manifest
from tests.pipeline.conftest import image


def png(shade: int = 0, **options) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 9, 9)).save(out, options.pop("kind", "PNG"), **options)
    return out.getvalue()


def said(tmp_path: Path, source, options: Options | None = None, splits=(), **more) -> dict[str, str]:
    """The summary of a conversion: what is said by what it is about, further lines joined by line feeds."""
    convert(source, tmp_path / "out.beton", options or Options(), **more)
    lines = summary(open_beton(tmp_path / "out.beton"), splits).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert len(lines) <= 40
    found, label = {"": lines[0]}, ""
    for line in lines[1:]:
        label = line[:11].strip() or label
        found[label] = f"{found[label]}\n{line[11:]}" if label in found else line[11:]
    return found


def folder(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_a_table_is_said_with_its_columns_its_missing_labels_and_some_of_its_rows(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    rows = "".join(f"{i}.png;{i // 2};{('nv', 'mel', 'nan')[i % 3]}\n" for i in range(9))
    (tmp_path / "t.csv").write_text(f"filename;patient;diagnosis\n{rows}")
    found = said(tmp_path, tmp_path / "t.csv", reading=Reading(label_column="diagnosis"), splits=())
    assert found["source"] == str(tmp_path / "t.csv")
    for part in ("9 rows", "semicolon", "filename", "diagnosis", "nan 3"):
        assert part in found["read as"]
    assert found["classes"] == "2, numbered from 0: mel (3), nv (3)"
    assert found["labels"].startswith("6 images with a label, 3 without one\nsuch as ")
    for name, label in re.findall(r"(\d)\.png: (\w+)", found["labels"]):
        assert ("nv", "mel", "nan")[int(name) % 3] == label
    assert len(re.findall(r"\d\.png: \w+", found["labels"])) == 3


def test_kinds_frames_metadata_and_what_was_left_out_are_counted(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description " * 4000
    folder(
        tmp_path / "set", a__1_DOT_jpg=png(1, kind="JPEG", exif=exif), a__2_DOT_png=png(2), b__3_DOT_gif=png(
            3, kind="GIF", save_all=True, append_images=[Image.new("RGB", (20, 10), "white")]),
        b__4_DOT_tif=png(4, kind="TIFF"), b__5_DOT_jpg=png(5, kind="JPEG")[:200], b__6_DOT_png=b"", a__7_DOT_png=b"",
        a__notes_DOT_txt=b"x", a__more_DOT_txt=b"x", b__table_DOT_csv=b"x",
    )  # fmt: skip
    found = said(tmp_path, tmp_path / "set", Options(max_bad=0.9))
    assert found[""].endswith("out.beton: 4 images, 0.0 MB")
    files = found["files"].splitlines()
    assert set(files[0].split(", ")) == {
        "1 JPEG (1 kept as they were)", "1 PNG (1 re-encoded)", "1 GIF (1 re-encoded)", "1 TIFF (1 re-encoded)"
    }  # fmt: skip
    assert re.fullmatch(r"56\.\d kB of metadata dropped from JPEG files \(--keep-metadata keeps it\)", files[1])
    assert files[2] == "1 file with several frames or pages: the first is stored"
    left = found["left out"].splitlines()
    assert left[0] == "3 of 7 images; 3 other files: 2 .txt, 1 .csv"
    assert set(re.findall(r"[ab]/\d\.\w+", left[1])) == {"b/6.png", "a/7.png"}
    assert left[1].startswith("  2: empty file (")
    assert left[2].startswith("  1: ")
    assert "(b/5.jpg)" in left[2]


def test_nothing_left_out_is_said_too_and_labels_of_every_image(tmp_path):
    found = said(tmp_path, Dataset(6, lambda i: (image(i), i % 2), ("a", "b")))
    assert found["left out"] == "0 of 6 images"
    assert found["labels"].startswith("6 images with a label\n")
    assert found["classes"] == "2, numbered from 0: a (3), b (3)"
    assert found["splits"] == "none"
    assert found["source"] == "Dataset"
    assert "range" not in found


def test_labels_that_were_all_lost_are_seen(tmp_path):
    found = said(tmp_path, Dataset(6, lambda i: (image(i), -1), ("a", "b")))
    assert found["labels"] == "0 images with a label, 6 without one"
    assert found["classes"] == "2, numbered from 0: a (0), b (0)"
    (tmp_path / "2").mkdir()
    none = said(tmp_path / "2", Dataset(6, lambda i: (image(i), None), None))
    assert (none["classes"], none["labels"]) == ("none: no image has a label", "0 images with a label, 6 without one")


def test_images_that_are_added_without_labels_are_said(tmp_path):
    folder(tmp_path / "set", a__1_DOT_png=png(), b__2_DOT_png=png())
    folder(tmp_path / "more", **{"3_DOT_png": png(), "4_DOT_png": png()})
    found = said(tmp_path, tmp_path / "set", Options(per_class=(1,)), ["1-per-class"], unlabelled=tmp_path / "more")
    assert found["source"].replace("\n", " ") == f"{tmp_path / 'set'}, and {tmp_path / 'more'} without labels"
    assert found["labels"].startswith("2 images with a label, 2 without one, those of --unlabelled among them\n")
    assert found["splits"] == "1-per-class: 2 labels"


@pytest.mark.parametrize(("window", "shown", "warned"), [
    (None, "0 to 65535", True), ((0, 4095), "0 to 4095", False), ("auto", "each image's own lowest to highest", False),
])  # fmt: skip
def test_sixteen_bits_are_said_with_their_range_and_a_warning_where_it_is_little_used(tmp_path, window, shown, warned):
    values = np.linspace(16, 4000, 200).astype(np.uint16).reshape(10, 20)
    full = np.linspace(0, 65_535, 200).astype(np.uint16).reshape(10, 20)
    source = Dataset(5, lambda i: (values if i < 3 else full if i == 3 else image(i), 0), ("a",))
    lines = said(tmp_path, source, Options(window=window))["range"]
    assert lines.startswith(f"4 images of 16 bits, values 0 to 65535; black to white: {shown}")
    assert ("warning: of these 3 use under an eighth" in lines) == warned
    assert ("--window 0 65535, or --window auto" in lines.replace("\n", " ")) == warned


class Many(Source):
    """Images of many classes and many reasons for leaving some out."""

    def __init__(self, counts: list[int], bad: int = 0) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.classes = tuple(f"class number {i:03d}" for i in range(len(counts)))
        self.rejected = tuple((f"{i}.jpg", f"reason {chr(97 + i % 20)} of {i} bytes") for i in range(bad))
        self.ignored = {f".{i:03d}": 1 + i for i in range(40)} if bad else {}

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        return f"image-{i}"

    def read(self, i: int):
        return image(i % 7), int(self.labels[i])


def test_many_classes_and_reasons_are_folded_by_count_and_never_cut(tmp_path):
    counts = [3] * 30 + [0, 0, 1, 2, 9, 11, 12]
    found = said(tmp_path, Many(counts, 60), Options(max_bad=0.9))
    listed = found["classes"].replace("\n", " ")
    assert listed.startswith("37, numbered from 0, class number 000, to 36, class number 036; 2 without an image; few")
    assert re.findall(r"class number (\d+) \((\d+)\)(?=[,;]|$)", listed.split("fewest: ")[1]) == [
        ("030", "0"), ("031", "0"), ("032", "1"), ("033", "2"), ("000", "3"), ("034", "9"), ("035", "11"),
        ("036", "12"),
    ]  # fmt: skip
    assert "29 between, half of all have up to 3;" in listed
    left = found["left out"].splitlines()
    assert left[0].startswith(f"60 of {sum(counts) + 60} images; 820 other files: 40 .039, 39 .038, ")
    assert "and 28 other kinds" in found["left out"].replace("\n", " ")
    groups = [line for line in left if re.match(r"  \d+: reason", line)]
    assert len(groups) == 8
    assert all(line.startswith("  3: reason ") and line.endswith(")") for line in groups)
    assert groups[0].endswith("(0.jpg, 20.jpg, 40.jpg)")
    more = " ".join(left[left.index(groups[-1]) + 1 :]).split()
    assert " ".join(more[:9]) == "36 more for 12 other reasons: all of them"
    assert len(open_beton(tmp_path / "out.beton").manifest.rejected) == 60


def test_a_reason_of_several_lines_or_odd_bytes_is_one_line_of_text(tmp_path):
    source = Many([3, 3])
    source.rejected = (("caf\udce9.jpg", "first\nsecond \x1b[2J \udcff"),)
    found = said(tmp_path, source, Options(max_bad=0.9))
    assert found["left out"].splitlines()[1] == r"  1: first\nsecond \u001b[2J \xff (caf\xe9.jpg)"


def test_twelve_classes_are_all_named_and_thirteen_folded(tmp_path):
    def of(n: int) -> str:
        fields = dict.fromkeys(Manifest.__dataclass_fields__)
        return classes(Manifest(**fields | {"classes": tuple(map(str, range(n))), "class_counts": tuple(range(n))}))

    assert of(12).endswith("9 (9), 10 (10), 11 (11)")
    assert of(13) == (
        "13, numbered from 0, 0, to 12, 12; 1 without an image; fewest: 0 (0), 1 (1), 2 (2), 3 (3), 4 (4); "
        "5 between, half of all have up to 6; most: 10 (10), 11 (11), 12 (12)"
    )
