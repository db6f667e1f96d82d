"""Build encoders by name, by size or from a recipe: plain ViTs and rotary Evas of timm, with checkpoints of timm."""

import difflib
from dataclasses import dataclass
from functools import partial
from typing import Literal

import timm
import torch
from timm.layers import GELU, GELUTanh, LayerNorm, QuickGELU, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.config.recipe import Encoder, Recipe
from models.encoder.packed import as_packed
from models.encoder.patches import IMAGENET, Normalisation, check_divides
from models.encoder.positions import beit_init, mae_init, prefix_positions, sincos_2d
from models.encoder.relative import KINDS, add_relative
from models.encoder.rotary import as_packed_eva
from models.encoder.timm_classifier import TimmClassifier, build_classifier, is_classifier, timm_file
from pipeline.errors import InputError
from pipeline.spec import Size as ImageSize

Position = Literal["learned", "sincos", "irpe", "bias", "block_bias", "rope", "none"]
WEIGHTS: dict[str, Literal["mae", "beit"]] = {"sincos": "mae", "irpe": "mae", "bias": "beit", "block_bias": "beit"}
"""Initial weights by encoder.position: those of the paper that has such positions (LoMaR, with irpe, starts as MAE)."""


def network_of(recipe: Recipe, classes: int) -> VisionTransformer | TimmClassifier:
    """Build the network that a recipe names, for methods that read whole images: an encoder, or a classifier of timm.

    network = network_of(resolve("fixmatch:in1k_10pct_r50", []), classes=1000)
    """
    return (build_classifier if is_classifier(recipe.encoder.name) else encoder_of)(recipe, classes)


def encoder_of(recipe: Recipe, classes: int) -> VisionTransformer:
    """Build the encoder that a recipe describes, with the initial weights of the paper whose positions it has.

    vit = encoder_of(resolve("semi_mae:digits", []), classes=10)

    Raises InputError for a stem, which a classifier of timm may have, and for what `build_encoder` refuses.
    """
    e = recipe.encoder
    if e.stem != "own":
        raise InputError(f"encoder.stem {e.stem} is that of a ResNet, and the encoder is a ViT; leave it at own")
    model = size_of(e) or e.name
    assert model is not None  # a recipe names an encoder or gives all three
    return build_encoder(
        model,
        image_size=recipe.data.size,
        patch=e.patch,
        classes=classes,
        pool=e.pool,
        fc_norm=e.fc_norm,
        position=e.position,
        weights=WEIGHTS.get(e.position, "timm"),
        drop_path=e.drop_path,
        layer_scale=e.layer_scale,
        attention=e.attention,
        checkpointing=e.checkpointing,
    )


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of a ViT that has no name in timm, and what else its names differ in.

    Size(width=384, depth=12, heads=6, registers=4, prefix_positions=False)   # DINOv2's ViT-S with registers

    The fields are those of a recipe's encoder (models.config.recipe).
    """

    width: int
    depth: int
    heads: int
    mlp: Literal["plain", "swiglu"] = "plain"
    mlp_width: int | None = None
    act: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-6
    norm_pre: bool = False
    qkv_bias: bool = True
    class_token: bool = True
    registers: int = 0
    prefix_positions: bool = True

    def options(self) -> dict[str, object]:
        """The arguments of timm's VisionTransformer that JSON can hold: all but the norms' epsilon and the MLP's class.

        The ratio of the MLP is half an output too large, because timm cuts the product off, which may be 4303.99.
        """
        ratio = 4.0 if self.mlp_width is None else (self.mlp_width + 0.5) / self.width
        options = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads, "mlp_ratio": ratio}
        changed = {"act_layer": self.act, "pre_norm": self.norm_pre, "qkv_bias": self.qkv_bias,
                   "class_token": self.class_token, "reg_tokens": self.registers,
                   "no_embed_class": not self.prefix_positions}  # fmt: skip
        return options | {name: value for name, value in changed.items() if value != USUAL[name]}

    def rotary_options(self) -> dict[str, object]:
        """The arguments that make an Eva of timm DINOv3 of this size: all but LayerScale and the norms' epsilon.

        Raises InputError for an activation that timm's Eva cannot be given, and for SwiGLU of an odd width.
        """
        if self.act != "gelu":
            raise InputError(
                f"encoder.act is {self.act}, and rotary encoders have gelu or SwiGLU; leave encoder.act out"
            )
        both = 4 * self.width if self.mlp_width is None else self.mlp_width
        if self.mlp == "swiglu" and both % 2:
            raise InputError(
                f"encoder.mlp_width is {both}, and SwiGLU's gate and values have one width; set an even one"
            )
        hidden = both // 2 if self.mlp == "swiglu" else both
        return {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads,
                "mlp_ratio": (hidden + 0.5) / self.width, "swiglu_mlp": self.mlp == "swiglu", "swiglu_align_to": 1,
                "use_pre_transformer_norm": self.norm_pre, "qkv_bias": self.qkv_bias, "class_token": self.class_token,
                "num_reg_tokens": self.registers, "use_abs_pos_emb": False, "use_rot_pos_emb": True,
                "rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True}  # fmt: skip


EVA = "eva_giant_patch14_224"
"""The name of timm whose arguments are nearest to none: a size with position rope is built by it."""
USUAL = {"act_layer": "gelu", "pre_norm": False, "qkv_bias": True, "class_token": True, "reg_tokens": 0,
         "no_embed_class": False}  # fmt: skip
"""What a plain ViT of timm has unless it is told otherwise."""
ACTIVATIONS: dict[type[nn.Module], str] = {nn.GELU: "gelu", GELU: "gelu", GELUTanh: "gelu_tanh",
                                           QuickGELU: "quick_gelu"}  # fmt: skip


def size_of(encoder: Encoder) -> Size | None:
    """The size that a recipe's encoder describes; None where it has a name."""
    if not (encoder.width and encoder.depth and encoder.heads):
        return None
    return Size(
        encoder.width,
        encoder.depth,
        encoder.heads,
        encoder.mlp,
        encoder.mlp_width,
        encoder.act or "gelu",
        1e-6 if encoder.norm_eps is None else encoder.norm_eps,
        encoder.norm_pre,
        encoder.qkv_bias,
        encoder.class_token,
        encoder.registers,
        encoder.prefix_positions,
    )


