"""Method: one module whose forward is the whole objective of one step; Loss, StepInfo: what it returns and takes."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Literal, NamedTuple, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.config.recipe import Recipe
from models.ema import EMA
from models.encoder.build import encoder_of, network_of
from models.encoder.freeze import adapt
from models.encoder.timm_classifier import TimmClassifier, is_classifier, timm_file
from models.encoder.vit import eval_logits
from models.losses import ClassBalance
from models.masked.branch import Branch
from models.running_stats import RunningStats, share_statistics
from pipeline import rng
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.labels.known import Labels
from pipeline.spec import Needs
from pipeline.store.beton import Beton


class StepInfo(NamedTuple):
    """Where in the run a step is: its number from 0, and whether it belongs to the labels-only phase."""

    step: int
    labels_only: bool


class PseudoLabelStats(NamedTuple):
    """Pseudo-labels of one step, for the report: ids, classes i64 [N], passed bool [N], of at least half the weight."""

    ids: Tensor
    classes: Tensor
    passed: Tensor


class Loss(NamedTuple):
    """The scalar to descend, its parts by name (detached, on the device), and the pseudo-labels if there are any."""

    total: Tensor
    parts: dict[str, Tensor]
    pseudo_stats: PseudoLabelStats | None = None


class Method(nn.Module, ABC):
    """An objective and everything that it trains.

    method = method_class(recipe)(recipe, classes=10)
    method(batch, StepInfo(step=0, labels_only=False)).total.backward()

    encoder  a timm VisionTransformer, classifier included, or of a method that reads whole images a TimmClassifier;
             what encoder.adapt freezes of it requires no gradient
    ema      the moving average of the encoder, where the recipe keeps one
    branch   the masked branch, where the method has one
    balance  terms of the classes in its losses, where the recipe asks for them (models.methods.balance)
    """

    has_classifier: bool = True
    whole_images: bool = False
    """Whether the method reads whole images alone, so that any classifier of timm may be its network."""

    def __init__(self, recipe: Recipe, classes: int) -> None:
        super().__init__()
        check_network(recipe, type(self))
        self.encoder = self.build(recipe, classes)
        self._frozen = adapt(self.encoder, recipe.encoder)
        decay = recipe.optim.ema_decay
        self.ema = None if decay is None else EMA(self.encoder, decay, warmup=recipe.optim.ema_warmup)
        self.branch: Branch | None = None
        self.balance: ClassBalance | None = None
        self._raw = False

    @classmethod
    def build(cls, recipe: Recipe, classes: int) -> nn.Module:
        """Build the network of a recipe; a method whose encoder is of another kind overrides this."""
        return (network_of if cls.whole_images else encoder_of)(recipe, classes)

    @staticmethod
    @abstractmethod
    def needs(recipe: Recipe) -> Needs:
        """Return the parts of a batch that a recipe of this method reads."""

    @abstractmethod
    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Return the objective on one (micro-)batch."""

    def train(self, mode: bool = True) -> Self:
        """Put everything but frozen modules into training mode, so that these drop no paths."""
        super().train(mode)
        for part in self._frozen:
            part.training = False
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Compute class scores [N, C] of u8 images [N, 3, H, W] by the weights that are evaluated."""
        return eval_logits(self.eval_encoder, images)

    def teacher(self, name: Literal["self", "ema"]) -> VisionTransformer:
        """Return the encoder that labels. Raises InputError for an average that the recipe does not keep."""
        if name == "ema" and self.ema is None:
            raise InputError("teacher ema needs a moving average; set optim.ema_decay, such as 0.999")
        return self.encoder if name == "self" else self.ema.module

    def inactive_params(self, info: StepInfo) -> Iterable[nn.Parameter]:
        """Return the parameters that this step does not update: its loss does not depend on them.

        DDP still needs a gradient of each (`touch_for_ddp`). The loop drops it before the update, because AdamW would
        decay a parameter with a gradient of zero, and count the step.
        """
        return ()

    @property
    def eval_encoder(self) -> VisionTransformer:
        """The encoder whose weights are evaluated and exported: the average where there is one, except in
        `raw_weights` and after `evaluate_raw`."""
        return self.encoder if self.ema is None or self._raw else self.ema.module

    @contextmanager
    def raw_weights(self) -> Generator[None]:
        """Evaluate the weights themselves inside, not their average."""
        before, self._raw = self._raw, True
        try:
            yield
        finally:
            self._raw = before

    def evaluate_raw(self) -> None:
        """Evaluate and export the weights themselves from here on, not their average."""
        self._raw = True

    def startup_note(self) -> str | None:
        """Return a line about this recipe that a user should read before it runs, if there is one."""
        return None

    def pass_holds(self) -> str:
        """Name the images of a micro-batch that go through the network in one pass in training mode."""
        return "labelled images"

    def batch_norm_note(self) -> str | None:
        """Return a line about what batch norm sees, of a classifier of timm that has some."""
        if not isinstance(self.encoder, TimmClassifier) or not (norms := self.encoder.batch_norms()):
            return None
        average = "" if self.ema is None else ", and the average copies them"
        return (
            f"batch norm ({norms} in {self.encoder.name}) norms each pass by its own images on each rank, "
            f"{self.pass_holds()}; evaluation uses running statistics, the main rank's on every rank{average}"
        )

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        """Set how many images the training file has, and how many without a label; once, before weights are loaded."""
        for part in self.running_stats():
            part.set_dataset_size(images, unlabelled)

    def set_training_file(self, beton: Beton, known: Labels) -> dict[str, str]:
        """Read what the method keeps of each image of the training file, whose `known` labels may be seen; once, after
        `set_dataset_size`.

        method.set_training_file(train_data.beton, train_data.labels)  # {"method.labels": "9f0c..."}, of selftrain

        Returns the SHA-256 of each further file that is learned from, by the field that names it: a checkpoint keeps
        them, and a run is resumed on the same files only.
        """
        return {}

    def set_label_counts(self, counts: Tensor) -> None:
        """Set how many labels of each class are known, i64 [C]; once, before training, beside `set_dataset_size`."""
        if self.balance is not None:
            self.balance.set_label_counts(counts)

    def after_step(self, step: int) -> None:
        """Update the average and the running statistics after the optimiser's update of `step`."""
        if isinstance(self.encoder, TimmClassifier):
            share_statistics(self.encoder)
        if self.ema is not None:
            self.ema.update(self.encoder, step)
        for part in self.running_stats():
            part.after_step()

    def running_stats(self) -> list[RunningStats]:
        """Return the modules that keep running statistics."""
        return [part for part in self.modules() if isinstance(part, RunningStats)]


