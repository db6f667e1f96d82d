"""Detection evaluated, drawn and predicted: a detector that knows the answer scores 1, and one that shifts it less."""

import json
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from models import predict
from models.config.recipe import Encoder, Optim, Recipe, Run
from models.config.sweep import changed
from models.dense.average_precision import average_precision, names_of
from models.dense.box_drawing import NOT_JUDGED, Drawing, draw_objects
from models.dense.drawing import palette
from models.dense.mask_rcnn import Found
from models.distributed.process_group import World, all_on_main
from models.evaluate import __main__ as evaluate
from models.evaluate.box_pictures import prediction_picture, view_sheet
from models.evaluate.box_predictions import draw_detections
from models.evaluate.box_validator import BoxValidator, judge_set
from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.evaluator import Evaluator
from models.export import __main__ as export
from models.export.export_format import CheckResult
from models.export.model_card import front_matter, model_card
from models.load import Loaded
from models.methods.detect import Detect, Settings
from models.records.metrics import check_row
from models.reporting.report import _classes
from models.tracking.journal import _numbers
from pipeline.dense.boxes import open_boxes
from pipeline.errors import InputError
from pipeline.spec import BoxLabels, Data
from tests.models.ranks import run_ranks

NAMES = "disc", "bar", "star"
COLOURS = np.array([[220, 40, 40], [40, 180, 60]])
ALONE = World(0, 1, 0, torch.device("cpu"))


def scene(number):
    """A grey image of 64 x 48 with a red disc's box and a green bar, in places of its own; the last is a crowd."""
    rng = np.random.default_rng(number)
    image = rng.integers(100, 130, (48, 64, 3)).astype(np.uint8)
    boxes = []
    for kind, (width, height) in enumerate(((12, 12), (20, 8))):
        left, top = int(rng.integers(32 * kind, 32 * kind + 12)), int(rng.integers(0, 36))
        image[top : top + height, left : left + width] = COLOURS[kind]
        boxes.append([left, top, width, height])
    return image, boxes


