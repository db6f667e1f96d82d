"""Compute one Semi-MAE step packed and as other libraries write it: same networks, decoder and loss, timm's forwards.

    loss = separate(vit, decoder, Step(labelled, labels, weak, strong, visible, passed))

Tests compare the packed step with these, and `models.bench.packed_step` times them. What is known of the libraries: USB
runs labelled, weak and strong images as one batch with gradient and detaches the pseudo-labels; Semi-ViT and Semiformer
run the weak images under no_grad, then the labelled and every strong image; MAE projects all patches, gathers the
visible ones, and restores the order.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.encoder.patches import hidden_from_visible, patchify
from models.encoder.vit import FullImages, SelectedImages, VisiblePatches, classify, encode, eval_logits
from models.losses import pixel_loss, pseudo_label_loss
from models.masked.mae import Decoder

LAMBDA_U, MU = 10.0, 5.0  # Semi-MAE, implementation details


@dataclass(frozen=True, eq=False)
class Step:
    """Inputs of one step. Images are float [N, 3, H, W], normalised.

    visible  i64 [N_u, K]   patches of the weak image that the encoder sees
    passed   bool [N_u]     which pseudo-labels pass: fixed, so that every variant does the same work
    """

    labelled: Tensor
    labels: Tensor
    weak: Tensor
    strong: Tensor
    visible: Tensor
    passed: Tensor


def packed(vit: VisionTransformer, decoder: Decoder, step: Step) -> Tensor:
    """Compute the loss as SemiMAE does: a forward pass of the weak images, then one packed pass of all that learns."""
    classes = eval_logits(vit, step.weak).argmax(-1)
    rows = step.passed.nonzero().squeeze(1).to(step.weak.device)
    groups = [FullImages(step.labelled), SelectedImages(step.strong, rows), VisiblePatches(step.weak, step.visible)]
    known, strong, partly = encode(vit, groups)
    known, strong = classify(vit, [known, strong])
    hidden = hidden_from_visible(step.visible, decoder.positions.shape[0])
    predicted = decoder(partly, step.visible, hidden)
    pixels = pixel_loss(predicted, step.weak, hidden, vit.patch_embed.patch_size[0], normalise=False)
    pseudo = pseudo_label_loss(strong, classes[rows], len(classes))
    return F.cross_entropy(known, step.labels) + LAMBDA_U * pseudo + MU * pixels


def separate(vit: VisionTransformer, decoder: Decoder, step: Step) -> Tensor:
    """Compute the loss as Semi-ViT and Semiformer do: separate forwards, weak under no_grad, every strong image."""
    training = vit.training
    vit.eval()
    with torch.no_grad():
        classes = vit(step.weak).argmax(-1)
    vit.train(training)
    loss = F.cross_entropy(vit(step.labelled), step.labels) + LAMBDA_U * _masked(vit(step.strong), classes, step.passed)
    return loss + MU * plain_mae(vit, decoder, step.weak, step.visible)


def usb(vit: VisionTransformer, decoder: Decoder, step: Step) -> Tensor:
    """Compute the loss as USB does (`use_cat`): labelled, weak, strong in one batch, all with gradient; MAE apart."""
    unlabelled = len(step.weak)
    logits = vit(torch.cat([step.labelled, step.weak, step.strong]))
    known, weak, strong = logits.split([len(step.labelled), unlabelled, unlabelled])
    loss = F.cross_entropy(known, step.labels) + LAMBDA_U * _masked(strong, weak.detach().argmax(-1), step.passed)
    return loss + MU * plain_mae(vit, decoder, step.weak, step.visible)


def plain_mae(
    vit: VisionTransformer, decoder: Decoder, images: Tensor, visible: Tensor, *, normalise: bool = False
) -> Tensor:
    """Compute MAE's loss in its own order: project all, gather, encode, decode in raster order, mean over hidden."""
    tokens = plain_visible_tokens(vit, images, visible)
    predicted = plain_decode(decoder, tokens, visible)
    target = patchify(images, vit.patch_embed.patch_size[0])
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    hidden = torch.ones(target.shape[:2], dtype=target.dtype, device=target.device).scatter(1, visible, 0.0)
    return (((predicted - target) ** 2).mean(-1) * hidden).sum() / hidden.sum()


def plain_visible_tokens(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    """Encode the visible patches by timm's own modules: [N, prefix + K, C], after the final norm."""
    before = 0 if vit.no_embed_class else vit.num_prefix_tokens
    x = vit.patch_embed(images) + vit.pos_embed[:, before:]
    x = x.gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
    prefix = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    if prefix:
        prefix_tokens = torch.cat(prefix, 1) + vit.pos_embed[:, :before] if before else torch.cat(prefix, 1)
        x = torch.cat([prefix_tokens.expand(len(x), -1, -1), x], 1)
    return vit.norm(vit.blocks(vit.norm_pre(x)))


def plain_decode(decoder: Decoder, tokens: Tensor, visible: Tensor) -> Tensor:
    """Decode every patch: [N, L, patch² · 3] in raster order; mask tokens are appended and sorted in, and every block
    computes every row."""
    patches, prefix = decoder.positions.shape[0], decoder.prefix
    shuffled = torch.cat([visible, hidden_from_visible(visible, patches)], 1)
    x = decoder.embed(tokens)
    mask_tokens = decoder.mask_token.to(x.dtype).expand(len(x), patches - visible.shape[1], -1)
    slots = torch.cat([x[:, prefix:], mask_tokens], 1)
    slots = slots.gather(1, shuffled.argsort(1)[..., None].expand(-1, -1, x.shape[-1])) + decoder.positions
    x = torch.cat([x[:, :prefix], slots], 1)
    for block in decoder.blocks:
        x = block(x)
    return decoder.predict(decoder.norm(x))[:, prefix:]


def _masked(logits: Tensor, targets: Tensor, passed: Tensor) -> Tensor:
    return (F.cross_entropy(logits, targets, reduction="none") * passed.to(logits)).mean()
