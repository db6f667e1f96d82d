"""Export format timm: a folder from which timm.create_model("local-dir:FOLDER") makes encoder and classifier."""

import json
from pathlib import Path
from typing import final

import timm
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.encoder.build import Size, size_of
from models.export.export_format import (
    CheckResult,
    ExportFormat,
    as_input,
    images_like,
    largest_difference,
    plain_encoder,
)
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.spec import both_sides
from pipeline.store.atomic_write import write_whole

NAMELESS = {
    ("plain", 1e-6): "vit_tiny_patch16_224",
    ("plain", 1e-5): "vit_base_patch16_clip_224",
    ("swiglu", 1e-6): "vit_giant_patch14_dinov2",
}
"""Architecture in the config of a size that has no name in timm, by the kind of its MLP and the epsilon of its norms;
`model_args` change its width, depth and what else they can."""
FOLDED = 1e-4
"""Tolerance for a probe, whose batch norm is folded into its linear layer."""


@final
class ToTimm(ExportFormat):
    """config.json and model.safetensors; outputs are bitwise equal, except for a probe, whose norm is folded."""

    def write(self, loaded: Loaded, folder: Path) -> None:
        encoder = plain_encoder(loaded, "timm")
        tensors = {name: tensor.contiguous().cpu() for name, tensor in encoder.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_whole(folder / "config.json", json.dumps(config(loaded, encoder), indent=2) + "\n")

    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        encoder = loaded.method.eval_encoder.cpu().float()
        images = as_input(loaded, images_like(loaded))
        rounding = FOLDED if isinstance(encoder.head, nn.Sequential) else 0.0
        return CheckResult(largest_difference(encoder, theirs, images), f"timm {timm.__version__}", rounding)


def nameless(shape: Size | None, layer_scale: float | None) -> str:
    """The architecture in timm whose norms and MLP a size has, as JSON can hold neither a class nor an epsilon.

    Raises InputError where timm has none.
    """
    assert shape is not None  # a recipe names an encoder or gives width, depth and heads
    if (shape.mlp, shape.norm_eps) not in NAMELESS or (shape.mlp == "swiglu" and layer_scale is None):
        raise InputError(
            "a folder of timm holds norms with an epsilon of 1e-06 or 1e-05, and SwiGLU with 1e-06 and LayerScale, got "
            f"{shape.norm_eps:g} with an MLP of kind {shape.mlp}; use --to safetensors or --to onnx"
        )
    return NAMELESS[shape.mlp, shape.norm_eps]


def config(loaded: Loaded, encoder: VisionTransformer) -> dict:
    """Make timm's config: how to build this encoder and how to prepare its input."""
    recipe = loaded.recipe
    size, view, e = recipe.data.size, recipe.data.evaluate, recipe.encoder
    built: dict[str, object] = {"img_size": size, "patch_size": e.patch, "fc_norm": e.fc_norm, "global_pool": e.pool}
    shape = size_of(e)
    architecture = e.name or nameless(shape, e.layer_scale)
    if shape is not None:
        built |= shape.options()
        if architecture != NAMELESS["plain", 1e-6]:
            built["pre_norm"] = shape.norm_pre
        elif shape.mlp_width is None:
            del built["mlp_ratio"]
    if encoder.pos_embed is None:
        built["pos_embed"] = "none"
    if isinstance(encoder.norm, nn.Identity) and isinstance(
        encoder.fc_norm, nn.Identity
    ):  # a probe of an earlier block
        built |= {"depth": len(encoder.blocks), "final_norm": False}
    if getattr(e, "layer_scale", None) is not None:
        built["init_values"] = e.layer_scale
    normalisation = encoder.normalisation
    return {
        "architecture": architecture,
        "num_classes": encoder.num_classes,
        "num_features": encoder.num_features,
        "model_args": built,
        "pretrained_cfg": {
            "input_size": [3, *both_sides(size)],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1 / view.short_side,
            "crop_mode": "center",
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
            "num_classes": encoder.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    } | ({"label_names": list(loaded.classes)} if encoder.num_classes else {})
