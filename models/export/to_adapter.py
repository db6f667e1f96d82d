"""Export format adapter: what was trained of the encoder, without the frozen weights, which stay where they are."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import final

import torch
from safetensors.torch import save_file
from torch import nn

from models.encoder.vit import eval_logits
from models.export.export_format import CheckResult, ExportFormat, images_like
from models.load import Loaded
from models.pretrained.adapter import (
    FROZEN,
    START,
    TENSORS,
    frozen_hash,
    load_adapter,
    trained_tensors,
)
from models.pretrained.find import ADAPTER
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole


@final
class ToAdapter(ExportFormat):
    """adapter.json and adapter.safetensors, as models.pretrained.adapter reads them; outputs are bitwise equal."""

    def write(self, loaded: Loaded, folder: Path) -> None:
        recipe, method = loaded.recipe, loaded.method
        if recipe.encoder.adapt == "full":
            raise InputError(f"{loaded.path} has no frozen weights to leave out (encoder.adapt full); use --to timm")
        if recipe.run.start is None:
            raise InputError(
                f"{loaded.path} adapts weights of no file (run.start), so they would be lost; use --to timm"
            )
        if isinstance(getattr(method, "head", None), nn.Module):
            raise InputError(
                f"an adapter holds an encoder, {recipe.name} has a classifier beside it; use --to safetensors"
            )
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in trained_tensors(method).items()}
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
        told = {
            START: recipe.run.start,
            FROZEN: frozen_hash(method),
            "step": loaded.step,
            "classes": list(loaded.classes),
            "recipe": asdict(recipe),
        }
        write_whole(folder / ADAPTER, json.dumps(told, indent=2) + "\n")

    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        theirs, ours, images = load_adapter(folder).method.eval_encoder, loaded.method.eval_encoder, images_like(loaded)
        with torch.inference_mode():
            difference = (eval_logits(theirs, images) - eval_logits(ours.cpu().float(), images)).abs().max()
        return CheckResult(float(difference), f"{loaded.recipe.run.start}")
