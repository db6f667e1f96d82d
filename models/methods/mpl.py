"""Meta Pseudo Labels (Pham et al. 2021): a teacher labels images for a student, and is rewarded where a step on its
labels lowers the student's loss on labelled images.

Two networks of one kind learn at once (Algorithm 1). The student learns from the teacher's labels alone, drawn from its
probabilities of strong views. The teacher learns from labels, by UDA's loss, and by

    h = eta (grad of CE(y, S(x)) at the student after its step)ᵀ (grad of CE(drawn label, S(u)) before it),

times the gradient of the cross-entropy of its own drawn labels. h is measured on a trial step of plain gradient descent
of rate eta, as the algorithm has it; the student's real step is the optimiser's. Deviations from the authors' code: it
takes a difference of two losses for h, subtracts a running mean of it, and lets soft labels teach the student. The
paper's last stage, in which the student is fine-tuned on the labels, is finetune with --run.start.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.config.recipe import Encoder, Recipe
from models.encoder.vit import FullImages, classify, encode
from models.losses import at_least_f32, label_loss
from models.method import Loss, Method, StepInfo
from models.methods import uda
from models.methods.balance import Balance, build_balance
from models.methods.labels_only import labels_only
from models.methods.presets import small
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.settings import UDA, Pseudo
from pipeline.batch import Batch
from pipeline.errors import InputError
from pipeline.flags import BELOW_1, NOT_NEGATIVE, POSITIVE
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Losses of two networks: the student's on drawn labels; the teacher's on labels, by UDA, and on its reward."""

    lambda_u: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of UDA's loss of the teacher. Ours."""
    eta: Annotated[float, POSITIVE] = 0.1
    """Rate of the student's trial step, by which its teacher is rewarded. Ours."""
    smoothing: Annotated[float, BELOW_1] = 0.0
    """Label smoothing of the teacher's labelled loss and of the student's loss."""
    pseudo: Pseudo = field(default_factory=lambda: UDA)
    """Labels of UDA's loss; the teacher gives them to itself."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels, in the teacher's labelled loss."""


class Feedback(NamedTuple):
    """A student's gradient, in the order of its parameters, and the teacher's reward h, a scalar without gradient."""

    gradient: tuple[Tensor, ...]
    reward: Tensor


@final
class MPL(Method):
    """Student: CE(drawn label, S(strong u)). Teacher: CE(y, T(x)) + lambda_u L_UDA + h CE(drawn label, T(strong u))."""

    whole_images = True

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        check(recipe)
        self.settings = s = recipe.method
        self.guide = self.build(recipe, classes)  # the teacher; the encoder, which is evaluated, is the student
        self.balance = build_balance(s.balance, classes)
        # the teacher scores every strong view in any case, to draw its labels
        every = replace(s.pseudo, drop_rejected="off")
        self.pseudo = PseudoLabels(every, classes, self.guide, s.balance.of_unlabelled(self.balance))

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images; weak and strong views of unlabelled ones."""
        return Needs(labelled=True, unlabelled=True, strong=True)

    def startup_note(self) -> str:
        """Say what is evaluated, and of which images the reward is."""
        return (
            "a second network of the same kind labels; the student, which sees no label itself, is evaluated; each "
            "micro-batch on each rank is rewarded by its own images"
        )

    def pass_holds(self) -> str:
        """All views in the teacher, labelled images and strong views in the student."""
        return "labelled images, weak and strong views in the teacher, strong views in the student"

    def inactive_params(self, info: StepInfo) -> Iterable[nn.Parameter]:
        """Return the student's parameters in the labels-only phase, in which the teacher learns alone."""
        return self.encoder.parameters() if info.labels_only else ()

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Losses of both networks; in the labels-only phase the teacher's on labels alone."""
        labelled, unlabelled, s = batch.labelled, batch.unlabelled, self.settings
        assert labelled is not None
        images, labels = labelled.images, labelled.labels
        if info.labels_only:
            return labels_only(self.guide, images, labels, s.smoothing, self.balance, self.encoder)

        assert unlabelled is not None
        assert unlabelled.strong is not None
        views = [FullImages(images), FullImages(unlabelled.weak), FullImages(unlabelled.strong)]
        logits, weak, strong = classify(self.guide, encode(self.guide, views))
        targets = self.pseudo(weak.detach(), unlabelled)
        label = label_loss(logits, labels, s.smoothing, self.balance)
        pseudo = self.pseudo.loss(strong, targets)
        drawn = torch.multinomial(at_least_f32(strong.detach()).softmax(-1), 1).squeeze(1)
        (taught,) = classify(self.encoder, encode(self.encoder, [FullImages(unlabelled.strong)]))
        student = label_loss(taught, drawn, s.smoothing)
        feedback = self.feedback(student, images, labels)
        reward = feedback.reward * F.cross_entropy(at_least_f32(strong), drawn)
        teacher = label + s.lambda_u * pseudo + reward
        # backward was through the student's loss once, for h; this is that loss again, with its gradient at hand
        total = teacher + with_gradient(student.detach(), self.trained(), feedback.gradient)
        parts = {"label": label, "pseudo": pseudo, "student": student, "reward": feedback.reward}
        return Loss(total, {name: part.detach() for name, part in parts.items()}, targets.stats)

    def trained(self) -> dict[str, nn.Parameter]:
        """The student's parameters that train, by name."""
        return {name: each for name, each in self.encoder.named_parameters() if each.requires_grad}

    def feedback(self, student: Tensor, images: Tensor, labels: Tensor) -> Feedback:
        """Take a trial step down the student's loss, and compare its gradient with that of the labelled loss after it.

        Running statistics are left as they were.
        """
        trained = self.trained()
        gradient = torch.autograd.grad(student, list(trained.values()))
        moved = {
            name: (each.detach() - self.settings.eta * slope).requires_grad_()
            for (name, each), slope in zip(trained.items(), gradient, strict=True)
        }
        held = {name: each.clone() for name, each in self.encoder.named_buffers()}
        with torch.enable_grad():
            scores = functional_call(
                Scorer(self.encoder), {f"network.{name}": each for name, each in (moved | held).items()}, (images,)
            )
            after = torch.autograd.grad(label_loss(scores, labels), list(moved.values()))
        products = [(one * other).sum() for one, other in zip(after, gradient, strict=True)]
        return Feedback(gradient, self.settings.eta * torch.stack(products).sum())


