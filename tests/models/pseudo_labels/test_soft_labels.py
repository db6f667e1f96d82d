"""Files of soft labels, the ensemble that writes them, and the method that learns from them."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import pseudo_label
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.evaluate.ensemble import Ensemble, columns_of
from models.factory import method_class
from models.load import load_run
from models.method import StepInfo
from models.pseudo_labels.label_file import LabelFile, read_labels, write_labels
from models.pseudo_labels.soft_labels import SoftLabels
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.labels.hidden import Oracle
from pipeline.labels.known import Labels
from pipeline.labels.splits import load_split
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.store.beton import open_beton
from pipeline.train_data import loader_spec, open_train_data
from tests.checksummed import rewrite
from tests.conftest import rows, same, weights
from tests.test_train import _with_permuted_labels

CPU = torch.device("cpu")
LATER = StepInfo(100, labels_only=False)
TINY = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2", "--run.device=cpu"]


def drawn(n: int, classes: int, seed: int = 0) -> np.ndarray:
    return (
        torch.from_numpy(np.random.default_rng(seed).normal(size=(n, classes))).softmax(-1).numpy().astype(np.float16)
    )


def facts(beton) -> LabelFile:
    return LabelFile(beton.digest, beton.n, beton.manifest.classes, "probabilities", 1.0, (), ())


@pytest.fixture(scope="module")
def beton(digits):
    return open_beton(digits / "train.beton")


@pytest.fixture
def labels(beton, tmp_path):
    """A file of random soft labels of the digits, and the probabilities."""
    probabilities = drawn(beton.n, 10)
    write_labels(tmp_path / "labels.json", facts(beton), probabilities)
    return tmp_path / "labels.json", probabilities


@pytest.fixture(scope="module")
def two_runs(trained, tmp_path_factory):
    """Two short runs; the second with its classes, and the rows of its classifier, in reverse order."""
    first, second = trained("supervised:digits"), tmp_path_factory.mktemp("reversed")
    state = save_load.load(trained("fixmatch:digits") / "last.pt")
    state["classes"].reverse()
    for name, tensor in state["method"].items():
        if "head." in name:
            state["method"][name] = tensor.flip(0)
    save_load.save(second, state)
    return first, second


def run_command(monkeypatch, *words: object) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["pseudo_label", *map(str, words), "--device", "cpu", "--threads", "1"])
        return pseudo_label.main()


def looked_at(folder, beton, temperature: float = 1.0, n: int | None = None) -> np.ndarray:
    """A run's probabilities by a plain loop over single images, in the file's order of classes."""
    loaded = load_run(folder, CPU)
    images = torch.cat(list(sweep(loaded.recipe.data, beton, CPU, np.arange(n or beton.n), 100)))
    with torch.no_grad():
        scores = torch.cat([loaded.method.logits(each[None]) for each in images]).double()
    order = [loaded.classes.index(name) for name in beton.manifest.classes]
    return (scores / temperature).softmax(-1)[:, order].numpy()


def test_the_ensemble_is_the_mean_of_runs_whose_classes_stand_in_any_order(
    two_runs, digits, tmp_path, monkeypatch, capsys
):
    beton, out = open_beton(digits / "val.beton"), tmp_path / "labels.json"
    assert run_command(monkeypatch, *two_runs, "--data", beton.path, "--out", out, "--oracle") == 0
    found, probabilities = read_labels(out, beton)
    each = [looked_at(folder, beton) for folder in two_runs]
    assert np.abs(probabilities - np.mean(each, 0)).max() < 1e-3  # float16
    assert found.classes == beton.manifest.classes
    assert [run.recipe for run in found.runs] == ["supervised:digits", "fixmatch:digits"]
    said = capsys.readouterr().out
    first, second = (one.argmax(-1) for one in each)
    truth = Oracle(beton).labels(np.arange(beton.n))
    assert f"agreement        {100 * (first == second).mean():.1f} %" in said
    assert f"mean confidence  {np.mean(each, 0).max(-1).mean():.3f}" in said
    right = (np.mean(each, 0).argmax(-1) == truth).mean()
    assert f"right            {100 * right:.1f} % of {beton.n} hidden labels" in said


def test_one_hot_labels_are_averaged_and_a_temperature_sharpens(two_runs, digits):
    beton = open_beton(digits / "val.beton")
    runs, images = [load_run(folder, CPU) for folder in two_runs], np.arange(50)
    for average, temperature in (("labels", 1.0), ("probabilities", 0.5)):
        ensemble = Ensemble(50, beton.manifest.classes, average, temperature)
        for loaded in runs:
            batches = sweep(loaded.recipe.data, beton, CPU, images, 20)
            ensemble.add(loaded, zip(np.split(images, [20, 40]), batches, strict=True), CPU)
        each = np.stack([looked_at(folder, beton, temperature, n=50) for folder in two_runs])
        expected = np.eye(10)[each.argmax(-1)] if average == "labels" else each
        assert np.abs(ensemble.mean() - expected.mean(0)).max() < 1e-3


def test_an_image_that_no_run_could_decode_gets_a_uniform_label_and_one_that_some_saw_their_mean(two_runs, beton):
    ensemble = Ensemble(4, beton.manifest.classes, "probabilities")
    loaded = load_run(two_runs[0], CPU)
    (images,) = sweep(loaded.recipe.data, beton, CPU, np.arange(3), 3)
    ensemble.add(loaded, [(np.array([0, 1]), images[:2])], CPU)
    ensemble.add(loaded, [(np.array([0, 1, 3]), images)], CPU)
    alone = loaded.method.logits(images).softmax(-1).numpy()
    assert np.abs(ensemble.mean() - np.stack([*alone[:2], np.full(10, 0.1), alone[2]])).max() < 1e-3
    assert ensemble.undecodable.tolist() == [2]
    assert ensemble.agreement() == 1


def test_images_that_nobody_saw_are_right_in_no_count(two_runs, digits):
    """Of a uniform label the likeliest class is the first, so that these images are taken of the first class."""
    beton, loaded = open_beton(digits / "val.beton"), load_run(two_runs[0], CPU)
    truth = Oracle(beton).labels(np.arange(beton.n))
    ids = np.setdiff1d(np.arange(beton.n), np.flatnonzero(truth == 0)[:9])
    images = torch.cat(list(sweep(loaded.recipe.data, beton, CPU, ids, 100)))
    ensemble = Ensemble(beton.n, beton.manifest.classes, "probabilities")
    ensemble.add(loaded, [(ids, images)], CPU)
    each = loaded.method.logits(images).softmax(-1).detach().numpy()
    guess, sure = each.argmax(-1), each.max(-1)
    said = "\n".join(pseudo_label.truth(ensemble, ensemble.mean(), beton, np.empty(0, np.int64)))
    right = 100 * (guess == truth[ids]).mean()
    assert f"right            {right:.1f} % of {len(ids)} hidden labels; each run alone: {right:.1f} %" in said
    said = "\n".join(pseudo_label.summary(ensemble, ensemble.mean()))
    assert f"mean confidence  {sure.mean():.3f}" in said
    assert f"classes          {beton.manifest.classes[0]} {(guess == 0).sum()}, " in said
    assert "undecodable      9 images, with a uniform label and not counted" in said


def test_nothing_but_soft_labels_is_replaced_and_a_copy_of_a_run_is_no_other_run(
    two_runs, digits, tmp_path, monkeypatch
):
    data = shutil.copy(digits / "val.beton", tmp_path / "val.beton")
    for name in ("val.beton.json", "val.beton.names"):
        shutil.copy(digits / name, tmp_path / name)
    copied = shutil.copytree(two_runs[0], tmp_path / "copied")
    for out in (data, copied / "last.pt"):
        with pytest.raises(InputError, match="holds no soft labels, and is not replaced; choose another name"):
            run_command(monkeypatch, two_runs[0], "--data", data, "--out", out)
    assert open_beton(tmp_path / "val.beton").n == 300
    with pytest.raises(InputError, match=r"copied/last\.pt is a copy of .*, and would count twice"):
        run_command(monkeypatch, two_runs[0], copied, "--data", data, "--out", tmp_path / "labels.json")
    for _ in range(2):  # labels are replaced by labels
        assert run_command(monkeypatch, copied, "--data", data, "--out", tmp_path / "labels.json") == 0


def test_runs_that_cannot_label_are_refused_before_anything_is_written(two_runs, trained, tmp_path, monkeypatch):
    out = ["--out", tmp_path / "labels.json"]
    with pytest.raises(InputError, match="named twice"):
        run_command(monkeypatch, two_runs[0], two_runs[0] / "last.pt", *out)
    with pytest.raises(InputError, match=r"expected the folder of a run"):
        run_command(monkeypatch, *out)
    with pytest.raises(InputError, match="no classifier; fine-tune it first"):
        run_command(monkeypatch, two_runs[0], trained("mae:digits"), *out)
    with pytest.raises(InputError, match="temperature is 0"):
        run_command(monkeypatch, two_runs[0], *out, "--temperature", 0)
    with pytest.raises(InputError, match=r"no folder"):
        run_command(monkeypatch, two_runs[0], "--out", tmp_path / "none" / "labels.json")
    loaded = load_run(two_runs[0], CPU)
    with pytest.raises(InputError, match=r"10 classes apart, expected the 2 to label: .*'a'"):
        columns_of(loaded, ("a", "b"))
    assert columns_of(load_run(two_runs[1], CPU), loaded.classes).tolist() == list(range(10))[::-1]
    assert list(tmp_path.iterdir()) == []


def test_hidden_labels_do_not_reach_the_soft_labels(trained, digits, tmp_path, monkeypatch, capsys):
    """Without --data it is the run's training file. Of the two files the digests of the .beton differ, and no label."""
    beton, run = open_beton(digits / "train.beton"), trained("supervised:digits")
    hidden = np.setdiff1d(np.arange(beton.n), load_split(beton, "5-per-class").labelled)
    permuted = _with_permuted_labels(digits, tmp_path / "permuted", hidden) / "train.beton"
    found = []
    for name, data in (("as it is", []), ("hidden", ["--data", permuted])):
        assert run_command(monkeypatch, run, "--out", tmp_path / f"{name}.json", *data, "--oracle") == 0
        assert f"of {1197 if data else 1147:,} hidden labels" in capsys.readouterr().out  # a file that it was not shown
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert found[0].pop("beton") == beton.digest != found[1].pop("beton") == open_beton(permuted).digest
    for each in found:
        del each["sha256"], each["array"]  # the array's hash is compared
    assert found[0] == found[1]


