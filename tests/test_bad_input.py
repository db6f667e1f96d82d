"""What a user can get wrong ends in one line and exit code 2, before anything is written; what is right passes."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

import train
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.distributed import process_group
from models.training.preflight import check_attention, open_run
from pipeline.errors import command
from pipeline.labels.splits import load_split, save_split
from pipeline.store.beton import open_beton
from pipeline.store.file_format import metadata
from tests.cases import MAE, RIGHT, SEMI, SUPERVISED, WRONG
from tests.checksummed import rewrite
from tests.conftest import DECODER, TINY

CUDA = "--run.device=cuda"


def words(recipe: str, flags: str, root: Path, folder: Path) -> list[str]:
    decoder = DECODER if "mae:" in recipe else []
    return [recipe, *TINY, *decoder, f"--data.root={root}", f"--run.folder={folder}", *flags.split()]


@pytest.fixture
def refused(monkeypatch, capsys, digits, tmp_path):
    """refused(recipe, flags, root) -> the one line on stderr, without a run folder having appeared or changed."""

    def run(recipe: str, flags: str = "", root: Path = digits, folder: Path = tmp_path / "run") -> str:
        before = contents(folder)
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["train.py", *words(recipe, flags, root, folder)])
        with pytest.raises(SystemExit) as ended:
            command(train.main)
        assert ended.value.code == 2
        written = capsys.readouterr()
        (line,) = written.err.splitlines()
        assert written.out == ""
        assert contents(folder) == before
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture
def copy(digits, tmp_path) -> Path:
    """The digits' folder, to be damaged."""
    return shutil.copytree(digits, tmp_path / "data")


def contents(folder: Path) -> dict[str, bytes] | None:
    if not folder.exists():
        return None
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def accepted(recipe: str, flags: str, root: Path, folder: Path) -> None:
    """All checks pass; nothing trains."""
    found = resolve(recipe, words(recipe, flags, root, folder)[1:])
    open_run(found, process_group.start(found.run))
    assert not folder.exists()


@pytest.mark.parametrize("case", WRONG)
def test_one_line_and_no_folder(case, refused):
    recipe, flags, says = WRONG[case]
    assert says in refused(recipe, flags)


