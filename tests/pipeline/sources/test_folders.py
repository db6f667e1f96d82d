"""Folders mean classes where that is the only reading; else the message says what was probably meant."""

import os

import pytest
import torchvision

from pipeline.errors import InputError
from pipeline.sources.find import find
from pipeline.sources.reading import Reading
from tests.pipeline.sources.test_sources import content, lay


def test_class_folders_agree_with_torchvision(tmp_path):
    lay(tmp_path, "dog/2.jpg", "dog/deep/1.JPEG", "Cat/a.png", "ant/x.jpg")
    oracle, source = torchvision.datasets.ImageFolder(tmp_path), find(tmp_path)
    assert source.classes == tuple(oracle.classes)
    assert sorted((str(source.root / name), label) for name, label in content(source).items()) == sorted(oracle.samples)
    assert source.read(0)[0] == (tmp_path / source.name(0)).read_bytes()
    assert source.notes == ("1 image in folders below a class's (dog/deep) belong to that class",)


def test_a_flat_folder_has_no_labels(tmp_path):
    lay(tmp_path, "b.jpg", "a.png")
    assert find(tmp_path).classes is None
    assert content(find(tmp_path)) == {"a.png": -1, "b.jpg": -1}


def test_unlabelled_images_follow_the_labelled(tmp_path):
    lay(tmp_path, "l/dog/1.jpg", "l/cat/1.jpg", "u/1.jpg", "u/deep/2.jpg", "u/x")
    os.mkfifo(tmp_path / "u/pipe.jpg")
    source = find(tmp_path / "l", tmp_path / "u")
    assert list(content(source)) == [
        "cat/1.jpg", "dog/1.jpg", "unlabelled/1.jpg", "unlabelled/deep/2.jpg", "unlabelled/x",
    ]  # fmt: skip
    assert list(content(source).values()) == [0, 1, -1, -1, -1]
    assert source.rejected == (("unlabelled/pipe.jpg", "a FIFO, expected a regular file"),)


def test_unlabelled_images_that_are_labelled_ones_are_left_out_and_said(tmp_path):
    lay(tmp_path, "l/dog/1.jpg", "l/cat/1.jpg", "u/1.jpg", "u/2.jpg")
    (tmp_path / "u/hard.jpg").hardlink_to(tmp_path / "l/cat/1.jpg")
    (tmp_path / "u/linked").symlink_to(tmp_path / "l/dog")
    source = find(tmp_path / "l", tmp_path / "u")
    expected = {"cat/1.jpg": 0, "dog/1.jpg": 1, "unlabelled/1.jpg": -1, "unlabelled/2.jpg": -1}
    assert content(source) == expected
    said = "left out of --unlabelled: 2 images among the others already (hard.jpg, linked/1.jpg)"
    assert said in source.notes
    (tmp_path / "t.csv").write_text("file,label\nu/1.jpg,cat\nl/dog/1.jpg,dog\n")
    named = content(find(tmp_path / "t.csv", tmp_path / "u"))
    assert named == {"u/1.jpg": 0, "l/dog/1.jpg": 1, "unlabelled/2.jpg": -1, "unlabelled/hard.jpg": -1}
    for same in ("l", "l/cat"):
        with pytest.raises(
            InputError, match=r"--unlabelled .*: all [12] images are among the others already; leave it"
        ):
            find(tmp_path / "l", tmp_path / same)


