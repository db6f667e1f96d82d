"""ELEVATER's sets from toy archives of the same layout: every set, every guard."""

import json
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from pipeline.convert.conversion import Options
from pipeline.elevater import __main__ as door
from pipeline.elevater.archive import open_archive
from pipeline.elevater.catalogue import CATALOGUE
from pipeline.elevater.prepare import FACTS, archive_folder, prepare, read_prepared
from pipeline.errors import InputError
from pipeline.labels.multi_label import load_multi_labels, multi_label_path, save_multi_labels
from pipeline.labels.splits import stored_labels
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names
from tests.checksummed import rewrite
from tests.toy_elevater import labelled, png, toy, write_archive

OPTIONS = Options(max_bad=0, workers=1)
VOC, MEMES, DTD = "voc-2007-classification", "hateful-memes", "dtd"


@pytest.fixture
def dtd(tmp_path):
    """The toy of one set, its facts, and the folder of its archive."""
    facts = toy(DTD)
    return facts, write_archive(facts, tmp_path)


def refused(facts, folder, said, **more):
    with pytest.raises(InputError, match=said):
        prepare(facts, folder, folder / "out", OPTIONS, **more)
    assert not (folder / "out").exists()


def test_the_catalogue_has_the_published_sets():
    """Sums that the sets' own papers give."""
    assert len(CATALOGUE) == 20
    metrics = [each.metric for each in CATALOGUE.values()]
    assert {metric: metrics.count(metric) for metric in metrics} == {
        "accuracy": 14, "per_class": 4, "map_11_points": 1, "roc_auc": 1,
    }  # fmt: skip
    assert sum(CATALOGUE["fgvc-aircraft-2013b-variants102"].images.values()) == 10_000
    assert sum(CATALOGUE["oxford-flower-102"].images.values()) == 8189
    assert sum(CATALOGUE["patch-camelyon"].images.values()) == 327_680
    assert sum(CATALOGUE["stanford-cars"].images.values()) == 16_185
    assert CATALOGUE["country211"].images == {
        split: 211 * n for split, n in (("train", 150), ("val", 50), ("test", 100))
    }
    assert all(each.images.keys() == each.index.keys() for each in CATALOGUE.values())


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_sets_layout_is_read(name, tmp_path):
    facts = toy(name, classes=3)
    folder = write_archive(facts, tmp_path)
    assert archive_folder(facts, tmp_path) == folder
    for split in facts.index:
        archive = open_archive(facts, folder, split)
        found = {archive.name(i): labels for i, labels in enumerate(archive.labels_of_image)}
        assert found == {f"{split}.zip@{path}": labels for path, labels in labelled(facts, split)}


@pytest.mark.parametrize("name", ["caltech-101", "country211", MEMES, "resisc45_clip", VOC])
def test_sets_of_each_kind_of_layout_are_prepared(name, tmp_path):
    facts = toy(name, each=1)
    write_archive(facts, tmp_path)
    made = prepare(facts, tmp_path, tmp_path / "out", OPTIONS)
    assert made == read_prepared(tmp_path / "out")
    assert (made.name, made.metric, made.differs) == (name, facts.metric, ())
    for split, n in facts.images.items():
        beton = open_beton(tmp_path / "out" / f"{split}.beton")
        assert (beton.n, made.images[split], made.digests[split]) == (n, n, beton.digest)
        assert beton.manifest.classes == ("class 0", "class 1")
        expected = {f"{split}.zip@{path}": labels for path, labels in labelled(facts, split)}
        many = load_multi_labels(beton)
        stored = [(each,) for each in stored_labels(beton).tolist()]
        if facts.multi_label:
            assert stored == [(-1,)] * n
            stored = [tuple(np.flatnonzero(row).tolist()) for row in many]
        else:
            assert many is None
        assert dict(zip(read_names(beton), stored, strict=True)) == {k: tuple(sorted(v)) for k, v in expected.items()}
    assert (tmp_path / "out/val.beton").exists() == ("val" in facts.images)


def test_unpacked_folders_are_read_as_the_zip_files_are(tmp_path):
    facts = toy(DTD)
    packed, loose = write_archive(facts, tmp_path / "a"), write_archive(facts, tmp_path / "b", unpacked=True)
    one, other = (open_archive(facts, folder, "val") for folder in (packed, loose))
    assert len(one) == len(other) == 4
    assert [one.read(i) for i in range(4)] == [other.read(i) for i in range(4)]
    assert (one.rejected, other.rejected) == ((), ())


def test_the_archive_may_be_given_itself_or_by_a_folder_above_it(dtd, tmp_path):
    facts, folder = dtd
    assert {archive_folder(facts, each) for each in (folder, folder.parent, tmp_path)} == {folder}
    assert archive_folder(toy(MEMES), tmp_path) is None


