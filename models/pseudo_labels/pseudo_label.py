"""PseudoLabels: from a teacher's scores of weak views to targets, their weights, and the loss of strong views."""

from typing import NamedTuple, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.vit import FullImages, SelectedImages, normalisation_of
from models.losses import ClassBalance, at_least_f32, pseudo_label_loss
from models.method import PseudoLabelStats
from models.pseudo_labels.alignment import Alignment
from models.pseudo_labels.mixup import confident_pairs, mix, mixed_targets
from models.pseudo_labels.settings import Pseudo
from models.pseudo_labels.thresholds.build import build_threshold
from pipeline.batch import Unlabelled
from pipeline.errors import InputError


class PseudoTargets(NamedTuple):
    """Pseudo-labels of N unlabelled images, and the strong views that learn from them.

    strong   the n strong views (or mixtures of them) to encode
    targets  i64 [n], or distributions float [n, C]
    weights  float [n]  0 for a rejected pseudo-label
    stats    for the report
    """

    strong: FullImages | SelectedImages
    targets: Tensor
    weights: Tensor
    stats: PseudoLabelStats


@final
class PseudoLabels(nn.Module):
    """Pseudo-labels by the teacher's scores of weak views, and the loss of the strong views on them.

    pseudo = PseudoLabels(Pseudo(0.95), classes=10, network=encoder)
    targets = pseudo(eval_logits(teacher, unlabelled.weak), unlabelled)
    loss = pseudo.loss(logits_of_strong_views, targets)     # logits of targets.strong

    balance  terms of the classes in that loss

    Raises InputError for settings that do not go together, and for drop_rejected "on" where leaving images out would
    not be exact.
    """

    def __init__(
        self, settings: Pseudo, classes: int, network: VisionTransformer, balance: ClassBalance | None = None
    ) -> None:
        super().__init__()
        check(settings)
        self.settings, self.classes, self.balance = settings, classes, balance
        self.normalisation = normalisation_of(network)
        self.threshold = build_threshold(settings, classes)
        self.alignment = None
        if settings.align != "none":
            self.alignment = Alignment(settings.align, classes, settings.momentum)
        self.why_all_encoded = why_all_encoded(settings, network, rejects=self.threshold.rejects)

    @torch.no_grad()
    def forward(self, scores: Tensor, unlabelled: Unlabelled) -> PseudoTargets:
        """Make targets of the strong views from the teacher's scores (float [N, C]) of the weak ones.

        Counting the images that passed waits for the device, as the shapes of what follows depend on the number.
        """
        s, scores, strong = self.settings, at_least_f32(scores), unlabelled.strong
        assert strong is not None  # the method asks for it
        aligned = scores if self.alignment is None else self.alignment(scores)
        probabilities = aligned.softmax(-1)
        confidence, likely = probabilities.max(-1)
        weights = self.threshold.weigh(confidence, likely)
        self.threshold.observe(unlabelled.ids, probabilities)

        source = aligned if s.align_labels else scores
        classes = source.argmax(-1)
        targets = (source / s.temperature).softmax(-1) if s.soft else classes
        stats = PseudoLabelStats(unlabelled.ids, classes, weights >= 0.5)  # half of the full weight counts as passed
        if s.mixup:
            return self._mixed(strong, confidence, weights, targets, stats)
        if self.why_all_encoded:
            return PseudoTargets(FullImages(strong), targets, weights, stats)
        rows = weights.nonzero().squeeze(1)
        return PseudoTargets(SelectedImages(strong, rows), targets[rows], weights[rows], stats)

    def loss(self, logits: Tensor, pseudo: PseudoTargets) -> Tensor:
        """Compute the cross-entropy of the strong views' logits (float [n, C]), over all N images (FixMatch eq. 4)."""
        n_all = len(pseudo.stats.ids)
        loss = pseudo_label_loss(logits, pseudo.targets, n_all, pseudo.weights, self.settings.smoothing, self.balance)
        more = self.threshold.extra_loss(at_least_f32(logits), pseudo.weights)
        return loss if more is None else loss + more

    @torch.no_grad()
    def observe_labelled(self, logits: Tensor, labels: Tensor) -> None:
        """Take the logits of labelled images (float [M, C], labels i64 [M]) into the statistics of those thresholds and
        alignments that use them.
        """
        probabilities = at_least_f32(logits.detach()).softmax(-1)
        self.threshold.observe_labelled(probabilities)
        if self.alignment is not None:
            self.alignment.observe_labelled(probabilities, labels)

    def startup_note(self) -> str | None:
        """Return a line for the user where rejected strong views are encoded although no setting asks for it."""
        if not self.why_all_encoded or self.settings.drop_rejected == "off":
            return None
        return f"every strong view is encoded, rejected or not: {self.why_all_encoded}"

    def _mixed(
        self, strong: Tensor, confidence: Tensor, weights: Tensor, targets: Tensor, stats: PseudoLabelStats
    ) -> PseudoTargets:
        """Mix strong views; a mixture has the larger weight of its two images, so passes if one does (Semi-ViT)."""
        pairs = confident_pairs(confidence)
        weights = torch.maximum(weights, weights[pairs.partners])
        rows = None if self.why_all_encoded else weights.nonzero().squeeze(1)
        images, shares = mix(strong, pairs, rows, self.normalisation)
        targets = mixed_targets(targets, pairs, rows, shares, self.classes)
        return PseudoTargets(FullImages(images), targets, weights if rows is None else weights[rows], stats)


def check(s: Pseudo) -> None:
    """Raise InputError for a setting that would have no effect."""
    if s.fairness and s.kind != "freematch":
        raise InputError(f"pseudo.fairness is FreeMatch's, and pseudo.kind is {s.kind}; set one of the two")
    if s.temperature != 1 and not s.soft:
        raise InputError(
            f"pseudo.temperature {s.temperature:g} changes soft labels, and these are hard; add --method.pseudo.soft"
        )


def why_all_encoded(s: Pseudo, network: nn.Module, *, rejects: bool) -> str | None:
    """Return why every strong view is encoded; None where those of weight 0 are left out.

    Raises InputError if drop_rejected is "on" and they cannot be left out exactly.
    """
    if s.drop_rejected == "off":
        return "asked for"
    why = None if rejects else f"{s.kind} gives every image a weight"
    why = why or batch_coupling(network)
    if why and s.drop_rejected == "on":
        raise InputError(f"{why}, so none can be left out exactly; set --method.pseudo.drop-rejected auto")
    return why


def batch_coupling(network: nn.Module) -> str | None:
    """Name the module by which an image's output depends on the others of a batch, so that leaving some out changes it;
    None if there is none."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return f"{name} is a {type(module).__name__}, which mixes the images of a batch"
    return None
