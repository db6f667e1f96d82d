"""Load pretrained weights into a method: copy what fits, adapt positions and normalisation, or refuse."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from models.encoder.axes import TABLES
from models.encoder.build import ACTIVATIONS
from models.encoder.lora import is_factor
from models.encoder.patches import Normalisation
from models.encoder.positions import prefix_positions
from models.encoder.relative import BLOCK_TABLE, bias_for_each_block, kind_of
from models.encoder.timm_classifier import TimmClassifier
from models.encoder.vit import normalisation_of
from models.method import Method
from models.pretrained.branch import load_branch
from models.pretrained.classifier import load_head, rows_by_class, without
from models.pretrained.find import find_weights
from models.pretrained.formats import NORMALISATIONS, POOLS, Facts, facts_of, pooling_of
from models.pretrained.grids import POSITIONS, fitted_biases, fitted_positions
from models.pretrained.names import examples, with_own_names
from models.pretrained.rotary import for_eva
from models.pretrained.weights import Weights, summarise
from models.pretrained.whole_network import load_network
from pipeline.errors import InputError

HEAD, NORM, POOLED_NORM, POOLING = "head.", "norm.", "fc_norm.", "attn_pool."
BODY = "blocks", "patch_embed", "cls_token", "reg_token", "dist_token", "pos_embed", "norm_pre", "rel_pos_bias", "rope"
"""First parts of the names of an encoder's tensors without its head: none of the source's may be left out."""


def load_encoder(
    method: Method,
    start: str | Path | Weights,
    classes: tuple[str, ...] | None = None,
    normalisation: str | None = None,
) -> str:
    """Load weights, or those that `start` names (models.pretrained.find), into a method's encoder, EMA and branch.

    -> one line: how many tensors were loaded, what was adapted, what was left out, what is new.

    A classifier is copied if the source has one behind the same norm, by the names of its classes; if one side has
    no names, by its shape. Otherwise it stays as it was initialised. So does a norm behind the pooling
    (encoder.fc_norm) if the source has none. Positions and position biases of another grid are resampled
    (models.pretrained.grids). A bias table that all blocks share is copied to each block if the method's encoder
    has one a block. A masked branch is copied if the source has the same (models.pretrained.branch), and so is
    SupMAE's classifier (models.pretrained.classifier). Factors of low rank (encoder.adapt lora) begin anew: those of
    the source are merged into its weights. A classifier of timm is loaded by models.pretrained.whole_network.

    classes        names of this run's classes, in the order of their labels
    normalisation  what the source's images were normalised by (run.start_normalisation), where it does not say it

    Raises InputError for heads or an activation that the source states to be others, for positions of another kind, for
    a tensor that is missing or of another shape, and for a tensor of the source's encoder that the method's does not
    have.
    """
    if isinstance(method.encoder, TimmClassifier):
        found = start if isinstance(start, Weights) else find_weights(str(start))
        return load_network(method, found, classes or None, normalisation)
    whole = method.encoder.state_dict()
    own = {name: tensor for name, tensor in whole.items() if not is_factor(name)}
    found = start if isinstance(start, Weights) else find_weights(str(start))
    own, added = without_added(own, found)
    found = with_own_names(found, own)
    held, notes = _fitted(found, own, method.encoder, normalisation)
    classifier = None
    if not _new_norm(held, own):
        held, classifier = _classifier(found, held, method.encoder, classes or None)
    new = list(_new(held, own))
    _check(held, own, new, found.where)
    method.encoder.load_state_dict(whole | {name: held[name] for name in own if name not in new})
    if method.ema is not None:
        method.ema.module.load_state_dict(method.encoder.state_dict())
    branch, used = load_branch(method, found)
    head, used_too = load_head(method, found, classes or None)
    used |= used_too
    out = [name for name in (*(name for name in held if name not in own), *found.others) if name not in used]
    loaded = f"{len(own) - len(new)} tensors of the encoder from {found.where} ({found.what})"
    parts = [loaded, *notes, added, classifier, head, branch, f"left out: {summarise(out)}" if out else None]
    return "; ".join([part for part in parts if part] + [f"new: {', '.join(new) or 'none'}"])


def without_added(own: dict[str, Tensor], found: Weights) -> tuple[dict[str, Tensor], str | None]:
    """Leave out the relative positions that an encoder has beside absolute ones, unless the source has both, too; ->
    the tensors to load, and a note on what begins at zero."""
    for ends, what in (((BLOCK_TABLE,), "position biases"), (TABLES, "relative positions of rows and columns")):
        tables = {name for name in own if name.endswith(ends)} if POSITIONS in own else set()
        if tables and not any(name.endswith(ends) for name in found.tensors):
            return {name: tensor for name, tensor in own.items() if name not in tables}, f"{what} begin at zero"
    return own, None


def _fitted(
    found: Weights, own: dict[str, Tensor], encoder: nn.Module, normalisation: str | None
) -> tuple[dict[str, Tensor], list[str | None]]:
    """Adapt the source's tensors to the encoder without changing what they compute; -> they, and notes on it.

    Only positions of another grid are approximated.
    """
    facts = facts_of(found, encoder.embed_dim)
    found, rotary = for_eva(found, encoder)
    epsilon = _check_function(facts, encoder, found.where)
    theirs, assumed = _normalisation(facts, normalisation, found.where)
    held = _positions_of_kind(found, own, len(encoder.blocks))
    held, positions = fitted_positions(found, held, own, encoder)
    held, biases = fitted_biases(found, held, own, encoder)
    held, zeros = _with_biases(held, own)
    held, folded = _folded(held, theirs, encoder, found.where)
    return held, [positions, biases, zeros, rotary, folded, assumed, epsilon]


def _positions_of_kind(found: Weights, own: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    theirs, ours = kind_of(found.tensors), kind_of(own)
    if (theirs, ours) == ("bias", "block_bias"):
        return bias_for_each_block(found.tensors, depth)
    if theirs != ours and any(name.startswith("blocks.") for name in found.tensors):
        unknown = [name for name in found.tensors if name not in own] if theirs == "none" else []
        unless = f", unless its positions have another name: it holds {examples(found.tensors, unknown)}"
        raise InputError(
            f"{found.where} was trained with position {theirs}, got {ours}; set encoder.position to {theirs}"
            + (unless if unknown else "")
        )
    return found.tensors


def _check_function(facts: Facts, encoder: nn.Module, where: str) -> str | None:
    """Compare what no tensor tells with the encoder; -> a note on another epsilon of norms, None without.

    Raises InputError for another number of heads, or another activation.
    """
    block = encoder.blocks[0]
    pairs = ("heads", facts.heads, block.attn.num_heads), ("act", facts.act, ACTIVATIONS.get(type(block.mlp.act)))
    for name, fact, ours in pairs:
        if fact.stated and fact.value != ours and None not in (fact.value, ours):
            raise InputError(
                f"{where} was trained with {name} {fact.value}, got {ours}; set encoder.{name} to {fact.value}, or "
                "--encoder.name auto"
            )
    eps = getattr(block.norm1, "eps", None)
    if not facts.norm_eps.stated or eps in (None, facts.norm_eps.value):
        return None
    return f"layer norms have an epsilon of {eps:g}, its own {facts.norm_eps.value:g} (--encoder.norm-eps)"


def _normalisation(facts: Facts, asked: str | None, where: str) -> tuple[Normalisation, str | None]:
    """What the source's images were normalised by, and a note where nothing says it.

    Raises InputError for another one than the source states.
    """
    fact = facts.normalisation
    names = {value: name for name, value in NORMALISATIONS.items()}
    if asked is not None:
        if fact.stated and fact.value != NORMALISATIONS[asked]:
            came = names.get(fact.value, f"mean {fact.value.mean}, std {fact.value.std}")
            raise InputError(
                f"{where} says that its images were normalised by {came}, got {asked}; leave "
                "--run.start-normalisation out"
            )
        return NORMALISATIONS[asked], None
    if fact.stated or facts.form.sure:
        return fact.value, None
    words = {"imagenet": "ImageNet's mean and std", "half": "a mean and std of 0.5", "clip": "CLIP's mean and std"}
    said = words[names[fact.value]]
    return fact.value, f"images taken to be normalised by {said}, which it does not say (--run.start-normalisation)"


def _with_biases(held: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """Add biases of zero to queries, keys and values that have none, where the encoder has them: the same function."""
    layers = [name.removesuffix("bias") for name in own if name.endswith("attn.qkv.bias") and name not in held]
    layers = [layer for layer in layers if f"{layer}weight" in held and held[f"{layer}weight"].ndim]
    layers = [layer for layer in layers if not {f"{layer[:-4]}{part}_bias" for part in "qkv"} & held.keys()]
    if not layers:
        return held, None
    zeros = {f"{layer}bias": torch.zeros(len(held[f"{layer}weight"])) for layer in layers}
    return held | zeros, "biases of zero for queries, keys and values, of which it has none"


def _folded(
    held: dict[str, Tensor], theirs: Normalisation, encoder: nn.Module, where: str
) -> tuple[dict[str, Tensor], str | None]:
    """Adapt the patch embedding to the encoder's normalisation, so that it stays the same function of the pixels.

    Without a bias (CLIP) the constant is added to the patches' positions. Raises InputError where there are none, too.
    """
    ours, name = normalisation_of(encoder), "patch_embed.proj"
    weight, bias, table = (held.get(each) for each in (f"{name}.weight", f"{name}.bias", POSITIONS))
    own_weight, own_bias = encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias
    if weight is None or weight.shape != own_weight.shape:
        return held, None  # refused by its shape, in `_check`
    width = len(weight)
    if (bias is not None and bias.shape != (width,)) or (table is not None and table.shape[-1:] != (width,)):
        return held, None
    bias = torch.zeros(width) if bias is None and own_bias is not None else bias
    if theirs == ours:
        return held if bias is None else held | {f"{name}.bias": bias}, None
    if bias is None and (table is None or table.ndim != 3):
        raise InputError(f"{where} has no bias of patches and no positions, which could take another normalisation in")
    weight = weight.double()
    (mean, std), (own_mean, own_std) = (
        (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (n.mean, n.std)) for n in (theirs, ours)
    )
    shift = (weight * (own_mean - mean) / std).sum((1, 2, 3))
    adapted, said = {f"{name}.weight": (weight * own_std / std).float()}, "patch embedding adapted"
    if bias is not None:
        adapted[f"{name}.bias"] = (bias.double() + shift).float()
    elif table is not None:
        prefix, said = prefix_positions(encoder), "patch embedding and positions adapted"
        table = table.double()
        adapted[POSITIONS] = torch.cat([table[:, :prefix], table[:, prefix:] + shift], 1).float()
    return held | adapted, f"{said} to this encoder's normalisation"


def _classifier(
    found: Weights, held: dict[str, Tensor], encoder: nn.Module, classes: tuple[str, ...] | None
) -> tuple[dict[str, Tensor], str | None]:
    """Match the classifier's rows by class; leave them out where they were trained on other features than this encoder
    pools. -> the tensors, and a note."""
    rows = [name for name in held if name.startswith(HEAD)]
    if not rows or not encoder.head.state_dict():
        return held, None
    theirs, ours = pooling_of(found), getattr(encoder, "global_pool", None)
    if None not in (theirs, ours) and theirs != ours:
        choice = f" (--encoder.pool {theirs})" if theirs in POOLS else ""
        return without(held, rows), f"classifier not taken, as it reads {theirs}, this encoder {ours}{choice}"
    return rows_by_class(held, encoder.head, found.classes, classes)


def _new(held: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    """Names of the encoder's tensors that stay as they were initialised."""
    norm = _new_norm(held, own)
    for name in own:
        other = name.startswith((HEAD, POOLING)) and not _same(held, own, name)
        if other or (norm and name.startswith((POOLED_NORM, HEAD))):  # it was trained on features behind another norm
            yield name