def test_a_folder_that_is_a_file_or_cannot_be(refused, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert "notes.txt is a file, expected a folder for the run" in refused(SEMI, folder=file)
    assert "cannot write in" in refused(SEMI, folder=file / "run")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_passes(case, digits, tmp_path):
    accepted(*RIGHT[case], digits, tmp_path / "run")


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_truncated_file(name, refused, copy):
    path = copy / f"{name}.beton"
    os.truncate(path, path.stat().st_size - 1000)
    assert f"{name}.beton" in refused(SEMI, root=copy)


def test_a_missing_manifest(refused, copy):
    (copy / "train.beton.json").unlink()
    assert "has no manifest train.beton.json beside it" in refused(SEMI, root=copy)


def test_a_split_of_another_file(refused, copy):
    shutil.copy(copy / "train.split-5-per-class.json", copy / "val.split-5-per-class.json")
    assert "was made for 1,197 images" in refused(SEMI, "--data.train=val.beton", copy)


def test_a_split_that_lacks_a_class(refused, copy):
    path = copy / "train.split-5-per-class.json"
    found, beton = json.loads(path.read_text()), open_beton(copy / "train.beton")
    labels = metadata(beton.data, beton.n)["label"]
    kept = [i for i in found["labelled"] if labels[i] != 3]
    rewrite(path, labelled=kept)
    assert "expected labels of every class, 1 have none" in refused(SEMI, root=copy)
    rewrite(path, labelled=[])
    assert "expected samples to label, got none" in refused(SEMI, root=copy)
    path.write_text("{")
    assert "expected a split file" in refused(SEMI, root=copy)


def test_files_of_other_classes_or_none(refused, digits, tmp_path):
    """A folder of two classes, and one without labels: pixels alone are enough for MAE, and for nothing else."""
    two, none = made(tmp_path / "two", ["a", "b"]), made(tmp_path / "none", [None])
    shutil.copytree(digits, tmp_path / "mixed")
    for suffix in ("", ".json"):
        shutil.copy(two / f"train.beton{suffix}", tmp_path / "mixed" / f"val.beton{suffix}")
    line = refused(SEMI, root=tmp_path / "mixed")
    assert "has other classes than" in line
    assert "names in val.beton; only in val.beton: 'a', 'b'; only in train.beton: '0', '1'" in line
    assert line.endswith(f"convert it with --classes-from {tmp_path}/mixed/train.beton")
    flags = "--data.val=train.beton --data.test=None --data.split=None"
    accepted(SUPERVISED, flags, two, tmp_path / "run")
    assert "has no labelled image" in refused(SUPERVISED, flags, none)
    accepted(MAE, flags, none, tmp_path / "run")


def test_pixels_alone_are_enough_for_mae(monkeypatch, tmp_path):
    """To the end: nothing to evaluate, a report all the same."""
    flags = "--data.val=train.beton --data.test=None --data.split=None --optim.epochs=2 --data.batch=4"
    none = made(tmp_path / "none", [None])
    monkeypatch.setattr(sys, "argv", ["train.py", *words(MAE, flags, none, tmp_path / "run")])
    assert train.main() == 0
    assert (tmp_path / "run" / "report.html").exists()


def made(root: Path, classes: list[str | None]) -> Path:
    """A train.beton of eight noisy images a class; None: files without a class."""
    import numpy as np
    from PIL import Image

    from pipeline.convert.conversion import convert

    for name in classes:
        folder = root / "images" / (name or "")
        folder.mkdir(parents=True)
        for i in range(8):
            noise = np.random.default_rng([i, len(name or "")]).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{i}.png")
    convert(root / "images", root / "train.beton")
    return root


def test_gpus_are_counted(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert "4 GPUs are visible, one process was started; use `torchrun --nproc-per-node 4" in refused(SEMI, CUDA)
    assert "run.devices is 8, 4 GPU(s) are visible" in refused(SEMI, f"{CUDA} --run.devices=8")
    assert "torchrun --nproc-per-node 2" in refused(SEMI, f"{CUDA} --run.devices=2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert "8 processes were started here, 4 GPUs are visible" in refused(SEMI, CUDA)


def test_varlen_attention_needs_cuda_in_half_precision(digits, tmp_path):
    cuda = process_group.World(0, 1, 0, torch.device("cuda"))
    found = resolve(SEMI, words(SEMI, "--encoder.attention=varlen", digits, tmp_path / "run")[1:])
    check_attention(found, cuda)
    single = resolve(SEMI, words(SEMI, "--encoder.attention=varlen --run.precision=float32", digits, tmp_path)[1:])
    with pytest.raises(ValueError, match="got cuda in float32; choose sdpa"):
        check_attention(single, cuda)


def test_a_batch_that_does_not_divide_over_the_ranks(digits, tmp_path):
    found = resolve(SEMI, words(SEMI, "", digits, tmp_path / "run")[1:])
    with pytest.raises(ValueError, match="8 \\+ 24 images does not divide over 5 devices"):
        open_run(found, process_group.World(0, 5, 0, torch.device("cpu")))


def test_a_folder_of_another_run(refused, tiny, digits, tmp_path):
    folder = tmp_path / "run"
    assert tiny(SUPERVISED, folder, "--run.stop-step=2") == 75
    assert "was begun with optim.lr 0.002, now it is 0.1" in refused(SUPERVISED, "--optim.lr=0.1")
    assert "was begun with name supervised:digits, now it is semi_mae:digits" in refused(SEMI)
    assert "holds a run already" in refused(SUPERVISED, "--run.fresh")
    assert tiny(SUPERVISED, folder, "--run.stop-step=4", "--run.save-steps=2") == 75  # how it runs may change
    (folder / "recipe.json").write_text("{")
    assert "is not JSON" in refused(SUPERVISED)


def test_a_run_whose_split_was_made_again(refused, tiny, copy, tmp_path):
    flags = f"--data.root={copy}"
    assert tiny(SUPERVISED, tmp_path / "run", flags, "--run.stop-step=2") == 75
    beton = open_beton(copy / "train.beton")
    split = load_split(beton, "5-per-class-1")
    save_split(beton, type(split)("5-per-class", split.beton_digest, split.n, 1, split.classes, split.labelled))
    assert "was trained on other data or another split" in refused(SUPERVISED, root=copy)


class Malicious:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_start_that_is_no_whole_checkpoint(refused, tmp_path, monkeypatch):
    start, trap = tmp_path / "start" / "last.pt", tmp_path / "run code"
    start.parent.mkdir()
    flags = f"--run.start={start}"
    start.write_bytes(pickle.dumps(Malicious(trap)))
    assert "does not end in a checksum" in refused(SEMI, flags)
    with monkeypatch.context() as patch:
        patch.setattr(save_load, "check_types", lambda *_: None)
        save_load.save(start.parent, {"method": Malicious(trap)})  # with a checksum that fits
    assert "holds more than tensors" in refused(SEMI, flags)
    assert not trap.exists()
    save_load.save(start.parent, {"other": 1})
    assert "holds no method" in refused(SEMI, flags)
    data = bytearray(start.read_bytes())
    data[len(data) // 2] ^= 1
    start.write_bytes(data)
    assert "is damaged" in refused(SEMI, flags)