def polygon(left, top, width, height):
    return [left, top, left + width, top, left + width, top + height, left, top + height]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """images/train, images/val and annotations in COCO's format: of each image a disc and a bar."""
    root = tmp_path_factory.mktemp("objects")
    (root / "annotations").mkdir()
    for name, numbers in (("train", range(3)), ("val", range(3, 8))):
        (root / "images" / name).mkdir(parents=True)
        images, listed = [], []
        for number in numbers:
            image, boxes = scene(number)
            Image.fromarray(image).save(root / "images" / name / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
            for kind, box in enumerate(boxes):
                listed.append({"id": len(listed) + 1, "image_id": number, "category_id": kind + 1, "bbox": box,
                               "area": box[2] * box[3], "iscrowd": 0, "segmentation": [polygon(*box)]})  # fmt: skip
        categories = [{"id": number, "name": each} for number, each in enumerate(NAMES, 1)]
        held = {"images": images, "annotations": listed, "categories": categories}
        (root / f"annotations/instances_{name}.json").write_text(json.dumps(held))
    return root


def recipe_of(root, **own):
    encoder, data = (
        Encoder(None, width=16, depth=2, heads=2, patch=8),
        Data(str(root), "train", "val", size=64, threads=1),
    )
    base = Recipe(Settings(BoxLabels(masks=True)), data, encoder, Optim(), Run(device="cpu"), "detect:mine")
    return changed(base, own)


class StandIn:
    """Finds what `scene` drew by its colours, moved by `shift` pixels; bars with half the score."""

    def __init__(self, masks, shift=0):
        self.masks, self.shift = masks, shift

    def __call__(self, images):
        return [self.found(np.asarray(each.permute(1, 2, 0))) for each in images]

    def found(self, image):
        masks = np.stack([(image == colour).all(2) for colour in COLOURS])
        places = [np.nonzero(mask) for mask in masks]
        boxes = [[x.min() + self.shift, y.min(), x.max() + 1 + self.shift, y.max() + 1] for y, x in places]
        held = torch.from_numpy(masks) if self.masks else None
        return Found(torch.tensor(boxes, dtype=torch.float32), torch.tensor([0, 1]), torch.tensor([0.9, 0.45]), held)


def stand_in(root, masks=True, shift=0):
    """A method of detection without a network."""
    method = object.__new__(Detect)
    nn.Module.__init__(method)
    method.classes, method.masks, method.settings, method.whole = 3, masks, recipe_of(root).method, (1, 2)
    method.weight = nn.Parameter(torch.zeros(1))
    object.__setattr__(method, "predict", StandIn(masks, shift))
    return method


def loaded_of(root, folder, masks=True, **own):
    recipe = recipe_of(root, **({} if masks else {"method.labels": BoxLabels()}))
    return Loaded(folder / "last.pt", recipe, stand_in(root, masks), NAMES, 7, **own)


def opened(root, name, masks=True):
    return open_boxes(recipe_of(root).data, BoxLabels(masks=masks), name)


@pytest.mark.parametrize("masks", [True, False])
def test_a_validator_measures_its_set_and_each_class(root, masks):
    train = opened(root, "train", masks)
    recipe = recipe_of(root, **{"method.labels": BoxLabels(masks=masks)})
    validator = BoxValidator(recipe, "val", train, ALONE)
    values = validator(stand_in(root, masks))
    assert tuple(values) == validator.names == names_of(masks)
    assert values["box_ap"] == values["box_ap_small"] == pytest.approx(1)
    assert values["box_ap_large"] != values["box_ap_large"]
    assert set(validator.recalls) == {"box_ap", "box_ap50", *(("mask_ap", "mask_ap50") if masks else ())}
    assert all(each == [pytest.approx(1), pytest.approx(1), None] for each in validator.recalls.values())
    assert validator.source.path.name == "val"
    moved = validator(stand_in(root, masks, shift=4))  # discs: IoU 8 / 16; bars: 16 / 24
    assert validator.recalls["box_ap"] == [pytest.approx(0.1), pytest.approx(0.4), None]
    assert moved["box_ap"] == pytest.approx(0.25)
    assert not masks or moved["mask_ap"] == pytest.approx(1)


def test_shares_of_the_ranks_are_judged_as_one(root):
    found, method = opened(root, "val"), stand_in(root, shift=3)
    whole = judge_set(method, found, range(found.n), 2)
    assert [each.image for each in whole] == [0, 1, 2, 3, 4]
    parts = [judge_set(method, found, range(rank, found.n, 2), 2) for rank in (0, 1)]
    merged = average_precision([*parts[0], *parts[1]], 3, True)
    assert repr(merged) == repr(average_precision(whole, 3, True))


RANKS = """
from models.config.recipe import Run
from models.distributed.process_group import all_on_main, finish, start

world = start(Run(device="cpu"))
print(all_on_main([{"image": world.rank, "counts": bytes([world.rank])}] * (1 + world.rank), world))
finish(world)
"""


def test_the_main_rank_gets_what_every_rank_found():
    assert all_on_main([1], ALONE) == [[1]]
    parts = [[{"image": 0, "counts": b"\x00"}], [{"image": 1, "counts": b"\x01"}] * 2]
    assert [eval(each) for each in run_ranks(RANKS, 2)] == [parts, []]


def test_what_a_validator_cannot_do_is_refused(root):
    train = opened(root, "train")
    with pytest.raises(InputError, match=r"run.knn reads features of images with one label each"):
        BoxValidator(recipe_of(root, **{"run.knn": True}), "val", train, ALONE)
    with pytest.raises(InputError, match="is of class bar, expected one of the list: disc"):
        BoxValidator(recipe_of(root), "val", replace(train, classes=("disc",)), ALONE)
    more = BoxValidator(recipe_of(root), "val", replace(train, classes=("moon", *NAMES)), ALONE)
    assert more.notes() == more.found.notes()
    assert any("is of class moon" in note for note in more.notes())
    assert more.found.counts.tolist() == [0, 5, 5, 0]  # classes are those that were learned, in their order


def measured(monkeypatch, loaded, *flags):
    monkeypatch.setattr(Evaluator, "load", lambda self, path: loaded)
    monkeypatch.setattr(sys, "argv", ["evaluate", "detect", str(loaded.path), *flags])
    evaluate.main()


def test_the_evaluator_prints_the_values_and_shows_the_worst_class_first(root, tmp_path, monkeypatch, capsys):
    measured(monkeypatch, loaded_of(root, tmp_path), "--pictures=2", "--batch=2")
    said = capsys.readouterr().out
    assert "box_ap                   100.0 %" in said
    assert "mask_ap75                100.0 %" in said
    assert "large" not in said  # no object is
    (row,) = read_evaluations(tmp_path)
    assert row["values"]["images"] == 5
    page = (tmp_path / "evaluate-detect.html").read_text()
    assert page.index("<td>disc</td>") < page.index("<td>bar</td>") < page.index("<td>star</td>")
    assert "AP50 mask" in page
    measured(monkeypatch, loaded_of(root, tmp_path, masks=False), "--pictures=1")
    assert "mask" not in capsys.readouterr().out
    with pytest.raises(InputError, match="--score is 2, expected from 0 to 1"):
        measured(monkeypatch, loaded_of(root, tmp_path), "--score=2")


def test_the_evaluator_refuses_other_runs_and_other_classes(root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="brings an encoder and no heads"):
        measured(monkeypatch, loaded_of(root, tmp_path, origin="weights of others"))
    other = loaded_of(root, tmp_path)
    object.__setattr__(other, "classes", ("disc", "moon"))
    with pytest.raises(InputError, match="is of class bar, expected one of the list: disc, moon"):
        measured(monkeypatch, other)
    monkeypatch.setattr(Detect, "needs", staticmethod(lambda recipe: type("None", (), {"box_labels": None})))
    with pytest.raises(InputError, match="which finds no objects; fine-tune it first"):
        measured(monkeypatch, loaded_of(root, tmp_path))


def test_pictures_show_the_image_its_objects_and_what_is_found(root):
    picture = prediction_picture(stand_in(root), opened(root, "val"), n=2, score=0.5)
    page = Image.open(BytesIO(picture.png))
    assert page.width > 3 * 384
    assert "score of at least 50 %" in picture.caption
    views = view_sheet(opened(root, "train"), recipe_of(root), 2)
    assert views.width > 4 * 384


def asked(monkeypatch, loaded, *argv):
    monkeypatch.setattr(predict, "load_judged", lambda *_: loaded)
    monkeypatch.setattr(sys, "argv", ["predict", str(loaded.path), *map(str, argv)])
    return predict.main()


def test_predictions_are_drawn_and_listed_in_cocos_format(root, tmp_path, monkeypatch, capsys):
    loaded, out = loaded_of(root, tmp_path), tmp_path / "out"
    (tmp_path / "in").mkdir()
    for path in (root / "images/val").iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in/note.png").write_text("no image")
    assert asked(monkeypatch, loaded, tmp_path / "in", "--out", out) == 0
    said = capsys.readouterr()
    assert "5 images in" in said.out
    assert "note.png" in said.err
    assert "EXIF" not in said.err
    assert {path.name for path in out.iterdir()} == {*(f"{n}-boxes.png" for n in range(3, 8)), "detections.json"}
    truth, found = COCO(root / "annotations/instances_val.json"), COCO(out / "detections.json")
    assert [each["name"] for each in found.loadCats(found.getCatIds())] == list(NAMES)
    files = {Path(each["file_name"]).name: each["id"] for each in truth.dataset["images"]}
    ids = {each["id"]: files[Path(each["file_name"]).name] for each in found.dataset["images"]}
    results = [each | {"image_id": ids[each["image_id"]]} for each in found.dataset["annotations"]]
    for kind in ("bbox", "segm"):
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        assert judge.stats[0] == pytest.approx(1)
    assert {each["area"] for each in results} == {144, 160}
    drawn = np.array(Image.open(out / "3-boxes.png"))
    _, boxes = scene(3)
    assert all(tuple(drawn[top + height // 2, left]) == tuple(palette()[kind])
               for kind, (left, top, _, height) in enumerate(boxes))  # fmt: skip


def test_the_score_decides_what_is_drawn_and_not_what_is_listed(root, tmp_path, monkeypatch):
    loaded = loaded_of(root, tmp_path, masks=False)
    images = sorted((root / "images/val").iterdir())[:1]
    pictures = {}
    for score in (0, 0.5, 1):
        assert asked(monkeypatch, loaded, *images, "--out", tmp_path / f"{score}", "--score", score) == 0
        pictures[score] = np.array(Image.open(tmp_path / f"{score}/3-boxes.png"))
        listed = json.loads((tmp_path / f"{score}/detections.json").read_text())["annotations"]
        assert [each["score"] for each in listed] == [pytest.approx(0.9), pytest.approx(0.45)]
        assert "segmentation" not in listed[0]
    assert np.array_equal(pictures[1], scene(3)[0])
    assert not np.array_equal(pictures[0.5], pictures[1])
    assert not np.array_equal(pictures[0.5], pictures[0])


def test_photographs_that_viewers_turn_are_named(root, tmp_path, monkeypatch, capsys):
    exif, photo = Image.Exif(), Image.fromarray(scene(3)[0])
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.webp", lossless=True, exif=exif)
    photo.save(tmp_path / "upright.webp", lossless=True)
    (tmp_path / "broken.webp").write_text("no image")
    loaded = loaded_of(root, tmp_path)
    files = [tmp_path / f"{name}.webp" for name in ("broken", "turned", "upright")]
    assert asked(monkeypatch, loaded, *files, "--out", tmp_path / "out") == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "EXIF" in line)
    assert line.startswith("turned by EXIF: 1 image, drawn and measured as stored")
    assert line.endswith(str(files[1]))
    sides = [each["height"] for each in json.loads((tmp_path / "out/detections.json").read_text())["images"]]
    assert sides == [photo.height] * 2


def test_predictions_that_cannot_be_made_are_refused(root, tmp_path, monkeypatch):
    loaded, images = loaded_of(root, tmp_path), root / "images/val"
    for flags, said in (
        (("--top", 2), "--top is of runs that name a class of an image; this one draws its objects"),
        (("--score", 1.5), "--score: expected a share from 0 to 1"),
        (("--window", "auto"), "boxes are learned from images of 8 bits"),
    ):
        with pytest.raises(InputError, match=said):
            asked(monkeypatch, loaded, images, *flags)
    with pytest.raises(InputError, match="brings an encoder and no heads"):
        asked(monkeypatch, loaded_of(root, tmp_path, origin="weights of others"), images)
    (tmp_path / "3.png").write_bytes((images / "3.png").read_bytes())
    with pytest.raises(InputError, match="two images are called 3"):
        draw_detections(loaded, [images / "3.png", tmp_path / "3.png"], tmp_path / "out", 2, 0.3)
    assert not (tmp_path / "out").exists()
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(InputError, match="of 1 file none is an image"):
        asked(monkeypatch, loaded, tmp_path / "note.png", "--out", tmp_path / "out")


def test_the_report_and_the_journal_have_each_class(root):
    row = {"step": 3, "evaluation": "val", "values": {"box_ap": 0.4, "box_ap_large": None}}
    row |= {"box_ap": [0.7, 0.1, None], "box_ap50": [0.9, 0.2, None]}
    assert check_row(row) is None
    assert check_row(row | {"mask_ap": ["0.1"]}) == "mask_ap holds what is no number"
    assert dict(_numbers(row)) == {"val/box_ap": 0.4}
    assert dict(_numbers(row | {"iou": [0.5, None]})) == {"val/box_ap": 0.4}
    (table,) = _classes([row], (5, 6, 0), NAMES)
    assert list(table.head) == ["class, lowest AP first", "objects learned from", "AP box on val", "AP50 box on val"]
    assert table.rows[0] == ["bar", "6", "10.0 %", "20.0 %"]
    assert table.rows[2] == ["star", "0", "–", "–"]
    (table,) = _classes([row | {"mask_ap": [0.6, 0.1, None], "mask_ap50": [0.8, 0.2, None]}], (5, 6, 0), None)
    assert table.rows[1] == ["0", "5", "70.0 %", "90.0 %", "60.0 %", "80.0 %"]


def test_an_export_is_of_the_encoder(root, tmp_path, monkeypatch):
    loaded = loaded_of(root, tmp_path)
    monkeypatch.setattr(export, "load_judged", lambda *_: loaded)
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path), "--to", "onnx", "--out", str(tmp_path / "onnx")])
    with pytest.raises(InputError, match="onnx holds no runs of detection; use --to safetensors"):
        export.main()
    assert not (tmp_path / "onnx").exists()
    card = model_card(loaded, "safetensors", CheckResult(None, "not here"), "")
    assert "this is the encoder of a run of detection" in card
    assert "windows of 14 x 14 patches" in card
    assert "image-feature-extraction" in front_matter(loaded, "safetensors")