def test_of_many_classes_the_most_frequent_and_the_rarest_are_named():
    counts = np.arange(30) * 1000
    assert pseudo_label._counted(counts[:3], ["a", "b", "c"]) == "a 0, b 1,000, c 2,000"
    many = pseudo_label._counted(counts, [f"class {i}" for i in range(30)])
    assert many.startswith("class 29 29,000, class 28 28,000")
    assert many.endswith("class 1 1,000, class 0 0; 1 class never")
    assert ", class 20 20,000, ..., class 9 9,000, " in many


def test_labels_that_are_damaged_missing_or_of_another_file_are_refused_in_one_line(labels, beton, digits, tmp_path):
    path, probabilities = labels
    found, read = read_labels(path, beton)
    assert np.array_equal(read, probabilities)
    array, text = tmp_path / found.array, path.read_text()
    for damage, message in (
        (lambda: path.write_text(text.replace('"n": 1197', '"n": 1196')), "its checksum is wrong"),
        (lambda: path.write_text(text[:40]), "cannot be read as soft labels"),
        (path.unlink, "expected soft labels"),
        (lambda: rewrite(path, array="../labels.npy"), "expected the name of a .npy"),
        (lambda: rewrite(path, runs=[{"path": "x"}]), "runs: expected path, recipe, step, sha256"),
        (lambda: rewrite(path, more=1), "labels: expected beton, n, classes"),
        (lambda: rewrite(path, classes=[*map(str, range(9, -1, -1))]), "in another order"),
        (lambda: rewrite(path, n=3), "not what labels.json says"),
    ):
        damage()
        with pytest.raises(InputError, match=message) as error:
            read_labels(path, beton)
        assert "\n" not in str(error.value)
        assert "python -m models.pseudo_label" in str(error.value)
        path.write_text(text)
    with pytest.raises(InputError, match=r"another file \(1,197 images, .*val.beton \(300"):
        read_labels(path, open_beton(digits / "val.beton"))
    blob = bytearray(array.read_bytes())
    blob[-5] ^= 1
    array.write_bytes(blob)
    with pytest.raises(InputError, match="was changed after it was written"):
        read_labels(path, beton)
    array.unlink()
    with pytest.raises(InputError, match=r"expected the probabilities of labels.json"):
        read_labels(path, beton)


