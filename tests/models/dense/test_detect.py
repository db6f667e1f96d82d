"""Runs of detection: resumed to the bit, a step as in plain torch, every recipe learns, boxes in an image's pixels."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import train
from models import preview
from models.bench.synthetic import synthetic_batch
from models.config.catalogue import catalogue, sweeps
from models.config.chain import chain_of, facts
from models.config.recipe import Optim, Run
from models.config.resolve import named, resolve
from models.config.sweep import changed, members
from models.dense.mask_rcnn import Found
from models.encoder.patches import as_normalised
from models.factory import method_class
from models.load import load_run
from models.method import StepInfo
from models.methods.detect import on_image, targets
from models.optim.build import build_optimiser
from models.optim.update import GradientCheck, set_lr
from pipeline.errors import InputError
from pipeline.spec import BoxLabels, Data
from tests.conftest import rows, same, weights, without_report

INFO = StepInfo(0, labels_only=False)
NAMES = ("disc", "square")
FLAGS = [
    "--encoder.name=None", "--encoder.width=32", "--encoder.depth=4", "--encoder.heads=2", "--encoder.patch=4",
    "--method.channels=8", "--method.window=4", "--method.samples=32", "--method.anchors", "6", "12", "18", "24", "32",
    "--data.size=32", "--data.batch=2", "--data.threads=1", "--optim.lr=3e-3", "--optim.layer-decay=0.9",
    "--run.log-steps=2", "--run.save-steps=3", "--run.device=cpu", "--optim.warmup-epochs=1",
    "--run.evaluate-steps=None",
]  # fmt: skip


def scene(number: int) -> tuple[np.ndarray, list[dict]]:
    """One to three squares of two colours on noise, 40 x 30 pixels, and their annotations in COCO's format."""
    rng = np.random.default_rng(number)
    image, found = rng.integers(0, 80, (30, 40, 3), dtype=np.uint8), []
    for place in range(rng.integers(1, 4)):
        side, kind = int(rng.integers(8, 12)), int(rng.integers(2))
        left, top = int(13 * place), int(rng.integers(0, 30 - side))
        image[top : top + side, left : left + side] = [(230, 60, 60), (60, 230, 60)][kind]
        edges = [left, top, left + side, top, left + side, top + side, left, top + side]
        found.append({"bbox": [left, top, side, side], "category_id": kind, "segmentation": [edges], "iscrowd": 0})
    return image, found


@pytest.fixture(scope="session")
def objects(tmp_path_factory) -> Path:
    """images/train, images/val and COCO's JSON of each: six scenes to learn from, three others."""
    root = tmp_path_factory.mktemp("objects")
    (root / "annotations").mkdir()
    for name, numbers in (("train", range(6)), ("val", range(6, 9))):
        (root / "images" / name).mkdir(parents=True)
        images, annotations = [], []
        for number in numbers:
            image, found = scene(number)
            Image.fromarray(image).save(root / "images" / name / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
            annotations += [each | {"image_id": number, "id": 100 * number + n} for n, each in enumerate(found)]
        held = {"images": images, "annotations": annotations, "categories": [
            {"id": n, "name": each} for n, each in enumerate(NAMES)]}  # fmt: skip
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(held))
    return root


@pytest.fixture
def detect(monkeypatch, objects):
    """detect(folder, *flags) trains detect:mine on the scenes with a toy network; -> exit code."""

    def run(folder: Path, *flags: str) -> int:
        own = ["--optim.epochs=5", f"--data.root={objects}", f"--run.folder={folder}"]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", "detect:mine", *FLAGS, *own, *flags])
            without_report(patch)
            return train.main()

    return run


def built(recipe, classes=2):
    torch.manual_seed(0)
    return method_class(recipe)(recipe, classes).train()


def toy(*flags):
    return resolve("detect:mine", [*FLAGS, *flags])


def test_stopping_changes_nothing_and_average_precision_is_in_the_journal(detect, tmp_path):
    flags = ["--encoder.drop-path=0.3", "--method.relative-positions", "--method.labels.masks"]
    assert detect(tmp_path / "one", *flags) == 0
    assert detect(tmp_path / "two", *flags, "--run.stop-step=3") == 75
    assert detect(tmp_path / "two", *flags) == 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    *_, last = [row for row in rows(tmp_path / "one") if "evaluation" in row]
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} <= set(last["values"])
    assert [len(last[name]) for name in ("box_ap", "mask_ap50")] == [2, 2]


