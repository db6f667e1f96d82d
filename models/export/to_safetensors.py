"""Export format safetensors: the weights that are evaluated, by their own names, in one file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import final

from safetensors import safe_open
from safetensors.torch import save_file

from models.encoder.lora import merged
from models.export.export_format import CheckResult, ExportFormat
from models.load import Loaded


@final
class ToSafetensors(ExportFormat):
    """model.safetensors, factors of low rank merged; classes and recipe in its header."""

    def write(self, loaded: Loaded, folder: Path) -> None:
        found = merged(loaded.method.eval_encoder).state_dict()
        tensors = {name: tensor.contiguous().cpu() for name, tensor in found.items()}
        held = {"classes": json.dumps(loaded.classes), "recipe": json.dumps(asdict(loaded.recipe)), "format": "pt"}
        save_file(tensors, folder / "model.safetensors", metadata=held)

    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        ours = merged(loaded.method.eval_encoder).state_dict()
        with safe_open(folder / "model.safetensors", "pt") as file:
            if set(file.keys()) != set(ours):
                return CheckResult(float("inf"), "safetensors, under other names")
            pairs = [(file.get_tensor(name).double(), ours[name].cpu().double()) for name in ours]
        return CheckResult(max(float((theirs - mine).abs().max()) for theirs, mine in pairs), "safetensors")
