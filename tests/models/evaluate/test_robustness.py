"""python -m models.evaluate robustness: errors of slow loops, on the fly, from files, and among some classes."""

import numpy as np
import pytest
import torch

from models.evaluate.distribution_shift import already_cropped, columns_of, restricted, shifted_error
from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.evaluator import Files
from models.evaluate.robustness import Robustness
from models.load import load_run
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.evaluation.corruptions.corrupt import corrupt
from pipeline.evaluation.corruptions.stream import CorruptionSpec
from pipeline.labels.splits import known_labels
from pipeline.store.beton import open_beton

DATA = Files(file="test.beton", threads=1)


@pytest.fixture
def loaded(trained):
    return load_run(trained("supervised:digits"))


@pytest.fixture
def beton(digits):
    return open_beton(digits / "test.beton")


def write(beton, folder, classes, n=60) -> dict[int, int]:
    """The first n images of some classes as JPEG files in class folders -> label by image id."""
    labels = known_labels(beton, None)
    kept = {i: int(labels[i]) for i in range(n) if beton.manifest.classes[labels[i]] in classes}
    for i, label in kept.items():
        path = folder / beton.manifest.classes[label] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(beton.jpeg(i).tobytes())
    return kept


def logits(loaded, beton, ids) -> np.ndarray:
    with torch.inference_mode():
        images = torch.cat(list(Robustness(data=DATA).images(loaded, beton, np.array(ids))))
        return loaded.method.logits(images).float().numpy()


def test_errors_on_the_fly_are_those_of_a_slow_loop(loaded, beton):
    flags = {"corruptions": ("shot_noise", "contrast"), "severities": (2, 5), "limit": 40, "batch": 16, "seed": 4}
    result = Robustness(data=DATA, **flags).run(loaded)
    labels = known_labels(beton, None)
    (images,) = Robustness(data=DATA).images(loaded, beton, np.arange(40))
    for name in flags["corruptions"]:
        wrong = []
        for severity in flags["severities"]:
            for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
                made = torch.from_numpy(corrupt(image, name, severity, i, 4)).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    wrong.append(int(loaded.method.logits(made).argmax()) != labels[i])
        assert result.values[f"error_{name}"] == pytest.approx(np.mean(wrong), abs=0.0126)  # batches may tip one tie
    clean = np.mean(logits(loaded, beton, range(40)).argmax(1) != labels[np.arange(40)])
    assert result.values["clean_error"] == pytest.approx(clean)
    assert result.values["mean_corruption_error"] == pytest.approx(
        np.mean([result.values[f"error_{name}"] for name in flags["corruptions"]])
    )
    assert {"mce", "score"}.isdisjoint(result.values)
    assert [type(block).__name__ for block in result.blocks] == ["Table", "Text", "Picture"]
    assert "relative to nothing" in result.blocks[1].text
    assert result.blocks[2].png.startswith(b"\x89PNG")


@pytest.mark.parametrize("stored", ["folders", "beton"])
def test_a_prediction_is_the_best_of_the_classes_that_are_there(stored, loaded, beton, tmp_path):
    kept = write(beton, tmp_path / "in", {"7", "1", "4"})
    path = tmp_path / "in"
    if stored == "beton":
        convert(path, tmp_path / "some.beton", Options(side=None))
        path = tmp_path / "some.beton"
    scores, wrong = logits(loaded, beton, list(kept)), 0
    for row, label in zip(scores, kept.values(), strict=True):
        wrong += max((1, 4, 7), key=lambda c, row=row: row[c]) != label
    assert shifted_error(Robustness(batch=7), loaded, path) == (wrong / len(kept), len(kept))
    assert wrong < (scores.argmax(1) != list(kept.values())).sum()  # more would be wrong among all ten


def test_restriction_is_a_slow_loop_in_any_order_of_columns():
    scores = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    columns = [6, 2, 3]
    slow = [max(range(3), key=lambda k, row=row: row[columns[k]]) for row in scores.tolist()]
    assert restricted(scores, torch.tensor(columns)).tolist() == slow


def test_columns_follow_the_names_not_the_order(loaded, tmp_path):
    assert columns_of(("9", "0", "3"), loaded, tmp_path).tolist() == [9, 0, 3]


@pytest.mark.parametrize("layout", ["{name}/{severity}", "noise/{name}/{severity}", "beton"])
def test_files_that_are_corrupted_already_are_measured_as_they_are(layout, loaded, beton, tmp_path):
    """Clean images stand in for corrupted ones: the error is the clean one."""
    names, severities = ("shot_noise", "snow"), (1, 4)
    kept = {}
    for name in names:
        for severity in severities:
            folder = tmp_path / (layout if layout != "beton" else "in").format(name=name, severity=severity)
            kept = write(beton, folder, beton.manifest.classes, 30)
            if layout == "beton":
                convert(folder, tmp_path / f"{name}_{severity}.beton", Options(side=None))
    flags = {"corruptions": names, "severities": severities, "imagenet_c": str(tmp_path)}
    result = Robustness(**flags).run(loaded)
    cropped = already_cropped(loaded)
    expected = np.mean(logits(cropped, beton, list(kept)).argmax(1) != list(kept.values()))
    assert result.values == pytest.approx(
        {"mean_corruption_error": expected, "error_shot_noise": expected, "error_snow": expected}
    )
    assert cropped.recipe.data.evaluate.short_side == 1


