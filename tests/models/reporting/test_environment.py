import json
from pathlib import Path

import torch

from models.distributed.process_group import World
from models.reporting.environment import write_environment


def test_the_environment_names_versions_and_machine(tmp_path: Path) -> None:
    found = write_environment(tmp_path, World(0, 1, 0, torch.device("cpu")))
    assert torch.__version__.startswith(found["torch"])
    assert found["cores"] >= 1
    assert json.loads((tmp_path / "environment.json").read_text()) == found