@pytest.mark.parametrize(("names", "message"), [
    (["1.jpg", "dog/1.jpg"], r"has 1 image \(1\.jpg\) beside class folders"),
    (["train/dog/1.jpg", "val/dog/1.jpg"], "holds train, val, not classes; convert R/train and R/val"),
    (["training_set/cat/1.jpg", "training_set/dog/1.jpg"], "holds training_set, not classes; convert R/training_set"),
    (["test1/1.jpg", "Train/1.jpg"], "not classes; convert R/Train and R/test1"),
    (["train/cat/1.jpg", "test/cat/1.jpg", "unlabelled/1.jpg"],
     "holds test, train, unlabelled, not classes; convert R/test and R/train, with --unlabelled R/unlabelled"),
    (["train/cat/1.jpg", "test/cat/1.jpg", "extra/1.jpg"], "holds extra, test, train, not classes"),
    (["cat/1.jpg", "dog/1.jpg", "unlabeled/1.jpg"],
     "holds unlabeled beside other folders; .* --unlabelled, .*--levels 1"),
    (["photos/cat/1.jpg", "photos/dog/1.jpg"], "holds one folder, photos, with the folders cat, dog; convert R/photos"),
    (["fold0/cat/1.jpg", "fold1/cat/1.jpg"], "holds fold0, fold1, not classes; put .* together, or list it in a table"),
    (["HAM_part_1/1.jpg", "HAM_part_2/2.jpg"], "holds HAM_part_1, HAM_part_2, not classes; .*--levels 1 takes them"),
    (["patient_001/1.jpg", "patient_002/2.jpg"], "holds patient_001, patient_002, not classes; .* list it in a table"),
    (["trainA/1.jpg", "trainB/1.jpg", "testA/1.jpg", "testB/1.jpg"], "holds testA, testB, trainA, trainB, not classes"),
    (["images/1.jpg", "masks/1.jpg"], "holds images, masks, not classes; convert R/images"),
    (["Aves/3013/1.jpg", "Aves/3014/1.jpg", "Plantae/5/1.jpg"],
     r"3 images 2 folders deep.*--levels 1 makes 2 classes \(Aves\), --levels 2 makes 3 classes \(Aves/3013\)"),
    (["a/abbey/1.jpg", "a/flat/inside/1.jpg", "b/bar/1.jpg"],
     "2 images 2 folders deep and 1 image 3 folders deep.*--levels 2 makes 3 .*--levels leaf makes 3 classes"),
    (["Aves/cover.jpg", "Aves/1/a.jpg", "Aves/2/a.jpg", "Aves/2/b.jpg", "Bees/3/a.jpg"], "--levels 1 makes 2 classes"),
    (["cat/1.jpg", "dog/a/1.jpg", "dog/b/1.jpg"],
     r"directly in 1 of its folders \(cat\), and in folders below 1 other \(dog\); --levels 1 makes .*--levels leaf"),
])  # fmt: skip
def test_folders_that_mean_several_things_are_refused_with_what_was_probably_meant(tmp_path, names, message):
    lay(tmp_path, *names)
    with pytest.raises(InputError, match=message.replace("R/", f"{tmp_path}/")):
        find(tmp_path)


def test_one_folder_with_images_among_others_is_what_was_probably_meant(tmp_path):
    lay(tmp_path, "images/cat/1.jpg", "images/dog/1.jpg")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/classes.txt").write_text("cat\ndog\n")
    said = f"holds images in one folder, images, with the folders cat, dog; convert {tmp_path}/images; or --levels 1"
    with pytest.raises(InputError, match=said):
        find(tmp_path)
    assert find(tmp_path / "images").classes == ("cat", "dog")


def test_levels_say_which_folders_are_classes(tmp_path):
    lay(tmp_path, "a/abbey/1.jpg", "a/flat/inside/1.jpg", "b/bar/1.jpg", "b/bar/2.jpg")
    expected = {
        1: {"a": 2, "b": 2},
        2: {"a/abbey": 1, "a/flat": 1, "b/bar": 2},
        "leaf": {"a/abbey": 1, "a/flat/inside": 1, "b/bar": 2},
    }
    for levels, counts in expected.items():
        source = find(tmp_path, reading=Reading(levels=levels))
        assert source.classes == tuple(counts)
        for name, label in content(source).items():
            assert name.startswith(f"{source.classes[label]}/")
        assert [list(source.labels).count(i) for i in range(len(counts))] == list(counts.values())
    with pytest.raises(InputError, match=r"--levels 3: 3 images of .* lie less deep, such as a/abbey/1.jpg"):
        find(tmp_path, reading=Reading(levels=3))
    with pytest.raises(InputError, match="--levels: expected 1 or more, or leaf, got 0"):
        find(tmp_path, reading=Reading(levels=0))


def test_levels_take_the_parts_of_a_data_set_for_classes_and_a_vehicle_may_be_called_train(tmp_path):
    lay(tmp_path / "parts", "train/1.jpg", "test/1.jpg")
    assert find(tmp_path / "parts", reading=Reading(levels=1)).classes == ("test", "train")
    lay(tmp_path / "vehicles", "car/1.jpg", "train/1.jpg", "bus/1.jpg")
    assert find(tmp_path / "vehicles").classes == ("bus", "car", "train")
    lay(tmp_path / "flat", "1.jpg")
    with pytest.raises(InputError, match="--levels: has no meaning for a folder without folders"):
        find(tmp_path / "flat", reading=Reading(levels=1))