def test_other_annotations_are_other_data_and_what_cannot_be_is_refused(detect, objects, tmp_path):
    assert detect(tmp_path / "run", "--run.stop-step=1") == 75
    file = objects / "annotations/instances_train.json"
    before = file.read_text()
    held = json.loads(before)
    held["annotations"][0]["bbox"][2] -= 1
    file.write_text(json.dumps(held))
    try:
        with pytest.raises(InputError, match="was trained on other data"):
            detect(tmp_path / "run")
    finally:
        file.write_text(before)
    for flags, said in (
        (["--optim.ema-decay=0.9"], "an average is kept of encoders alone"),
        (["--method.anchors", "4", "8"], "anchors are 5, one for each level, got 2"),
        (["--method.global-blocks", "5"], "method.global_blocks"),
        (["--run.knn"], "run.knn reads features of images with one label each"),
        (["--data.split=5-per-class"], "sets of masks or boxes have no splits"),
        (["--data.val=other"], "other: expected a folder of images|instances_other.json"),
        (["--method.labels.names", "disc"], "class square, expected one of the list: disc"),
        (["--run.best=top1"], "expected a value of val: box_ap"),
    ):
        with pytest.raises(InputError, match=said):
            detect(tmp_path / "wrong", *flags)
    assert not (tmp_path / "wrong").exists()


def test_a_step_is_that_of_plain_torch():
    """timm's forward where one window holds the image, the pyramid and the heads on it, and AdamW with layer decay."""
    recipe = toy("--method.window=8", "--method.labels.masks")
    method = built(recipe)
    batch = synthetic_batch(recipe, 2, 2, torch.device("cpu"))
    part = batch.boxes
    assert part is not None
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=32, depth=4, num_heads=2,
                            num_classes=0, class_token=False, global_pool="avg", fc_norm=False)  # fmt: skip
    theirs = {name: p for name, p in method.encoder.state_dict().items() if name != "cls_token"}
    theirs["pos_embed"] = theirs["pos_embed"][:, -64:]
    vit.load_state_dict(theirs)
    other = built(recipe)  # its pyramid and heads alone are used
    other.load_state_dict(method.state_dict())
    x = as_normalised(part.images, method.encoder.normalisation)
    picture = vit.forward_intermediates(x, indices=[3], intermediates_only=True, norm=False)[0]
    torch.manual_seed(3)  # which anchors and boxes are sampled
    expected = sum(other.heads.losses(other.pyramid(picture), (32, 32), part.sides, targets(part)).values())
    expected.backward()
    torch.manual_seed(3)
    loss = method(batch, INFO)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.total.backward()
    grads = {f"encoder.{name}": p.grad for name, p in vit.named_parameters()}
    grads |= {name: p.grad for name, p in other.named_parameters() if not name.startswith("encoder.")}
    learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
    for name, p in learned.items():
        own = p.grad[:, -64:] if name == "encoder.pos_embed" else p.grad
        torch.testing.assert_close(own, grads[name], rtol=1e-3, atol=1e-5, msg=name)
    assert set(learned) == {name for name, grad in grads.items() if grad is not None}


RECIPES = [named(name) for name, _ in catalogue() if name.startswith("detect:")]
RECIPES += [each for name, _ in sweeps() if name.startswith("detect:") for each in members(name)]
SMALL = {  # all that is left apart are positions, LayerScale and masks
    "data": Data(size=32), "encoder.name": None, "encoder.width": 32, "encoder.depth": 4, "encoder.heads": 2,
    "encoder.patch": 4, "encoder.drop_path": 0.0, "method.channels": 8, "method.window": 4,
    "method.anchors": (6, 12, 18, 24, 32), "method.samples": 32, "optim": Optim(layer_decay=0.75), "run": Run(),
    "name": "",
}  # fmt: skip
LABELS = {masks: BoxLabels(masks=masks) for masks in (False, True)}
TOYS = {changed(r, SMALL | {"method.labels": LABELS[r.method.labels.masks]}): r.name for r in reversed(RECIPES)}


