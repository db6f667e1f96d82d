"""Runs of segmentation: resumed to the bit, a step as in plain torch, every recipe learns, evaluated and drawn."""

import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from models import predict, preview
from models.config.catalogue import catalogue, sweeps
from models.config.chain import chain_of, facts
from models.config.recipe import Optim, Run
from models.config.resolve import named, resolve
from models.config.sweep import changed, members
from models.encoder.patches import as_normalised
from models.evaluate import __main__ as evaluate
from models.evaluate.dense_pictures import view_picture
from models.evaluate.dense_validator import DenseValidator
from models.evaluate.knn import Neighbours
from models.export import __main__ as export
from models.export.export_format import CheckResult
from models.export.model_card import front_matter, model_card
from models.export.to_onnx import network
from models.factory import method_class
from models.load import load_run
from models.method import StepInfo
from models.methods import segment as module
from models.optim.build import build_optimiser
from models.optim.schedule import Pools, learning_rate, run_length
from models.optim.update import GradientCheck, set_lr
from models.pretrained import load_encoder
from models.reporting.report import _classes
from pipeline.batch import IGNORED, Batch, Dense
from pipeline.dense.pixels import open_pixels
from pipeline.errors import InputError
from pipeline.spec import Data, PixelLabels
from tests.conftest import rows, same, weights
from tests.models.dense.conftest import FLAGS, NAMES
from tests.models.dense.test_decoder import plain_upernet

INFO = StepInfo(0, labels_only=False)


def toy(*flags):
    return resolve("segment:mine", [*FLAGS, "--optim.epochs=6", *flags])


def built(recipe, classes=3):
    torch.manual_seed(0)
    return method_class(recipe)(recipe, classes).train()


def batch(n=4, side=16, classes=3):
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(classes, (n, side, side), dtype=torch.uint8, generator=g)
    images = (pixels * 60 + 20)[:, None].expand(-1, 3, -1, -1).contiguous()
    pixels[0, :2] = IGNORED
    return Batch(0, None, None, Dense(torch.arange(n), images, pixels))


def test_stopping_changes_nothing_and_the_report_has_every_class(segment, tmp_path):
    flags = ["--encoder.drop-path=0.3", "--run.evaluate-steps=4", "--method.relative-bias"]
    assert segment(tmp_path / "one", *flags) == 0
    assert segment(tmp_path / "two", *flags, "--run.stop-step=4") == 75
    assert segment(tmp_path / "two", *flags) == 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    *_, last = [row for row in rows(tmp_path / "one") if "evaluation" in row]
    assert set(last["values"]) == {"miou", "macc", "aacc"}
    assert [len(last[name]) for name in ("iou", "recall")] == [3, 3]
    (table,) = _classes(rows(tmp_path / "one"), (5, 6, 7), NAMES)
    assert list(table.head) == ["class, lowest IoU first", "pixels learned from", "IoU on val", "recall on val"]
    assert {name: pixels for name, pixels, *_ in table.rows} == {"sky": "5", "road": "6", "car": "7"}


def test_another_mask_is_other_data(segment, scenes, tmp_path):
    assert segment(tmp_path / "run", "--run.stop-step=1") == 75
    mask = scenes / "masks/train/3.png"
    before = mask.read_bytes()
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(mask)
    try:
        with pytest.raises(InputError, match="was trained on other data"):
            segment(tmp_path / "run")
    finally:
        mask.write_bytes(before)
    assert segment(tmp_path / "run") == 0


