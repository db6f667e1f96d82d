"""Freeze a part of an encoder, so that few of its parameters adapt: factors of low rank, biases, the last blocks, half
of one, or the classifier alone."""

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.config.recipe import Encoder
from models.encoder.lora import add_lora, lora_layers
from models.encoder.timm_classifier import TimmClassifier
from pipeline.errors import InputError

STARTS_FROM_NONE = "note: these settings are for a trained encoder, and this run starts from none (--run.start)"


def adapt(vit: VisionTransformer | TimmClassifier, encoder: Encoder) -> list[nn.Module]:
    """Freeze in place what a ViT does not train; -> the frozen modules, which the caller keeps in eval mode.

    frozen = adapt(vit, Encoder(adapt=2))   # trains the last two blocks, the final norm and the classifier

    "head"    trains the classifier, the final norm, before or after pooling, and a pooling that has weights
    "half"    these, and the MLP sub-block of the last block: its norm, its MLP (MAE section 4.3, "half" a block)
    k         these, and the last k blocks; embedding, class token and positions are frozen even if all blocks are
              trained
    "bitfit"  these, and every bias of the encoder (Ben Zaken et al. 2022)
    "lora"    these, and factors of low rank beside weights of all blocks (models.encoder.lora)
    "full"    trains all, and leaves the ViT as it is

    Autograd records nothing below the first trained part, so the step costs a forward pass there, of which nothing is
    kept. bitfit and lora freeze no module as a whole: paths drop as in training everything. Of a classifier of timm
    "head" trains the classifier alone, and frozen batch norms stay in eval mode.
    Raises InputError for more blocks than there are, and for what `add_lora` refuses.
    """
    if encoder.adapt == "full":
        return []
    if isinstance(vit, TimmClassifier):  # whose other settings build_classifier has refused
        return _head_alone(vit)
    depth, chosen = len(vit.blocks), encoder.adapt
    if not isinstance(chosen, str) and chosen > depth:
        raise InputError(f"encoder.adapt is {chosen} blocks, the encoder has {depth}; set {depth} or fewer, or full")
    learning = [part for part in (vit.norm, vit.attn_pool, vit.fc_norm, vit.head_drop, vit.head) if part is not None]
    if chosen == "half":
        last = vit.blocks[-1]
        learning += [part for part in (last.norm2, last.mlp, last.ls2, last.drop_path2) if isinstance(part, nn.Module)]
    elif not isinstance(chosen, str):
        learning += vit.blocks[depth - chosen :]
    vit.requires_grad_(False)
    for part in learning:
        part.requires_grad_(True)
    if chosen == "half" and getattr(vit.blocks[-1], "gamma_2", None) is not None:  # a rotary block's LayerScale
        vit.blocks[-1].gamma_2.requires_grad_(True)
    if chosen == "lora":
        add_lora(vit, encoder.lora_rank, encoder.lora_alpha, encoder.lora_layers)
        return []
    if chosen == "bitfit":
        for name, parameter in vit.named_parameters():
            if name.endswith("bias"):
                parameter.requires_grad_(True)
        return []
    kept = {id(module) for part in learning for module in part.modules()}
    kept |= {id(module) for module in (vit, vit.blocks, *vit.blocks)}  # containers, which may hold parts of both kinds
    return [module for module in vit.modules() if id(module) not in kept]


def _head_alone(network: TimmClassifier) -> list[nn.Module]:
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    kept = {id(module) for module in (network, network.net, *network.head.modules())}
    return [module for module in network.modules() if id(module) not in kept]


def describe(encoder: Encoder, vit: nn.Module, *, started: bool) -> list[str]:
    """Name the trained part, and its share of the encoder's parameters, in a line; warn in another where frozen weights
    are those that were drawn. No line where all is trained.

    describe(recipe.encoder, method.encoder, started=recipe.run.start is not None)
    """
    if encoder.adapt == "full":
        return []
    top = "the classifier" if any(True for _ in vit.head.parameters()) else "the final norm"
    names = {
        "head": f"{top} alone",
        "half": f"the MLP of the last block and {top}",
        "bitfit": f"biases and {top}",
        "lora": f"LoRA of rank {encoder.lora_rank} on {sum(1 for _ in lora_layers(vit))} weights, and {top}",
    }
    what = names.get(str(encoder.adapt)) or f"the last {encoder.adapt} of {len(vit.blocks)} blocks and {top}"
    whole = sum(each.numel() for each in vit.parameters())
    part = sum(each.numel() for each in vit.parameters() if each.requires_grad)
    line = f"trained: {what}, {part:,} of {whole:,} parameters of the encoder; the rest of it is frozen"
    return [line] if started else [line, STARTS_FROM_NONE]