def build_encoder(
    model: str | Size,
    *,
    image_size: ImageSize,
    patch: int,
    classes: int,
    pool: Literal["token", "avg", "map"] = "token",
    fc_norm: bool = False,
    position: Position = "learned",
    weights: Literal["timm", "mae", "beit"] = "timm",
    drop_path: float = 0.0,
    layer_scale: float | None = None,
    attention: Literal["sdpa", "varlen"] = "sdpa",
    normalisation: Normalisation = IMAGENET,
    checkpointing: bool = False,
) -> VisionTransformer:
    """Build a packed encoder with a linear classifier.

    vit = build_encoder(Size(width=64, depth=4, heads=4), image_size=16, patch=4, classes=10)

    model       any plain ViT that timm knows by name, such as "vit_small_patch16_224", any of its class Eva, such as
                "vit_small_patch16_dinov3", or a Size
    image_size  side of square images, or their height and width, in pixels
    patch       patch side in pixels; overrides the name's
    pool        what the classifier reads: the class token, the mean of the patch tokens after the final norm, or what a
                learned query attends to in these
    fc_norm     the final norm comes after the pooling, and tokens are left as they are (MAE's fine-tuning)
    position    "sincos" is MAE's fixed table, zero for class token and registers, never trained; "irpe", "bias" and
                "block_bias" are relative (models.encoder.relative), without absolute ones; "rope": a Size gets DINOv3's
                rotations (models.encoder.rotary), a named Eva has its own; "none": no positions at all
    weights     initial ones: timm's truncated normal, MAE's Xavier-uniform, or BEiT's (and SimMIM's) depth-rescaled
    drop_path   stochastic depth of the last block; rises linearly from 0
    layer_scale initial factor of each residual branch (LayerScale), trained; None: no such factors, or those that the
                named model has
    attention   "sdpa": one call for each run of samples of equal length; "varlen": one call in all, CUDA in half
                precision
    normalisation, checkpointing  what u8 images are normalised by; recompute activations in the backward pass

    Raises InputError for models that are neither plain ViTs nor rotary, for positions that the model cannot have, and
    for patches that do not divide the image.
    """
    check_divides(patch, image_size)
    # fc_norm is always given: without it timm moves the norm behind average pooling, and tokens would not be normed
    options = {"img_size": image_size, "patch_size": patch, "num_classes": classes, "global_pool": pool,
               "fc_norm": fc_norm, "drop_path_rate": drop_path}  # fmt: skip
    if layer_scale is not None:
        options["init_values"] = layer_scale
    if position in (*KINDS, "none"):
        options["pos_embed"] = "none"
    if isinstance(model, Size) and model.width % model.heads:
        raise InputError(f"heads divide the width, got width {model.width} and {model.heads} heads")
    vit = _packed(_create(model, options, position), attention)
    vit.normalisation = normalisation
    vit.set_grad_checkpointing(checkpointing)
    _initialise(vit, weights)
    if position == "sincos":
        fix_positions(vit)
    if position in KINDS:
        add_relative(vit, position)
    return vit


