"""LoMaR: hide patches in small windows, encode each window by itself, predict linearly (Chen et al. 2022)."""

from dataclasses import dataclass, replace
from typing import Literal, final

from models.config.recipe import Encoder, Recipe
from models.masked.lomar import LoMaRBranch
from models.masked.settings import Reconstruct
from models.methods.masked_pretraining import MaskedPretraining
from models.methods.presets import in1k, small
from models.methods.presets.masked import digits_windows, lomar_mask, with_irpe, with_mask


@dataclass(frozen=True)
class Settings:
    """One loss: pixels."""

    target: Literal["pixel", "norm_pix"] = "norm_pix"
    """norm_pix: each patch is normalised by its own mean and spread."""
    error: Literal["absolute", "squared"] = "squared"
    """How pixels are compared."""


@final
class LoMaR(MaskedPretraining):
    """L = mean squared error over the hidden patches of all windows."""

    def build_branch(self, recipe: Recipe[Settings]) -> LoMaRBranch:
        """Build LoMaR's linear decoder on the encoder."""
        settings = Reconstruct(target=recipe.method.target, error=recipe.method.error)
        return LoMaRBranch(self.encoder, settings, recipe.data.mask.window)


def digits() -> Recipe[Settings]:
    """Embedded digits, no labels: pre-training for semi_mae:digits_lomar --run.start.  Here: not yet run to its end."""
    return Recipe(
        Settings(target="pixel"),  # ours: most patches of a digit are flat, and normalised to noise
        with_mask(small.digits_data(), digits_windows()),
        small.digits_encoder(),
        small.digits_optim(labels_only=0, ema_decay=None),
    )


def digits_irpe() -> Recipe[Settings]:
    """lomar:digits with relative positions, for semi_mae:digits_lomar --encoder.position irpe.  Here: not yet run."""
    recipe = digits()
    return replace(recipe, encoder=with_irpe(recipe.encoder))


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 400 epochs.  Paper: 84.1 % fine-tuned after its longest schedule.  Here: not yet run."""
    return Recipe(
        Settings(),  # LoMaR code
        with_mask(in1k.mae_data(), lomar_mask()),  # LoMaR code: as MAE
        Encoder("vit_base_patch16_224", position="irpe"),  # LoMaR code
        in1k.mae_optim(epochs=400, warmup_epochs=20),  # LoMaR code
        in1k.run(),
    )


def in1k_b16_absolute() -> Recipe[Settings]:
    """in1k_b16 with MAE's absolute positions in each window: cheaper, and starts MAE's fine-tuning.  Not yet run."""
    recipe = in1k_b16()
    return replace(recipe, encoder=replace(recipe.encoder, position="sincos"))
