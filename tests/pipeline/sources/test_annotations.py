"""Annotations as iNaturalist writes them, and lists as Places365 does: each image gets its own label."""

import json

import pytest

from pipeline.convert.conversion import convert
from pipeline.errors import InputError
from pipeline.sources.find import find
from pipeline.sources.reading import Reading
from pipeline.store.beton import open_beton
from tests.pipeline.sources.test_sources import content, lay

CATEGORIES = [
    {"id": 7, "name": "Apis mellifera", "supercategory": "Insecta"},
    {"id": 2, "name": "Quercus robur", "supercategory": "Plantae"},
    {"id": 5, "name": "Parus major", "supercategory": "Aves"},
]
FILES = {11: "train/Insecta/7/a.jpg", 3: "train/Plantae/2/b.jpg", 8: "train/Insecta/7/c.jpg"}
OF = {11: 7, 3: 2, 8: 7}


@pytest.fixture
def written(tmp_path):
    """written(**changes) -> the path of annotations beside the files of FILES, with other parts where asked; a part of
    None is left out."""

    def of(**changes):
        lay(tmp_path, *FILES.values())
        parts = {
            "info": {"year": 2018},
            "images": [{"id": i, "file_name": name, "width": 8, "height": 8} for i, name in FILES.items()],
            "annotations": [{"id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(OF.items())],
            "categories": CATEGORIES,
        }
        kept = {name: part for name, part in (parts | changes).items() if part is not None}
        (tmp_path / "train2018.json").write_text(json.dumps(kept))
        return tmp_path / "train2018.json"

    return of


def test_the_class_of_an_image_is_its_category_and_not_its_folder(written):
    """By hand: ids 2, 5, 7 are the classes 0, 1, 2; the second has no image and is a class all the same."""
    source = find(written())
    assert source.classes == ("Quercus robur", "Parus major", "Apis mellifera")
    assert content(source) == {FILES[11]: 2, FILES[3]: 0, FILES[8]: 2}
    assert source.notes == ("annotations: 3 images of 3 categories; classes from their names, by id",)


def test_they_become_a_beton(written, tmp_path):
    convert(written(), tmp_path / "train.beton")
    manifest = open_beton(tmp_path / "train.beton").manifest
    assert manifest.classes == ("Quercus robur", "Parus major", "Apis mellifera")
    assert tuple(manifest.class_counts) == (1, 0, 2)


def test_names_that_several_categories_have_are_replaced_by_ids(written):
    source = find(written(categories=[{"id": i, "name": "Plantae"} for i in (10, 2, 5, 7)]))
    assert source.classes == ("2", "5", "7", "10")
    assert find(written(categories=[{"id": i} for i in (2, 5, 7)])).classes == ("2", "5", "7")


def test_images_without_an_annotation_have_no_label(written, tmp_path):
    assert content(find(written(annotations=[{"image_id": 3, "category_id": 2}]))) == {
        FILES[11]: -1, FILES[3]: 0, FILES[8]: -1,
    }  # fmt: skip
    for test_set in (written(annotations=[]), written(annotations=None, categories=None)):
        assert (find(test_set).classes, set(find(test_set).labels.tolist())) == (None, {-1})


def test_files_that_are_not_there_are_rejected_and_lie_where_it_is_said(written, tmp_path):
    more = [{"id": 99, "file_name": "train/lost.jpg"}, *({"id": i, "file_name": FILES[i]} for i in FILES)]
    source = find(written(images=more))
    assert (len(source), source.rejected) == (3, (("train/lost.jpg", "image 99: no such file"),))
    elsewhere = [{"id": i, "file_name": FILES[i].removeprefix("train/")} for i in FILES]
    with pytest.raises(InputError, match=r"found none of the 3 that are listed: .* see --image-folder"):
        find(written(images=elsewhere))
    assert len(find(written(images=elsewhere), reading=Reading(image_folder=tmp_path / "train"))) == 3


IMAGE = {"id": 11, "file_name": FILES[11]}


@pytest.mark.parametrize(("changes", "said"), [
    ({"images": None}, "found no images; or convert a folder"),
    ({"categories": None}, "found no categories"),
    ({"images": []}, "its list is empty"),
    ({"images": {"a": 1}}, "expected a list of images, got"),
    ({"images": [{"id": "11", "file_name": "a"}]}, "images, number 1: expected id, a whole number, got '11'"),
    ({"images": [{"id": 11}]}, "images, number 1: expected file_name, a text, got None"),
    ({"images": [IMAGE, IMAGE]}, "expected an id of its own"),
    ({"categories": [*CATEGORIES, {"id": 7}]}, "expected an id of its own"),
    ({"images": [IMAGE, IMAGE | {"id": 3}, IMAGE | {"id": 8}]}, r"listed twice \(1\): train/Insecta/7/a.jpg"),
    ({"annotations": [{"image_id": 4, "category_id": 2}]}, "annotation 1 is of image 4, which is not listed"),
    ({"annotations": [{"image_id": 3, "category_id": 4}]}, "annotation 1 is of category 4, which is not listed"),
    ({"annotations": [{"image_id": 3, "category_id": 2}, {"image_id": 3, "category_id": 7}]}, "give no class to learn"),
    ({"annotations": [{"image_id": 3, "category_id": True}]}, "expected category_id, a whole number, got True"),
])  # fmt: skip
def test_what_is_no_such_file_is_refused_in_one_line(written, changes, said):
    with pytest.raises(InputError, match=said) as caught:
        find(written(**changes))
    assert "\n" not in str(caught.value)


def test_what_is_no_json_and_flags_of_tables_are_refused(written, tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        find(tmp_path / "x.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="found no images"):
        find(tmp_path / "list.json")
    with pytest.raises(InputError, match="--label-column: has no meaning for annotations in JSON"):
        find(written(), reading=Reading(label_column="x"))


def test_the_lists_of_places365_name_files_below_the_folder_by_a_slash(tmp_path):
    """Training files are given by /a/airfield/..., validation files by their bare name, both with a number."""
    lay(tmp_path, *(f"data_256/{name}" for name in ("a/airfield/1.jpg", "a/airfield/2.jpg", "w/wave/1.jpg")))
    lay(tmp_path, "val_256/Places365_val_1.jpg", "val_256/Places365_val_2.jpg")
    train, val = tmp_path / "places365_train_standard.txt", tmp_path / "places365_val.txt"
    train.write_text("/a/airfield/1.jpg 0\n/a/airfield/2.jpg 0\n/w/wave/1.jpg 1\n")
    val.write_text("Places365_val_1.jpg 1\nPlaces365_val_2.jpg 0\n")
    source = find(train, reading=Reading(image_folder=tmp_path / "data_256"))
    assert (source.classes, content(source)) == (
        ("0", "1"), {"a/airfield/1.jpg": 0, "a/airfield/2.jpg": 0, "w/wave/1.jpg": 1},
    )  # fmt: skip
    assert content(find(train)) == {f"data_256/{name}": label for name, label in content(source).items()}  # beside it
    source = find(val, reading=Reading(image_folder=tmp_path / "val_256"))
    assert (source.classes, source.labels.tolist()) == (("0", "1"), [1, 0])
    absolute = tmp_path / "absolute.txt"
    absolute.write_text("".join(f"{tmp_path}/data_256/a/airfield/{n}.jpg {n}\n" for n in (1, 2)))
    assert find(absolute).labels.tolist() == [0, 1]  # a path that is there is taken as it is
