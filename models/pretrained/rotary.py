"""Bring the tensors of a rotary source (DINOv3, EVA-02, PE, RoPE-ViT) to timm's Eva, and see that both turn alike.

found, notes = for_eva(found, method.encoder)     # tensors under the names of that encoder, which is an Eva of timm

No tensor tells how queries and keys are turned: timm computes it. It is known of DINOv3 by the names that its files
alone have, of a timm folder by its architecture, of a run by its recipe; of another file the user says it, by the name
of the encoder.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import timm
import torch
from timm.layers import RotaryEmbeddingDinoV3
from timm.models.eva import Eva, EvaAttention
from torch import Tensor, nn

from models.encoder.timm_classifier import timm_file
from models.pretrained.weights import Weights
from pipeline.errors import InputError

PERIODS = "rope_embed.periods"
MARKS = (
    r"(?:^|\.)(?:rope|rope_embed|freqs_(?:cos|sin)|storage_tokens)(?:\.|$)"
    r"|(?:^|(?<!encoder)\.)layer\.0\.attention\.q_proj\.weight$"  # encoder.layer: transformers' DINOv2
)
"""Names that only rotary encoders have: timm's mixed frequencies, EVA-02's own, Meta's and Hugging Face's DINOv3."""
NAME_IT = "name the encoder that it is of, such as --encoder.name eva02_tiny_patch14_224"
TURNS = ("temperature", "grid_indexing", "grid_offset", "ref_feat_shape", "rotate_half", "normalize_coords",
         "in_pixels", "min_period", "max_period", "mrope_section")  # fmt: skip
OPEN_FORMS = "timm's ViTs", "EVA", "DeiT III", "open_clip", "PE", "DINOv3"
"""Formats whose names may be those of a rotary encoder; all others have none."""
NEUTRAL = {"img_size", "patch_size", "num_classes", "global_pool", "dynamic_img_size", "use_fc_norm", "in_chans",
           "init_values"}  # fmt: skip
"""Arguments in a timm config that change no block."""


def rotary_mark(names: Collection[str]) -> str | None:
    """The name by which an encoder is known to be rotary, or words for the names together; None for another.

    timm computes the rotations and saves none of them. Its Eva keeps the biases of BEiT without BEiT's tables, and PE
    pools by attention though it has a class token. DINOv3 has registers, LayerScale and no positions.
    """
    found = next((name for name in names if re.search(MARKS, name)), None)
    held = {last for name in names for last in (name.rpartition(".")[2], ".".join(name.split(".")[-2:]))}
    if found is None and {"q_bias", "v_bias"} <= held and "relative_position_bias_table" not in held:
        return "q_bias and no relative_position_bias_table"
    prefix_norm, pooled = held & {"norm_pre.weight", "ln_pre.weight"}, held & {"attn_pool.latent", "attn_pool.probe"}
    if found is None and pooled and prefix_norm and held & {"cls_token", "class_embedding"}:
        return f"{min(pooled)} beside a class token"
    if found is None and is_dinov3(names):
        return "registers, gamma_1 and no positions"
    return found


def is_dinov3(names: Collection[str]) -> bool:
    """Say whether names are those of a DINOv3: its own, or timm's for one, which LingBot-Vision has, too."""
    ends = {name.rpartition(".")[2] for name in names}
    return "storage_tokens" in ends or ({"cls_token", "reg_token", "gamma_1"} <= ends and "pos_embed" not in ends)


def recipe_encoder(found: Weights) -> Mapping[str, object]:
    """The encoder of a run's or its export's recipe; {} of other sources."""
    held = found.recipe.get("encoder")
    return held if isinstance(held, Mapping) else {}


def stated_eva(found: Weights) -> Eva | None:
    """The Eva of timm, on the meta device, that a source's architecture or recipe names; None for another.

    Raises InputError for arguments with which timm cannot build it.
    """
    name, options = found.architecture, found.config.get("model_args")
    if recipe := recipe_encoder(found):
        name, options = recipe.get("name"), None
    if not isinstance(name, str) or not timm.is_model(name) or timm_file(name) != "eva":
        return None
    try:
        with torch.device("meta"):
            return timm.create_model(name, **(dict(options) if isinstance(options, Mapping) else {}))
    except Exception as error:  # whatever a model of timm raises for arguments that come from a file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{found.where}: timm cannot build {name} with its config's model_args ({reason})") from error


def says_plain(found: Weights) -> bool:
    """Say whether a source's recipe or timm architecture names an encoder that is not rotary."""
    recipe, name = recipe_encoder(found), found.architecture
    if recipe:
        return recipe.get("position") != "rope" and stated_eva(found) is None
    return name is not None and timm.is_model(name) and stated_eva(found) is None


def is_sized(stated: Eva) -> bool:
    """Say whether width, depth and heads with encoder.position rope build a named Eva, which then needs no name."""
    return is_plain_dinov3(stated.rope) and type(stated.blocks[0].attn) is EvaAttention


def is_plain_dinov3(rope: nn.Module | None) -> bool:
    """Say whether rotations are those of a size with encoder.position rope."""
    return isinstance(rope, RotaryEmbeddingDinoV3) and how(rope) == how(RotaryEmbeddingDinoV3(rope.dim))


