"""Rename a source's tensors to timm's names, whichever library wrote them, and bring them into timm's shapes.

    Hugging Face    ViT, DeiT, ViTMAE, BEiT, DINOv2 (with registers), I-JEPA, as files and as modules spell them
    towers          the vision towers of CLIP and SigLIP in Hugging Face's files
    open_clip       visual.conv1, visual.transformer.resblocks (OpenAI's own names), and Meta's PE, which has them, too
    BEiT, SimMIM    gamma_1 and gamma_2; biases of queries and values, none of keys
    DINOv2          blocks in chunks, mlp.w12 and mlp.w3, register_tokens
    DINOv3          Meta's storage_tokens, bias_mask, mlp.w1 and mlp.w2; Hugging Face's layer.0
    Eva             q_proj, k_proj and v_proj, fc1_g and fc1_x (timm); inner_attn_ln, ffn_ln (EVA-02's own)
    DeiT            dist_token: a register with positions

Prefixes stay; `names.py` finds the encoder's.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import InputError

HUGGING_FACE = "embeddings.patch_embeddings.projection.weight"
TOWER = "embeddings.patch_embedding.weight"
OPEN_CLIP = "conv1.weight"
DINOV3 = "embeddings.patch_embeddings.weight"

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


class Spelling(NamedTuple):
    """How a library names a ViT: `marker` ends the name of its patch projection, `rules` are applied in their order."""

    marker: str
    rules: Rules


LAYERS = {"q": "query", "k": "key", "v": "value", "o": "proj"}
HUGGING_FACES: Rules = (
    (r"\bdecoder\.decoder_(?:layers|encoder\.layer)\.", "decoder_blocks."),  # transformers 4, 5
    (r"\bdecoder\.(?=decoder_|mask_token$)", ""),
    (r"\bencoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"\b(?:encoder\.layer|layers)\.(?=\d)", "blocks."),
    (r"\bembeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"\bembeddings\.distillation_token$", "dist_token"),
    (r"\bembeddings\.position_embeddings$", "pos_embed"),
    (r"\bembeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"\battention\.attention\.(query|key|value)\.", r"attn.\1."),
    (r"\b(?:attention\.attention\.)?relative_position_bias\.(?=relative_position_bias_table$)", "attn."),
    (r"\battention\.([qkvo])_proj\.", lambda m: f"attn.{LAYERS[m[1]]}."),
    (r"\battention\.output\.dense\.", "attn.proj."),
    (r"\bintermediate\.dense\.", "mlp.fc1."),
    (r"(?<!mlp\.)\boutput\.dense\.", "mlp.fc2."),
    (r"\blayernorm_before\.", "norm1."),
    (r"\blayernorm_after\.", "norm2."),
    (r"\bpooler\.layernorm\.", "fc_norm."),
    (r"\blayernorm\.", "norm."),
    (r"\blayer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"\blambda_([12])$", r"ls\1.gamma"),
    (r"\bmlp\.weights_in\.", "mlp.fc1."),
    (r"\bmlp\.(?:weights_out|down_proj)\.", "mlp.fc2."),
    (r"^(?:cls_)?classifier\.", "head."),
)
TOWERS: Rules = (
    (r"\bembeddings\.class_embedding$", "cls_token"),
    (r"\bembeddings\.position_embedding\.weight$", "pos_embed"),
    (r"\bembeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"\bpre_lay(?:r|er)norm\.", "norm_pre."),  # CLIP's own spelling, and OWL-ViT's
    (r"\bpost_layernorm\.", "norm."),
    (r"\bencoder\.layers\.(?=\d)", "blocks."),
    (r"\bself_attn\.([qkv])_proj\.", lambda m: f"attn.{LAYERS[m[1]]}."),
    (r"\bself_attn\.out_proj\.", "attn.proj."),
    (r"\blayer_norm([12])\.", r"norm\1."),
    (r"\bhead\.probe$", "attn_pool.latent"),
    (r"\bhead\.attention\.in_proj_(weight|bias)$", r"attn_pool.qkv.\1"),
    (r"\bhead\.attention\.out_proj\.", "attn_pool.proj."),
    (r"\bhead\.layernorm\.", "attn_pool.norm."),
    (r"\bhead\.mlp\.", "attn_pool.mlp."),
)
OPEN_CLIPS: Rules = (
    (r"class_embedding$", "cls_token"),
    (r"positional_embedding$", "pos_embed"),
    (r"conv1\.", "patch_embed.proj."),
    (r"ln_pre\.", "norm_pre."),
    (r"ln_post\.", "norm."),
    (r"transformer\.resblocks\.", "blocks."),
    (r"\battn_pool\.probe$", "attn_pool.latent"),
    (r"\battn_pool\.attn\.in_proj_", "attn_pool.qkv."),
    (r"\battn_pool\.attn\.out_proj\.", "attn_pool.proj."),
    (r"\battn_pool\.layernorm\.", "attn_pool.norm."),
    (r"\bln_([12])\.", r"norm\1."),
    (r"\battn\.in_proj_", "attn.qkv."),
    (r"\battn\.out_proj\.", "attn.proj."),
    (r"\bmlp\.c_fc\.", "mlp.fc1."),
    (r"\bmlp\.c_proj\.", "mlp.fc2."),
    (r"\bls_([12])\.", r"ls\1."),
)
DINOV3S: Rules = (
    (r"(?:\bmodel\.)?\blayer\.(?=\d)", "blocks."),
    (r"\bembeddings\.(cls_token|mask_token)$", r"\1"),
    (r"\bembeddings\.register_tokens$", "reg_token"),
    (r"\bembeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"\battention\.([qkvo])_proj\.", lambda m: f"attn.{LAYERS[m[1]]}."),
    (r"\blayer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"\bmlp\.down_proj\.", "mlp.fc2."),
)
NUMBER, WRAPPER = re.compile(r"\.\d+\."), re.compile(r"\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""A block's number, and what torch.compile, FSDP and checkpointing write behind it into names."""
EVERYWHERE: Rules = (
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\bblocks\.\d+\.(\d+\.(?:norm|attn|ls|mlp))", r"blocks.\1"),  # DINOv2's trainer keeps blocks in chunks
    (r"(\bblocks\.\d+\.mlp\.)w12\.", r"\1fc1."),
    (r"(\bblocks\.\d+\.mlp\.)w3\.", r"\1fc2."),
    (r"(\bblocks\.\d+\.mlp\.)(?:w1|fc1_g)\.", r"\1gate_proj."),
    (r"(\bblocks\.\d+\.mlp\.)(?:w2|fc1_x)\.", r"\1up_proj."),
    (r"(\bblocks\.\d+\.mlp\.)ffn_ln\.", r"\1norm."),
    (r"(\bblocks\.\d+\.attn\.)inner_attn_ln\.", r"\1norm."),
    (r"(\bblocks\.\d+\.attn\.)([qkv])_proj\.", lambda m: f"{m[1]}{LAYERS[m[2]]}."),
    (r"\bstorage_tokens$", "reg_token"),
)
SPELLINGS = Spelling(HUGGING_FACE, HUGGING_FACES), Spelling(TOWER, TOWERS), Spelling(DINOV3, DINOV3S)
CONSTANTS = "relative_position_index", "rope.freqs_cos", "rope.freqs_sin"
"""Last parts of names of what is computed, and not learned."""
KEYS_MASK = "attn.qkv.bias_mask"


