"""Files of boxes as tools write them: what is meant is read, what is odd is counted, what is wrong is said by name."""

import gzip
import itertools
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from pipeline.dense.segmentations import extent, run_lengths
from pipeline.errors import InputError
from pipeline.spec import BoxLabels
from tests.pipeline.dense.box_sets import FORMATS, JSON, LABELS, NAMES, OBJECTS, coco, opened, write_set, xml


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path)


def drop(path):
    return lambda root: (root / path).unlink()


def text(path, content):
    return lambda root: (root / path).write_text(content if isinstance(content, str) else json.dumps(content))


def changed_first(**fields):
    made = coco()
    made["annotations"][0] |= fields
    return text("annotations/instances_train.json", made)


def first_image(**fields):
    made = coco()
    made["images"][0] |= fields
    return text("annotations/instances_train.json", made)


def cut_off(path):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-900])


def beside(path, other):
    return lambda root: (root / other).write_bytes((root / path).read_bytes())


WRONG = [
    ("coco", drop(JSON), "instances_train.json"),
    ("coco", text(JSON, "{"), "does not parse"),
    ("coco", text(JSON, "[]"), "got a list"),
    ("coco", text(JSON, coco(categories="x")), 'a list "categories", as COCO\'s JSON has it, found a str'),
    ("coco", text(JSON, coco(images=[*coco()["images"], 7])), 'an object in place 4 of "images", got 7'),
    (
        "coco",
        text(JSON, coco(images=[*coco()["images"], coco()["images"][0] | {"id": 5, "file_name": "train/a.png"}])),
        "images/train/a.png twice, as a and as train/a",
    ),
    ("coco", lambda root: (root / JSON).write_bytes(gzip.compress((root / JSON).read_bytes())), "a gzip archive"),
    ("coco", text(JSON, coco(categories=[{"id": 7, "name": "cat"}, {"id": 17, "name": "cat"}])), "cat comes twice"),
    ("coco", text(JSON, coco(categories=[{"id": 7, "name": "cat"}] * 2)), "7 comes twice"),
    ("coco", text(JSON, coco(categories=[{"id": 7, "name": "cat"}])), "category 17"),
    ("coco", text(JSON, coco(images=coco()["images"][1:])), "of image 100"),
    ("coco", text(JSON, coco(annotations=[])), "found none in 3 images"),
    ("coco", drop("images/train/a.png"), "a.png"),
    ("coco", changed_first(bbox=[1, 2, 3]), "expected bbox"),
    ("coco", changed_first(bbox=[1, 2, -3, 4]), "mend it"),
    ("coco", changed_first(bbox=[1, 2, float("nan"), 4]), "mend it"),
    ("coco", changed_first(bbox=[30, 2, 20, 4]), "outside its image of 40 x 30"),
    ("masks", changed_first(segmentation=[[1, 2, 3, 4]]), "three points or more"),
    ("masks", changed_first(segmentation=[[0, 0, 9e9, 0, 9e9, 9e9]]), "far outside its image"),
    ("masks", changed_first(segmentation=[[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]), "outside its box 4 2 20 12"),
    ("masks", changed_first(segmentation=7), "polygons or RLE"),
    ("masks", changed_first(segmentation=[]), "has no mask"),
    ("masks", changed_first(segmentation={"size": [40, 30], "counts": [1200]}), "RLE of 30 rows"),
    ("masks", changed_first(segmentation={"size": None, "counts": [1200]}), "RLE of 30 rows"),
    ("masks", changed_first(segmentation={"size": [30, 40], "counts": [9, 9]}), "runs of 1200 pixels together"),
    ("masks", changed_first(segmentation={"size": [30, 40], "counts": [-9, 1209]}), "runs of 1200 pixels together"),
    ("masks", changed_first(segmentation={"size": [30, 40], "counts": "rubbish"}), "which holds 'r'"),
    ("masks", changed_first(segmentation={"size": [30, 40], "counts": "P"}), "ends within a number"),
    ("coco", text(JSON, {f"{n}.jpg": {} for n in range(99)}), "5.jpg, ..."),
    ("coco", changed_first(image_id=[100]), "of image [100]"),
    ("coco", changed_first(segments_info=[]), "panoptic"),
    ("coco", changed_first(bbox="1234"), "expected bbox"),
    ("coco", changed_first(bbox=[10**400, 1, 2, 3]), "expected bbox"),
    ("coco", changed_first(iscrowd="maybe"), "expected iscrowd 0 or 1, got maybe"),
    ("coco", first_image(width="41"), "41 x 30, got 40 x 30"),
    ("coco", first_image(width="wide"), "expected height and width of a.png"),
    ("coco", first_image(file_name=" "), 'expected "id" and "file_name"'),
    ("coco", first_image(file_name="elsewhere/a.gif"), "images end in .jpg"),
    ("coco", first_image(file_name="elsewhere/a.png"), "; a is there without these folders"),
    ("coco", first_image(id=101), "101 comes twice"),
    ("coco", cut_off("images/train/a.png"), "a.png: expected an image, got a file that does not decode"),
    ("coco", beside("images/train/a.png", "images/train/a.jpg"), "expected one image called a"),
    ("coco", lambda root: Image.new("RGB", (30, 40)).save(root / "images/train/b.png"), "40 x 30, got 30 x 40"),
    ("coco", lambda root: (root / "classes.txt").write_text("cat\n"), "class dog, expected one of the list: cat"),
    ("voc", drop("voc/b.xml"), "b.xml"),
    ("voc", text("voc/b.xml", ""), "b.xml: expected VOC's XML"),
    ("voc", text("voc/b.xml", xml([("cat", (0, 0, 80, 8))])), "b.xml: object 1: has the box 0 0 80 8 outside"),
    ("voc", text("voc/b.xml", xml([("cat", (9, 0, 3, 8))])), "mend it"),
    ("voc", text("voc/b.xml", xml([("cat", (19, 0, 19.5, 8))])), "xmin up to xmax"),
    ("voc", text("voc/b.xml", xml([], sides=("9" * 400, 40))), "expected <size> in pixels"),
    ("voc", text("voc/b.xml", xml([("", (0, 0, 8, 8))])), "found one without"),
    ("voc", text("voc/b.xml", "<annotation><object><name>cat</name></object></annotation>"), "expected bndbox"),
    ("voc", text("voc/b.xml", xml([], sides=(31, 40))), "40 x 31, got 40 x 30"),
    ("voc", text("voc/b.xml", "<?xml version='1.0' encoding='x-none'?><annotation/>"), "unknown encoding"),
    ("voc", text("voc/b.xml", "<annotations><image/></annotations>"), "got <annotations>"),
    ("voc", text("voc/b.xml", xml(OBJECTS["b"]).replace("object>", "thing>")), "and a bndbox elsewhere"),
    ("voc", text("voc/b.xml", xml(OBJECTS["b"]).replace("bndbox>", "robndbox>")), "got <name>, <robndbox>"),
    ("voc", text("voc/b.xml", xml(OBJECTS["b"], extra="<difficult>2</difficult>")), "difficult 0 or 1, got 2"),
    ("voc", text("voc/b.txt", ""), "holds both b.xml and b.txt"),
    ("yolo", text("yolo/b.txt", "2 .5 .5 .1 .1"), "b.txt: line 1: holds class 2, expected 0 to 1"),
    ("yolo", text("yolo/b.txt", "\n0 .5 .5 .1"), "b.txt: line 2: expected class, centre"),
    ("yolo", text("yolo/b.txt", "0 .5 .5 1.2 .1"), "outside its image"),
    ("yolo", text("yolo/b.txt", "0 .5 .5 .2 .1 .9"), "a score, is of predictions"),
    ("yolo", text("yolo/b.txt", "inf .5 .5 .2 .1"), "b.txt: line 1: expected class"),
]


@pytest.mark.parametrize(("kind", "spoil", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_by_name_in_one_line(root, kind, spoil, said):
    opened(root, LABELS[kind])
    spoil(root)
    with pytest.raises(InputError) as caught:
        opened(root, LABELS[kind])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_places_and_missing_lists_are_said(root):
    with pytest.raises(InputError, match=r"voc-2: expected COCO's JSON, or a folder"):
        opened(root, BoxLabels(boxes="voc-2"))
    with pytest.raises(InputError, match=r"--method.labels.boxes annotations/instances_train.json"):
        opened(root, BoxLabels(boxes="annotations"))
    with pytest.raises(InputError, match=r"YOLO's numbers of classes"):
        opened(root, replace(LABELS["yolo"], names=()))
    with pytest.raises(InputError, match=r"object 1: has no mask"):
        opened(root, replace(LABELS["voc"], masks=True))
    with pytest.raises(InputError, match=r"cat twice"):
        opened(root, replace(LABELS["voc"], names=("cat", "cat")))


def everywhere(made, **fields):
    """COCO's JSON with fields of every annotation changed; None takes one out."""
    for each in made["annotations"]:
        each |= fields
        for name in [name for name, value in fields.items() if value is None]:
            del each[name]
    return made


def with_ids(made, of_images, of_objects):
    for each in made["images"]:
        each["id"] = of_images(each["id"])
    for each in made["annotations"]:
        each["image_id"] = of_objects(each["image_id"])
    return made


def with_names(made, form):
    for each in made["images"]:
        each["file_name"] = form.format(each["file_name"])
    return made


def edited(folder, before, after, encoding="utf-8"):
    def spoil(root):
        for path in (root / folder).iterdir():
            path.write_bytes(path.read_text().replace(before, after).encode(encoding))

    return spoil


RIGHT = {
    "a sign before the JSON": (
        "coco",
        lambda root: (root / JSON).write_bytes(b"\xef\xbb\xbf" + json.dumps(coco()).encode()),
    ),
    "ids as strings": ("coco", text(JSON, with_ids(coco(), str, int))),
    "ids as floats": ("coco", text(JSON, with_ids(coco(), float, str))),
    "categories of both": (
        "coco",
        text(JSON, coco(categories=[{"id": 7, "name": "cat "}, {"id": "17", "name": "dog"}])),
    ),
    "no iscrowd": ("coco", text(JSON, everywhere(coco(), iscrowd=None, segmentation=None))),
    "iscrowd as a string": ("coco", text(JSON, everywhere(coco(), iscrowd="0"))),
    "two points": ("coco", text(JSON, everywhere(coco(), segmentation=[[1, 2, 3, 4]]))),
    "folders above": ("coco", text(JSON, with_names(coco(), "images/train/{}"))),
    "backslashes": ("coco", text(JSON, with_names(coco(), "train\\{}"))),
    "an ending in capitals": ("coco", lambda root: (root / "images/train/a.png").rename(root / "images/train/a.PNG")),
    "a namespace": ("voc", edited("voc", "<annotation>", "<annotation xmlns='urn:voc'>")),
    "parts before the box": (
        "voc",
        edited("voc", "<bndbox>", "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"),
    ),
    "a declared encoding": (
        "voc",
        edited("voc", "<annotation>", "<?xml version='1.0' encoding='latin-1'?><annotation><by>\xfc</by>", "latin-1"),
    ),
    "no size": ("voc", edited("voc", "width>", "wide>")),
    "difficult in words": ("voc", edited("voc", "<bndbox>", "<difficult>Unspecified</difficult><bndbox>")),
    "lines of Windows": ("yolo", edited("yolo", "\n", "\r\n")),
    "classes as floats": ("yolo", edited("yolo", "0 0", "0.0 0")),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_tools_write_otherwise_holds_the_same_objects(root, case):
    kind, write = RIGHT[case]
    write(root)
    found = opened(root, LABELS[kind])
    assert found.classes == NAMES
    assert found.names == ("a", "b", "c")
    for objects, expected in zip(found.objects, OBJECTS.values(), strict=True):
        np.testing.assert_allclose(objects.boxes, np.array([box for _, box in expected]).reshape(-1, 4), atol=1e-5)
        assert [NAMES[each] for each in objects.classes] == [name for name, _ in expected]
        assert not objects.ignored.any()
    assert [note.split(" ")[0] for note in found.notes()] in (["2", "without"], ["without", "without"])


TURNED = "<attributes><attribute><name>rotation</name><value>9.5</value></attribute></attributes>"
ODD = [
    ("coco", text(JSON, everywhere(coco(), id=5)), "more than one annotation in .* of 1 id: 5; all"),
    ("coco", changed_first(area=0), "an area that is no positive number in .*: 1 object, "),
    ("coco", changed_first(attributes={"rotation": 45.0}), "rotated in .*: 1 object, "),
    ("coco", beside("images/train/a.png", "images/train/d.png"), "not used of .*: 1 image that .* does not name: d"),
    ("masks", changed_first(segmentation=[[4, 2, 20, 2, 12, 2]]), "without a pixel in .*: 1 mask, judged but never"),
    ("masks", changed_first(segmentation={"size": [30, 40], "counts": [1200]}, bbox=[0, 0, 4, 4]),
     "without a pixel in .*: 1 mask"),
    ("masks", changed_first(segmentation=[[4, 2, 20, 2, 20, 45]]), "cut to the image in .*: 1 mask, more than a pixel"),
    ("voc", edited("voc", "</object>", f"{TURNED}</object>"),
     "rotated in .*: 3 objects, "),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "write", "said"), ODD, ids=range(len(ODD)))
def test_what_is_odd_is_counted_and_named(root, kind, write, said):
    assert not re.search(said, "\n".join(opened(root, LABELS[kind]).notes()))
    write(root)
    assert re.search(said, "\n".join(opened(root, LABELS[kind]).notes()))


def test_a_turn_that_exif_asks_for_is_said_where_no_size_tells_what_was_annotated(root):
    exif = Image.Exif()
    for turn, sides, in_coco in ((6, (40, 30), False), (3, (40, 30), True), (1, (40, 30), False)):
        exif[0x0112] = turn
        (root / "images/train/a.png").unlink(missing_ok=True)
        Image.new("RGB", sides).save(root / "images/train/a.jpg", exif=exif)
        for kind in ("coco", "yolo"):
            said = any(note.startswith("turned by EXIF in") for note in opened(root, LABELS[kind]).notes())
            assert said == (turn > 1 if kind == "yolo" else in_coco)


def test_yolo_finds_its_list_of_classes_among_its_files_or_beside_their_folder(root):
    bare = BoxLabels(boxes="yolo")
    (root / "data.yaml").write_text("names: [cat, dog]")
    with pytest.raises(InputError, match=r"one a line, or from --method.labels.names, in the order of data.yaml"):
        opened(root, bare)
    with pytest.raises(InputError, match="YAML is not read"):
        opened(root, replace(bare, classes="data.yaml"))
    (root / "labels").mkdir()
    (root / "yolo").rename(root / "labels/train")
    for place in ("labels/train", "labels"):
        (root / place / "classes.txt").write_text("cat\ndog\n")
        found = opened(root, BoxLabels(boxes="labels/{set}"))
        assert found.classes == NAMES
        assert found.notes()[0].startswith(f"2 classes, as {root / place / 'classes.txt'} names them")
        assert not any("not used" in note for note in found.notes())
        (root / place / "classes.txt").unlink()


def test_a_list_of_classes_and_a_readme_beside_one_file_of_voc_are_no_yolo(root):
    for stem in ("b", "c"):
        (root / f"images/train/{stem}.png").unlink()
        (root / f"voc/{stem}.xml").unlink()
    (root / "voc/classes.txt").write_text("cat\ndog\n")
    (root / "voc/README.txt").write_text("Boxes of cats and dogs, 2026")
    assert opened(root, LABELS["voc"]).counts.tolist() == [1, 1]


def test_lists_say_what_they_cannot_mean(root):
    for line, said in (
        ("a -1", "lists a -1, .*VOC's lists of one class"),
        ("/else/a.png", "lists /else/a.png, .*no image$"),
    ):
        (root / "cat_train.txt").write_text(f"{line}\n")
        with pytest.raises(InputError, match=said):
            opened(root, replace(LABELS["voc"], images="images/train"), "cat_train.txt")


def test_letters_with_marks_are_the_same_however_they_are_written(root):
    """macOS and some tools write an a with two dots as two characters, others as one."""
    one, two = "k\xe4fer", unicodedata.normalize("NFD", "k\xe4fer")
    for path in (root / "images/train/a.png", root / "yolo/a.txt", root / "voc/a.xml"):
        path.rename(path.with_stem(two))
    (root / JSON).write_text(json.dumps(coco({one if stem == "a" else stem: each for stem, each in OBJECTS.items()})))
    (root / "list.txt").write_text(f"./images/train/{one}.png\nb.png\nb\n", encoding="utf-8-sig")
    for kind in FORMATS:
        assert opened(root, LABELS[kind]).counts.tolist() == [2, 1]
        listed = opened(
            root, replace(LABELS[kind], images="images/train", boxes=LABELS[kind].boxes.format(set="train")), "list.txt"
        )
        assert listed.names == ("b", one)
        assert any("list.txt: 1 line again" in note for note in listed.notes())
    (root / "images/train" / f"{one}.png").write_bytes((root / "images/train/b.png").read_bytes())
    with pytest.raises(InputError, match="expected one file called"):
        opened(root)


def test_compressed_run_lengths_are_those_of_pycocotools():
    pixels = np.random.default_rng(0).random((90, 70)) < np.linspace(0, 1, 70)
    held = coco_masks.encode(np.asfortranarray(pixels.astype(np.uint8)))
    groups = [(value, len(list(group))) for value, group in itertools.groupby(pixels.T.ravel())]
    runs = [length for _, length in groups]
    assert run_lengths(held["counts"].decode()) == ([0, *runs] if groups[0][0] else runs)
    rows, columns = pixels.any(1).nonzero()[0], pixels.any(0).nonzero()[0]
    assert extent(held) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
