"""What a released format means and no tensor tells: heads, activation, epsilon of norms, normalisation of images.

facts = facts_of(found, width=768)     # facts.heads is Fact(12, stated=True)

A fact is *stated* by the source itself (a run's recipe, a timm name, config.json of timm, Hugging Face or open_clip),
or it is what files of that format have been released with, so far as their names show which format it is.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, final

import timm
import torch
from timm.data.constants import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.layers import GluMlp
from torch import nn

from models.encoder.build import ACTIVATIONS
from models.encoder.patches import IMAGENET, Normalisation
from models.pretrained.rotary import is_dinov3, rotary_mark
from models.pretrained.spellings import DINOV3 as HUGGING_DINOV3
from models.pretrained.spellings import HUGGING_FACE, OPEN_CLIP, TOWER
from models.pretrained.weights import Format, Weights
from pipeline.errors import InputError

HALF = Normalisation(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)
CLIP = Normalisation(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
NORMALISATIONS = {"imagenet": IMAGENET, "half": HALF, "clip": CLIP}
"""The normalisations of released encoders, by run.start_normalisation."""
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Heads by width where they are not of 64: SigLIP's So400m, ViT-H, ViT-g and bigG; DINOv2's giant (1536) has 64."""
ACTS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
"""Our names of Hugging Face's activations."""
POOLS = "token", "avg", "map"
"""What encoder.pool may be."""
MEANS = {
    "siglip": "avg",
    "clip": "the mean of patches before the last norm",
    "dinov2": "the class token beside the mean of patches",
    "dinov2_with_registers": "the class token beside the mean of patches",
}
"""What classifiers of Hugging Face read, by model_type, where the tensors do not tell."""

Value = TypeVar("Value")


@final
@dataclass(frozen=True)
class Fact(Generic[Value]):
    """A value, and whether the source states it; otherwise the format implies it."""

    value: Value
    stated: bool = False


@final
@dataclass(frozen=True)
class Facts:
    """What is known of a source beside its tensors. `act` is None where an MLP's activation is none of ours."""

    form: Format
    heads: Fact[int]
    act: Fact[str | None]
    norm_eps: Fact[float]
    normalisation: Fact[Normalisation]


PLAIN = Format("timm's ViTs", IMAGENET, sure=False)
DINOV3 = Format("DINOv3", IMAGENET, sure=False, norm_eps=1e-5, heads={1280: 20, 4096: 32})
EVA = Format("EVA", CLIP, sure=False)
PE = Format("PE", HALF, norm_eps=1e-5)
TYPES = {
    "vit": Format("Hugging Face's ViT", HALF, sure=False, norm_eps=1e-12),
    "deit": Format("Hugging Face's DeiT", IMAGENET, norm_eps=1e-12),
    "vit_mae": Format("Hugging Face's ViTMAE", IMAGENET, norm_eps=1e-12),
    "vit_msn": Format("Hugging Face's ViTMSN", IMAGENET),
    "ijepa": Format("Hugging Face's I-JEPA", IMAGENET, norm_eps=1e-12),
    "beit": Format("Hugging Face's BEiT", HALF, sure=False, norm_eps=1e-12),
    "dinov2": Format("Hugging Face's DINOv2", IMAGENET),
    "dinov2_with_registers": Format("Hugging Face's DINOv2", IMAGENET),
    "dinov3_vit": DINOV3,
    "clip": Format("Hugging Face's CLIP", CLIP, act="quick_gelu", norm_eps=1e-5),
    "siglip": Format("Hugging Face's SigLIP", HALF, act="gelu_tanh"),
}
"""Formats by the model_type of Hugging Face's config.json, without _vision_model; its defaults where it is silent."""
MARKS: tuple[tuple[str, Format], ...] = (
    (rf"(?:^|\.){OPEN_CLIP}$", Format("open_clip", CLIP, norm_eps=1e-5)),
    (r"\bmomentum_encoder\.", Format("MoCo v3", IMAGENET, heads={384: 12})),  # its ViT-S has heads of 32
    (r"\btarget_encoder\.", Format("I-JEPA", IMAGENET)),
    (r"\bdecoder_pos_embed$", Format("MAE", IMAGENET)),
    (r"\bcls_head\.", Format("SupMAE", IMAGENET)),
    (r"\bcls_pt_layers\.", Format("BEiT v2", IMAGENET)),
    (r"\bencoder\.mask_token$|\bdecoder\.0\.weight$", Format("SimMIM", IMAGENET)),
    (r"\battn\.q_bias$", Format("BEiT", HALF, sure=False)),
    (r"\bgamma_1$", Format("DeiT III", IMAGENET)),
    (r"\bregister_tokens$|\b(?:dino|ibot)_head\.", Format("DINOv2", IMAGENET)),
    (r"\bhead\.last_layer\.|\bdino_loss\.", Format("DINO", IMAGENET)),
    (r"(?:^|\.)dist_token$", Format("DeiT", IMAGENET)),
)
"""Names that only files of a format have; the first that is found counts."""


