"""Sets of boxes: COCO's JSON, VOC's XML and YOLO's text hold the same objects, which are cut as their pixels are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import rng
from pipeline.batch import Boxes
from pipeline.dense.cut_boxes import cut_boxes, fitted
from pipeline.dense.dataset import BoxDataset, DenseLoader
from pipeline.dense.segmentations import drawn, rle
from pipeline.sampling.sampler import Sampler
from pipeline.spec import BoxLabels
from tests.pipeline.dense.box_sets import FORMATS, JSON, LABELS, NAMES, OBJECTS, coco, opened, write_set, xml


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_holds_the_same_objects(root, kind):
    found = opened(root, LABELS[kind])
    assert found.names == ("a", "b", "c")
    assert found.classes == NAMES
    assert found.counts.tolist() == [2, 1]
    assert found.sides.tolist() == [[30, 40]] * 3
    for objects, expected in zip(found.objects, OBJECTS.values(), strict=True):
        np.testing.assert_allclose(objects.boxes, np.array([box for _, box in expected]).reshape(-1, 4), atol=1e-5)
        assert [NAMES[each] for each in objects.classes] == [name for name, _ in expected]
        assert not objects.ignored.any()
        assert objects.masks is None
    assert found.objects[0].areas[0] == pytest.approx(50.5 if kind == "coco" else 160, abs=1e-3)
    assert any("without an object" in note and note.endswith(": c") for note in found.notes())
    np.testing.assert_array_equal(found.read(1).permute(1, 2, 0), np.array(Image.open(root / "images/train/b.png")))


def test_crowds_and_difficult_objects_are_ignored_and_said(root):
    made = coco()
    made["annotations"][0]["iscrowd"] = 1
    (root / "annotations/instances_train.json").write_text(json.dumps(made))
    (root / "voc/a.xml").write_text(xml(OBJECTS["a"][:1], extra="<difficult>1</difficult>"))
    for kind, ignored in (("coco", [True, False]), ("voc", [True])):
        found = opened(root, LABELS[kind])
        assert found.objects[0].ignored.tolist() == ignored
        assert any("1 object, crowds or difficult ones" in note for note in found.notes())
    assert found.counts.tolist() == [1, 0]
    assert "no object of" in found.notes()[-1]
    assert "dog" in found.notes()[-1]


def test_masks_are_the_pixels_of_polygons_and_run_lengths(root):
    made = coco()
    rows = np.zeros((30, 40), np.uint8)
    rows[10:30, 30:40] = 1
    flat, runs = rows.T.ravel(), []
    for value in range(flat.size):  # uncompressed RLE by hand: lengths of runs of 0, 1, 0, ... down the columns
        if value == 0 or flat[value] != flat[value - 1]:
            runs.append(0)
        runs[-1] += 1
    made["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": runs}
    (root / "annotations/instances_train.json").write_text(json.dumps(made))
    found = opened(root, BoxLabels(masks=True))
    assert found.objects[0].masks is not None
    first, second = (drawn(mask, 30, 40) for mask in found.objects[0].masks)
    expected = np.zeros((30, 40), bool)
    expected[2:12, 4:20] = True
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, rows.astype(bool))


def test_boxes_without_area_are_left_out_and_those_a_pixel_beyond_are_cut_both_said(root):
    made = coco({"a": [("dog", (4, 2, 4, 12)), ("cat", (30.5, 10, 40.7, 30.2))], "b": OBJECTS["b"], "c": []})
    (root / "annotations/instances_train.json").write_text(json.dumps(made))
    found = opened(root)
    np.testing.assert_allclose(found.objects[0].boxes, [[30.5, 10, 40, 30]])
    said = "\n".join(found.notes())
    assert "1 box without an area: " in said
    assert "annotation 0 of a" in said
    assert "1 box, up to a pixel beyond it: " in said
    corners = "".join(f"<{edge}>5</{edge}>" for edge in ("xmin", "ymin", "xmax", "ymax"))
    point = f"<object><name>dog</name><bndbox>{corners}</bndbox></object></annotation>"
    (root / "voc/a.xml").write_text(xml([]).replace("</annotation>", point))
    assert "a.xml: object 1" in "\n".join(opened(root, LABELS["voc"]).notes())


def test_a_list_of_voc_chooses_images_and_other_files_are_counted_without_one(root):
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("b\n")
    labels = replace(LABELS["voc"], images="images/train")
    found = opened(root, labels, "ImageSets/Main/val.txt")
    assert found.names == ("b",)
    assert found.classes == NAMES  # of the whole folder
    assert not any("not used" in note for note in found.notes())
    (root / "voc/z.xml").write_text(xml([]))
    (root / "yolo/z.txt").write_text("")
    for kind in ("voc", "yolo"):
        assert any("1 file" in note and "not used" in note for note in opened(root, LABELS[kind]).notes())
    assert any(
        note.startswith("without a file in") and ": 1 image, " in note for note in opened(root, LABELS["yolo"]).notes()
    )


def test_the_digest_is_of_annotations_sides_and_classes(root):
    before = {kind: opened(root, LABELS[kind]).digest for kind in FORMATS}
    assert before == {kind: opened(root, LABELS[kind]).digest for kind in FORMATS}
    (root / "voc/b.xml").write_text(xml([("cat", (0, 0, 15, 8))]))
    assert opened(root, LABELS["voc"]).digest != before["voc"]
    assert opened(root, replace(LABELS["coco"], names=("dog", "cat"))).digest != before["coco"]
    Image.new("RGB", (40, 30)).save(root / "images/train/a.png")
    assert opened(root, LABELS["yolo"]).digest != before["yolo"]  # another size in bytes


def key(seed=0, image=0):
    return rng.keys(seed, 0, image, rng.DENSE)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("scale", [(0.5, 0.5), (1.0, 1.0), (1.7, 1.7)])
def test_boxes_and_masks_move_with_the_pixels(root, masks, scale):
    """A red rectangle is drawn on the image: in the view its box, and its mask, are where the pixels are red."""
    image = Image.new("RGB", (40, 30), (0, 0, 255))
    ImageDraw.Draw(image).rectangle((5, 6, 27, 23), fill=(255, 0, 0))  # its last pixels included
    image.save(root / "images/train/a.png")
    (root / JSON).write_text(json.dumps(coco({"a": [("dog", (5, 6, 28, 24))], "b": OBJECTS["b"], "c": []})))
    found = opened(root, BoxLabels(masks=masks, scale=scale))
    seen = set()
    for seed in range(6):
        view = cut_boxes(found.read(0), found.objects[0], found.labels, (32, 48), key(seed))
        assert view.image.shape == (3, 32, 48)
        height, width = view.sides
        red = (view.image[0] > view.image[2]) & (view.image[0] > 140)  # padding is grey
        rows, columns = red.any(1).nonzero()[:, 0], red.any(0).nonzero()[:, 0]
        by_pixels = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(view.boxes[0], by_pixels, atol=1.0)
        assert view.classes.tolist() == [1]
        assert (view.boxes[0, 2:] <= torch.tensor([width, height])).all()
        if masks:
            assert view.masks is not None
            assert (view.masks[0] != red).float().mean() < 0.05
        seen.add(tuple(view.boxes[0].tolist()))
        again = cut_boxes(found.read(0), found.objects[0], found.labels, (32, 48), key(seed))
        assert torch.equal(view.image, again.image)
    assert len(seen) > 1  # mirrored, or cut elsewhere


def test_run_lengths_are_cut_as_polygons_are(root):
    found = opened(root, BoxLabels(masks=True, scale=(0.9, 0.9)))
    objects = found.objects[0]
    assert objects.masks is not None
    packed = objects._replace(masks=tuple(rle(mask, 30, 40) for mask in objects.masks))
    for seed in range(4):
        one, other = (cut_boxes(found.read(0), each, found.labels, 32, key(seed)) for each in (objects, packed))
        assert one.masks is not None
        assert other.masks is not None
        assert one.masks.shape == other.masks.shape
        assert (one.masks != other.masks).float().mean() < 0.03


def test_an_evaluation_view_is_the_largest_that_fits(root):
    view, sides = fitted(opened(root).read(0), (48, 32))
    assert sides == (24, 32)
    assert view.shape == (3, 48, 32)
    assert (view[:, 24:] == torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]).all()


def test_objects_outside_of_a_crop_and_ignored_ones_are_not_in_a_view(root):
    made = coco({"a": [("dog", (0, 0, 2, 2)), ("cat", (38, 28, 40, 30))], "b": OBJECTS["b"], "c": []})
    made["annotations"][1]["iscrowd"] = 1
    (root / JSON).write_text(json.dumps(made))
    for masks in (False, True):
        found = opened(root, BoxLabels(masks=masks, scale=(4.0, 4.0), flip=False))
        views = [cut_boxes(found.read(0), found.objects[0], found.labels, 40, key(seed)) for seed in range(30)]
        counts = {len(view.boxes) for view in views}
        assert counts == {0, 1}
        assert all(view.classes.tolist() in ([], [1]) for view in views)


def test_batches_join_the_objects_of_their_images(root):
    found = opened(root, BoxLabels(masks=True, scale=(1.0, 1.0), flip=False))
    dataset = BoxDataset(found, (30, 40), 0)
    sampler = Sampler(0, range(3), None, 3, 0)
    with DenseLoader(dataset, sampler, torch.device("cpu"), threads=1) as loader:
        part = next(loader).boxes
    assert isinstance(part, Boxes)
    expected = [OBJECTS[found.names[image]] for image in part.ids.tolist()]
    assert part.counts.tolist() == [len(each) for each in expected]
    assert part.sides.tolist() == [[30, 40]] * 3
    np.testing.assert_allclose(part.boxes, np.array([box for each in expected for _, box in each]))
    assert [NAMES[each] for each in part.classes] == [name for each in expected for name, _ in each]
    assert part.masks is not None
    assert part.masks.flatten(1).sum(1).tolist() == [(x1 - x) * (y1 - y) for e in expected for _, (x, y, x1, y1) in e]


def test_images_without_an_object_can_be_left_out(root):
    left = opened(root).with_objects()
    assert left.names == ("a", "b")
    assert len(left.objects) == len(left.images) == 2
    assert "1 image without an object" in left.notes()[-1]
    assert opened(root).n == 3
