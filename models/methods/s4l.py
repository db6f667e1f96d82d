"""S4L with rotations (Zhai et al. 2019, "S4L: Self-Supervised Semi-Supervised Learning", S4L-Rotation): the network
learns the classes of labelled images, and by how much any image was turned.

Each image is shown four times, turned by 0, 90, 180 and 270 degrees. As in the authors' code all four copies of a
labelled image learn its class, both kinds of images learn the turn, and all go through the network in one pass.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config.recipe import Encoder, Optim, Recipe
from models.encoder.vit import FullImages, classifier_inputs, classify, encode
from models.losses import at_least_f32, label_loss
from models.method import Loss, Method, StepInfo
from models.methods.balance import Balance, build_balance
from models.methods.labels_only import labels_only
from models.methods.presets import in1k, small
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.flags import BELOW_1, NOT_NEGATIVE
from pipeline.spec import Data, Needs, View, both_sides, spelt

TURNS = 4
"""Rotations: R = {0, 90, 180, 270} degrees (eq. 2)."""


@dataclass(frozen=True)
class Settings:
    """Two losses: the class of labelled images, and the rotation of all images."""

    weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the rotation loss (section 3: w = 1)."""
    smoothing: Annotated[float, BELOW_1] = 0.0
    """Label smoothing of the labelled loss; the paper has none."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""


@final
class S4L(Method):
    """L = L_l + w L_rot; L_rot is the mean of that of labelled and that of unlabelled images (eq. 1, 2; code)."""

    whole_images = True

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        height, width = both_sides(recipe.data.size)
        if height != width:
            raise InputError(
                f"s4l turns images by 90 degrees, so that they must be square, got data.size {spelt(recipe.data.size)};"
                " set one number"
            )
        self.settings = recipe.method
        self.balance = build_balance(self.settings.balance, classes, unlabelled=False)
        self.rotations = nn.Linear(self.encoder.num_features, TURNS)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images; weak views of unlabelled ones."""
        return Needs(labelled=True, unlabelled=True)

    def pass_holds(self) -> str:
        """Every rotation of labelled and unlabelled images."""
        return "four rotations of labelled and of unlabelled images"

    def inactive_params(self, info: StepInfo) -> list[nn.Parameter]:
        """Return the rotation layer's parameters in the labels-only phase."""
        return list(self.rotations.parameters()) if info.labels_only else []

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Label and rotation loss of one pass; in the labels-only phase the label loss of unturned images alone."""
        labelled, unlabelled, s = batch.labelled, batch.unlabelled, self.settings
        assert labelled is not None
        if info.labels_only:
            return labels_only(
                self.encoder, labelled.images, labelled.labels, s.smoothing, self.balance, self.rotations
            )

        assert unlabelled is not None
        groups = [FullImages(turned(images)) for images in (labelled.images, unlabelled.weak)]
        tokens = encode(self.encoder, groups)
        (logits,) = classify(self.encoder, tokens[:1])
        label = label_loss(logits, labelled.labels.repeat(TURNS), s.smoothing, self.balance)
        losses = [rotation_loss(self.rotations(each)) for each in classifier_inputs(self.encoder, tokens)]
        rotation = torch.stack(losses).mean()  # of labelled and of unlabelled images, equally (authors' code)
        return Loss(label + s.weight * rotation, {"label": label.detach(), "rotation": rotation.detach()})


def turned(images: Tensor) -> Tensor:
    """Turn square images [N, C, S, S] by 0, 90, 180 and 270 degrees -> [4 N, C, S, S], one turn after the other."""
    copies = [torch.rot90(images, turn, (-2, -1)) for turn in range(TURNS)]
    return torch.cat(copies).contiguous(memory_format=torch.channels_last)


def rotation_loss(logits: Tensor) -> Tensor:
    """Compute the mean cross-entropy of logits float [4 N, 4] of what `turned` returned (eq. 2)."""
    turns = torch.arange(TURNS, device=logits.device).repeat_interleave(len(logits) // TURNS)
    return F.cross_entropy(at_least_f32(logits), turns)


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64; a 6 that is turned is a 9.  Here: not yet run to its end."""
    return Recipe(Settings(), small.digits_data(), small.digits_encoder(), small.digits_optim())


def digits_resnet() -> Recipe[Settings]:
    """s4l:digits on a small ResNet of timm.  Here: not yet run to its end."""
    return replace(digits(), encoder=small.resnet_encoder())


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps.  Here: not yet run."""
    return Recipe(Settings(), small.cifar10_data(), small.cifar10_encoder(), small.cifar10_optim())


def cifar10_resnet() -> Recipe[Settings]:
    """s4l:cifar10 on a small ResNet of timm.  Here: not yet run."""
    return replace(cifar10(), encoder=small.resnet_encoder())


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S, with the views and schedule of fixmatch:in1k_10pct.  Here: not yet run."""
    return Recipe(Settings(), in1k.data_10pct(), in1k.encoder_10pct(), in1k.semiformer_optim(), in1k.run())


def in1k_10pct_r50() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ResNet-50 with the authors' settings.  Here: not yet run.

    Semi-MAE's Table 1 has 73.2 % for S4L; that is the paper's "mix of all models", with a ResNet-50 of four times the
    width and further losses. The authors' script trains a pre-activation ResNet-50, also of four times the width; this
    is timm's plain one.
    """
    crop = View(filter="bilinear", scale=(0.05, 1.0))  # authors' code: Inception's crop, mirrored
    return Recipe(
        Settings(),
        Data(
            root="data/in1k",
            split="0.10",
            unlabelled="all",
            batch=512,  # authors' script: 256 images of each kind
            ratio=1,
            labelled_view="weak",
            weak=crop,
        ),
        Encoder("resnet50"),
        Optim(
            kind="sgd",
            lr=0.03,  # authors' script, as all numbers here
            schedule="steps",
            epochs=200,
            warmup_epochs=5,
            drop_epochs=(140, 160, 180),
            epoch_unit="unlabelled",
            weight_decay=1e-3,
        ),
        in1k.run(),
    )
