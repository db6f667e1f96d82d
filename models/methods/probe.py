"""Linear probing: train a linear classifier on a frozen encoder's features (He et al. 2022, section A.1).

python train.py probe:digits --run.start runs/mae-digits
"""

from dataclasses import dataclass, replace
from typing import Annotated, Self, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.config.recipe import Encoder, Optim, Recipe
from models.encoder.heads import probe_head
from models.encoder.vit import FullImages, encode
from models.losses import label_loss
from models.method import Loss, Method, StepInfo
from models.methods.presets import in1k, small
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1
from pipeline.spec import Data, Needs, View


@dataclass(frozen=True)
class Settings:
    """Which features are read; `encoder.pool` chooses between the class token and the mean of the patches."""

    block: Annotated[int | None, AT_LEAST_1] = None
    """Read the output of this block, counted from 1, without the final norm (SimMIM's probe: the 8th of 12); that of
    the last block, normed, when absent."""


@final
class Probe(Method):
    """L = CE(linear(norm(features)), y): batch norm without weights, and a linear layer, which alone is trained.

    The encoder is in eval mode, bitwise frozen, and runs without a graph. Its timm head holds norm and linear layer, so
    that evaluation, prediction and export use a ViT; models.encoder.heads.folded makes one layer of the two.

    Each rank norms a micro-batch by the statistics of that micro-batch and keeps running ones by itself, as in MAE's
    code; the main rank's are evaluated and saved, and a resumed run continues from them.
    """

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        """Raises InputError for another encoder.adapt than full: a probe leaves the encoder as it is."""
        if recipe.encoder.adapt != "full":
            raise InputError(
                f"encoder.adapt is {recipe.encoder.adapt}, and a probe trains the classifier alone, on features that "
                "have no gradient; leave --encoder.adapt out, or train a finetune recipe"
            )
        super().__init__(recipe, classes)
        self.start = recipe.run.start
        self.encoder.requires_grad_(False).head.requires_grad_(True)

    @classmethod
    def build(cls, recipe: Recipe[Settings], classes: int) -> VisionTransformer:
        """Build the recipe's encoder up to the block that is read, with a probe's head."""
        vit, block = Method.build(recipe, classes), recipe.method.block
        if block is not None:
            if block > len(vit.blocks):
                raise InputError(f"method.block is {block}, the encoder has {len(vit.blocks)}; lower it")
            vit.blocks, vit.norm = vit.blocks[:block], nn.Identity()
        vit.head = probe_head(vit.num_features, classes)
        return vit

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images."""
        return Needs(labelled=True)

    def train(self, mode: bool = True) -> Self:
        """Put the head alone into training mode; the encoder stays in eval mode, where no path is dropped."""
        super().train(mode)
        self.encoder.eval().head.train(mode)
        return self

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Cross-entropy of the labelled images."""
        assert batch.labelled is not None
        label = label_loss(self.encoder.head(self.features(batch.labelled.images)), batch.labelled.labels)
        return Loss(label, {"label": label.detach()})

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Compute the features [N, C] that the head reads."""
        (tokens,) = encode(self.encoder, [FullImages(images)])
        return self.encoder.fc_norm(self.encoder.pool(tokens))

    def startup_note(self) -> str | None:
        """Warn where the encoder was not pre-trained."""
        return None if self.start else "nothing was pre-trained: run.start is absent, so random features are probed"


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, on the features of mae:digits.  Here: 75 % test after 900 of its steps."""
    return Recipe(Settings(), small.digits_data(labelled_view="weak"), small.digits_encoder(), small_optim(steps=300))


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, on the features of mae:cifar10 (--run.start).  Here: not yet run."""
    return Recipe(Settings(), small.cifar10_data(), small.cifar10_encoder(), small_optim(steps=1000))


def small_optim(steps: int) -> Optim:
    """LARS at batches of 128. Ours: on digits val ends at 67 % with a rate of 5, at 71 % with 20, at 70 % with SGD."""
    return Optim(kind="lars", lr=20.0, epochs=steps, warmup_epochs=steps / 10, epoch_unit="step", weight_decay=0.0)


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, class token, 90 epochs, LARS.  MAE's repository: 67.8 % (1600 epochs).  Here: not yet run."""
    return Recipe(Settings(), in1k_data(), Encoder("vit_base_patch16_224", position="sincos"), lars(90), in1k.run())


def in1k_l16() -> Recipe[Settings]:
    """ImageNet, ViT-L/16, class token, 50 epochs, LARS.  MAE's repository: 76.0 % (1600 epochs).  Here: not yet run."""
    return replace(in1k_b16(), encoder=Encoder("vit_large_patch16_224", position="sincos"), optim=lars(50))


def in1k_h14() -> Recipe[Settings]:
    """ImageNet, ViT-H/14, class token, 50 epochs, LARS.  MAE's repository: 77.2 % (1600 epochs).  Here: not yet run."""
    encoder = Encoder("vit_huge_patch14_224", patch=14, position="sincos")
    return replace(in1k_b16(), encoder=encoder, optim=lars(50))


def in1k_b16_supmae() -> Recipe[Settings]:
    """in1k_b16 at SupMAE's batch of 8,192.  Paper: 70.1 % (Table 2: 200 epochs, decoder of 8).  Here: not yet run."""
    recipe = in1k_b16()  # on the class token, as SupMAE's code
    return replace(recipe, data=replace(recipe.data, batch=8192))  # SupMAE's code


def in1k_b16_sgd() -> Recipe[Settings]:
    """in1k_b16 by SGD at a batch of 4,096, which "works similarly" (MAE Table 10).  Here: not yet run."""
    recipe = in1k_b16()
    return replace(
        recipe,
        data=replace(recipe.data, batch=4096),  # Table 10
        optim=replace(recipe.optim, kind="sgd"),  # ours: the paper gives no rate, momentum or decay for it
    )


def in1k_b16_simmim() -> Recipe[Settings]:
    """ImageNet, ViT-B/16 of SimMIM, mean of the 8th block's patches; otherwise MAE's probe.  Here: not yet run."""
    encoder = Encoder("vit_base_patch16_224", position="bias", layer_scale=0.1, pool="avg")  # simmim:in1k_b16
    return replace(in1k_b16(), method=Settings(block=8), encoder=encoder)  # SimMIM's authors: block and mean


def in1k_data() -> Data:
    """ImageNet with every label as MAE probes it (Table 10), except for the crops: MAE's are bicubic and drawn once, as
    TensorFlow's are; these are by area and drawn again where they do not fit, as torchvision's are."""
    view = View(filter="bicubic", scale=(0.08, 1.0))  # MAE code
    return Data(root="data/in1k", batch=16384, labelled_view="weak", weak=view)


def lars(epochs: float) -> Optim:
    """MAE Table 10: LARS, no decay, half a cosine to 0."""
    return Optim(
        kind="lars",
        lr=0.1,
        lr_batch=256,
        final_lr=0.0,
        epochs=epochs,  # Table 10: 90; MAE code: 50 for L and H
        warmup_epochs=10,
        epoch_unit="labelled",
        weight_decay=0.0,
        momentum=0.9,
        trust=0.001,  # MAE code
    )
