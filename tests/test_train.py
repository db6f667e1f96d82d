"""The loop: stopping changes nothing, hidden labels stay hidden, a batch is the same however it is cut."""

import json

import numpy as np
import pytest
import torch

import train
from pipeline.errors import InputError
from pipeline.store.beton import open_beton
from pipeline.store.file_format import metadata
from pipeline.store.manifest import manifest_path
from tests.checksummed import rewrite
from tests.conftest import assert_close, rows, same, weights

RECIPES = ["supervised:digits", "fixmatch:digits", "mae:digits", "supmae:digits", "semi_mae:digits"]
LOW = "--method.pseudo.threshold=0.108"  # ten classes: a new network is this sure of some guesses


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_evaluates_and_reports(recipe, tiny, tmp_path, capsys):
    assert tiny(recipe, tmp_path, report=True) == 0
    for name in ("recipe.json", "environment.json", "metrics.jsonl", "last.pt", "report.html", "report.md"):
        assert (tmp_path / name).stat().st_size > 0
    steps = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in steps] == [3, 6, 9, 12]
    assert all(np.isfinite(row["loss"]) for row in steps)
    assert {row["evaluation"] for row in rows(tmp_path) if "evaluation" in row} == {"val", "test"}
    assert "img/s" in capsys.readouterr().out


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tmp_path_factory.mktemp("straight")


@pytest.mark.parametrize("stop", [1, 5, 8, 11])
def test_stopping_after_any_step_changes_nothing(stop, tiny, tmp_path, straight):
    """Equal, not close: weights, moments, averages, and every row of the journal; drop-path draws random numbers."""
    flags = [LOW, "--encoder.drop-path=0.3", "--run.oracle", "--run.evaluate-steps=5"]
    if not (straight / "last.pt").exists():
        assert tiny("semi_mae:digits", straight, *flags) == 0
        assert 0 < rows(straight)[0]["pseudo"]["passed"] < 1  # the selective branch is in play
    assert tiny("semi_mae:digits", tmp_path, *flags, f"--run.stop-step={stop}") == 75
    assert tiny("semi_mae:digits", tmp_path, *flags) == 0
    assert same(weights(tmp_path), weights(straight))
    assert rows(tmp_path) == rows(straight)


def test_hidden_labels_cannot_reach_the_weights(tiny, tmp_path, digits):
    """Permute every label that the split hides: bitwise the same weights; permute the shown ones: others."""
    from pipeline.labels.splits import load_split

    beton = open_beton(digits / "train.beton")
    known = load_split(beton, "5-per-class").labelled
    hidden = np.setdiff1d(np.arange(beton.n), known)
    runs = {}
    for name, ids in {"as it is": known[:0], "hidden": hidden, "shown": known}.items():
        root = _with_permuted_labels(digits, tmp_path / name, ids)
        folder = tmp_path / f"run {name}"
        assert tiny("semi_mae:digits", folder, LOW, f"--data.root={root}", "--run.oracle") == 0
        runs[name] = weights(folder)
    assert same(runs["as it is"], runs["hidden"])
    assert not same(runs["as it is"], runs["shown"])


def _with_permuted_labels(digits, root, ids):
    """A copy of the digits in which the labels of `ids` are permuted; manifest and splits quote the new file."""
    import shutil

    from pipeline.store.file_format import read_layout
    from pipeline.store.integrity import chunks_sha256, index_sha256
    from pipeline.store.manifest import identity

    shutil.copytree(digits, root)
    path = root / "train.beton"
    data = np.fromfile(path, np.uint8)
    beton = open_beton(path)
    labels = metadata(data, beton.n)["label"]
    labels[ids] = np.random.default_rng(0).permutation(labels[ids])
    data.tofile(path)
    facts = json.loads(manifest_path(path).read_text())
    chunks = chunks_sha256(data)
    index = index_sha256(data, beton.n, read_layout(path).table_start)
    digest = identity(index, tuple(facts["classes"]), facts["names_sha256"], chunks)
    rewrite(manifest_path(path), chunk_sha256=chunks, digest=digest, index_sha256=index)
    for split in root.glob("train.split-*.json"):
        rewrite(split, beton=digest)
    return root


