"""python -m models.evaluate knn, neighbours beside a classifier, and banks in which an image no longer decodes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from models.config.recipe import Recipe, Run
from models.config.resolve import named
from models.distributed.process_group import World
from models.encoder.vit import Size, build_encoder
from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.knn import check_tokens, feature_bank, features, knn, knn_accuracies
from models.evaluate.validator import Validator
from models.load import load_run
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep, sweep_decodable
from pipeline.labels.splits import load_split
from pipeline.spec import Data, View
from pipeline.store.beton import open_beton
from tests.conftest import rows

VIEW = View(crop="centre", short_side=1.0, flip=False)


def damage(root: Path, ids) -> Path:
    """Overwrite training images, but for their first bytes."""
    beton = open_beton(root / "train.beton")
    with open(beton.path, "r+b") as file:
        for i in map(int, ids):
            file.seek(int(beton.offsets[i]) + 20)
            file.write(bytes(int(beton.sizes[i]) - 20))
    return root


@pytest.fixture
def copied(digits, tmp_path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "digits"))


def test_votes_for_several_k_are_those_for_each():
    generator = torch.Generator().manual_seed(0)
    known, found = (normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (40, 30))
    labels, wanted = (torch.randint(3, (n,), generator=generator) for n in (40, 30))
    every = knn_accuracies(known, labels, found, wanted, (1, 7, 99), 2.0)
    assert every == [knn(known, labels, found, wanted, k, 2.0) for k in (1, 7, 99)]
    assert len(set(every)) > 1


def test_a_high_temperature_counts_heads_and_a_low_one_the_nearest():
    """One neighbour at 10 degrees against two at 40."""
    angles = torch.tensor([10.0, 40.0, -40.0]).deg2rad()
    known, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 1, 1])
    one, zero = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert knn(known, labels, one, zero, 3, temperature=0.01) == 1
    assert knn(known, labels, one, zero, 3, temperature=10.0) == 0


def test_at_a_temperature_near_zero_the_nearest_alone_votes():
    generator = torch.Generator().manual_seed(0)
    known, found = (normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (40, 30))
    labels, wanted = (torch.randint(3, (n,), generator=generator) for n in (40, 30))
    assert knn(known, labels, found, wanted, 20, temperature=1e-4) == knn(known, labels, found, wanted, 1)


def test_the_class_token_is_read_where_it_is_asked_for():
    torch.manual_seed(0)
    vit = build_encoder(Size(24, 2, 3), image_size=16, patch=4, classes=0).eval()
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = normalize(vit.forward_features((images / 255 - mean) / std)[:, 0], dim=1)
    torch.testing.assert_close(features(vit, [images], "token"), expected, rtol=1e-4, atol=1e-5)


def test_the_runs_own_neighbours_come_out_for_every_k_that_there_are_enough_of(trained, asked, capsys):
    folder = trained("mae:digits")
    asked("knn", folder, "--batch", 64, "--k", 1, 20, 200)
    (said,) = (row["values"] for row in rows(folder) if row.get("evaluation") == "val")
    values = read_evaluations(folder)[-1]["values"]
    assert values["knn_20"] == pytest.approx(said["knn"], abs=1 / 300)
    shares = [f"knn_{k}{end}" for k in (1, 20) for end in ("", "_low", "_high")]
    assert list(values) == ["images", "known", *shares]  # 50 labels are known
    assert (values["images"], values["known"]) == (300, 50)
    asked("knn", folder, "--split", "all", "--k", 200, "--tokens", "token")
    assert read_evaluations(folder)[-1]["values"].keys() >= {"images", "known", "knn_200"}
    assert "known                    1,197" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "said"), [
    (["--data.file", "train.beton"], "would be compared with itself; give another --data.file or --train"),
    (["--k", "60"], "has 50 known labels, fewer than each of --k"),
    (["--k", "0"], "--k is 0, expected at least 1"),
    (["--k"], "--k: expected one number of neighbours or more, got none"),
    (["--batch", "0"], "--batch is 0, expected at least 1"),
    (["--temperature", "0"], "--temperature is 0, expected above 0"),
    (["--split", "6-per-class"], "no split '6-per-class'"),
    (["--train", "other.beton"], "other.beton: no such file"),
])  # fmt: skip
def test_wrong_input_is_said_in_a_line(flags, said, trained, asked):
    with pytest.raises(InputError, match=said) as refused:
        asked("knn", trained("mae:digits"), *flags)
    assert "\n" not in str(refused.value)


def test_encoders_that_have_no_such_tokens_are_refused():
    vit = build_encoder(Size(24, 1, 3), image_size=16, patch=4, classes=0)
    check_tokens(vit, "token", "it")
    vit.cls_token = None
    check_tokens(vit, "avg", "it")
    with pytest.raises(InputError, match="it has no class token; set --tokens avg"):
        check_tokens(vit, "token", "it")
    with pytest.raises(InputError, match="tokens of a plain ViT, it has a Linear"):
        check_tokens(torch.nn.Linear(1, 1), "avg", "it")


def test_neighbours_are_measured_beside_a_classifier_while_it_trains(tiny, tmp_path):
    assert tiny("supervised:digits", tmp_path, "--run.knn", "--run.evaluate-steps=6", "--data.test=None") == 0
    found = [row["values"] for row in rows(tmp_path) if "evaluation" in row]
    assert [values.keys() for values in found] == [{"top1", "top5", "knn"}] * 2
    assert all(0 < values["knn"] <= 1 for values in found)


def test_what_no_longer_decodes_is_named_and_left_out_and_all_else_is_as_it_was(digits, copied, capsys):
    data, device, ids = Data(size=16, evaluate=VIEW), torch.device("cpu"), np.array([7, 3, 900, 12, 40, 41])
    expected = torch.cat(list(sweep(data, open_beton(digits / "train.beton"), device, ids, 3)))
    beton = open_beton(damage(copied, [3, 41]) / "train.beton")
    shown = list(sweep_decodable(data, beton, device, ids, 3))
    again = list(sweep_decodable(data, beton, device, ids, 3, say=False))
    kept = [0, 2, 3, 4]
    assert [part.tolist() for part, _ in shown] == [[7, 900], [12, 40]]
    assert torch.equal(torch.cat([images for _, images in shown]), expected[kept])
    assert torch.equal(torch.cat([images for _, images in again]), expected[kept])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("image ")[1].split(" ")[0] for line in lines] == ["3", "41"]


def test_a_batch_of_which_nothing_is_left_is_passed_over_and_many_are_too_many(copied):
    data, device = Data(size=16, evaluate=VIEW), torch.device("cpu")
    beton = open_beton(damage(copied, range(3)) / "train.beton")
    shown = sweep_decodable(data, beton, device, np.array([1, 2, 5]), 1, say=False)
    assert [part.tolist() for part, _ in shown] == [[5]]
    with pytest.raises(InputError, match="3 of 4 images do not decode"):
        list(sweep_decodable(data, beton, device, np.array([0, 1, 2, 5]), 4, say=False))


def test_a_bank_keeps_ids_and_features_together():
    torch.manual_seed(0)
    vit = build_encoder(Size(24, 1, 3), image_size=16, patch=4, classes=0)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    ids, found = feature_bank(vit, iter([(np.array([9, 2]), images[:2]), (np.array([4, 1, 7]), images[2:])]))
    assert ids.tolist() == [9, 2, 4, 1, 7]
    assert torch.equal(normalize(found, dim=1), features(vit, images.split([2, 3])))


def test_a_validator_leaves_out_a_labelled_image_that_no_longer_decodes(copied, trained, capsys):
    split = load_split(open_beton(copied / "train.beton"), "5-per-class")
    damage(copied, split.labelled[[4]])
    recipe: Recipe = named("mae:digits")
    data = Data(str(copied), test=None, split="5-per-class", size=16, evaluate=VIEW)
    recipe = Recipe(recipe.method, data, recipe.encoder, recipe.optim, Run(device="cpu"))
    validator = Validator(recipe, "val.beton", open_beton(copied / "train.beton"), World(0, 1, 0, torch.device("cpu")))
    assert 0 < validator(load_run(trained("mae:digits")).method)["knn"] <= 1
    assert capsys.readouterr().err.count(f"image {split.labelled[4]} ") == 1
