"""One flipped bit, anywhere in what a run reads: noticed before it is used."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_load
from models.config.recipe import Optim
from models.optim.build import build_optimiser
from pipeline.errors import InputError
from pipeline.store.beton import open_beton
from pipeline.store.manifest import manifest_path

FLIPS = int(os.environ.get("SHOTCRETE_FLIPS", 200))


def noticed(path: Path, use) -> int:
    """How many of FLIPS single bits, drawn over the file, `use` notices; it takes the file as it was."""
    whole, found = path.read_bytes(), 0
    draw = random.Random(0)
    use()
    for _ in range(FLIPS):
        at, bit = draw.randrange(len(whole)), draw.randrange(8)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ 1 << bit]))
        try:
            use()
        except InputError:
            found += 1
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(whole[at : at + 1])
    use()
    return found


def test_every_flipped_bit_in_a_checkpoint_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = torch.nn.Linear(64, 64)
    method(torch.ones(2, 64)).sum().backward()
    made = build_optimiser(method, Optim())
    made.step()
    path = save_load.save(tmp_path, {"method": method.state_dict(), "optimiser": made.state_dict()})
    found = noticed(path, lambda: save_load.load(path))
    with capsys.disabled():
        print(f"\n{found}/{FLIPS} flipped bits noticed in a checkpoint of {path.stat().st_size:,} bytes")
    assert found == FLIPS


def test_every_flipped_bit_in_the_images_is_noticed(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.beton"
    for source, copy in ((digits / "train.beton", path), (manifest_path(digits / "train.beton"), manifest_path(path))):
        shutil.copyfile(source, copy)
    found = noticed(path, lambda: open_beton(path, verify=True))
    with capsys.disabled():
        print(f"\n{found}/{FLIPS} flipped bits noticed in a .beton of {path.stat().st_size:,} bytes")
    assert found == FLIPS