def test_all_four_give_the_combined_score(loaded, beton, tmp_path, monkeypatch):
    from models.evaluate import robustness

    write(beton, tmp_path / "a", {"1", "2"})
    monkeypatch.setattr(robustness, "is_imagenet", lambda classes: True)
    others = dict.fromkeys(("imagenet_a", "imagenet_r", "imagenet_sketch"), str(tmp_path / "a"))
    values = Robustness(data=DATA, limit=4, **others).run(loaded).values
    a = 1 - shifted_error(Robustness(), loaded, tmp_path / "a")[0]
    assert values["a"] == values["r"] == values["sketch"] == a
    assert values["score"] == pytest.approx((1 - values["mce"] + 3 * a) / 4)
    partly = Robustness(data=DATA, limit=4, imagenet_a=str(tmp_path / "a")).run(loaded).values
    assert "mce" in partly
    assert "score" not in partly


def test_a_broken_file_is_named_and_left_out(loaded, beton, tmp_path, capsys):
    kept = write(beton, tmp_path, {"1", "2"})
    (tmp_path / "1" / "broken.jpg").write_bytes(b"not an image")
    assert shifted_error(Robustness(), loaded, tmp_path)[1] == len(kept)
    assert "left out: " in capsys.readouterr().err


def test_on_the_command_line_it_is_kept_with_its_flags(trained, asked, capsys):
    folder = trained("supervised:digits")
    flags = "--corruptions", "fog", "--severities", 1, "--limit", 5, "--data.file", "test.beton"
    asked("robustness", folder, *flags)
    kept = read_evaluations(folder)[-1]
    assert (kept["evaluator"], kept["flags"]["limit"], kept["flags"]["corruptions"]) == ("robustness", 5, ["fog"])
    assert "error_fog" in capsys.readouterr().out
    assert "error at severity" in (folder / "evaluate-robustness.html").read_text()


@pytest.mark.parametrize(("flags", "said"), [
    ({"corruptions": ("rain",)}, "'rain' is none; there are gaussian_noise"),
    ({"corruptions": ("fog", "fog")}, "named twice"),
    ({"severities": (0,)}, "expected some of 1 2 3 4 5"),
    ({"severities": ()}, "expected some of 1 2 3 4 5"),
    ({"severities": (1, 1)}, "each once"),
    ({"limit": 0}, "--limit is 0, expected at least 1"),
    ({"batch": 0}, "--batch is 0, expected at least 1"),
    ({"corruptions": ()}, "nothing to measure"),
    ({"imagenet_a": "/nowhere"}, "/nowhere: expected a .beton file or a folder, found nothing"),
    ({"imagenet_c": ".", "as_files": True}, "leave them out with --imagenet-c"),
    ({"cifar_c": ".", "limit": 1}, "leave them out with --cifar-c"),
    ({"cifar_c": ".", "imagenet_c": "."}, "give one"),
    ({"cifar_c": "/nowhere"}, "/nowhere: expected a .beton file or a folder, found nothing"),
    ({"cifar_c": "."}, "labels.npy: expected CIFAR-10-C's NAME.npy and labels.npy in this folder"),
    ({"cifar_c": ".", "corruptions": ("rain",)}, "'rain' is none; .*, spatter"),
    ({"corruptions": ("spatter",)}, "'spatter' is none"),
    ({"imagenet_c": "."}, "expected gaussian_noise/1/ with class folders, or gaussian_noise_1.beton"),
])  # fmt: skip
def test_flags_that_mean_nothing_are_said(flags, said, loaded):
    with pytest.raises(InputError, match=said):
        Robustness(**flags).run(loaded)


def test_a_run_without_a_classifier_is_said(trained):
    with pytest.raises(InputError, match="has no classifier; fine-tune it first"):
        Robustness().run(load_run(trained("mae:digits")))


def test_classes_that_the_run_does_not_know_are_named(loaded, beton, tmp_path):
    write(beton, tmp_path, {"1"})
    (tmp_path / "1").rename(tmp_path / "cat")
    with pytest.raises(InputError, match=r"does not know 1 of its 1 class \(cat\); name them as the run does \(0, 1"):
        shifted_error(Robustness(), loaded, tmp_path)


def test_wanted_is_every_corruption_at_every_severity():
    assert Robustness(corruptions=("fog", "snow"), severities=(1, 3)).wanted() == [
        CorruptionSpec("fog", 1), CorruptionSpec("fog", 3), CorruptionSpec("snow", 1), CorruptionSpec("snow", 3),
    ]  # fmt: skip


def test_files_left_out_are_counted_and_the_first_are_named(loaded, beton, tmp_path, capsys):
    kept = write(beton, tmp_path, {"1", "2"})
    for i in range(5):
        (tmp_path / "1" / f"a{i}.jpg").write_bytes(b"not an image")
    assert shifted_error(Robustness(), loaded, tmp_path)[1] == len(kept)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert said.startswith(f"left out: 5 of {len(kept) + 5} files: ")
    assert said.count("not") >= 3
    assert [f"a{i}.jpg" in said for i in range(5)] == [True] * 3 + [False] * 2
    assert said.endswith(", ...")


def test_nested_class_folders_are_for_convert_whose_flags_are_called_so(loaded, beton, tmp_path):
    write(beton, tmp_path / "in", {"1", "2"})
    (tmp_path / "in").rename(tmp_path / "deep")
    (tmp_path / "all").mkdir()
    (tmp_path / "deep").rename(tmp_path / "all" / "deep")
    with pytest.raises(
        InputError, match=r"--levels .*; these are flags of python -m pipeline\.convert: give its"
    ) as no:
        shifted_error(Robustness(), loaded, tmp_path / "all")
    assert "\n" not in str(no.value)
