"""SimMIM: put mask tokens for units of an image, encode all of it, predict linearly (Xie et al. 2022)."""

from dataclasses import dataclass
from typing import Literal, final

from models.config.recipe import Encoder, Optim, Recipe
from models.masked.settings import Reconstruct
from models.masked.simmim import SimMIMBranch
from models.methods.masked_pretraining import MaskedPretraining
from models.methods.presets import in1k, small
from models.methods.presets.masked import digits_units, simmim_mask, with_mask
from pipeline.spec import Data, View


@dataclass(frozen=True)
class Settings:
    """One loss: pixels."""

    target: Literal["pixel", "norm_pix"] = "pixel"
    """norm_pix: each patch is normalised by its own mean and spread, as in MAE."""
    error: Literal["absolute", "squared"] = "absolute"
    """How pixels are compared."""


@final
class SimMIM(MaskedPretraining):
    """L = mean absolute error over the hidden pixels."""

    def build_branch(self, recipe: Recipe[Settings]) -> SimMIMBranch:
        """Build SimMIM's linear decoder on the encoder."""
        settings = Reconstruct(target=recipe.method.target, error=recipe.method.error)
        return SimMIMBranch(self.encoder, settings, drop_path=True)


def digits() -> Recipe[Settings]:
    """Embedded digits, no labels: pre-training for semi_mae:digits_simmim --run.start.  Not yet run to its end."""
    return Recipe(
        Settings(),
        with_mask(small.digits_data(), digits_units()),
        small.digits_encoder(),
        small.digits_optim(labels_only=0, ema_decay=None),
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
            weak=View(filter="bicubic", scale=(0.67, 1.0)),  # SimMIM code
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
        in1k.run(),
    )