@pytest.mark.parametrize("names", [
    ("patient_001/1.jpg", "patient_002/1.jpg"), ("part 1/1.jpg", "part 2/1.jpg"), ("image/1.jpg", "mask/1.jpg"),
])  # fmt: skip
def test_level_1_takes_folders_of_any_name_for_classes(tmp_path, names):
    lay(tmp_path, *names)
    assert find(tmp_path, reading=Reading(levels=1)).classes == tuple(name.partition("/")[0] for name in names)


@pytest.mark.parametrize("names", [
    ("mask/1.jpg", "no mask/1.jpg"), ("photo/1.jpg", "sketch/1.jpg"), ("case/1.jpg", "phone/1.jpg"),
])  # fmt: skip
def test_classes_that_are_called_a_little_like_parts_are_classes(tmp_path, names):
    lay(tmp_path, *names)
    assert find(tmp_path).classes == tuple(name.partition("/")[0] for name in names)


def test_an_empty_folder_is_a_class_and_one_of_other_files_is_not(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel/.gitkeep").touch()
    (tmp_path / "eel/Thumbs.db").touch()
    source = find(tmp_path)
    assert source.classes == ("cat", "dog", "eel")
    assert "1 class without an image: eel" in source.notes
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/1.xml").touch()
    with pytest.raises(InputError, match="expected the images of class notes, found none, but 1 other file"):
        find(tmp_path)


def test_missing_and_empty_folders_are_refused(tmp_path):
    for path, message in ((tmp_path, "found none"), (tmp_path / "absent", "found nothing")):
        with pytest.raises(InputError, match=message):
            find(path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"found none, but 1 \.txt"):
        find(tmp_path)
    lay(tmp_path, "l/a/1.jpg")
    with pytest.raises(InputError, match="found none"):
        find(tmp_path / "l", tmp_path / "absent")
    with pytest.raises(InputError, match="together with a folder"):
        find([], tmp_path / "l")
    with pytest.raises(InputError, match="--label-column: has no meaning for a folder"):
        find(tmp_path / "l", reading=Reading(label_column="x"))


def test_one_class_and_classes_of_nearly_one_name_are_worth_a_word(tmp_path):
    lay(tmp_path / "one", "images/1.jpg")
    (note,) = find(tmp_path / "one").notes
    assert note.startswith("one class only, images")
    lay(tmp_path / "alike", "Sea lion/1.jpg", "sea_lion/1.jpg", "seal/1.jpg")
    assert find(tmp_path / "alike").notes == (
        "classes that are nearly the same: 'Sea lion' and 'sea_lion'; are they one class?",
    )


@pytest.mark.parametrize("other", ["cat\u200b", "\ufeffcat", "c_at", "CAT"])
def test_classes_that_look_the_same_are_worth_a_word(tmp_path, other):
    lay(tmp_path, "cat/1.jpg", f"{other}/1.jpg", "dog/1.jpg")
    both = " and ".join(map(repr, sorted(["cat", other])))
    assert find(tmp_path).notes == (f"classes that are nearly the same: {both}; are they one class?",)


def test_a_link_to_a_folder_around_is_no_class(tmp_path):
    lay(tmp_path / "flat", "1.jpg", "2.jpg")
    (tmp_path / "flat/loop").symlink_to(tmp_path / "flat")
    assert content(find(tmp_path / "flat")) == {"1.jpg": -1, "2.jpg": -1}
    lay(tmp_path / "classes", "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "classes/up").symlink_to("..")
    source = find(tmp_path / "classes")
    assert source.classes == ("cat", "dog")
    assert "up" in source.notes[0]


def test_a_class_folder_under_two_names_is_refused(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "puppy").symlink_to("dog")
    with pytest.raises(InputError, match="dog and puppy are one folder, by a link, in two classes"):
        find(tmp_path)


def test_a_class_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scan(path) if os.path.basename(path) != "dog" else refuse(path))
    with pytest.raises(InputError, match="dog: the folder cannot be read: Permission denied"):
        find(tmp_path)


def refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: os.symlink("/dev/null", path), lambda path: os.symlink(path, path)]
)
def test_a_source_that_is_neither_file_nor_folder_is_refused(tmp_path, make):
    make(tmp_path / "photos")
    with pytest.raises(InputError, match=r"found (a FIFO|a device|Too many levels of symbolic links)"):
        find(tmp_path / "photos")
