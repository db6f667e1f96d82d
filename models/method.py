"""What a method is: one module whose forward is the whole objective of one step."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.config.catalogue import own_class
from models.config.recipe import Recipe
from models.ema import EMA
from models.encoder.vit import Size, build_encoder, eval_logits
from models.running_stats import RunningStats
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.spec import Needs

# irpe is LoMaR's, which starts as MAE does
WEIGHTS = {"sincos": "mae", "irpe": "mae", "bias": "beit", "block_bias": "beit"}


class StepInfo(NamedTuple):
    """Where in the run a step is."""

    step: int
    labels_only: bool


class PseudoLabelStats(NamedTuple):
    """Pseudo-labels of one step, for the report: ids, classes i64 [N], passed bool [N]: of at least half the weight."""

    ids: Tensor
    classes: Tensor
    passed: Tensor


class Loss(NamedTuple):
    """The scalar to descend, its parts by name (detached, on the device), and the pseudo-labels if any."""

    total: Tensor
    parts: dict[str, Tensor]
    pseudo_stats: PseudoLabelStats | None = None


class Method(nn.Module, ABC):
    """An objective and everything that it trains.

    encoder  a timm VisionTransformer, classifier included
    average  the moving average of the encoder, where the recipe keeps one
    """

    has_classifier: bool = True

    def __init__(self, recipe: Recipe, classes: int) -> None:
        super().__init__()
        self.encoder = self.build(recipe, classes)
        decay = recipe.optim.ema_decay
        self.ema = None if decay is None else EMA(self.encoder, decay, warmup=recipe.optim.ema_warmup)

    @staticmethod
    def build(recipe: Recipe, classes: int) -> nn.Module:
        """The encoder that a recipe describes; a method with an encoder that is no plain ViT overrides this."""
        return encoder(recipe, classes)

    @staticmethod
    @abstractmethod
    def needs(recipe: Recipe) -> Needs:
        """The parts of a batch that a recipe of this method reads."""

    @abstractmethod
    def forward(self, batch: Batch, now: StepInfo) -> Loss:
        """The objective of one (micro-)batch."""

    def logits(self, images: Tensor) -> Tensor:
        """Class scores [N, C] of u8 images [N, 3, S, S] by the weights to be judged."""
        return eval_logits(self.eval_encoder, images)

    def teacher(self, name: Literal["self", "ema"]) -> VisionTransformer:
        """Who gives pseudo-labels; raises InputError for an average that the recipe does not keep."""
        if name == "ema" and self.ema is None:
            raise InputError("teacher ema needs a moving average; set optim.ema_decay, such as 0.999")
        return self.encoder if name == "self" else self.ema.module

    def inactive_params(self, now: StepInfo) -> Iterable[nn.Parameter]:
        """Parameters that this moment's loss does not need: touched for DDP (see `touch_for_ddp`), but not to be updated.

        A zero gradient would let AdamW decay them and count steps for as long as the phase lasts.
        """
        return ()

    @property
    def eval_encoder(self) -> VisionTransformer:
        """The weights that are evaluated and exported: the average where there is one."""
        return self.encoder if self.ema is None else self.ema.module

    def startup_note(self) -> str | None:
        """What a user should know of this recipe before it runs, in a line."""
        return None

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        """Told once, before weights are loaded: images in the training file, and those of them that are unlabelled."""
        for part in self.running_stats():
            part.set_dataset_size(images, unlabelled)

    def after_step(self, step: int) -> None:
        """Called after the update of each step: the average moves here, and what remembers steps."""
        if self.ema is not None:
            self.ema.update(self.encoder, step)
        for part in self.running_stats():
            part.after_step()

    def running_stats(self) -> list[RunningStats]:
        """Those of the parts that remember something of each step."""
        return [part for part in self.modules() if isinstance(part, RunningStats)]


def encoder(recipe: Recipe, classes: int) -> VisionTransformer:
    """The encoder that a recipe describes, with the initial weights of those whose positions it has."""
    e = recipe.encoder
    return build_encoder(
        Size(e.width, e.depth, e.heads) if e.width else e.name,
        image_size=recipe.data.size,
        patch=e.patch,
        classes=classes,
        pool=e.pool,
        fc_norm=e.fc_norm,
        position=e.position,
        weights=WEIGHTS.get(e.position, "timm"),
        drop_path=e.drop_path,
        layer_scale=e.layer_scale,
        attention=e.attention,
        checkpointing=e.checkpointing,
    )


def touch_for_ddp(module: nn.Module) -> Tensor:
    """A zero that touches each parameter of a module, so that DDP sees a gradient where a step did not need it.

    Those that are sharded at the moment are left out: FSDP2 does not wait for them.
    """
    trained = (parameter for parameter in module.parameters() if parameter.requires_grad)
    touched = [parameter.flatten()[0] for parameter in trained if not isinstance(parameter, DTensor)]
    return 0.0 * torch.stack(touched).sum() if touched else torch.zeros(())


def method_class(recipe: Recipe) -> type[Method]:
    """The method whose settings a recipe holds: the one Method in the settings' own file."""
    return own_class(sys.modules[type(recipe.method).__module__], Method)
