"""What is black and white of pixels with more than 8 bits is the same where a run learns, is judged and predicts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from models import predict
from models.checkpoint import save_load
from models.evaluate import __main__ as evaluate
from models.load import load_run
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError

WINDOW = (0.0, 4095.0)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Images of 12 bits in 16, dark and light, and their .beton files with the window and without."""
    folder, chance = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 2500)):
        (folder / name).mkdir()
        for i in range(24):
            pixels = (low + chance.integers(0, 1500, (32, 32))).astype(np.uint16)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    for data, window in (("train", WINDOW), ("val", WINDOW), ("other", None), ("auto", "auto")):
        convert(folder, folder.parent / f"{folder.name}-data" / f"{data}.beton", Options(window=window, side=None))
    return folder


@pytest.fixture(scope="module")
def data(scans) -> Path:
    return scans.parent / f"{scans.name}-data"


@pytest.fixture
def run(tiny, tmp_path, data) -> Path:
    folder = tmp_path / "run"
    flags = (
        "--data.split=None",
        "--data.test=None",
        f"--data.root={data}",
        "--optim.epochs=4",
        "--optim.warmup-epochs=1",
    )
    assert tiny("supervised:digits", folder, *flags) == train.DONE
    return folder


def predicted(monkeypatch, run: Path, images: Path, out: Path) -> str:
    monkeypatch.setattr("sys.argv", ["predict", str(run), str(images), "--out", str(out), "--device", "cpu"])
    assert predict.main() == 0
    return out.read_text()


def test_a_run_predicts_in_the_window_it_learned_in_wherever_its_data_is(run, scans, tmp_path, monkeypatch):
    own = predicted(monkeypatch, run, scans, tmp_path / "own.csv")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    checkpoint = save_load.load(run / "last.pt")
    checkpoint["recipe"]["data"]["root"] = "gone"
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    save_load.save(moved, checkpoint)
    assert load_run(moved).recipe.data.root == "gone"
    assert load_run(moved).window == WINDOW
    assert predicted(monkeypatch, moved, scans, tmp_path / "moved.csv") == own
    monkeypatch.setattr(
        "sys.argv", ["", str(run), str(scans), "--out", "w.csv", "--device=cpu", "--window", "0", "65535"]
    )
    assert predict.main() == 0
    assert (elsewhere / "w.csv").read_text() != own


@pytest.mark.parametrize("file", ["other", "auto"])
def test_a_file_of_another_window_is_refused(tiny, run, data, file, tmp_path, monkeypatch, capsys):
    with pytest.raises(
        InputError, match=f"{file}.beton was converted .*train.beton with --window 0 4095.*convert it again"
    ):
        tiny(
            "supervised:digits", tmp_path / "no", "--data.split=None", f"--data.root={data}", f"--data.val={file}.beton"
        )
    monkeypatch.setattr("sys.argv", ["", "accuracy", str(run), f"--data.file={file}.beton", "--device=cpu"])
    with pytest.raises(InputError, match=r"training data of .*last.pt with --window 0 4095"):
        evaluate.main()