def named_eva(found: Weights) -> str | None:
    """The name of timm that encoder.name auto takes for a source; None where width, depth and heads say it all.

    Raises InputError for a rotary source that does not say how it turns, and for a config whose model_args are others
    than those of its architecture.
    """
    stated = stated_eva(found)
    if stated is None:
        sized = found.form is not None and found.form.name == "DINOv3"
        sized = sized or recipe_encoder(found).get("position") == "rope"
        if found.rotary is not None and not sized and not says_plain(found):
            raise InputError(f"{found.where} has {found.rotary}: it is rotary, and does not say how; {NAME_IT}")
        return None
    if is_sized(stated):
        return None
    recipe, given = recipe_encoder(found), found.config.get("model_args")
    if recipe:
        return str(recipe["name"])
    more = sorted(set(given) - NEUTRAL) if isinstance(given, Mapping) else []
    if more:
        raise InputError(f"{found.where}: its config gives {found.architecture} another {more[0]}; {NAME_IT}")
    return found.architecture


def check_rotary(found: Weights, encoder: nn.Module) -> None:
    """Raise InputError unless a source and an encoder turn queries and keys alike, as far as the source says."""
    ours, form = getattr(encoder, "rope", None), None if found.form is None else found.form.name
    stated, plain = stated_eva(found), says_plain(found)
    if ours is None:
        theirs = found.rotary if stated is None else None if stated.rope is None else type(stated.rope).__name__
        if theirs is not None and not plain and not isinstance(encoder, Eva):
            raise InputError(
                f"{found.where} has {theirs}: its positions are rotary, and this encoder's are not; set --encoder.name "
                f"auto, or {NAME_IT}"
            )
        return
    rotary = not plain and form in OPEN_FORMS
    if stated is not None:
        rotary = stated.rope is not None and how(stated.rope) == how(ours)
    elif form == "DINOv3" or recipe_encoder(found).get("position") == "rope":
        rotary = is_plain_dinov3(ours)
    if not rotary:
        raise InputError(
            f"{found.where} ({found.what}) does not turn queries and keys as this encoder does "
            f"({type(ours).__name__}); set --encoder.name auto, or the encoder that it is of"
        )
    theta = found.config.get("rope_theta", 100.0)
    periods = next((tensor for name, tensor in found.tensors.items() if name.endswith(PERIODS)), None)
    if theta != 100.0 or (periods is not None and not _periods_of_100(periods)):
        raise InputError(
            f"{found.where} turns by a rope_theta of {theta} or by periods of its own, expected DINOv3's 100"
        )


def how(rope: nn.Module) -> tuple:
    """What a rope module computes, but for the size of the grid: its class and settings."""
    shown = (getattr(rope, name, None) for name in TURNS)
    return type(rope), *(tuple(value) if isinstance(value, list) else value for value in shown)


def _periods_of_100(periods: Tensor) -> bool:
    """Say whether Meta's periods, which were saved in bfloat16, are those of DINOv3."""
    count = periods.numel()
    wanted = 100.0 ** (torch.arange(count) / count)
    return bool(torch.allclose(periods.float().flatten(), wanted, rtol=0.01))


def for_eva(found: Weights, encoder: nn.Module) -> tuple[Weights, str | None]:
    """Return a source under the names of an Eva; it comes as a plain ViT's (models.pretrained.spellings), and one for a
    plain ViT is returned as it is. -> it, and a note.

    Raises InputError for a source and an encoder that turn otherwise, and for biases that the encoder has not.
    """
    check_rotary(found, encoder)
    tensors = {name: tensor for name, tensor in found.tensors.items() if not name.endswith(PERIODS)}
    if not isinstance(encoder, Eva):
        return found, None
    own, made, notes = encoder.state_dict().keys(), {}, set()
    for name, tensor in tensors.items():
        before, _, last = name.rpartition(".")
        if match := re.fullmatch(r"(blocks\.\d+\.)ls([12])\.gamma", name):
            made[f"{match[1]}gamma_{match[2]}"] = tensor
        elif name not in own and re.fullmatch(r"blocks\.\d+\.attn\.qkv\.(weight|bias)", name) and tensor.ndim:
            made |= _apart(before.removesuffix("qkv"), last, tensor, own, notes, found.where)
        elif name not in own and re.fullmatch(r"blocks\.\d+\.mlp\.fc1\.(weight|bias)", name) and tensor.ndim:
            gate, values = tensor.chunk(2) if len(tensor) % 2 == 0 else (tensor, tensor)
            made |= {f"{before}_g.{last}": gate, f"{before}_x.{last}": values}
        else:
            made[name] = tensor
    for name in own:
        parts = re.fullmatch(r"(blocks\.\d+\.attn\.)(?:[qv]_bias|[qkv]_proj\.bias)", name)
        if parts and name not in made and f"{parts[1]}qkv.weight" in tensors:
            made[name] = torch.zeros(len(tensors[f"{parts[1]}qkv.weight"]) // 3)
            notes.add("biases of zero for queries, keys and values, of which it has none")
    return replace(found, tensors=made), "; ".join(sorted(notes)) or None


def _apart(
    attn: str, kind: str, tensor: Tensor, own: Collection[str], notes: set[str], where: str
) -> dict[str, Tensor]:
    """Queries, keys and values of one layer as an Eva has them: three layers, or biases beside one layer of weights."""
    made = {}
    for part, third in zip("qkv", tensor.chunk(3), strict=True):
        name = next((name for name in (f"{attn}{part}_proj.{kind}", f"{attn}{part}_{kind}") if name in own), None)
        if name is not None:
            made[name] = third.clone()
        elif third.any():
            raise InputError(
                f"{where} has {attn}qkv.{kind}, of which the part {part} is not zero and this encoder has none; set "
                "--encoder.name auto, or another (of DINOv3 the one that ends in qkvb)"
            )
        elif part != "k":
            notes.add("left out: biases of zero, which this encoder has not")
    return made