def test_objects_are_drawn_where_they_are_in_their_colours():
    image = np.full((100, 200, 3), 200, np.uint8)
    boxes = np.array([[20, 50, 80, 90], [120, 50, 180, 90]], np.float32)
    masks = np.zeros((2, 100, 200), bool)
    masks[0, 60:70, 30:40] = True
    known = Drawing(image, boxes, np.array([0, 1]), masks=masks, ignored=np.array([False, True]))
    drawn = draw_objects(known, ("cat", "dog"))
    assert tuple(drawn[80, 20]) == tuple(drawn[90, 50]) == tuple(palette()[0])
    assert tuple(drawn[80, 120]) == NOT_JUDGED
    assert np.array_equal(drawn[65, 35], (0.45 * 200 + 0.55 * palette()[0]).round())
    assert tuple(drawn[80, 60]) == (200, 200, 200)
    assert (image == 200).all()
    assert draw_objects(known, ("cat", "dog"), side=400).shape == (200, 400, 3)
    none = Drawing(image, boxes[:0], np.zeros(0, int), np.zeros(0), masks[:0])
    assert np.array_equal(draw_objects(none, ()), image)


def test_names_are_written_inside_the_image_and_the_likeliest_on_top():
    image = np.zeros((60, 60, 3), np.uint8)
    corners = np.array([[0, 0, 59, 59], [50, 0, 60, 8], [50, 52, 60, 60]], np.float32)
    for box in corners:  # text that would begin outside is moved: as much of it is seen
        one = draw_objects(Drawing(image, box[None], np.array([0]), np.array([0.5])), ("cat",))
        assert (one > 180).all(2).sum() > 20
    both = np.array([[10, 30, 50, 50]] * 2, np.float32)
    for scores, top in (([0.9, 0.5], 0), ([0.5, 0.9], 1)):
        drawn = draw_objects(Drawing(image, both, np.array([0, 1]), np.array(scores)), ("cat", "dog"))
        assert tuple(drawn[45, 10]) == tuple(palette()[top])