def test_counts_that_differ_are_said_with_both_numbers_and_may_be_allowed(dtd):
    facts, folder = dtd
    more = replace(facts, classes=3, images={"train": 5, "val": 4, "test": 4})
    said = "expected 5 train images, found 4; expected 3 classes, found 2; go on all the same with --differing"
    refused(more, folder, said)
    made = prepare(more, folder, folder / "out", OPTIONS, differing=True)
    assert made.differs == ("expected 5 train images, found 4", "expected 3 classes, found 2")


def test_a_listed_image_that_is_not_there_is_named(dtd):
    facts, folder = dtd
    with open(folder / "test.txt", "a") as file:
        file.write("test.zip@gone.png 1\n")
    more = replace(facts, images=facts.images | {"test": 5})
    refused(more, folder, r"expected 5 test images, found 4 \(1 listed file not there: test.zip@gone.png\)")
    with pytest.raises(InputError, match=r"gone\.png"):
        prepare(more, folder, folder / "out", OPTIONS, differing=True)
    made = prepare(more, folder, folder / "out", replace(OPTIONS, max_bad=0.5, overwrite=True), differing=True)
    assert made.images["test"] == 4


def test_an_image_that_cannot_be_decoded_is_counted_where_it_is_allowed(dtd):
    facts, folder = dtd
    with zipfile.ZipFile(folder / "test.zip", "w") as file:
        for i in range(4):
            file.writestr(f"test/a b/{i}.png", b"no image" if i == 2 else png([0], i))
    made = prepare(facts, folder, folder / "out", replace(OPTIONS, max_bad=0.5))
    assert made.differs == ("test: 1 image of 4 cannot be decoded",)


@pytest.mark.parametrize(("file", "text", "said"), [
    ("train.txt", "train.zip@1.png", "train.txt: line 1: expected `train.zip@1.jpg 0`, got 'train.zip@1.png'"),
    ("train.txt", "train.zip@1.png x", "line 1: expected"),
    ("train.txt", "train.zip@1.png 2", "expected labels from 0 to 1, got 2"),
    ("train.txt", "train.zip@1.png 0,1", "expected one label, found 2"),
    ("train.txt", "train.zip@../../1.png 0", "leads out|not there"),
    ("train.txt", "\n", "expected images, found none"),
    ("train.txt", "train.zip@train/a b/0.png 0", "expected train images of 2 classes, found them of 1"),
    ("labels.txt", "a\na\n", "labels.txt: .*(twice|same|two)"),
    ("train.zip", "no zip", "train.zip cannot be read as a zip file"),
])  # fmt: skip
def test_what_cannot_be_read_is_said(file, text, said, dtd):
    facts, folder = dtd
    (folder / file).write_text(text)
    refused(facts, folder, said)


@pytest.mark.parametrize(("change", "said"), [
    ({"annotations": []}, "expected one label, found 0"),
    ({"images": [{"id": 1}]}, "fit together"),
    ({"categories": ...}, "no 'categories'"),
    ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "c"}]}, "one twice"),
])  # fmt: skip
def test_what_cannot_be_read_of_json_is_said(change, said, tmp_path):
    facts = toy(MEMES)
    folder = write_archive(facts, tmp_path)
    found = json.loads((folder / "train_meta.json").read_text()) | change
    found = {name: value for name, value in found.items() if value is not ...}
    (folder / "train_meta.json").write_text(json.dumps(found))
    refused(facts, folder, said)


def test_splits_of_other_classes_and_other_layouts_are_refused(tmp_path):
    facts = toy(MEMES)
    folder = write_archive(facts, tmp_path)
    text = (folder / "test_meta.json").read_text()
    (folder / "test_meta.json").write_text(text.replace("class 1", "other"))
    refused(facts, folder, "test_meta.json names other classes than train_meta.json")
    (tmp_path / "dtd/images").mkdir(parents=True)
    refused(toy(DTD), tmp_path / "dtd", "expected dtd as ELEVATER's toolkit downloads it, .* found none; the original")


def test_labels_beside_a_file_are_its_own_and_unchanged(tmp_path):
    facts = toy(VOC, classes=3)
    folder = write_archive(facts, tmp_path)
    prepare(facts, folder, tmp_path / "out", OPTIONS)
    beton, other = (open_beton(tmp_path / "out" / f"{split}.beton") for split in ("train", "test"))
    path = multi_label_path(beton.path)
    kept = path.read_text()
    with pytest.raises(ValueError, match="labels of 6 samples"):
        save_multi_labels(beton, [(0,)])
    with pytest.raises(ValueError, match=r"from 0 to 2, got .3. for sample 0"):
        save_multi_labels(beton, [(3,)] * 6)
    for change, said in (
        (multi_label_path(other.path).read_text(), "another file than train.beton"),
        (kept.replace("[0", "[1", 1), "cannot be read as labels .its checksum is wrong"),
    ):
        path.write_text(change)
        with pytest.raises(InputError, match=said):
            load_multi_labels(beton)
    path.write_text(kept)
    assert load_multi_labels(beton).sum() == 6 + 3