@final
class Scorer(nn.Module):
    """Class scores of whole images, as a module, which functional_call asks for: Scorer(network)(images)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return classify(self.network, encode(self.network, [FullImages(images)]))[0]


def with_gradient(value: Tensor, parameters: dict[str, nn.Parameter], gradient: Iterable[Tensor]) -> Tensor:
    """Return `value` as a function of the parameters that has the given gradient."""
    products = [(each * slope).sum() for each, slope in zip(parameters.values(), gradient, strict=True)]
    linear = torch.stack(products).sum()
    return value + (linear - linear.detach())


def check(recipe: Recipe[Settings]) -> None:
    """Raise InputError for settings that two networks, or a trial step, cannot have."""
    s, encoder = recipe.method, recipe.encoder
    if s.pseudo.teacher != "self" or s.pseudo.mixup:
        came = "mixup" if s.pseudo.mixup else f"teacher {s.pseudo.teacher}"
        raise InputError(f"method.pseudo has {came}, and mpl's teacher labels for itself, unmixed; leave it out")
    if encoder.adapt != "full" or recipe.optim.layer_decay is not None or recipe.run.start is not None:
        raise InputError(
            "mpl trains two new networks from nothing, all of both at one rate; leave out --run.start, --encoder.adapt "
            "and --optim.layer-decay"
        )
    if encoder.checkpointing or recipe.run.shard:
        raise InputError(
            "mpl's trial step needs the student's activations and whole weights at once; leave out "
            "--encoder.checkpointing and --run.shard"
        )


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64, UDA's labels of uda:digits.  Here: not yet run to its end."""
    return Recipe(Settings(), small.digits_data(), small.digits_encoder(), small.digits_optim())


def digits_resnet() -> Recipe[Settings]:
    """mpl:digits on small ResNets of timm.  Here: not yet run to its end."""
    return replace(digits(), encoder=small.resnet_encoder())


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps, UDA's labels of uda:cifar10.  Here: not yet run."""
    return Recipe(Settings(), small.cifar10_data(), small.cifar10_encoder(), small.cifar10_optim())


def cifar10_resnet() -> Recipe[Settings]:
    """mpl:cifar10 on small ResNets of timm.  Here: not yet run."""
    return replace(cifar10(), encoder=small.resnet_encoder())


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S, with the views and schedule of uda:in1k_10pct.  Here: not yet run."""
    plain = uda.in1k_10pct()
    settings = Settings(plain.method.lambda_u, smoothing=plain.method.smoothing, pseudo=plain.method.pseudo)
    return Recipe(settings, plain.data, plain.encoder, plain.optim, plain.run)


def in1k_10pct_r50() -> Recipe[Settings]:
    """mpl:in1k_10pct on ResNet-50s.  Paper: 73.9 % top-1 (Semi-MAE Table 1, too).  Here: not yet run."""
    return replace(in1k_10pct(), encoder=Encoder("resnet50"))
