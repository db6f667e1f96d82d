"""Self-training offline: soft labels that other runs gave once, learned by strong views.

As V-PET does (Zhang et al. 2025, arXiv:2503.09707) after `python -m models.pseudo_label`: runs of other seeds, adapters
and backbones label the images together, and one network learns from all of them. No teacher runs while it trains.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

from models.config.recipe import Recipe
from models.encoder.vit import FullImages, classify, encode
from models.losses import label_loss
from models.method import Loss, Method, StepInfo
from models.methods.balance import Balance, build_balance
from models.methods.labels_only import labels_only
from models.methods.presets import few as few_labels
from models.methods.presets import small
from models.pseudo_labels.label_file import LabelFile, read_labels
from models.pseudo_labels.mixup import mixed, random_pairs
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.settings import Pseudo
from models.pseudo_labels.soft_labels import SoftLabels
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.flags import BELOW_1, NOT_NEGATIVE
from pipeline.labels.known import Labels
from pipeline.spec import Needs
from pipeline.store.beton import Beton
from pipeline.text import count


@dataclass(frozen=True)
class Settings:
    """Two losses: of labelled images by their labels, and of unlabelled ones by the soft labels of a file."""

    labels: str | None = None
    """The file of soft labels, which `python -m models.pseudo_label RUN... --out labels.json` wrote of the training
    images."""
    lambda_u: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the loss on soft labels."""
    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing of the labelled loss."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.0
    """Mixup of labelled images: shares are drawn from Beta(mixup, mixup); 0: none."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 0.0
    """CutMix of labelled images, for half of the pairs where there is mixup, too."""
    pseudo: Pseudo = field(default_factory=lambda: Pseudo(0.0, soft=True))
    """Which of the soft labels count, and whether as distributions or as their likeliest class; `teacher` has no use
    here."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""


@final
class SelfTrain(Method):
    """L = CE(p(x), y) over labelled images + lambda_u CE(p(strong u), q_u) over unlabelled ones, q_u from a file."""

    whole_images = True

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings, self.classes = recipe.method, classes
        if self.settings.pseudo.teacher != "self":
            raise InputError(
                f"method.pseudo.teacher is {self.settings.pseudo.teacher}, but the labels come from a file and no "
                "network gives any; leave it at self"
            )
        self.balance = build_balance(self.settings.balance, classes)
        self.pseudo = PseudoLabels(
            self.settings.pseudo, classes, self.encoder, self.settings.balance.of_unlabelled(self.balance)
        )
        self.soft_labels: SoftLabels | None = None
        self.label_file: LabelFile | None = None

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images; strong views of unlabelled ones, which come with their weak views."""
        return Needs(labelled=True, unlabelled=True, strong=True)

    def set_dataset_size(self, images: int, unlabelled: int) -> None:
        """Prepare uniform labels, which benchmarks keep, as they read no file."""
        super().set_dataset_size(images, unlabelled)
        self.soft_labels = SoftLabels.uniform(images, self.classes)

    def set_training_file(self, beton: Beton, known: Labels) -> dict[str, str]:
        """Read the soft labels of the training file; images whose label is known keep that one.

        Raises InputError if no file is named, or if it is missing, damaged, or of other images or classes.
        """
        if self.settings.labels is None:
            raise InputError(
                f"method.labels is None, expected the soft labels of {beton.path}; make them with `python -m models."
                f"pseudo_label RUN... --data {beton.path} --out labels.json`, and add --method.labels labels.json"
            )
        self.label_file, probabilities = read_labels(Path(self.settings.labels), beton)
        self.soft_labels = SoftLabels(probabilities)
        self.soft_labels.set_known(known)
        return {"method.labels": self.label_file.array_sha256}

    def pass_holds(self) -> str:
        """Labelled images, and strong views of unlabelled ones."""
        return "labelled images and strong views"

    def startup_note(self) -> str | None:
        """Return who gave the labels, and the note of the pseudo-labels."""
        found, note = self.label_file, self.pseudo.startup_note()
        if found is None:
            return note
        given = f"{self.settings.labels}: mean {found.average} of {count(len(found.runs), 'run')}"
        named = ", ".join(f"{run.path} (step {run.step:,})" for run in found.runs)
        return f"{given}, {named}" + (f"\n{note}" if note else "")

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Label loss and loss on soft labels of one packed pass; in the labels-only phase the first alone."""
        labelled, unlabelled, s = batch.labelled, batch.unlabelled, self.settings
        assert labelled is not None
        images, labels = mixed(labelled, self.encoder, random_pairs, s.mixup, s.cutmix)
        if info.labels_only:
            return labels_only(self.encoder, images, labels, s.smoothing, self.balance)

        assert unlabelled is not None
        if self.soft_labels is None:
            raise InputError("selftrain learns from a file; call set_training_file(beton, labels) before training")
        targets = self.pseudo(self.soft_labels.scores(unlabelled.ids), unlabelled)
        # rejected images would have a gradient of exactly zero, so targets.strong leaves them out of the encoder
        logits, strong = classify(self.encoder, encode(self.encoder, [FullImages(images), targets.strong]))
        label = label_loss(logits, labels, s.smoothing, self.balance)
        pseudo = self.pseudo.loss(strong, targets)
        self.pseudo.observe_labelled(logits, labelled.labels)
        return Loss(label + s.lambda_u * pseudo, {"label": label.detach(), "pseudo": pseudo.detach()}, targets.stats)


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, on soft labels of runs of supervised:digits.  Not yet run to its end.

    python -m models.pseudo_label RUN... --out labels.json, then --method.labels labels.json"""
    return Recipe(
        Settings(smoothing=0.0),  # ours
        small.digits_data(),
        small.digits_encoder(),
        small.digits_optim(labels_only=0),
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps, on soft labels of other runs.  Here: not yet run."""
    return Recipe(
        Settings(smoothing=0.0),  # as on digits
        small.cifar10_data(),
        small.cifar10_encoder(),
        small.cifar10_optim(labels_only=0),
    )


def few() -> Recipe[Settings]:
    """Your photographs from --run.start, a foundation model, and what other runs say of them.  Here: not yet run."""
    return Recipe(
        Settings(pseudo=few_labels.soft_labels()),
        few_labels.data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=1500, warmup=100),
        few_labels.run(),
    )


def cifar10_few() -> Recipe[Settings]:
    """CIFAR-10, 40 labels, from --run.start, a ViT-S/14, at 70 pixels: on what finetune:cifar10_few says."""
    return Recipe(
        Settings(pseudo=few_labels.soft_labels()),
        few_labels.cifar10_data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=200, warmup=10, ema_decay=0.95),
    )
