"""SupMAE: MAE on labelled images, with a classifier on the visible tokens (Liang et al. 2022)."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast, final

import torch
from torch import Tensor

from models.config.recipe import Encoder, Recipe
from models.encoder.heads import mlp_head
from models.encoder.vit import FullImages, VisiblePatches, encode, evaluating
from models.losses import label_loss
from models.masked.branch import Branch
from models.masked.build import Kind, build_branch
from models.masked.settings import Reconstruct
from models.method import Loss, Method, StepInfo
from models.methods import simmim
from models.methods.presets import in1k, small
from models.methods.presets.masked import digits_units, with_mask
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, NOT_NEGATIVE, POSITIVE
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Two losses, of pixels and of classes, from the same visible tokens."""

    objective: Literal["both", "rec", "cls"] = "both"
    """Pixels and classes, pixels alone (no classifier is built), or classes alone (no decoder is) (Table 2a)."""
    class_weight: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the classification loss (Table 2d)."""
    temperature: Annotated[float, POSITIVE] = 10.0
    """Divisor of the logits before the cross-entropy: in the authors' code, not in the paper; the weight above goes
    with it."""
    pool: Literal["avg", "token"] = "avg"
    """Input of the head: the mean of the visible patches, or the class token (Table 2b)."""
    layers: Annotated[int, AT_LEAST_1] = 2
    """Layers of the head (Table 2f)."""
    hidden: Annotated[int | None, AT_LEAST_1] = None
    """Width between them; four times the encoder's when absent (3072 for ViT-B)."""
    unlabelled: bool = False
    """Reconstruct unlabelled images, too, `data.ratio` for each labelled one, as the authors' code does by a label of
    -100, which the cross-entropy ignores. Pixels: mean over the images of both kinds. Classes: over the labelled."""
    branch: Kind = "mae"
    """The masked branch: MAE, SimMIM, or LoMaR's windows (which need data.mask.kind window)."""
    reconstruct: Reconstruct = field(default_factory=lambda: Reconstruct(depth=1, target="norm_pix"))
    """The decoder: one block (Table 2e), normalised pixels."""


