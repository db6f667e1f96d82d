"""Fine-tuning on labels from any checkpoint (--run.start): the whole encoder, or what --encoder.adapt says of it.

MAE's end-to-end and partial fine-tuning (He et al. 2022, appendix A.1, section 4.3), SupMAE's and SimMIM's settings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, final

from timm.layers import trunc_normal_
from torch import nn

from models.config.recipe import Encoder, Recipe
from models.config.sweep import along
from models.encoder.freeze import STARTS_FROM_NONE
from models.encoder.vit import FullImages, classify, encode
from models.losses import label_loss
from models.method import Loss, Method, StepInfo
from models.methods.balance import Balance, build_balance
from models.methods.presets import few as few_labels
from models.methods.presets import in1k, small
from models.methods.presets.finetune import in1k_data, in1k_encoder, in1k_optim
from models.pseudo_labels.mixup import batch_pairs, mixed
from pipeline.batch import Batch
from pipeline.flags import BELOW_1, NOT_NEGATIVE, POSITIVE
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """One loss, the cross-entropy of mixtures of labelled images; the values are MAE's (Table 9, code)."""

    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.8
    """Shares are drawn from Beta(mixup, mixup), one for a batch; 0: none."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 1.0
    """CutMix: shares from Beta(cutmix, cutmix), half of the time where there is mixup, too; 0: none."""
    head_std: Annotated[float | None, POSITIVE] = 2e-5
    """Spread of the classifier's initial weights, a truncated normal; as the encoder initialises them when absent."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""


@final
class Finetune(Method):
    """L = CE(p(mix(x)), mix(y)) over labelled images."""

    whole_images = True

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings = recipe.method
        self.balance = build_balance(self.settings.balance, classes, unlabelled=False)
        self.slow_below = recipe.optim.layer_decay is not None and recipe.encoder.adapt == "full"
        self.started = recipe.run.start is not None

    @classmethod
    def build(cls, recipe: Recipe[Settings], classes: int) -> nn.Module:
        """Build the recipe's network, its classifier with weights of `head_std`."""
        vit = super().build(recipe, classes)
        if recipe.method.head_std is not None:
            trunc_normal_(vit.head.weight, std=recipe.method.head_std)
        return vit

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images."""
        return Needs(labelled=True)

    def startup_note(self) -> str | None:
        """Warn where lower layers learn slower, and the encoder was not pre-trained."""
        return STARTS_FROM_NONE if self.slow_below and not self.started else None

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Cross-entropy of mixtures of the labelled images."""
        s = self.settings
        assert batch.labelled is not None
        images, labels = mixed(batch.labelled, self.encoder, batch_pairs, s.mixup, s.cutmix)
        (logits,) = classify(self.encoder, encode(self.encoder, [FullImages(images)]))
        label = label_loss(logits, labels, s.smoothing, self.balance)
        return Loss(label, {"label": label.detach()})


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64; --run.start runs/mae-digits."""
    return Recipe(
        Settings(smoothing=0.0, mixup=0.0, cutmix=0.0),  # ours: as supervised:digits
        small.digits_data(),
        replace(small.digits_encoder(), fc_norm=True),  # MAE code
        replace(small.digits_optim(labels_only=0), layer_decay=0.75),  # MAE Table 9
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps; --run.start runs/mae-cifar10.  Here: not yet run."""
    return Recipe(
        Settings(smoothing=0.0, mixup=0.0, cutmix=0.0),  # ours: as supervised:cifar10
        small.cifar10_data(),
        replace(small.cifar10_encoder(), position="learned", fc_norm=True),  # MAE code
        replace(small.cifar10_optim(labels_only=0), layer_decay=0.75),  # MAE Table 9
    )


def few() -> Recipe[Settings]:
    """Your photographs from --run.start, a foundation model, learning the labelled ones alone.  Here: not yet run."""
    return Recipe(
        Settings(mixup=0.0, cutmix=0.0),  # ours: as with the other small sets
        few_labels.data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=1000, warmup=100),
        few_labels.run(),
    )


def cifar10_few() -> Recipe[Settings]:
    """CIFAR-10, 40 labels, from --run.start, a ViT-S/14, at 70 pixels: minutes on one core."""
    return Recipe(
        Settings(mixup=0.0, cutmix=0.0),  # ours: as with the other small sets
        few_labels.cifar10_data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=100, warmup=10, ema_decay=0.95),
    )


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 100 epochs, from mae:in1k_b16.  MAE's code: 83.57 ± 0.08 %.  Here: not yet run."""
    return _in1k("vit_base_patch16_224", lr=5e-4, layer_decay=0.65, drop_path=0.1, epochs=100)  # FINETUNE.md


def in1k_b16_paper() -> Recipe[Settings]:
    """The same with the paper's rate and layer decay (Table 9).  Paper: 83.6 %.  Here: not yet run."""
    return _in1k("vit_base_patch16_224", lr=1e-3, layer_decay=0.75, drop_path=0.1, epochs=100)  # Table 9


def in1k_l16() -> Recipe[Settings]:
    """ImageNet, ViT-L/16, 50 epochs, from mae:in1k_l16.  MAE's code: 85.87 ± 0.07 %.  Here: not yet run."""
    return _in1k("vit_large_patch16_224", lr=1e-3, layer_decay=0.75, drop_path=0.2, epochs=50)  # FINETUNE.md


def in1k_l16_paper() -> Recipe[Settings]:
    """The same with the paper's drop path (Table 9).  Paper: 85.9 %.  Here: not yet run."""
    return _in1k("vit_large_patch16_224", lr=1e-3, layer_decay=0.75, drop_path=0.1, epochs=50)  # Table 9


