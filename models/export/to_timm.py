"""Export format timm: a folder from which timm.create_model("local-dir:FOLDER") makes encoder and classifier."""

import json
from pathlib import Path
from typing import final

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.encoder.build import EVA, Size, size_of
from models.encoder.rotary import PackedEva
from models.encoder.timm_classifier import TimmClassifier
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
NAMELESS_ROTARY = {1e-6: EVA, 1e-5: "vit_small_patch16_dinov3"}
"""Architecture in the config of a size with position rope, by the epsilon of its norms; that of 1e-5 has LayerScale."""
FOLDED = 1e-4
"""Tolerance for a probe, whose batch norm is folded into its linear layer."""
POOLED = 1e-5
"""Tolerance for a pooling by attention: its query is one row for all images, and for such a product MKL rounds by where
in memory the weights lie (4e-7 to 5e-6 seen between a model and its own copy)."""


@final
class ToTimm(ExportFormat):
    """config.json and model.safetensors; outputs are bitwise equal, except for a probe, whose norm is folded, and up to
    the rounding of a pooling by attention."""

    def write(self, loaded: Loaded, folder: Path) -> None:
        encoder = loaded.method.eval_encoder
        if isinstance(encoder, TimmClassifier):
            return self._write(encoder.net, whole_config(loaded, encoder), folder)
        encoder = plain_encoder(loaded, "timm")
        self._write(encoder, config(loaded, encoder), folder)

    def _write(self, encoder: nn.Module, described: dict, folder: Path) -> None:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in encoder.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_whole(folder / "config.json", json.dumps(described, indent=2) + "\n")

    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        encoder = loaded.method.eval_encoder.cpu().float()
        images = as_input(loaded, images_like(loaded))
        folded = isinstance(encoder.head, nn.Sequential)
        pooled = getattr(encoder, "attn_pool", None) is not None
        rounding = max(FOLDED * folded, POOLED * pooled)
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


def arguments(loaded: Loaded, encoder: VisionTransformer) -> tuple[str, dict[str, object]]:
    """The architecture in timm, and its arguments (model_args), that build a plain ViT."""
    size, e = loaded.recipe.data.size, loaded.recipe.encoder
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
    return architecture, built


def rotary_arguments(loaded: Loaded, encoder: PackedEva) -> tuple[str, dict[str, object]]:
    """The architecture in timm, and its arguments (model_args), that build a rotary encoder.

    Raises InputError for a size that timm has no architecture for, as JSON cannot hold an epsilon.
    """
    e, shape = loaded.recipe.encoder, size_of(loaded.recipe.encoder)
    built: dict[str, object] = {"img_size": loaded.recipe.data.size, "patch_size": e.patch, "use_fc_norm": e.fc_norm,
                                "global_pool": e.pool, "dynamic_img_size": True}  # fmt: skip
    if shape is None:
        assert e.name is not None
        architecture = e.name
        with torch.device("meta"):
            depth = len(timm.create_model(architecture, global_pool=e.pool).blocks)
    else:
        if shape.norm_eps not in NAMELESS_ROTARY or (shape.norm_eps == 1e-5 and e.layer_scale is None):
            raise InputError(
                "a folder of timm holds rotary encoders with norm_eps 1e-06, or 1e-05 with LayerScale, got "
                f"{shape.norm_eps:g}; use --to safetensors"
            )
        architecture, depth = NAMELESS_ROTARY[shape.norm_eps], shape.depth
        built |= shape.rotary_options()
    if len(encoder.blocks) != depth:  # a probe of an earlier block
        built |= {"depth": len(encoder.blocks), "use_post_transformer_norm": False}
    if e.layer_scale is not None:
        built["init_values"] = e.layer_scale
    return architecture, built


def config(loaded: Loaded, encoder: VisionTransformer) -> dict:
    """Make timm's config: how to build this encoder and how to prepare its input."""
    make = rotary_arguments if isinstance(encoder, PackedEva) else arguments
    architecture, built = make(loaded, encoder)
    parts = {"pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head"}
    return _config(loaded, encoder, architecture, built, {"fixed_input_size": True, **parts})


def whole_config(loaded: Loaded, network: TimmClassifier) -> dict:
    """Make timm's config of a classifier of timm. Raises InputError for a small stem, which no argument makes."""
    if loaded.recipe.encoder.stem != "own":
        raise InputError(
            f"timm builds {network.name} with its own stem, and {loaded.path} has a small one (encoder.stem); use --to "
            "safetensors or --to onnx"
        )
    known = network.net.pretrained_cfg
    parts = {name: known.get(name) for name in ("pool_size", "first_conv", "classifier")}
    fixed = bool(network.arguments)  # it was built for images of one size
    return _config(loaded, network, network.name.partition(".")[0], network.arguments,
                   {"fixed_input_size": fixed, **parts})  # fmt: skip


def _config(
    loaded: Loaded,
    encoder: VisionTransformer | TimmClassifier,
    architecture: str,
    built: dict[str, object],
    parts: dict[str, object],
) -> dict:
    size, view, normalisation = loaded.recipe.data.size, loaded.recipe.data.evaluate, encoder.normalisation
    return {
        "architecture": architecture,
        "num_classes": encoder.num_classes,
        "num_features": encoder.num_features,
        "model_args": built,
        "pretrained_cfg": {
            "input_size": [3, *both_sides(size)],
            "interpolation": "bicubic",
            "crop_pct": 1 / view.short_side,
            "crop_mode": "center",
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
            "num_classes": encoder.num_classes,
            **parts,
        },
    } | ({"label_names": list(loaded.classes)} if encoder.num_classes else {})