def test_both_files_are_written_or_neither(labels, beton, tmp_path, monkeypatch):
    path, first = labels
    before = {each.name for each in tmp_path.iterdir()}

    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("models.pseudo_labels.label_file.write_whole", refused)
        for name, probabilities in (
            ("labels.json", drawn(beton.n, 10, 1)),
            ("labels.json", first),
            ("other.json", first),
        ):
            with pytest.raises(InputError, match="cannot be written: No space left"):
                write_labels(tmp_path / name, facts(beton), probabilities)
            assert {each.name for each in tmp_path.iterdir()} == before
    assert np.array_equal(read_labels(path, beton)[1], first)
    second = drawn(beton.n, 10, 1)
    write_labels(path, facts(beton), second)
    assert np.array_equal(read_labels(path, beton)[1], second)
    assert len(list(tmp_path.iterdir())) == 2
    write_labels(path, facts(beton), second)
    assert len(list(tmp_path.iterdir())) == 2
    for wrong in (second[:3], second.astype(np.float32), second * np.float16(0.5), second * np.float16(np.nan)):
        with pytest.raises(InputError, match="expected"):
            write_labels(path, facts(beton), wrong)


def method_of(*flags: str, probabilities: np.ndarray):
    torch.manual_seed(0)
    recipe = resolve("selftrain:digits", [*TINY, *flags])
    method = method_class(recipe)(recipe, 10).double().train()
    with torch.no_grad():
        for parameter in method.parameters():  # away from zero biases and equal norms
            parameter.add_(0.05 * torch.randn_like(parameter))
    method.soft_labels = SoftLabels(probabilities)
    return method


