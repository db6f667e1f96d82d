"""SupMAE: MAE on labelled images, with a classifier on the visible tokens (Liang et al. 2022)."""

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor

from models import presets, presets_cifar10
from models.branches.choose import Kind, branch
from models.branches.mae import Reconstruct
from models.heads import mlp_head
from models.losses import label_loss
from models.method import Loss, Method, Moment
from models.recipe import Encoder, Recipe
from models.vit import Whole, encode, evaluating
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Pixels and classes from the same visible tokens."""

    class_weight: float = 0.01
    """Weight of the classification loss (Table 2d)."""
    temperature: float = 10.0
    """What logits are divided by before the cross-entropy: in the authors' code, not in the paper, and the weight
    above only makes sense with it."""
    pool: Literal["avg", "token"] = "avg"
    """What the head reads: the mean of the visible patches, or the class token (Table 2b)."""
    layers: int = 2
    """Layers of the head (Table 2f)."""
    hidden: int | None = None
    """Width between them; four times the encoder's when absent (3072 for ViT-B)."""
    branch: Kind = "mae"
    """The masked branch: MAE, SimMIM, or LoMaR's windows (which want data.mask.kind window)."""
    reconstruct: Reconstruct = field(default_factory=lambda: Reconstruct(depth=1, target="norm_pix"))
    """The decoder: one block (Table 2e), normalised pixels."""


@final
class SupMAE(Method):
    """L = L_rec + class_weight CE(logits / temperature, y) (section 3)."""

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        if recipe.optim.average is not None:
            raise InputError("supmae keeps no average: its head would not be in it; set --optim.average None")
        super().__init__(recipe, classes=0)  # the timm head stays empty: the classifier is thrown away with the decoder
        self.settings = recipe.method
        self.reconstruction = branch(self.settings.branch, self.encoder, self.settings.reconstruct, recipe.data.mask)
        self.head = mlp_head(self.encoder.embed_dim, classes, layers=self.settings.layers, hidden=self.settings.hidden)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        return Needs(labelled=True, labelled_visible=True)

    def forward(self, batch: Batch, now: Moment) -> Loss:
        known, s = batch.labelled, self.settings
        (partly,) = encode(self.encoder, [self.reconstruction.group(known.images, known.visible, known.hidden)])
        pixels = self.reconstruction(partly, known.images, known.visible, known.hidden)
        label = label_loss(self.head(self.pooled(partly)) / s.temperature, known.labels)
        return Loss(pixels + s.class_weight * label, {"pixels": pixels.detach(), "label": label.detach()})

    def pooled(self, tokens: Tensor) -> Tensor:
        """Tokens [N, P + K, C] -> what the head reads, [N, C]."""
        if self.settings.pool == "token":
            return tokens[:, 0]
        return tokens[:, self.encoder.num_prefix_tokens :].mean(1)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Class scores from every patch, though the head was trained on the visible ones."""
        with evaluating(self):
            (tokens,) = encode(self.judged, [Whole(images, pooled=False)])
            return self.head(self.pooled(tokens))


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: pre-training on the labelled images alone."""
    return Recipe(
        Settings(class_weight=1.0, temperature=1.0, reconstruct=presets.digits_decoder()),  # ours
        presets.digits_data(labelled_view="weak"),
        presets.digits_encoder(),
        presets.digits_optim(labels_only=0, average=None),
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: pre-training on the labelled images alone."""
    return Recipe(
        Settings(class_weight=1.0, temperature=1.0, reconstruct=presets_cifar10.cifar10_decoder()),  # as on digits
        presets_cifar10.cifar10_data(),
        presets_cifar10.cifar10_encoder(),
        presets_cifar10.cifar10_optim(labels_only=0, average=None),
    )


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, every label, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(reconstruct=presets_cifar10.cifar10_tiny_decoder()),  # weight and temperature: Table 2d, code
        presets_cifar10.cifar10_tiny_data(split=None),
        presets_cifar10.cifar10_tiny_encoder(),
        presets_cifar10.cifar10_tiny_optim(labels_only=0, average=None),
    )


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 400 epochs, 1-block decoder.  Paper: 83.6 % fine-tuned (Table 1).  Here: not yet run."""
    return Recipe(
        Settings(),  # Tables 2b, 2d, 2e, 2f; temperature: the authors' code
        presets.mae_data(labelled_view="weak"),
        Encoder("vit_base_patch16_224", position="sincos"),  # as MAE
        presets.mae_optim(epochs=400, rise_epochs=20, epoch_unit="labelled"),  # authors' code
        presets.in1k_run(),
    )
