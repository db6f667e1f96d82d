"""A folder in CIFAR-10-C's layout, whose errors were put there by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.evaluate.cifar_c import CLASSES, columns_of
from models.evaluate.evaluator import Files
from models.evaluate.robustness import Robustness
from models.load import load_run
from pipeline.errors import InputError
from pipeline.store.beton import open_beton

N = 20
WRONG = {"fog": (0, 1, 2, 5, 12), "spatter": (3, 3, 3, 3, 20)}  # of N images, at severities 1 to 5


@pytest.fixture
def loaded(trained):
    return load_run(trained("supervised:digits"))


@pytest.fixture
def folder(loaded, digits, tmp_path):
    """Under a corruption, some images are replaced by one that the run calls otherwise; labels are its own answers."""
    beton = open_beton(digits / "test.beton")
    (images,) = Robustness(data=Files(file="test.beton"), batch=100).images(loaded, beton, np.arange(100))
    with torch.inference_mode():
        answers = loaded.method.logits(images).argmax(1).numpy()
    pixels = images.permute(0, 2, 3, 1).numpy()
    other = {c: next(i for i, answer in enumerate(answers) if answer != c) for c in set(answers.tolist())}
    np.save(tmp_path / "labels.npy", np.tile(answers[:N], 5))
    for name, counts in WRONG.items():
        made = np.tile(pixels[:N], (5, 1, 1, 1))
        for severity, wrong in enumerate(counts):
            for i in range(wrong):
                made[severity * N + i] = pixels[other[answers[i]]]
        np.save(tmp_path / f"{name}.npy", made)
    return tmp_path


def test_errors_are_those_that_were_made_and_their_plain_mean_is_the_score(loaded, folder):
    flags = {"cifar_c": str(folder), "corruptions": tuple(WRONG), "batch": 7}
    result = Robustness(**flags).run(loaded)
    assert result.values == pytest.approx({
        "error_fog": 20 / 100, "error_spatter": 32 / 100,
        "mean_corruption_error": 20 / 100,  # spatter is a validation corruption, and no part of the mean
    })  # fmt: skip
    assert result.blocks[0].rows[0][1:] == ["0.0 %", "5.0 %", "10.0 %", "25.0 %", "60.0 %", "20.0 %"]
    assert "relative to nothing" in result.blocks[1].text
    some = Robustness(**flags | {"severities": (5, 2)}).run(loaded)
    assert some.values["error_fog"] == pytest.approx((12 + 1) / 40)


def test_on_the_command_line(trained, asked, folder, capsys):
    asked("robustness", trained("supervised:digits"), "--cifar-c", folder, "--corruptions", "fog", "spatter")
    assert "mean_corruption_error    20.0 %" in capsys.readouterr().out


def test_class_numbers_are_cifars_whatever_order_the_run_has_them_in(tmp_path):
    labels = np.array([9])
    run = SimpleNamespace(path=tmp_path, classes=tuple(reversed(CLASSES)))
    assert columns_of(run, labels, tmp_path).tolist() == list(range(9, -1, -1))
    run.classes = tuple(str(i) for i in range(100))  # CIFAR-100-C, as numbers
    assert columns_of(run, labels, tmp_path).tolist() == list(range(100))
    for classes in (("cat", "dog"), ("plane", *CLASSES[1:]), tuple("012")):
        run.classes = classes
        with pytest.raises(
            InputError, match=r"expected CIFAR-10's names \(airplane, automobile, bird, ...\) or numbers"
        ):
            columns_of(run, labels, tmp_path)


@pytest.mark.parametrize(("name", "array", "said"), [
    ("labels", np.zeros(99, np.int64), r"expected class numbers \[5 n\], severity after severity, got int64 \[99\]"),
    ("labels", np.zeros((100, 1), np.int64), r"got int64 \[100, 1\]"),
    ("labels", np.zeros(100), r"got float64 \[100\]"),
    ("labels", np.full(100, -1), "from 0, got -1"),
    ("labels", np.full(100, 10), "has class numbers up to 10, .* tells 10 classes apart"),
    ("fog", np.zeros((99, 16, 16, 3), np.uint8), r"expected u8 \[100, .* got uint8 \[99, 16, 16, 3\]"),
    ("fog", np.zeros((100, 16, 16, 3), np.float32), "got float32"),
    ("fog", np.zeros((100, 3, 16, 16), np.uint8), r"got uint8 \[100, 3, 16, 16\]"),
])  # fmt: skip
def test_another_layout_is_said_before_anything_is_measured(name, array, said, loaded, folder):
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(InputError, match=said) as refused:
        Robustness(cifar_c=str(folder), corruptions=("spatter", "fog")).run(loaded)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_or_cut_short_is_named(loaded, folder):
    with pytest.raises(InputError, match=r"snow.npy: expected CIFAR-10-C's NAME.npy"):
        Robustness(cifar_c=str(folder), corruptions=("fog", "snow")).run(loaded)
    whole = (folder / "fog.npy").read_bytes()
    for cut in (whole[: len(whole) // 2], whole[:50], b"", b"no array"):
        (folder / "fog.npy").write_bytes(cut)
        with pytest.raises(InputError, match=r"fog.npy is no whole .npy file .*; fetch it again"):
            Robustness(cifar_c=str(folder), corruptions=("fog",)).run(loaded)


def test_images_are_cut_as_the_run_cuts_its_own(loaded, folder):
    """A run that shows the middle of a resized image sees less of each: other answers than of the whole one."""
    data = loaded.recipe.data
    closer = replace(data, evaluate=replace(data.evaluate, short_side=1.5))
    near = replace(loaded, recipe=replace(loaded.recipe, data=closer))
    flags = {"cifar_c": str(folder), "corruptions": ("fog",)}
    assert Robustness(**flags).run(near).values != Robustness(**flags).run(loaded).values