@pytest.mark.parametrize("flags", ["--method.pseudo.no-soft", "--method.pseudo.temperature=0.5"])
@pytest.mark.parametrize("threshold", [0.0, 0.25, 1.0])
def test_selftrain_is_its_equation_whether_none_some_or_all_labels_count(threshold, flags):
    probabilities = drawn(50, 10)
    flags = [flags, f"--method.pseudo.threshold={threshold}", "--method.lambda-u=3", "--method.smoothing=0.1"]
    method, g = method_of(*flags, probabilities=probabilities), torch.Generator().manual_seed(0)
    views = [torch.randn(n, 3, 16, 16, generator=g, dtype=torch.float64) for n in (4, 14, 14)]
    labels, ids = torch.randint(0, 10, (4,), generator=g), torch.randperm(50, generator=g)[:14]
    loss = method(Batch(0, Labelled(torch.arange(4), views[0], labels), Unlabelled(ids, views[1], views[2])), LATER)

    q = torch.from_numpy(probabilities[ids].astype(np.float64))
    counts = q.max(-1).values >= threshold
    q = F.one_hot(q.argmax(-1), 10).double() if "no-soft" in flags[0] else q**2 / (q**2).sum(-1, keepdim=True)
    each = -(q * method.encoder(views[2]).log_softmax(-1)).sum(-1) * counts
    paper = F.cross_entropy(method.encoder(views[0]), labels, label_smoothing=0.1) + 3 * each.sum() / 14
    assert torch.equal(loss.pseudo_stats.passed, counts)
    assert 0 < int(counts.sum()) < 14 or threshold in (0, 1)
    assert loss.total.item() == pytest.approx(paper.item(), rel=1e-6)
    trained = [p for p in method.encoder.parameters() if p.requires_grad]
    for ours, theirs in zip(torch.autograd.grad(loss.total, trained), torch.autograd.grad(paper, trained), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() + 1e-9


def test_labels_that_are_known_replace_soft_ones_and_copies_share_them():
    import copy

    probabilities = drawn(6, 3)
    labels = SoftLabels(probabilities.copy())
    labels.set_known(Labels(6, np.array([1, 4]), np.array([2, 0])))
    found = copy.deepcopy({"held": labels})["held"].scores(torch.tensor([4, 5, 1, 1])).exp()
    assert np.array_equal(found.numpy()[[0, 2, 3]], np.eye(3)[[0, 2, 2]])
    assert np.allclose(found.numpy()[1], probabilities[5], atol=1e-6)
    assert torch.allclose(SoftLabels.uniform(5, 4).scores(torch.tensor([4])).exp(), torch.full((1, 4), 0.25))


def test_two_ranks_and_micro_batches_look_up_the_labels_of_their_own_images(digits, labels, beton):
    path, probabilities = labels
    recipe = resolve("selftrain:digits", [*TINY, f"--data.root={digits}", "--data.batch=32", f"--method.labels={path}"])
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, 10).eval()
    train_data = open_train_data(recipe.data, method.needs(recipe))
    assert set(method.set_training_file(train_data.beton, train_data.labels)) == {"method.labels"}
    told = train_data.labels[np.arange(beton.n)]
    means, classes = {}, {}
    for ranks, micro in ((1, 1), (2, 1), (1, 2)):
        losses, seen = [], {}
        for rank in range(ranks):
            spec = loader_spec(train_data, recipe.data, method.needs(recipe), patch=4, total_steps=1, rank=rank,
                               ranks=ranks, micro=micro)  # fmt: skip
            with Loader(spec, open_backend(recipe.data, train_data.beton, CPU), CPU) as batches:
                for _ in range(micro):
                    loss = method(next(batches), LATER)
                    losses.append(loss.total.item())
                    seen |= dict(zip(loss.pseudo_stats.ids.tolist(), loss.pseudo_stats.classes.tolist(), strict=True))
        means[ranks, micro], classes[ranks, micro] = np.mean(losses), seen
    assert classes[1, 1] == classes[2, 1] == classes[1, 2]
    assert means[1, 1] == pytest.approx(means[2, 1], rel=1e-5) == pytest.approx(means[1, 2], rel=1e-5)
    for image, guess in classes[1, 1].items():
        assert guess == (told[image] if told[image] >= 0 else probabilities[image].argmax())


