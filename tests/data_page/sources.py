"""Rows of docs/data.md about folders, tables, Python objects and class lists."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from pipeline.convert.conversion import convert
from pipeline.sources.reading import Reading
from tests.data_page.cases import Case, lay, picture, row, stored

THREE = {"cat/1.jpg": stored(), "cat/2.jpg": stored(), "dog/3.jpg": stored()}
FLAT = {"1.jpg": stored(), "2.jpg": stored(), "3.jpg": stored()}
ROWS_OF_THREE = "1.jpg,cat\n2.jpg,cat\n3.jpg,dog\n"


def folders(name: str, *trees: dict[str, bytes], **more) -> None:
    """A row about trees of files."""

    @row(name)
    def build(root: Path) -> Iterator[Case]:
        for i, files in enumerate(trees):
            yield Case(lay(root / str(i), files), **more)


def tables(name: str, *texts: str | bytes, files: dict[str, bytes] = FLAT, **more) -> None:
    """A row about tables, each beside the same images."""

    @row(name)
    def build(root: Path) -> Iterator[Case]:
        for i, text in enumerate(texts):
            table = {"t.csv": text if isinstance(text, bytes) else text.encode()}
            yield Case(lay(root / str(i), files | table) / "t.csv", **more)


folders("a folder for each class", THREE)
folders("images alone, without folders", FLAT)
folders("an empty class folder", THREE | {"eel/": b""})
folders("one class folder only", {"cat/1.jpg": stored()})
folders("folders that a system makes, such as `__MACOSX`", THREE | {"__MACOSX/4.jpg": b"resource fork"})
folders("images beside class folders", THREE | {"stray.jpg": stored()})
folders("the folders train, val and test", {f"{part}/cat/1.jpg": stored() for part in ("train", "val", "test")})
folders("folders called as batches, folds or patients are, or images and their masks",
        {f"{name}/1.jpg": stored() for name in ("fold0", "fold1")},
        {f"{name}/1.jpg": stored() for name in ("patient_001", "patient_002")},
        {f"{name}/1.jpg": stored() for name in ("images", "masks")})  # fmt: skip
folders("the folders train and unlabelled", {"train/cat/1.jpg": stored(), "unlabelled/2.jpg": stored()})
NESTED = {"a/abbey/1.jpg": stored(), "a/attic/2.jpg": stored(), "b/barn/3.jpg": stored()}
folders("classes in folders of folders", NESTED)
folders("classes in folders of folders, with `--levels 2`", NESTED, reading=Reading(levels=2))
folders("one folder with the class folders in it", {f"training_set/{name}": data for name, data in THREE.items()})
folders("no image at all", {"notes.txt": b"x"})


@row("a folder of class folders, and `--unlabelled OTHER`")
def unlabelled(root: Path) -> Iterator[Case]:
    other = lay(root / "other", {"4.jpg": stored(), "5.jpg": stored()})
    yield Case(lay(root / "set", THREE), unlabelled=other)


@row("an image in two class folders, by a link")
def in_two_classes(root: Path) -> Iterator[Case]:
    source = lay(root / "set", THREE)
    (source / "dog" / "again.jpg").symlink_to("../cat/1.jpg")
    yield Case(source)


@row("images of `--unlabelled OTHER` that are labelled ones, too")
def labelled_again(root: Path) -> Iterator[Case]:
    source, other = lay(root / "set", THREE), lay(root / "other", {"4.jpg": stored()})
    (other / "5.jpg").symlink_to(source / "cat" / "1.jpg")
    yield Case(source, unlabelled=other, check=lambda beton: beton.manifest.n_unlabelled == 1)


tables("columns for file and class, with a header", f"file,class\n{ROWS_OF_THREE}")
tables("the same without a header, or the class first", ROWS_OF_THREE, "cat,1.jpg\ncat,2.jpg\ndog,3.jpg\n",
       "label,image\ncat,1.jpg\ncat,2.jpg\ndog,3.jpg\n")  # fmt: skip
OTHER_FORMS = f"image,species\n{ROWS_OF_THREE}"
tables("semicolons or tabs; UTF-16 or a byte-order mark; CRLF", OTHER_FORMS.replace(",", ";"),
       OTHER_FORMS.replace(",", "\t"), OTHER_FORMS.encode("utf-16"), OTHER_FORMS.encode("utf-8-sig"),
       OTHER_FORMS.replace("\n", "\r\n"))  # fmt: skip
PATIENTS = "file,patient,class\n1.jpg,7,cat\n2.jpg,7,cat\n3.jpg,8,dog\n"
SITES = "file,site,kind\n1.jpg,x,cat\n2.jpg,y,cat\n3.jpg,y,dog\n"
tables("several columns that could be the class", SITES)
tables(
    "the same, with `--label-column kind`",
    SITES,
    PATIENTS.replace("class", "kind"),
    reading=Reading(label_column="kind"),
)
tables("one-hot columns, with `--one-hot cat dog`", "image,cat,dog\n1.jpg,1,0\n2.jpg,1.0,0.0\n3.jpg,0,1\n",
       reading=Reading(one_hot=("cat", "dog")))  # fmt: skip
tables("files without their suffix", "id_code,class\n1,cat\n2,cat\n3,dog\n")
tables("files below a folder beside the table", OTHER_FORMS, files={f"images/{name}": FLAT[name] for name in FLAT})
tables("files that begin with a slash, as Places365's", "/1.jpg 1\n/2.jpg 1\n/3.jpg 2\n",
       files={f"data/{name}": FLAT[name] for name in FLAT})  # fmt: skip
tables("class numbers from 1", "file,label\n1.jpg,1\n2.jpg,1\n3.jpg,2\n", "file,label\n1.jpg,1.0\n2.jpg,1\n3.jpg,2\n")
tables("cells that are empty, nan or -1 beside classes", "file,label\n1.jpg,\n2.jpg,nan\n3.jpg,-1\n4.jpg,cat\n",
       files=FLAT | {"4.jpg": stored()})  # fmt: skip
tables("the word unknown for a missing label, with `--missing unknown`",
       "file,label\n1.jpg,unknown\n2.jpg,cat\n3.jpg,dog\n", reading=Reading(missing=("unknown",)))  # fmt: skip
tables("a file that is not there", f"file,class\n{ROWS_OF_THREE}gone.jpg,dog\n", about="gone.jpg")
tables("a file in two rows", f"file,class\n{ROWS_OF_THREE}1.jpg,dog\n")
PARTS = "file,class,split\n1.jpg,cat,train\n2.jpg,cat,train\n3.jpg,dog,val\n"
tables("a column that says train, val or test", PARTS)
tables("the same, with `--rows split=train`", PARTS, reading=Reading(rows="split=train"))
OBJECTS = ['{"file_name": "1.jpg", "label": "cat"}', '{"file_name": "2.jpg", "label": "cat", "boxes": [[0, 0, 9, 9]]}',
           '{"label": "dog", "file_name": "3.jpg"}']  # fmt: skip
tables("objects in JSON, one a line or in a list", "\n".join(OBJECTS), f"[{', '.join(OBJECTS)}]")
tables("measures instead of classes", "file,label\n1.jpg,3.7\n2.jpg,1\n3.jpg,2.25\n")
tables("an empty table", "", "\n\n", b"\xef\xbb\xbf")
tables("a class number of 5,000 digits", f"file,label\n1.jpg,1\n2.jpg,{'9' * 5000}\n3.jpg,2\n")


def annotated(name: str, *annotations: tuple[int, int]) -> None:
    """A row about iNaturalist's JSON, whose annotations are (image, category)."""

    @row(name)
    def build(root: Path) -> Iterator[Case]:
        files = ["order/1/1.jpg", "order/1/2.jpg", "order/2/3.jpg"]
        parts = {
            "images": [{"id": i, "file_name": each} for i, each in enumerate(files, 1)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [{"image_id": image, "category_id": category} for image, category in annotations],
        }
        tree = dict.fromkeys(files, stored()) | {"train2018.json": json.dumps(parts).encode()}
        yield Case(lay(root, tree) / "train2018.json")


annotated("annotations in JSON, as iNaturalist's", (1, 1), (2, 1), (3, 2))
annotated("annotations of several classes in an image, as of object detection", (1, 1), (1, 2), (2, 1))


class Items:
    """A data set of four images of the classes a and b."""

    classes = ("a", "b")

    def __init__(self, *labels: object, n: int = 4) -> None:
        self.labels, self.n = labels, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[object, object]:
        return picture(seed=i), self.labels[i]


def objects(name: str, *made: object) -> None:
    """A row about data set objects."""

    @row(name)
    def build(root: Path) -> Iterator[Case]:
        yield from (Case(each) for each in made)


objects("items (image, label) and `.classes`", Items(0, 1, 1, 0))
objects("labels None or -1", Items(None, 1, -1, 0))
objects("labels as NumPy numbers, tensors or names of classes", Items(np.int64(0), np.uint8(1), torch.tensor(1), "a"))
objects("a label that is no class's", Items(0, 1, 7, 1))
objects("an object without a length, such as a stream", iter([(picture(), 0)]), (item for item in [(picture(), 0)]))
objects("an object without items", Items(n=0))


@row("torchvision's ImageFolder")
def image_folder(root: Path) -> Iterator[Case]:
    yield Case(ImageFolder(lay(root, {"cat/1.jpg": stored(), "dog/2.jpg": stored()})))


@row("`--classes-from` another .beton, all of whose classes are there or not")
def class_list(root: Path) -> Iterator[Case]:
    lay(root / "train", {"ant/1.jpg": stored(), "dog/2.jpg": stored(), "cat/3.jpg": stored()})
    names = lay(root, {"names.txt": b"ant\ndog\ncat\n"}) / "names.txt"
    convert(root / "train", root / "train.beton", reading=Reading(classes_from=names))
    yield Case(lay(root / "val", THREE), reading=Reading(classes_from=root / "train.beton"))
    yield Case(lay(root / "val", THREE), reading=Reading(classes_from=names))


@row("`--classes-from` a list without one of the classes")
def too_short(root: Path) -> Iterator[Case]:
    lay(root, {"names.txt": b"cat\nant\n"})
    yield Case(lay(root / "val", THREE), reading=Reading(classes_from=root / "names.txt"))


@row("`--classes-from` a list whose names differ from the folders' in Unicode form only")
def unicode_forms(root: Path) -> Iterator[Case]:
    composed, apart = "caf\u00e9", "cafe\u0301"
    lay(root, {"names.txt": f"{composed}\ndog\n".encode()})
    val = lay(root / "val", {os.path.join(apart, "1.jpg"): stored(), "dog/2.jpg": stored()})
    reading = Reading(classes_from=root / "names.txt")
    yield Case(val, reading=reading, check=lambda beton: beton.manifest.class_counts == (1, 1))