@pytest.mark.parametrize(("recipe", "name"), TOYS.items(), ids=TOYS.values())
def test_a_toy_of_every_recipe_learns_and_moves_every_weight_that_it_trains(recipe, name):
    method, check, losses = built(recipe), GradientCheck(), []
    stepper = build_optimiser(method, recipe.optim)
    set_lr(stepper, 3e-3)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    batch = synthetic_batch(recipe, 1, 2, torch.device("cpu"))
    for _ in range(20):
        loss = method(batch, INFO)
        loss.total.backward()
        check(method.named_parameters(), (), "every loss")
        stepper.step()
        stepper.zero_grad()
        losses.append(loss.total.item())
    assert losses[-1] < 0.95 * losses[0]
    stayed = {name for name, p in method.named_parameters() if torch.equal(p, before[name])}
    assert stayed == {name for name, p in method.named_parameters() if not p.requires_grad}
    assert stayed == {"encoder.norm.weight", "encoder.norm.bias", "encoder.cls_token"}


def test_published_numbers_are_vitdets_and_the_tables_are_maes():
    base, large = (named(f"detect:coco_{size}16") for size in "bl")
    assert (base.data.batch, base.data.size, base.optim.lr, base.optim.weight_decay) == (64, 1024, 1e-4, 0.1)
    assert base.optim.epochs * 64 / 118_000 == pytest.approx(100, abs=0.1)
    assert (base.optim.layer_decay, base.encoder.drop_path) == (0.7, 0.1)
    assert (large.optim.layer_decay, large.encoder.drop_path) == (0.8, 0.4)
    chain = chain_of("detect:coco_b16_starts")
    assert chain is not None
    own, masks = facts("detect:coco_b16_starts", chain, (0,))["columns"]
    assert own["paper"] == [47.9, 47.9, 49.8, 50.3]
    assert masks["paper"] == [42.9, 42.7, 44.4, 44.9]
    assert len(members("detect:coco_b16_starts")) == 4


def test_what_is_found_in_a_view_is_moved_to_the_pixels_of_its_image():
    found = Found(torch.tensor([[2.0, 3.0, 12.0, 24.0]]), torch.tensor([1]), torch.tensor([0.9]), torch.ones(1, 28, 28))
    (box,), mask = (moved := on_image(found, (24, 32), (48, 64))).boxes.tolist(), moved.masks
    assert box == [4.0, 6.0, 24.0, 48.0]
    expected = torch.zeros(48, 64, dtype=torch.bool)
    expected[6:48, 4:24] = True
    assert mask is not None
    assert torch.equal(mask[0], expected)
    assert on_image(found, (24, 32), (6, 8)).boxes.tolist() == [[0.5, 0.75, 3.0, 6.0]]


def test_images_of_any_size_are_predicted_together_as_apart(detect, tmp_path):
    assert detect(tmp_path / "run") == 0
    method = load_run(tmp_path / "run", torch.device("cpu")).method
    method.heads.roi.score_thresh = 0.0  # of a network of five steps
    images = [torch.from_numpy(scene(n)[0]).permute(2, 0, 1)[:, : 30 - n] for n in range(2)]
    together, apart = method.predict(images), [method.predict([image])[0] for image in images]
    for one, other, image in zip(together, apart, images, strict=True):
        assert len(one.boxes) == len(other.boxes) > 0
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)
        assert (one.boxes[:, 2] <= image.shape[2]).all()
        assert (one.boxes[:, 3] <= image.shape[1]).all()
        assert (one.scores.diff() <= 0).all()


def test_views_are_previewed(objects, tmp_path, monkeypatch, capsys):
    own = ["--data.root", str(objects), "--out", str(tmp_path / "views.png"), "--images", "2"]
    monkeypatch.setattr(sys, "argv", ["preview", "detect:mine", *FLAGS, *own])
    preview.main()
    assert "2 images of" in capsys.readouterr().out
    with Image.open(tmp_path / "views.png") as drawn:
        assert drawn.size[0] > 300