def in_timms_names(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return tensors under timm's names, queries, keys and values as one layer; prefixes stay.

    in_timms_names(load_file("model.safetensors"), "model.safetensors")["vision_model.blocks.0.attn.qkv.weight"]

    Raises InputError for queries, keys and values that differ in shape.
    """
    return _merged(_renamed(tensors), where)


def in_timms_shapes(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of one encoder, without its prefix, in timm's shapes.

    CLIP's class token [C] and positions [L, C] get a leading 1. DINOv2's register_tokens become reg_token; as they have
    no positions, the class token's are added to it. DeiT's dist_token becomes reg_token, which has positions. SigLIP's
    layer of queries, keys and values becomes the pooling's q and kv.

    Raises InputError for tensors that cannot be brought there.
    """
    made = dict(tensors)
    for name, dimensions in (("cls_token", 3), ("pos_embed", 3)):
        while name in made and 0 < made[name].ndim < dimensions:
            made[name] = made[name][None]
    if "register_tokens" in made and {"cls_token", "pos_embed"} <= made.keys():
        cls, positions = made["cls_token"], made["pos_embed"]
        if positions.ndim != 3 or cls.shape != positions[:, :1].shape:
            raise InputError(f"{where}: class token of shape {list(cls.shape)}, positions {list(positions.shape)}")
        made |= {"reg_token": made.pop("register_tokens"), "cls_token": cls.float() + positions[:, :1].float(),
                 "pos_embed": positions[:, 1:]}  # fmt: skip
    if "reg_token" in made and not made["reg_token"].numel():  # Hugging Face's DINOv3 without registers
        del made["reg_token"]
    if "dist_token" in made and "reg_token" not in made:
        made["reg_token"] = made.pop("dist_token")
    for kind in ("weight", "bias"):
        if (held := made.pop(f"attn_pool.qkv.{kind}", None)) is not None:
            third = len(held) // 3
            made |= {f"attn_pool.q.{kind}": held[:third], f"attn_pool.kv.{kind}": held[third:]}
    return made


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = [each for each in SPELLINGS if any(name.endswith(each.marker) for name in tensors)]
    rules = [rule for each in found for rule in each.rules]
    towers = [name.removesuffix(OPEN_CLIP) for name in tensors if name.endswith(OPEN_CLIP)]
    towers = [
        prefix for prefix in towers if {f"{prefix}class_embedding", f"{prefix}positional_embedding"} <= {*tensors}
    ]
    made = {}
    for name, tensor in tensors.items():
        tower = next((prefix for prefix in towers if name.startswith(prefix)), None)
        if tower is not None:  # the text tower has the same names, outside of this prefix
            name = tower + _replaced(name.removeprefix(tower), OPEN_CLIPS)
        name = _replaced(_unwrapped(name), (*rules, *EVERYWHERE))
        if not name.endswith(CONSTANTS):
            made[name] = tensor
    return made


def _unwrapped(name: str) -> str:
    """Remove wrappers behind a block's number; those before it are part of the prefix (models.pretrained.names)."""
    number = NUMBER.search(name)
    return name if number is None else name[: number.end()] + WRAPPER.sub("", name[number.end() :])


def _replaced(name: str, rules: Rules) -> str:
    for pattern, ours in rules:
        name = re.sub(pattern, ours, name)
    return name


def _check_alike(names: list[str], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError unless the tensors of queries, keys and values have one shape."""
    first, *others = (tensors[name] for name in names)
    if first.ndim == 0 or any(other.shape != first.shape for other in others):
        shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names)
        raise InputError(
            f"{where}: {'SwiGLU' if '.mlp.' in names[0] else 'queries, keys and values'} differ in shape: {shown}"
        )


def _merged(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Make one layer of queries, keys and values, and one of SwiGLU's gate and values.

    Keys without a bias, where queries and values have one, get one of zeros.
    """
    made, gone = {}, set()
    for name, tensor in tensors.items():
        if name.endswith(KEYS_MASK):  # Meta's DINOv3 multiplies the biases by 1, 0 for the keys, 1
            bias = name.removesuffix("_mask")
            gone.add(name)
            if bias in tensors and tensors[bias].ndim:
                third = len(tensors[bias]) // 3
                made[bias] = torch.cat([tensors[bias][:third], torch.zeros(third), tensors[bias][2 * third :]])
        if found := re.fullmatch(r"(.*\battn\.)(?:query\.(weight|bias)|q_(bias))", name):
            kind = found[2] or found[3]
            parts = [f"{found[1]}{part}.{kind}" if found[2] else f"{found[1]}{part[0]}_{kind}" for part in QKV]
            if parts[2] not in tensors or (kind == "weight" and parts[1] not in tensors):
                continue
            given = [part for part in parts if part in tensors]
            _check_alike(given, tensors, where)
            held = [tensors[part] if part in tensors else torch.zeros_like(tensor) for part in parts]
            made[f"{found[1]}qkv.{kind}"] = torch.cat(held)
            gone |= set(given)
        values = name.replace(".mlp.gate_proj.", ".mlp.up_proj.")  # SwiGLU as a module of transformers 5 has it
        if values != name and values in tensors:
            _check_alike([name, values], tensors, where)
            made[name.replace("gate_proj", "fc1")] = torch.cat([tensor, tensors[values]])
            gone |= {name, values}
        if ".mlp.up_proj." in name and name.replace("up_proj", "gate_proj") not in tensors:  # DINOv3's plain MLP
            made[name.replace("up_proj", "fc1")] = tensor
            gone.add(name)
    return {name: tensor for name, tensor in tensors.items() if name not in gone} | made


QKV = "query", "key", "value"