def in1k_h14() -> Recipe[Settings]:
    """ImageNet, ViT-H/14, 50 epochs.  MAE's code: 86.9 %.  Here: not yet run."""
    return _in1k("vit_huge_patch14_224", 14, lr=1e-3, layer_decay=0.75, drop_path=0.3, epochs=50)  # FINETUNE.md


def in1k_h14_paper() -> Recipe[Settings]:
    """The same with the paper's drop path (Table 9).  Paper: 86.9 %.  Here: not yet run."""
    return _in1k("vit_huge_patch14_224", 14, lr=1e-3, layer_decay=0.75, drop_path=0.2, epochs=50)  # Table 9


def in1k_h14_448() -> Recipe[Settings]:
    """ImageNet at 448 pixels, ViT-H/14.  Paper: 87.8 %, with settings that it does not give.  Here: not yet run."""
    return replace(in1k_h14(), data=in1k_data(size=448))  # ours: as at 224


def supmae_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 100 epochs, from supmae:in1k_b16.  Paper: 83.6 %.  Here: not yet run."""
    return _in1k("vit_base_patch16_224", lr=1e-3, layer_decay=0.65, drop_path=0.1, epochs=100)  # SupMAE's FINETUNE.md


def lomar_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 100 epochs, from lomar:in1k_b16.  Paper: 84.1 % (1600 epochs).  Here: not yet run.

    Positions are LoMaR's relative ones alone, as it was pre-trained with.
    """
    base = _in1k("vit_base_patch16_224", lr=5e-4, layer_decay=0.65, drop_path=0.1, epochs=100)  # LoMaR's README
    return replace(base, encoder=replace(base.encoder, position="irpe"))  # LoMaR code


def simmim_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 100 epochs, from simmim:in1k_b16.  Paper: 83.8 %.  Here: not yet run."""
    base = _in1k("vit_base_patch16_224", lr=1.25e-3, layer_decay=0.65, drop_path=0.1, epochs=100)  # SimMIM code
    encoder = Encoder(
        base.encoder.name, position="block_bias", layer_scale=0.1, pool="avg", fc_norm=True, drop_path=0.1
    )  # SimMIM code
    return replace(
        base,
        data=replace(base.data, batch=2048),  # SimMIM code
        encoder=encoder,
        optim=replace(base.optim, lr_batch=512, warmup_epochs=20, clip=5.0, final_lr=2.5e-7),  # SimMIM code
    )


def inat17() -> Iterator[Recipe[Settings]]:
    """iNaturalist 2017: ViT-B, L, H, and H at 448 pixels (MAE Table 6).  Here: not yet run.

    Paper: 70.5, 75.7, 79.3, 83.4 %. It searches rate and epochs for each set (A.5) and does not give them; these are
    ImageNet's. The file: python -m pipeline.convert train2017.json data/inat17/train.beton, and val2017.json likewise.
    """
    return _transfer("inat17")


def inat18() -> Iterator[Recipe[Settings]]:
    """iNaturalist 2018, as inat17.  Paper: 75.4, 80.1, 83.0, 86.8 %.  Here: not yet run."""
    return _transfer("inat18")


def inat19() -> Iterator[Recipe[Settings]]:
    """iNaturalist 2019, as inat17.  Paper: 80.5, 83.4, 85.7, 88.3 %.  Here: not yet run."""
    return _transfer("inat19")


def places205() -> Iterator[Recipe[Settings]]:
    """Places205, as inat17.  Paper: 63.9, 65.8, 65.9, 66.8 %.  Here: not yet run.

    The file: python -m pipeline.convert LIST data/places205/train.beton, where LIST has a file and a number a line, and
    --image-folder says where the files are; Places365's likewise.
    """
    return _transfer("places205")


def places365() -> Iterator[Recipe[Settings]]:
    """Places365, as places205.  Paper: 57.9, 59.4, 59.8, 60.3 %.  Here: not yet run."""
    return _transfer("places365")


def digits_blocks() -> Iterator[Recipe[Settings]]:
    """Embedded digits: fine-tune the classifier, half a block, one, two, everything.  Here: not yet run."""
    return along(digits(), "encoder.adapt", ("head", "half", 1, 2, "full"))


def in1k_l16_blocks() -> Iterator[Recipe[Settings]]:
    """ImageNet, ViT-L/16: fine-tune the last blocks (MAE Figure 9).  Here: not yet run.

    Paper, of 800 epochs on plain pixels: 73.5, 79.1, 81.0, 83.1, 84.2, 84.4, 84.6, 84.7, 84.9 %. It takes the best of
    50, 100 and 200 epochs for each ("tuning fewer blocks requires a longer schedule"): --optim.epochs.
    """
    recipe = in1k_l16_paper()
    return along(recipe, "encoder.adapt", ("head", "half", 1, 2, 4, 6, 12, 18, "full"))  # Figure 9; half: section 4.3


def _transfer(name: str) -> Iterator[Recipe[Settings]]:
    """Yield MAE's fine-tunings of four encoders on another data set, with ImageNet's settings."""
    for recipe in (in1k_b16(), in1k_l16(), in1k_h14(), in1k_h14_448()):
        yield replace(recipe, data=replace(recipe.data, root=f"data/{name}"))


def _in1k(
    name: str, patch: int = 16, *, lr: float, layer_decay: float, drop_path: float, epochs: float
) -> Recipe[Settings]:
    """Build a recipe of MAE's fine-tuning."""
    return Recipe(
        Settings(),
        in1k_data(),
        in1k_encoder(name, drop_path, patch),
        in1k_optim(lr, layer_decay, epochs),
        in1k.run(),
    )