def test_a_step_is_that_of_plain_torch():
    """timm's forward, UperNet as equations, torch's cross-entropy and AdamW with BEiT's layer decay."""
    recipe = toy("--method.dropout=0", "--optim.weight-decay=0.05")
    method = built(recipe).double()
    images, classes = batch().dense.images, batch().dense.classes
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=2,
                            num_classes=0).double()  # fmt: skip
    vit.load_state_dict(method.encoder.state_dict())
    other = built(recipe).double()  # its heads alone are used
    other.load_state_dict(method.state_dict())
    blocks = [number - 1 for number in method.blocks]
    x = as_normalised(images, method.encoder.normalisation).double()
    features = vit.forward_intermediates(x, indices=sorted(set(blocks)), intermediates_only=True)
    held = dict(zip(sorted(set(blocks)), features, strict=True))
    levels = other.pyramid([held[number] for number in blocks])
    target = classes.long()

    def loss_of(scores):
        up = F.interpolate(scores, size=(16, 16), mode="bilinear", align_corners=False)
        each = F.cross_entropy(up, target, ignore_index=255, reduction="none")
        return each.mean()

    expected = loss_of(plain_upernet(other.decoder, levels)) + 0.4 * loss_of(other.auxiliary(levels[2]))
    expected.backward()
    loss = method(batch(), INFO)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)  # the loss is taken in float32
    loss.total.backward()
    theirs = {f"encoder.{name}": p for name, p in vit.named_parameters()}
    theirs |= {name: p for name, p in other.named_parameters() if not name.startswith("encoder.")}
    learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert set(learned) == {name for name, p in theirs.items() if p.grad is not None}
    for name, p in learned.items():
        torch.testing.assert_close(p.grad, theirs[name].grad, rtol=2e-4, atol=2e-6)
        theirs[name].grad = p.grad.clone()

    def share(name):
        if name.startswith("encoder.blocks."):
            return 0.9 ** (4 - int(name.split(".")[2]))
        return 0.9**5 if name.startswith("encoder.") else 1.0

    groups = [
        {"params": [theirs[name]], "lr": 1e-3 * share(name),
         "weight_decay": 0.05 if p.ndim > 1 and name.split(".")[-1] not in ("cls_token", "pos_embed") else 0.0}
        for name, p in learned.items()
    ]  # fmt: skip
    torch.optim.AdamW(groups, betas=(0.9, 0.999)).step()
    stepper = build_optimiser(method, recipe.optim)
    set_lr(stepper, 1e-3)
    stepper.step()
    for name, p in learned.items():
        torch.testing.assert_close(p, theirs[name], rtol=1e-9, atol=1e-12)


RECIPES = [named(name) for name, _ in catalogue() if name.startswith("segment:")]
RECIPES += [each for name, _ in sweeps() if name.startswith("segment:") for each in members(name)]
SMALL = {  # all that is left apart are positions, biases and LayerScale
    "data": Data(size=16), "encoder.name": None, "encoder.width": 32, "encoder.depth": 4, "encoder.heads": 2,
    "encoder.patch": 4, "encoder.drop_path": 0.0, "method.channels": 8, "method.auxiliary_channels": 8,
    "method.dropout": 0.0, "method.labels": PixelLabels(), "optim": Optim(layer_decay=0.75), "run": Run(), "name": "",
}  # fmt: skip
TOYS = {changed(recipe, SMALL): recipe.name for recipe in reversed(RECIPES)}


@pytest.mark.parametrize(("recipe", "name"), TOYS.items(), ids=TOYS.values())
def test_a_toy_of_every_recipe_learns_and_moves_every_weight_that_it_trains(recipe, name):
    method, check, losses = built(recipe), GradientCheck(), []
    stepper = build_optimiser(method, recipe.optim)
    set_lr(stepper, 3e-3)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for _ in range(20):
        loss = method(batch(), INFO)
        loss.total.backward()
        check(method.named_parameters(), (), "every loss")
        stepper.step()
        stepper.zero_grad()
        losses.append(loss.total.item())
    assert losses[-1] < 0.95 * losses[0]
    stayed = {name for name, p in method.named_parameters() if torch.equal(p, before[name])}
    assert stayed == {name for name, p in method.named_parameters() if not p.requires_grad}
    assert stayed == {"encoder.norm.weight", "encoder.norm.bias"}


def test_published_numbers_and_windows_are_the_papers():
    for name, size, stride in (("segment:ade20k_b16", 512, 341), ("segment:ade20k_l16", 512, 341)):
        recipe = named(name)
        assert recipe.data.size == size
        assert 2 * size // 3 == stride
        assert (recipe.data.batch, recipe.optim.epochs, recipe.optim.schedule) == (16, 160_000, "poly")
    for name, n in (("segment:ade20k_b16_starts", 5), ("segment:ade20k_l16_starts", 1)):
        recipes, chain = members(name), chain_of(name)
        assert len(recipes) == len(chain.rows) == len(chain.paper["own"]) == n
        assert all(recipe.run.start.startswith("data/starts/") for recipe in recipes)
        assert facts(name, chain, (0,))["rows"] == list(chain.rows)
    length = run_length(named("segment:ade20k_b16").optim, Pools(20210, 0, 16, 0))
    optim = named("segment:ade20k_b16").optim
    assert learning_rate(1500, length, optim, 16) == pytest.approx(1e-4)
    assert learning_rate(80_750, length, optim, 16) == pytest.approx(0.5e-4)  # half-way from 1,500 to 160,000
    assert learning_rate(159_999, length, replace(optim, poly_power=2.0), 16) == pytest.approx(1e-4 / 158_500**2)