def _packed(model: nn.Module, attention: Literal["sdpa", "varlen"]) -> VisionTransformer:
    return as_packed_eva(model, attention) if isinstance(model, Eva) else as_packed(model, attention)


def _initialise(vit: VisionTransformer, weights: Literal["timm", "mae", "beit"]) -> None:
    """Draw initial weights anew, in place; "timm" keeps those that timm drew."""
    if weights == "mae":
        vit.apply(mae_init)
        for token in (vit.cls_token, vit.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
    if weights == "beit":
        beit_init(vit)


def _create(model: str | Size, options: dict, position: Position) -> nn.Module:
    if isinstance(model, Size):
        if options["global_pool"] == "token" and not model.class_token:
            raise InputError("encoder.pool is token, and the encoder has no class token; set encoder.pool to avg")
        name, options = _sized(model, options, position)
    else:
        name, options = model, _named(model, options, position)
    try:
        created = timm.create_model(name, **options)
    except (TypeError, AssertionError) as error:  # what timm raises where a model does not take an option
        raise InputError(
            f"a ViT with {options['global_pool']} pooling is expected, {name} is none: {_why_not(name, str(error))}"
        ) from error
    if position == "rope" and getattr(created, "rope", None) is None:
        raise InputError(
            f"encoder.position is rope, and {name} is no rotary encoder; name one, such as vit_small_patch16_dinov3"
        )
    return created


def _sized(size: Size, options: dict, position: Position) -> tuple[str, dict]:
    """A name of timm, and the options that make a size of it."""
    if position == "rope":
        return EVA, _of_eva(options) | size.rotary_options() | {"norm_layer": partial(LayerNorm, eps=size.norm_eps)}
    options = options | size.options()
    if size.mlp == "swiglu":
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    if size.norm_eps != 1e-6:
        options["norm_layer"] = partial(LayerNorm, eps=size.norm_eps)
    return "vit_tiny_patch16_224", options


def _named(name: str, options: dict, position: Position) -> dict:
    """The options of a name of timm, in the words of its class. Raises InputError for a name that timm does not know,
    and for positions that a rotary encoder cannot have."""
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models("*vit*"), 3)) or "vit_small_patch16_224"
        raise InputError(f"timm {timm.__version__} has no model {name!r}; choose another, such as {near}")
    if timm_file(name) != "eva":
        return options
    if position in (*KINDS, "none"):
        raise InputError(
            f"encoder.position is {position}, and {name} has rotary positions; set encoder.position to rope"
        )
    return _of_eva(options)


def _of_eva(options: dict) -> dict:
    """The options of a VisionTransformer in the words of timm's Eva, whose positions are to be of any grid."""
    kept = {name: value for name, value in options.items() if name not in ("fc_norm", "pos_embed")}
    return kept | {"use_fc_norm": options["fc_norm"], "dynamic_img_size": True}


def _why_not(name: str, error: str) -> str:
    """Why a name of timm is no plain ViT: its class, where that is another one, or timm's own words."""
    home = timm_file(name)
    if home not in (VisionTransformer.__module__.rpartition(".")[2], "eva"):
        return f"it is built by timm.models.{home}"
    return error or "it is built otherwise"


def fix_positions(vit: VisionTransformer) -> None:
    """Replace learned positions by MAE's sine-cosine table, in place and not to be trained (MAE Appendix A.1)."""
    if vit.pos_embed is None:
        raise InputError("this model has no absolute positions to replace; choose position learned")
    with torch.no_grad():
        vit.pos_embed.zero_()
        table = sincos_2d(vit.embed_dim, tuple(vit.patch_embed.grid_size))
        vit.pos_embed[0, prefix_positions(vit) :] = table.to(vit.pos_embed)
    vit.pos_embed.requires_grad_(False)
