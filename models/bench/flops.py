"""Count the FLOPs of a step, in closed form and as torch executes it. A multiply-add is 2 FLOPs.

    flops = encoder_flops(vit, [GroupCost(samples=64, patches=49)])
    flops += decoder_flops(decoder, samples=64, visible=49, predicted=147)

`models.bench.semiformer_flops` has the closed form of a Semiformer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.encoder.relative import BUCKETS
from models.masked.crossmae import CrossDecoder
from models.masked.mae import Decoder


@dataclass(frozen=True)
class GroupCost:
    """One group of images: `samples` of them, `patches` patches each.

    keep    the tokens that the last block keeps, the first of each sample; None: all
    learns  whether a backward pass follows; False for a teacher's forward pass
    """

    samples: int
    patches: int
    keep: int | None = None
    learns: bool = True


def encoder_flops(vit: VisionTransformer, groups: Sequence[GroupCost]) -> int:
    """Count 2·P·D·n + L(24nD² + 4n²D) an image, less what the trimmed last block saves; thrice that where it learns.

    The projection of pixels costs twice, not thrice: the gradient of an image is not computed. iRPE adds 2·50·D·n a
    block, its queries times its table; a bias is looked up, which is no FLOP.
    """
    width, depth = vit.embed_dim, len(vit.blocks)
    # of an MLP its hidden width; of SwiGLU, whose gate is a third matrix, as many as have its weights
    mlp = sum(part.weight.numel() for part in vit.blocks[0].mlp.modules() if isinstance(part, nn.Linear)) // (2 * width)
    table = 2 * BUCKETS * width if hasattr(vit.blocks[0].attn, "rpe_k") else 0
    total = 0
    for group in groups:
        tokens = vit.num_prefix_tokens + group.patches
        keep = tokens if group.keep is None else group.keep
        pixels = 2 * group.patches * vit.patch_embed.proj.weight[0].numel() * width
        blocks = (depth - 1) * block_flops(tokens, tokens, width, mlp) + block_flops(tokens, keep, width, mlp)
        blocks += ((depth - 1) * tokens + keep) * table
        total += group.samples * (pixels * (2 if group.learns else 1) + blocks * (3 if group.learns else 1))
    return total


def classifier_flops(vit: VisionTransformer, samples: int, *, learns: bool = True) -> int:
    """Count the classifier's linear layers on `samples` pooled tokens; norms cost none, as in the rest of the count.

    Where nothing below the classifier learns (a probe), the first layer's input needs no gradient: twice, not thrice.
    """
    layers = [2 * part.weight.numel() for part in vit.head.modules() if isinstance(part, nn.Linear)]
    if not learns:
        return samples * sum(layers)
    above = {id(parameter) for parameter in vit.head.parameters()}
    below = any(parameter.requires_grad for parameter in vit.parameters() if id(parameter) not in above)
    return samples * (3 * sum(layers) - (0 if below else sum(layers[:1])))


def decoder_flops(decoder: Decoder, samples: int, visible: int, predicted: int, patches: int | None = None) -> int:
    """Count forward and backward of MAE's decoder; the last block and the prediction run on the predicted rows alone.

    visible  the tokens of an image that the encoder gives; all patches, behind an encoder with mask tokens
    patches  of an image, where they are not those of the decoder's own grid
    """
    width, mlp = decoder.embed.out_features, decoder.blocks[0].mlp.fc1.out_features
    tokens = decoder.prefix + (patches or decoder.positions.shape[0])
    embed = 2 * (decoder.prefix + visible) * decoder.embed.in_features * width
    blocks = (len(decoder.blocks) - 1) * block_flops(tokens, tokens, width, mlp)
    blocks += block_flops(tokens, predicted, width, mlp)
    return 3 * samples * (embed + blocks + 2 * predicted * width * decoder.predict.out_features)


def cross_decoder_flops(decoder: CrossDecoder, samples: int, tokens: int, predicted: int) -> int:
    """Count forward and backward of CrossMAE's decoder, whose `predicted` patches attend to the encoder's `tokens`;
    other patches are not computed."""
    (block, *_), depth = decoder.blocks, len(decoder.blocks)
    width, memory, mlp = block.queries.in_features, block.keys_values.in_features, block.mlp.fc1.out_features
    asking = predicted * (4 * width * width + 4 * tokens * width + 4 * width * mlp)
    mix = 0 if decoder.mix is None else 2 * decoder.mix.numel() * tokens * memory
    total = depth * (asking + 4 * tokens * memory * width) + mix + 2 * predicted * width * decoder.predict.out_features
    return 3 * samples * total


def block_flops(tokens: int, keep: int, width: int, mlp: int) -> int:
    """Count a block's forward pass: keys and values of all tokens; queries, projection and MLP of the first `keep`."""
    keys_values = 4 * tokens * width * width
    queries_projection = 4 * keep * width * width
    attention = 4 * keep * tokens * width
    return keys_values + queries_projection + attention + 4 * keep * width * mlp


def count(step: Callable[[], object]) -> int:
    """Count the FLOPs that `step` really executes. With meta tensors nothing is computed, and no memory is needed."""
    # the fused CPU attention has no entry in torch's table and would count as free; the plain one is matmuls
    with sdpa_kernel([SDPBackend.MATH]), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
