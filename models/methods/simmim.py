"""SimMIM: cover units of an image, encode all of it, predict covered pixels with one linear layer (Xie et al. 2022)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from models.config.recipe import Encoder, Optim, Recipe
from models.encoder.vit import encode
from models.masked.base import Reconstruct
from models.masked.select import check_mask
from models.masked.simmim import SimMIMBranch
from models.method import Loss, Method, StepInfo
from models.methods.presets.masked import digits_units, simmim_mask, with_mask
from models.methods.presets.shared import digits_data, digits_encoder, digits_optim, in1k_run
from pipeline.batch import Batch
from pipeline.spec import Data, Needs, View


@dataclass(frozen=True)
class Settings:
    """One loss: pixels."""

    target: Literal["pixel", "norm_pix"] = "pixel"
    """norm_pix: each patch is normalised by its own mean and spread, as in MAE."""
    error: Literal["absolute", "squared"] = "absolute"
    """How pixels are compared."""


@final
class SimMIM(Method):
    """L = mean absolute error over the covered pixels."""

    has_classifier: ClassVar[bool] = False

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes=0)  # no classifier: nothing here would train it
        check_mask("simmim", recipe.data.mask)
        settings = Reconstruct(target=recipe.method.target, error=recipe.method.error)
        self.reconstruction = SimMIMBranch(self.encoder, settings, drop_path=True)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        return Needs(unlabelled=True, unlabelled_visible=True)

    def forward(self, batch: Batch, now: StepInfo) -> Loss:
        images, visible = batch.unlabelled.weak, batch.unlabelled.visible
        (tokens,) = encode(self.encoder, [self.reconstruction.group(images, visible)])
        pixels = self.reconstruction(tokens, images, visible)
        return Loss(pixels, {"pixels": pixels.detach()})


def digits() -> Recipe[Settings]:
    """Embedded digits, no labels: pre-training for semi_mae:digits_simmim --run.start.  Not yet run to its end."""
    return Recipe(
        Settings(),
        with_mask(digits_data(), digits_units()),
        digits_encoder(),
        digits_optim(labels_only=0, ema_decay=None),
    )


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 800 epochs.  Paper: 83.8 % fine-tuned.  Here: not yet run.

    SimMIM's ViT has no bias on keys, ours does: a softmax cannot tell. Its rate rises from 5e-7, ours from 0, and its
    mask token decays, where ours does not.
    """
    return Recipe(
        Settings(),
        Data(
            root="data/in1k",
            batch=2048,  # SimMIM code
            weak=View(scale=(0.67, 1.0)),  # SimMIM code
            mask=simmim_mask(),
        ),
        Encoder("vit_base_patch16_224", position="bias", layer_scale=0.1, pool="avg", drop_path=0.1),  # SimMIM code
        Optim(
            lr=1e-4,
            lr_batch=512,
            schedule="steps",
            drop_epochs=(700,),
            drop_factor=0.1,
            epochs=800,
            warmup_epochs=10,
            weight_decay=0.05,
            betas=(0.9, 0.999),
            clip=5.0,
        ),  # SimMIM code
        in1k_run(),
    )
