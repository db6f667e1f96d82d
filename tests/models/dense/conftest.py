"""A set of toy scenes, and tiny runs of segmentation on it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from tests.conftest import without_report

NAMES = ("sky", "road", "car")
COLOURS = np.array([[90, 140, 230], [90, 90, 90], [220, 40, 40]])
FLAGS = [
    "--encoder.name=None", "--encoder.width=32", "--encoder.depth=4", "--encoder.heads=2", "--encoder.patch=4",
    "--method.channels=8", "--method.auxiliary-channels=8", "--method.labels.short-side=24", "--data.size=16",
    "--data.batch=4", "--data.threads=1", "--optim.lr=3e-3", "--optim.layer-decay=0.9", "--run.log-steps=2",
    "--run.save-steps=3", "--run.device=cpu", "--optim.warmup-epochs=1", "--run.evaluate-steps=None",
]  # fmt: skip


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A sky over a road with a car somewhere on it, 40 x 30 pixels, and the classes of its pixels."""
    rng = np.random.default_rng(number)
    classes = np.zeros((30, 40), np.uint8)
    classes[rng.integers(10, 20) :] = 1
    top, left = rng.integers(10, 20), rng.integers(0, 30)
    classes[top : top + 8, left : left + 10] = 2
    noisy = COLOURS[classes] + rng.integers(-20, 20, (30, 40, 3))
    return noisy.clip(0, 255).astype(np.uint8), classes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """images/train, masks/train, images/val, masks/val and classes.txt: eight scenes to learn from, three others."""
    root = tmp_path_factory.mktemp("scenes")
    for name, numbers in (("train", range(8)), ("val", range(8, 11))):
        for folder in ("images", "masks"):
            (root / folder / name).mkdir(parents=True)
        for number in numbers:
            image, classes = scene(number)
            Image.fromarray(image).save(root / "images" / name / f"{number}.png")
            classes[:2, :2] = 255
            Image.fromarray(classes).save(root / "masks" / name / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture
def segment(monkeypatch, scenes):
    """segment(folder, *flags) trains segment:mine on the scenes with a toy network; -> exit code."""

    def run(folder: Path, *flags: str, report: bool = False) -> int:
        own = ["--optim.epochs=6", f"--data.root={scenes}", f"--run.folder={folder}"]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", "segment:mine", *FLAGS, *own, *flags])
            if not report:
                without_report(patch)
            return train.main()

    return run