def test_an_image_that_is_listed_with_different_labels_is_refused(tmp_path):
    facts = toy(VOC, each=1)
    folder = write_archive(facts, tmp_path)
    lines = "train.zip@train/a b/0.png 0\ntrain.zip@train/a b/0.png {}\n"
    (folder / "train_ic.txt").write_text(lines.format("0,1"))
    with pytest.raises(InputError, match="is listed twice, with different labels"):
        prepare(facts, folder, tmp_path / "a", OPTIONS)
    (folder / "train_ic.txt").write_text(lines.format(0))
    with pytest.raises(InputError, match="expected train images of 2 classes, found them of 1"):
        prepare(facts, folder, tmp_path / "b", OPTIONS)
    assert prepare(facts, folder, tmp_path / "b", OPTIONS, differing=True).images["train"] == 2


def test_so_is_one_of_a_set_of_one_label_an_image_and_a_byte_order_mark_belongs_to_no_name(dtd):
    facts, folder = dtd
    index = folder / facts.index["train"]
    lines = index.read_text().splitlines()
    index.write_text("\ufeff" + "\n".join(lines))
    names = folder / facts.class_names
    names.write_text("\ufeff" + names.read_text())
    prepare(facts, folder, folder / "kept", OPTIONS)
    assert not open_beton(folder / "kept" / "train.beton").manifest.classes[0].startswith("\ufeff")
    file, _, label = lines[0].rpartition(" ")
    index.write_text("\n".join([*lines, f"{file} {1 - int(label)}"]))
    refused(facts, folder, "is listed twice, with different labels")


def test_a_changed_list_of_facts_is_refused(dtd):
    facts, folder = dtd
    prepare(facts, folder, folder / "out", OPTIONS)
    assert read_prepared(folder) is None
    rewrite(folder / "out" / FACTS, metric="f1")
    with pytest.raises(InputError, match=r"cannot be read .dtd, f1.; prepare the data set again"):
        read_prepared(folder / "out")


@pytest.fixture
def asked(monkeypatch, capsys):
    def run(*argv: object) -> str:
        monkeypatch.setattr(sys, "argv", ["pipeline.elevater", *map(str, argv)])
        door.main()
        return capsys.readouterr().out

    return run


def test_the_command_prepares_all_that_is_there(asked, tmp_path, monkeypatch):
    small = {name: toy(name) for name in (DTD, VOC, MEMES)}
    monkeypatch.setattr(door, "CATALOGUE", small)
    for name in (DTD, VOC):
        write_archive(small[name], tmp_path)
    said = asked("all", tmp_path, tmp_path / "out", "--workers", 1)
    assert "left out: hateful-memes" in said
    assert "dtd: 4 train, 4 val, 4 test, accuracy" in said
    assert "prepared already" in asked("dtd", tmp_path, tmp_path / "out")
    assert "4 train" in asked("dtd", tmp_path, tmp_path / "out", "--overwrite", "--workers", 1)


def test_of_several_sets_one_that_differs_does_not_keep_the_others(asked, tmp_path, monkeypatch, capsys):
    small = {name: toy(name, each=1) for name in (DTD, MEMES)}
    for facts in small.values():
        write_archive(facts, tmp_path)
    wrong = {DTD: replace(small[DTD], classes=47)}
    monkeypatch.setattr(door, "CATALOGUE", small | wrong)
    with pytest.raises(InputError, match="1 of 2 sets were not prepared, see above: dtd"):
        asked("all", tmp_path, tmp_path / "out", "--workers", 1)
    said = capsys.readouterr().out
    assert "dtd: not prepared: dtd: expected 47 classes, found 2" in said
    assert "hateful-memes: 2 train, 2 test, roc_auc" in said


def test_the_command_lists_and_refuses(asked, tmp_path):
    said = asked("--list")
    assert len(said.splitlines()) == 22
    assert "map_11_points" in said
    for argv, wrong in (
        ((), "expected SET FOLDER OUT"),
        (("dtdd", tmp_path, tmp_path), "dtdd: no set of ELEVATER; did you mean dtd"),
        (("all", tmp_path, tmp_path), "expected archives in classification"),
        (("dtd", tmp_path, tmp_path), "expected dtd as ELEVATER's toolkit"),
        (("dtd", tmp_path, tmp_path, "--per-class", 5), "the shots are drawn by few_shot"),
    ):
        with pytest.raises(InputError, match=wrong):
            asked(*argv)