def _new_norm(held: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    """Whether the encoder has a norm behind the pooling that the source has not."""
    return any(name.startswith(POOLED_NORM) and name not in held for name in own)


def _check(held: dict[str, Tensor], own: dict[str, Tensor], new: list[str], where: str) -> None:
    for name in own:
        if name in new:
            continue
        if _same(held, own, name):
            if own[name].is_floating_point():
                _check_numbers(name, held[name], where)
            continue
        if name.startswith(NORM) and name not in held and f"fc_{name}" in held:
            raise InputError(f"{where} has its final norm behind the pooling ({POOLED_NORM}*); add --encoder.fc-norm")
        if name.startswith(NORM) and not any(each.startswith((NORM, POOLED_NORM)) for each in held):
            raise InputError(
                f"{where} has no final norm, as Data2Vec and InternViT have none, and this encoder has one"
            )
        unknown = [each for each in held if each not in own]
        nothing = f"nothing under that name, but {examples(held, unknown)}" if unknown else "nothing"
        came = list(held[name].shape) if name in held else nothing
        raise InputError(
            f"{where}: expected {name} of shape {list(own[name].shape)}, got {came}; "
            "use the encoder and image size of the run that wrote it"
        )
    # an encoder without a final norm is the first blocks of the source's: a probe of a block before the last
    cut = not any(name.startswith((NORM, POOLED_NORM)) for name in own)
    body = [part for part in BODY if not (cut and part == "blocks")]
    more = [name for name in held if name not in own and name.split(".")[0] in body]
    if more:
        raise InputError(
            f"{where} has {more[0]} of shape {list(held[more[0]].shape)}, which this encoder has not; "
            "set encoder to the one that it was"
        )


def _check_numbers(name: str, tensor: Tensor, where: str) -> None:
    if not tensor.is_floating_point():
        raise InputError(f"{where}: {name} is of {tensor.dtype}, expected floating point, as weights have before "
                         "they are quantised")  # fmt: skip
    if not tensor.isfinite().all():
        raise InputError(f"{where}: {name} holds numbers that are not finite; its training or its file is damaged")


def _same(held: dict[str, Tensor], own: dict[str, Tensor], name: str) -> bool:
    return name in held and held[name].shape == own[name].shape