def format_of(names: Collection[str], config: Mapping[str, object]) -> Format:
    """The format of a source by its config.json, else by the names of its tensors as they were read.

    format_of(["base_encoder.cls_token", "momentum_encoder.cls_token"], {}).name   # "MoCo v3"
    """
    kind = _kind_of_model(config)
    if kind in TYPES:
        return TYPES[kind]
    if any(name.endswith(TOWER) for name in names):
        return TYPES["clip" if any(name.endswith("class_embedding") for name in names) else "siglip"]
    if any(name.endswith(HUGGING_DINOV3) for name in names):
        return DINOV3
    if any(name.endswith(HUGGING_FACE) for name in names):
        held = " ".join(names)
        known = {"deit.": "deit", "beit.": "beit", "layer_scale1": "dinov2", "decoder_pos_embed": "vit_mae"}
        return TYPES[next((known[mark] for mark in known if mark in held), "vit")]
    if is_dinov3(names):
        return DINOV3
    if any(name.endswith("attn.q_bias") for name in names) and rotary_mark(names) is not None:
        return EVA
    if any(name.endswith("attn_pool.probe") for name in names) and rotary_mark(names) is not None:
        return PE
    for mark, found in MARKS:
        if any(re.search(mark, name) for name in names):
            return found
    if any(name.endswith("mask_token") for name in names) and any(name.endswith("ls1.gamma") for name in names):
        return Format("DINOv2", IMAGENET)
    return PLAIN


