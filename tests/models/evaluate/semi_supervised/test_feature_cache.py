"""Features are computed once, kept whole, and never those of other weights, images or views."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from models.checkpoint import checksummed
from models.evaluate.few_shot_protocols.features import FeatureExtractor
from models.evaluate.knn import pooled_features
from models.evaluate.semi_supervised import feature_cache as module
from models.evaluate.semi_supervised.feature_cache import FeatureCache
from models.load import load_run
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.store.beton import open_beton

IDS = np.arange(0, 60, 2)


@pytest.fixture
def run(trained, tmp_path):
    """The checkpoint of a tiny run, in a folder of its own."""
    (tmp_path / "run").mkdir()
    shutil.copy(trained("supervised:digits") / "last.pt", tmp_path / "run")
    return load_run(tmp_path / "run")


@pytest.fixture
def beton(digits):
    return open_beton(digits / "val.beton")


def cache(run, **change) -> FeatureCache:
    return dataclasses.replace(FeatureCache.beside(run, run.recipe.data, "avg", 16), **change)


@pytest.fixture
def counted(monkeypatch):
    """The numbers of images that are decoded, one a call."""
    calls, original = [], module.sweep_decodable

    def counting(data, beton, device, ids, batch):
        calls.append(len(ids))
        return original(data, beton, device, ids, batch)

    monkeypatch.setattr(module, "sweep_decodable", counting)
    return calls


def test_features_are_those_of_the_other_evaluators_and_are_computed_once(run, beton, counted, capsys):
    found = cache(run).features(beton, IDS)
    expected = pooled_features(run.method.eval_encoder, sweep(run.recipe.data, beton, torch.device("cpu"), IDS, 7))
    torch.testing.assert_close(found.features, expected)
    assert found.ids.tolist() == IDS.tolist()
    again = cache(run).features(beton, IDS[3:9])
    assert torch.equal(again.features, found.features[3:9])
    assert again.ids.tolist() == IDS[3:9].tolist()
    assert counted == [30]
    more = cache(run).features(beton, np.arange(40))  # what is kept is not computed again, and order is by id
    assert counted == [30, 20]
    assert torch.equal(more.features[IDS[:20]], found.features[:20])
    torch.testing.assert_close(
        more.features, pooled_features(run.method.eval_encoder, sweep(run.recipe.data, beton, torch.device("cpu"),
                                                                      np.arange(40), 256)))  # fmt: skip
    said = capsys.readouterr().out
    assert "features of 30 images of" in said
    assert said.count("kept in") == 2
    assert "features of 6 images of" in said
    assert "read from" in said


def test_other_weights_are_said_and_replace_what_was_kept(run, beton, counted, capsys):
    before = cache(run)
    first = before.features(beton, IDS)
    with torch.no_grad():
        run.method.encoder.blocks[0].mlp.fc1.bias[0] += 1.0
        if run.method.ema is not None:
            run.method.ema.module.blocks[0].mlp.fc1.bias[0] += 1.0
    after = cache(run)
    found = after.features(beton, IDS)
    assert not torch.equal(found.features, first.features)
    assert counted == [30, 30]
    assert "is of other weights than last.pt now holds: the features are computed again, and it is replaced" in (
        capsys.readouterr().out
    )
    assert [path.name for path in after.folder.iterdir()] == [after.path(beton).name]


def test_another_view_pooling_or_file_is_kept_apart(run, beton, digits, counted):
    data = run.recipe.data
    wide = dataclasses.replace(data, evaluate=dataclasses.replace(data.evaluate, short_side=1.5))
    caches = [cache(run), cache(run, data=wide), cache(run, pool="token")]
    paths = {each.path(beton) for each in caches} | {cache(run).path(open_beton(digits / "test.beton"))}
    assert len(paths) == 4
    assert cache(run, batch=3, data=dataclasses.replace(data, threads=1, root="elsewhere")).path(beton) in paths


@pytest.mark.parametrize("damage", ["cut", "flipped", "not ours"])
def test_a_damaged_file_is_said_and_computed_again(damage, run, beton, counted, capsys):
    first, path = cache(run).features(beton, IDS), cache(run).path(beton)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
        checksummed.write(path, {"something": 1})
    assert torch.equal(cache(run).features(beton, IDS).features, first.features)
    assert counted == [30, 30]
    assert f"{path} cannot be used" in capsys.readouterr().out


def test_an_interruption_keeps_what_was_computed(run, beton, counted, monkeypatch):
    """After the first of four batches: the next call computes the others alone, and finds the same."""
    straight = cache(run).features(beton, IDS).features
    cache(run).path(beton).unlink()
    monkeypatch.setattr(module, "SAVE_S", -1.0)
    seen, extractor = [], cache(run, batch=8).extractor

    def interrupted(images):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(images))
        return FeatureExtractor.forward(extractor, images)

    monkeypatch.setattr(extractor, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache(run, batch=8, extractor=extractor).features(beton, IDS)
    found = cache(run).features(beton, IDS)
    assert counted == [30, 30, 22]
    torch.testing.assert_close(found.features, straight)


def test_a_disk_that_takes_no_file_is_said_and_nothing_half_written_stays(run, beton, monkeypatch, capsys):
    def full(path, state):
        path.write_bytes(b"half")
        raise InputError("no space left")

    monkeypatch.setattr(checksummed, "write", full)
    assert len(cache(run).features(beton, IDS).ids) == 30
    assert "not kept (no space left)" in capsys.readouterr().out
    assert list(cache(run).folder.iterdir()) == []


def test_an_image_that_does_not_decode_is_left_out_both_times_or_refused(run, digits, tmp_path, counted, capsys):
    shutil.copytree(digits, tmp_path / "data")
    path = tmp_path / "data" / "val.beton"
    whole = open_beton(path)
    start, size = int(whole.offsets[4]), int(whole.sizes[4])
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(size))
    beton = open_beton(path)
    for _ in range(2):
        found = cache(run).features(beton, IDS)
        assert found.gone.tolist() == [4]
        assert found.ids.tolist() == [i for i in IDS.tolist() if i != 4]
    said = capsys.readouterr()
    assert "no longer decodes; it is left out" in said.err
    assert "1 image of" in said.out
    assert counted == [30]
    with pytest.raises(InputError, match="decode"):
        cache(run).features(beton, IDS, every=True)