@pytest.mark.parametrize("recipe", ["semi_mae:digits", "mae:digits"])
def test_accumulation_gives_the_same_result_as_a_whole_batch(recipe, tiny, tmp_path):
    flags = [LOW] if recipe.startswith("semi") else []
    assert tiny(recipe, tmp_path / "whole", *flags) == 0
    assert tiny(recipe, tmp_path / "parts", *flags, "--run.device-images=8") == 0
    assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-5)


def test_a_labels_only_phase_comes_first_and_trains_on_labels_alone(tiny, tmp_path):
    flags = [LOW, "--optim.labels-only-epochs=6"]
    assert tiny("semi_mae:digits", tmp_path, *flags, "--run.stop-step=6") == 75
    parts = [set(row["parts"]) for row in rows(tmp_path)]
    assert parts == [{"label"}, {"label"}]
    before = {name: t for name, t in weights(tmp_path).items() if name.startswith("branch.")}
    assert tiny("semi_mae:digits", tmp_path, *flags) == 0
    assert not same(before, {name: t for name, t in weights(tmp_path).items() if name in before})
    assert set(rows(tmp_path)[2]["parts"]) == {"label", "pseudo", "pixels"}


def test_a_run_starts_from_another_runs_encoder(tiny, tmp_path, capsys):
    assert tiny("mae:digits", tmp_path / "mae") == 0
    start = f"--run.start={tmp_path / 'mae' / 'last.pt'}"
    assert tiny("semi_mae:digits", tmp_path / "semi", start, "--optim.lr=0", "--optim.final-lr=0") == 0
    assert "new: head.weight, head.bias" in capsys.readouterr().out
    before, after = weights(tmp_path / "mae"), weights(tmp_path / "semi")
    for name in before:
        if name.startswith("encoder."):
            assert torch.equal(before[name], after[name])
    with pytest.raises(InputError, match="was trained with heads 2, got 4"):
        tiny("semi_mae:digits", tmp_path / "other", start, "--encoder.width=48", "--encoder.heads=4")
    with pytest.raises(InputError, match="of shape"):
        tiny("semi_mae:digits", tmp_path / "other", start, "--encoder.width=48")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tiny, tmp_path):
    assert tiny("mae:digits", tmp_path, "--run.stop-step=4") == 75
    before = weights(tmp_path)
    from models.checkpoint import save_load

    state = save_load.load(tmp_path / "last.pt")
    state["method"]["encoder.patch_embed.proj.bias"].fill_(float("nan"))
    save_load.save(tmp_path, state)
    with pytest.raises(InputError, match="not finite in step 4"):
        tiny("mae:digits", tmp_path)
    found = json.loads((tmp_path / "not_finite.json").read_text())
    assert found["step"] == 4
    assert len(found["ids"]) == 32
    assert same(save_load.load(tmp_path / "previous.pt")["method"], before)


def test_a_finished_run_prints_its_scores_and_is_left_alone(tiny, tmp_path, capsys, monkeypatch):
    assert tiny("mae:digits", tmp_path) == 0
    last = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(train, "train", None)  # neither its data nor its method is opened
    assert tiny("mae:digits", tmp_path) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{tmp_path} is finished: mae:digits, step 12 of 12, val knn " in line
    for file in ("val", "test"):
        score = next(said for said in last.splitlines() if f"{file}: knn" in said).partition("knn ")[2]
        assert f"{file} knn {score}" in line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(InputError, match=r"was begun with optim\.epochs 12"):
        tiny("mae:digits", tmp_path, "--optim.epochs=13")
    with pytest.raises(InputError, match="holds a run already"):
        tiny("mae:digits", tmp_path, "--run.fresh")


def test_a_run_that_lost_its_report_writes_it_again(tiny, tmp_path):
    assert tiny("mae:digits", tmp_path) == 0
    before = weights(tmp_path)
    (tmp_path / "report.html").unlink()
    assert tiny("mae:digits", tmp_path, report=True) == 0
    assert (tmp_path / "report.html").stat().st_size > 0
    assert same(weights(tmp_path), before)


def test_a_run_whose_checkpoint_is_gone_says_that_it_begins_again(tiny, tmp_path, capsys):
    assert tiny("mae:digits", tmp_path, "--run.stop-step=3") == 75
    assert "no checkpoint" not in capsys.readouterr().out
    (tmp_path / "last.pt").unlink()
    assert tiny("mae:digits", tmp_path, "--run.stop-step=3") == 75
    assert "holds a journal and no checkpoint: the run begins again at its first step" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path)] == [3]