def test_a_start_keeps_its_function_and_biases_begin_at_zero(tmp_path, segment):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=2,
                            num_classes=0)  # fmt: skip
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    for flag, said in (("--method.relative-bias", "position biases begin at zero"), ("--method.no-relative-bias", "")):
        method = built(toy(flag)).eval()
        assert said in load_encoder(method, str(tmp_path / "vit.safetensors"))
        images = batch().dense.images
        expected = vit.eval().forward_intermediates(as_normalised(images, method.encoder.normalisation),
                                                    indices=[0, 1, 2, 3], intermediates_only=True)  # fmt: skip
        with torch.no_grad():
            ours = module.block_features(method.encoder, images, (1, 2, 3, 4))
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    run = tmp_path / "first"
    assert segment(run, "--method.relative-bias", "--run.stop-step=2") == 75
    method = built(toy("--method.relative-bias"))
    assert "new: none" in load_encoder(method, str(run))  # biases of another run of segmentation are taken
    held = torch.load(run / "last.pt", weights_only=True)["method"]
    table = "blocks.1.attn.relative_position_bias_table"
    assert torch.equal(method.encoder.state_dict()[table], held[f"encoder.{table}"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--optim.ema-decay=0.9"], "an average is kept of encoders alone"),
        (["--method.stride=17"], "method.stride is 17, expected at most 16"),
        (["--method.blocks", "1", "2", "3", "3"], "four ascending numbers, the last 4"),
        (["--run.knn"], "run.knn reads features of images with one label each"),
        (["--run.oracle"], "hides none"),
        (["--data.split=5-per-class"], "sets of masks or boxes have no splits"),
        (["--data.val=other"], "other: expected a folder of images"),
        (["--method.labels.names", "a", "b"], "holds class 2, expected 0 to 1"),
        (["--data.size=18"], "patches of 4 pixels do not divide"),
        (["--run.best=top1"], "expected a value of val: miou, macc, aacc"),
        (["--data.batch=1"], "has batch norm"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(flags, said, segment, tmp_path):
    with pytest.raises(InputError, match=said):
        segment(tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """A run of 40 steps, which tells the classes apart."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("trained") / "run"
    import train
    from tests.conftest import without_report

    with patch.context() as each:
        without_report(each)
        own = [f"--data.root={scenes}", f"--run.folder={folder}", "--optim.epochs=40", "--run.save-steps=40"]
        each.setattr(sys, "argv", ["train.py", "segment:mine", *FLAGS, *own, "--method.relative-bias"])
        assert train.main() == 0
    return folder


def test_the_evaluator_measures_what_the_run_did_and_shows_each_class(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate", "segment", str(trained), "--pictures=2"])
    evaluate.main()
    *_, last = [row for row in rows(trained) if "evaluation" in row]
    printed = capsys.readouterr().out
    assert f"miou                     {100 * last['values']['miou']:.1f} %" in printed
    assert last["values"]["miou"] > 0.5
    page = (trained / "evaluate-segment.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in NAMES)
    monkeypatch.setattr(sys, "argv", ["evaluate", "accuracy", str(trained)])
    with pytest.raises(InputError):
        evaluate.main()


def test_a_prediction_is_the_argmax_of_averaged_windows_at_the_images_size(trained, scenes):
    loaded = load_run(trained)
    method, found = loaded.method, open_pixels(loaded.recipe.data, loaded.recipe.method.labels, "val")
    image, classes = found.read(0)
    view = F.interpolate(image[None].float(), size=(24, 32), mode="bilinear", antialias=True).round().to(torch.uint8)
    total = torch.zeros(3, 24, 32)
    seen = torch.zeros(24, 32)
    for top in (0, 8):
        for left in (0, 10, 16):
            window = view[:, :, top : top + 16, left : left + 16]
            total[:, top : top + 16, left : left + 16] += method.scores(window)[0]
            seen[top : top + 16, left : left + 16] += 1
    expected = F.interpolate((total / seen)[None], size=(30, 40), mode="bilinear")[0].argmax(0)
    assert (method.predict(image) == expected).float().mean() > 0.99  # resizing in u8 rounds on its own
    assert method.predict(image, batch=1).equal(method.predict(image))
    assert (expected == classes)[classes != IGNORED].float().mean() > 0.6


def test_predictions_are_drawn_beside_their_numbers(trained, scenes, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for number in (8, 9):
        Image.open(scenes / f"images/val/{number}.png").save(tmp_path / f"in/{number}.jpg")
    (tmp_path / "in/note.jpg").write_text("no image")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["predict", str(trained), str(tmp_path / "in"), "--out", str(out)])
    predict.main()
    said = capsys.readouterr()
    assert "2 images in" in said.out
    assert "note.jpg" in said.err
    assert {path.name for path in out.iterdir()} == {
        *(f"{n}-{kind}.png" for n in (8, 9) for kind in ("overlay", "classes")), "legend.png", "classes.txt"
    }  # fmt: skip
    numbers = np.array(Image.open(out / "8-classes.png"))
    method = load_run(trained).method
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "in/8.jpg"))).permute(2, 0, 1)
    assert np.array_equal(numbers, method.predict(pixels).numpy())
    assert np.array(Image.open(out / "8-overlay.png")).shape == (30, 40, 3)
    monkeypatch.setattr(sys, "argv", ["predict", str(trained), str(tmp_path / "in"), "--top", "2"])
    with pytest.raises(InputError, match="--top is of runs that name a class"):
        predict.main()
    sys.argv[-2:] = ["--out", str(tmp_path / "in/note.jpg/drawn")]
    with pytest.raises(InputError, match=r"drawn: expected a folder, .*note\.jpg is a file; name another"):
        predict.main()
    with pytest.raises(InputError, match=r"learned from image files, .* `python -m models\.evaluate segment RUN`"):
        Neighbours().run(load_run(trained))


def test_the_encoder_and_the_whole_network_are_exported(trained, tmp_path, monkeypatch, capsys):
    loaded = load_run(trained)
    monkeypatch.setattr(sys, "argv", ["export", str(trained), "--out", str(tmp_path / "safetensors"), "--to"])
    sys.argv.append("safetensors")
    export.main()
    assert "this is the encoder of a run of segmentation" in (tmp_path / "safetensors/README.md").read_text()
    held = load_file(tmp_path / "safetensors/model.safetensors")
    assert held.keys() == loaded.method.encoder.state_dict().keys()
    windows = batch(3).dense.images  # what --to onnx writes; the exporter itself takes longer than all of this file
    with torch.inference_mode():
        scores = network(loaded).eval()(windows)
    torch.testing.assert_close(scores, loaded.method.scores(windows), rtol=1e-3, atol=1e-4)
    assert "classes of each pixel" in model_card(loaded, "onnx", CheckResult(None, "not here"), "")
    assert "image-segmentation" in front_matter(loaded, "onnx")
    monkeypatch.setattr(sys, "argv", ["export", str(trained), "--to", "timm", "--out", str(tmp_path / "timm")])
    with pytest.raises(InputError, match="use --to safetensors or --to onnx"):
        export.main()


def test_weights_without_a_decoder_are_refused_and_views_previewed(scenes, tmp_path, monkeypatch, capsys):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=2)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    own = " ".join(["segment:mine", *FLAGS, f"--data.root={scenes}"])
    monkeypatch.setattr(sys, "argv", ["evaluate", "segment", str(tmp_path / "vit.safetensors"), "--recipe", own])
    with pytest.raises(InputError, match="brings an encoder and no decoder"):
        evaluate.main()
    picture = tmp_path / "views.png"
    monkeypatch.setattr(sys, "argv", ["preview", *own.split(), "--out", str(picture), "--images", "2"])
    preview.main()
    assert "2 images of" in capsys.readouterr().out
    assert picture.stat().st_size > 1000


def test_a_validator_sums_its_ranks(trained, scenes):
    from models.distributed.process_group import World

    loaded = load_run(trained)
    recipe = changed(loaded.recipe, {"data.root": str(scenes)})
    train_set = open_pixels(recipe.data, recipe.method.labels, "train")
    one = DenseValidator(recipe, "val", train_set, World(0, 1, 0, torch.device("cpu")))
    *_, last = [row for row in rows(trained) if "evaluation" in row]
    assert one(loaded.method) == last["values"]
    assert one.recalls["iou"] == last["iou"]
    assert Image.open(BytesIO(view_picture(train_set, recipe, 2).png)).width > 4 * 224
