"""LoMaR: hide patches in small windows, encode each by itself, predict with one linear layer (Chen et al. 2022)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

from models import presets, presets_masked
from models.branches.base import Reconstruct
from models.branches.choose import check_mask
from models.branches.lomar import LoMaRBranch
from models.method import Loss, Method, Moment
from models.recipe import Encoder, Recipe
from models.vit import encode
from pipeline.batch import Batch
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """One loss: pixels."""

    target: Literal["pixel", "norm_pix"] = "norm_pix"
    """norm_pix: each patch is normalised by its own mean and spread."""
    error: Literal["absolute", "squared"] = "squared"
    """How pixels are compared."""


@final
class LoMaR(Method):
    """L = mean squared error over the hidden patches of all windows."""

    has_classifier: ClassVar[bool] = False

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes=0)  # no classifier: nothing here would train it
        check_mask("lomar", recipe.data.mask)
        settings = Reconstruct(target=recipe.method.target, error=recipe.method.error)
        self.reconstruction = LoMaRBranch(self.encoder, settings, recipe.data.mask.window)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        return Needs(unlabelled=True, unlabelled_visible=True)

    def forward(self, batch: Batch, now: Moment) -> Loss:
        part = batch.unlabelled
        (tokens,) = encode(self.encoder, [self.reconstruction.group(part.weak, part.visible, part.hidden)])
        pixels = self.reconstruction(tokens, part.weak, part.visible, part.hidden)
        return Loss(pixels, {"pixels": pixels.detach()})


def digits() -> Recipe[Settings]:
    """Embedded digits, no labels: pre-training for semi_mae:digits_lomar --run.start.  Here: not yet run to its end."""
    return Recipe(
        Settings(target="pixel"),  # ours: most patches of a digit are flat, and normalised to noise
        presets_masked.with_mask(presets.digits_data(), presets_masked.digits_windows()),
        presets.digits_encoder(),
        presets.digits_optim(labels_only=0, average=None),
    )


def digits_irpe() -> Recipe[Settings]:
    """lomar:digits with relative positions, for semi_mae:digits_lomar --encoder.position irpe.  Here: not yet run."""
    recipe = digits()
    return replace(recipe, encoder=presets_masked.with_irpe(recipe.encoder))


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 400 epochs.  Paper: 84.1 % fine-tuned after its longest schedule.  Here: not yet run."""
    return Recipe(
        Settings(),  # LoMaR code
        presets_masked.with_mask(presets.mae_data(), presets_masked.lomar_mask()),  # LoMaR code: as MAE
        Encoder("vit_base_patch16_224", position="irpe"),  # LoMaR code
        presets.mae_optim(epochs=400, rise_epochs=20),  # LoMaR code
        presets.in1k_run(),
    )


def in1k_b16_absolute() -> Recipe[Settings]:
    """in1k_b16 with MAE's absolute positions in each window: cheaper, and starts MAE's fine-tuning.  Not yet run."""
    recipe = in1k_b16()
    return replace(recipe, encoder=replace(recipe.encoder, position="sincos"))