@final
class SupMAE(Method):
    """L = L_rec + class_weight CE(logits / temperature, y) (section 3), or one of the two terms.

    With unlabelled images the head still runs on all of them, as in the authors' code, so that the statistics of its
    batch norm are those of all images.
    """

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        check(recipe)
        super().__init__(recipe, classes=0)  # without timm's head; `head` is dropped after pre-training
        self.settings = s = recipe.method
        self.has_classifier = s.objective != "rec"
        if s.pool == "token" and self.encoder.cls_token is None:
            raise InputError("method.pool is token, and the encoder has no class token; set --method.pool avg")
        self.head = None
        if s.objective != "cls":
            mask, read = recipe.data.mask, self.has_classifier and s.pool == "avg"
            self.branch = build_branch(s.branch, self.encoder, s.reconstruct, mask, keep_visible=read, drop_path=True)
        if self.has_classifier:
            self.head = mlp_head(self.encoder.embed_dim, classes, layers=s.layers, hidden=s.hidden)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images and their visible patches; where asked, those of unlabelled images, too."""
        more = recipe.method.unlabelled
        return Needs(labelled=True, labelled_visible=True, unlabelled=more, unlabelled_visible=more)

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Reconstruction and classification loss, or one of the two, from one pass over the visible patches."""
        s, branch = self.settings, self.branch
        assert batch.labelled is not None
        images, visible, hidden = joined(batch.labelled, batch.unlabelled if s.unlabelled else None)
        group = VisiblePatches(images, visible) if branch is None else branch.group(images, visible, hidden)
        (tokens,) = encode(self.encoder, [group])
        parts: dict[str, Tensor] = {}
        total = cast(Any, 0.0)  # without a branch the head's loss is added to it
        if branch is not None:
            total = parts[branch.target.name] = branch(tokens, images, visible, hidden)
        if self.head is not None:
            logits = self.head(self.pooled(tokens, visible)) / s.temperature
            parts["label"] = label_loss(logits[: len(batch.labelled.labels)], batch.labelled.labels)
            total = total + s.class_weight * parts["label"]
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def pooled(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Pool the tokens of the branch's group for the head: [N, C]."""
        if self.branch is None:
            return self.pooled_without_branch(tokens)
        if self.settings.pool == "token":
            return self.branch.class_tokens(tokens, visible)
        return self.branch.visible_tokens(tokens, visible).mean(1)

    def pooled_without_branch(self, tokens: Tensor) -> Tensor:
        """Pool prefix tokens and patches [N, P + K, C] -> [N, C]."""
        return tokens[:, 0] if self.settings.pool == "token" else tokens[:, self.encoder.num_prefix_tokens :].mean(1)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Compute class scores, divided as in the loss, from every patch; the head was trained on visible ones."""
        with evaluating(self):
            (tokens,) = encode(self.eval_encoder, [FullImages(images, pooled=False)])
            return self.head(self.pooled_without_branch(tokens)) / self.settings.temperature


def check(recipe: Recipe[Settings]) -> None:
    """Raise InputError for settings that do not go together."""
    s = recipe.method
    if recipe.optim.ema_decay is not None:
        raise InputError("supmae keeps no average: its head would not be in it; set --optim.ema-decay None")
    if s.objective == "cls" and (s.branch != "mae" or recipe.data.mask.kind not in Branch.masks):
        raise InputError(
            f"objective cls has no branch and reads plain visible patches, got branch {s.branch} and mask "
            f"{recipe.data.mask.kind}; set --method.branch mae --data.mask.kind random"
        )
    if s.objective == "cls" and s.unlabelled:
        raise InputError("objective cls learns nothing from unlabelled images; set --method.no-unlabelled")


def joined(labelled: Labelled, unlabelled: Unlabelled | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Join images, visible and hidden ids of both kinds, the labelled ones first."""
    visible, hidden = labelled.visible, labelled.hidden
    assert visible is not None  # the method asks for it, of both kinds
    if unlabelled is None:
        return labelled.images, visible, hidden
    assert unlabelled.visible is not None
    if hidden is not None:
        assert unlabelled.hidden is not None
        hidden = torch.cat([hidden, unlabelled.hidden])
    return torch.cat([labelled.images, unlabelled.weak]), torch.cat([visible, unlabelled.visible]), hidden


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: pre-training on the labelled images alone."""
    return Recipe(
        Settings(class_weight=1.0, temperature=1.0, reconstruct=small.digits_decoder()),  # ours
        small.digits_data(labelled_view="weak"),
        small.digits_encoder(),
        small.digits_optim(labels_only=0, ema_decay=None),
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: pre-training on the labelled images alone."""
    return Recipe(
        Settings(class_weight=1.0, temperature=1.0, reconstruct=small.cifar10_decoder()),  # as on digits
        small.cifar10_data(),
        small.cifar10_encoder(),
        small.cifar10_optim(labels_only=0, ema_decay=None),
    )


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, every label, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(reconstruct=small.cifar10_tiny_decoder()),  # weight and temperature: Table 2d, code
        small.cifar10_tiny_data(split=None),
        small.cifar10_tiny_encoder(),
        small.cifar10_tiny_optim(labels_only=0, ema_decay=None),
    )


def digits_unlabelled() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, and the pixels of every image.  Here: not yet run."""
    recipe = digits()
    return replace(recipe, method=replace(recipe.method, unlabelled=True))


def digits_simmim() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, with SimMIM's branch: a linear decoder.  Here: not yet run."""
    recipe = digits()
    data = with_mask(recipe.data, digits_units())
    return replace(recipe, method=replace(recipe.method, branch="simmim"), data=data)


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 400 epochs, 1-block decoder.  Paper: 83.6 % fine-tuned (Table 1).  Here: not yet run."""
    return Recipe(
        Settings(),  # Tables 2b, 2d, 2e, 2f; temperature: the authors' code
        in1k.mae_data(labelled_view="weak"),
        Encoder("vit_base_patch16_224", position="sincos"),  # as MAE
        in1k.mae_optim(epochs=400, warmup_epochs=20, epoch_unit="labelled"),  # authors' code
        in1k.run(),
    )


def in1k_b16_simmim() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, SimMIM with a classifier on its visible tokens.  Paper: 82.8 to 83.0 %.  Here: not yet run.

    SimMIM's recipe with this paper's head; the poster, which has the figures, gives neither epochs nor the encoder.
    """
    base = simmim.in1k_b16()
    return Recipe(
        Settings(branch="simmim", reconstruct=Reconstruct()),
        replace(base.data, labelled_view="weak"),
        base.encoder,
        replace(base.optim, epoch_unit="labelled"),
        base.run,
    )


def in1k_10pct_b16() -> Recipe[Settings]:
    """ImageNet with a tenth of its labels, ViT-B/16, 400 epochs, pixels of every image; ours.  Here: not yet run."""
    data = in1k.mae_data(labelled_view="weak")
    return Recipe(
        Settings(unlabelled=True),
        replace(data, split="0.10", ratio=7),  # as semi_mae:in1k_10pct
        Encoder("vit_base_patch16_224", position="sincos"),
        in1k.mae_optim(epochs=400, warmup_epochs=20),  # in1k_b16, in passes of all images
        in1k.run(),
    )