def check_network(recipe: Recipe, method: type[Method]) -> None:
    """Raise InputError if a recipe names a classifier of timm for a method that reads patches."""
    name = recipe.encoder.name
    if method.whole_images or not is_classifier(name):
        return
    assert name is not None
    raise InputError(
        f"{recipe.name or method.__name__} reads patches of a ViT, and {name} is none: it is built by timm.models."
        f"{timm_file(name)}; name a ViT, or train {name} by a method that reads whole images, such as supervised, "
        "fixmatch or uda"
    )


def seed_step(seed: int, step: int, chunk: int) -> None:
    """Seed torch's generator, for drop-path and dropout, by step and micro-batch, so that a resumed run is exact."""
    torch.manual_seed(int(rng.keys(seed, step, chunk, rng.TORCH)[0]) >> 1)


def touch_for_ddp(module: nn.Module) -> Tensor:
    """Return a zero that depends on each parameter of a module, so that DDP gets a gradient of parameters that a step
    does not need.

    Parameters that are sharded at the moment are left out, as FSDP2 does not wait for their gradients.
    """
    trained = (parameter for parameter in module.parameters() if parameter.requires_grad)
    touched = [parameter.flatten()[0] for parameter in trained if not isinstance(parameter, DTensor)]
    return 0.0 * torch.stack(touched).sum() if touched else torch.zeros(())