def facts_of(found: Weights, width: int) -> Facts:
    """What a source states, or its format implies, of an encoder of a width.

    Raises InputError for a config whose heads, activation or epsilon are none.
    """
    form = found.form or PLAIN
    heads = form.heads.get(width) or HEADS.get(width) or max(1, width // 64)
    facts = Facts(form, Fact(heads), Fact(form.act), Fact(form.norm_eps), Fact(form.normalisation))
    if found.recipe:
        facts = _of_recipe(found, facts, width)
    elif found.architecture and timm.is_model(found.architecture):
        facts = _of_timm(found.architecture, found.config.get("model_args"), found, facts, width)
    elif isinstance(model := found.config.get("model_cfg"), Mapping):
        facts = _of_open_clip(model, found, facts, width)
    elif "model_type" in found.config:
        facts = _of_hugging_face(found, facts)
    if found.normalisation is not None:
        facts = replace(facts, normalisation=Fact(found.normalisation, stated=True))
    return facts


def pooling_of(found: Weights) -> str | None:
    """What a source's classifier reads: "token", "avg" or "map" as encoder.pool has them, else words; None where
    its recipe does not say.

    A run's recipe, timm's config.json or architecture, or the kind of a model of Hugging Face says it. Of other sources
    the tensors do: a pooling by attention, a norm behind the mean, a class token.
    """
    encoder, config = found.recipe.get("encoder"), found.config
    if isinstance(encoder, Mapping):
        return encoder.get("pool")
    built = config.get("model_args")
    stated = (built.get("global_pool") if isinstance(built, Mapping) else None) or config.get("global_pool")
    if isinstance(stated, str) and stated:
        return stated
    if found.architecture and timm.is_model(found.architecture):
        return getattr(_built(found.architecture, built, found), "global_pool", None)
    kind = _kind_of_model(config)
    if kind in MEANS:
        return MEANS[kind]
    if "attn_pool.latent" in found.tensors:
        return "map"
    if "fc_norm.weight" in found.tensors:
        return "avg"
    return "token" if "cls_token" in found.tensors else "avg"


def _kind_of_model(config: Mapping[str, object]) -> str:
    """The model_type of Hugging Face's config.json, of a tower of two that of both."""
    return re.sub(r"(_vision)?(_model)?$", "", str(config.get("model_type", "")))


def _of_recipe(found: Weights, facts: Facts, width: int) -> Facts:
    """What a run's recipe says; its images were normalised by ImageNet's mean and std."""
    facts, encoder = replace(facts, normalisation=Fact(IMAGENET, stated=True)), found.recipe.get("encoder")
    if not isinstance(encoder, Mapping):
        return facts
    name, heads, eps = (encoder.get(each) for each in ("name", "heads", "norm_eps"))
    if isinstance(name, str):
        return _of_timm(name, None, found, facts, width) if timm.is_model(name) else facts
    act, eps = str(encoder.get("act") or "gelu"), eps if isinstance(eps, float) else 1e-6
    facts = replace(facts, act=Fact(act, stated=True), norm_eps=Fact(eps, stated=True))
    return replace(facts, heads=Fact(heads, stated=True)) if isinstance(heads, int) else facts


def _of_timm(name: str, options: object, found: Weights, facts: Facts, width: int) -> Facts:
    """What timm builds under a name; where that is of another width, its activation alone, as what is implied."""
    model = _built(name, options, found)
    blocks = getattr(model, "blocks", None)
    if not blocks or not hasattr(blocks[0], "attn"):
        return facts
    mlp = blocks[0].mlp
    act = ACTIVATIONS.get(type(getattr(mlp, "act", None)))
    if getattr(model, "embed_dim", None) != width:  # of another size, and most likely of the same kind
        return replace(facts, act=Fact(act)) if act is not None else facts
    if isinstance(mlp, GluMlp) and (mlp.gate_last or not isinstance(mlp.act, nn.SiLU)):
        raise InputError(f"{found.where} is {name}, whose gated MLP is no SwiGLU with the gate first, as DINOv2 has it")
    facts = replace(facts, heads=Fact(int(blocks[0].attn.num_heads), stated=True), act=Fact(act, stated=True))
    norm = blocks[0].norm1
    return replace(facts, norm_eps=Fact(float(norm.eps), stated=True)) if isinstance(norm, nn.LayerNorm) else facts


def _built(name: str, options: object, found: Weights) -> nn.Module:
    """The model that timm builds under a name, without memory for its weights."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, **(dict(options) if isinstance(options, Mapping) else {}))
    except Exception as error:  # whatever a model of timm raises for arguments that come from a file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{found.where}: timm cannot build {name} with its config's model_args ({reason})") from error


def _of_hugging_face(found: Weights, facts: Facts) -> Facts:
    tower = found.config.get("vision_config")
    stated = tower if isinstance(tower, Mapping) else found.config
    heads, act, eps = (stated.get(name) for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"))
    if heads is not None:
        facts = replace(facts, heads=Fact(_number(heads, "num_attention_heads", found), stated=True))
    if eps is not None:
        facts = replace(facts, norm_eps=Fact(_number(eps, "layer_norm_eps", found), stated=True))
    if act == "silu" and stated.get("use_gated_mlp"):  # SwiGLU of DINOv3's "plus"
        act = None
    if act is not None:
        if not isinstance(act, str) or act not in ACTS:
            raise InputError(
                f"{found.where}: its config says hidden_act {act!r:.40}, expected one of {', '.join(ACTS)}"
            )
        facts = replace(facts, act=Fact(ACTS[act], stated=True))
    return facts


def _of_open_clip(model: Mapping[str, object], found: Weights, facts: Facts, width: int) -> Facts:
    vision = model.get("vision_cfg")
    name = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    if isinstance(name, str) and timm.is_model(name):
        return _of_timm(name, None, found, facts, width)
    facts = replace(facts, act=Fact("quick_gelu" if model.get("quick_gelu") else "gelu", stated=True))
    if isinstance(vision, Mapping) and "width" in vision:
        width, size = (
            _number(vision["width"], "width", found),
            _number(vision.get("head_width", 64), "head_width", found),
        )
        facts = replace(facts, heads=Fact(int(width // size) or 1, stated=True))
    return facts


def _number(value: object, name: str, found: Weights) -> Any:
    """A config's number: an epsilon from 0 to below 1, else an integer of 1 or more."""
    eps = name == "layer_norm_eps"
    usable = isinstance(value, int | float) and not isinstance(value, bool) and (eps or isinstance(value, int))
    if not usable or not (0 <= value < 1 if eps else value >= 1):
        expected = "a number from 0 to below 1" if eps else "an integer of 1 or more"
        raise InputError(f"{found.where}: its config says {name} {value!r:.40}, expected {expected}")
    return float(value) if eps else value