def test_a_run_is_refused_without_labels_resumes_on_the_same_and_is_refused_on_others(labels, beton, tiny, tmp_path):
    path, _ = labels
    with pytest.raises(InputError, match=r"method.labels is None.*python -m models.pseudo_label RUN"):
        tiny("selftrain:digits", tmp_path / "run")
    with pytest.raises(InputError, match="teacher is ema, but the labels come from a file"):
        tiny("selftrain:digits", tmp_path / "run", "--method.pseudo.teacher=ema", f"--method.labels={path}")
    assert not (tmp_path / "run").exists()
    flags = [f"--method.labels={path}", "--method.pseudo.threshold=0.3", "--run.oracle"]
    assert tiny("selftrain:digits", tmp_path / "straight", *flags) == 0
    assert tiny("selftrain:digits", tmp_path / "run", *flags, "--run.stop-step=5") == 75
    write_labels(path, facts(beton), drawn(beton.n, 10, 1))
    with pytest.raises(InputError, match=r"trained on another file of method.labels than is there now"):
        tiny("selftrain:digits", tmp_path / "run", *flags)
    path.unlink()
    path = tmp_path / "moved" / "soft.json"  # where they lie is no part of what is learned
    path.parent.mkdir()
    write_labels(path, facts(beton), drawn(beton.n, 10))
    flags[0] = f"--method.labels={path}"
    assert tiny("selftrain:digits", tmp_path / "run", *flags) == 0
    assert same(weights(tmp_path / "run"), weights(tmp_path / "straight"))
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")
    assert 0 < rows(tmp_path / "run")[0]["pseudo"]["passed"] < 1
    assert not any("labels" in name for name in weights(tmp_path / "run"))
    assert load_run(tmp_path / "run", CPU).recipe.method.labels == str(path)
