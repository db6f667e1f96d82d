import re
from pathlib import Path

import pytest
import torch

from models.training import overheads


def test_the_rows_of_the_table_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overheads, "REPEATS", 1)
    row = overheads.saves("vit_tiny_patch16_224", tmp_path, torch.device("cpu"))
    assert re.fullmatch(r"\| vit_tiny_patch16_224 \| 69 \| \d+ \| \d+ \| \d+ \|", row)  # 5.7 M x 3 x 4 bytes
