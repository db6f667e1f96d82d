"""Pseudo-labels: what a teacher thinks an unlabelled image shows, whether it is believed, and what that costs."""

from typing import NamedTuple, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.vit import FullImages, SelectedImages, normalisation_of
from models.losses import at_least_f32, pseudo_label_loss
from models.method import PseudoLabelStats
from models.pseudo_labels.alignment import Alignment
from models.pseudo_labels.mixup import confident_pairs, mix, mixed_targets
from models.pseudo_labels.settings import Pseudo
from models.pseudo_labels.thresholds.select import threshold
from pipeline.batch import Unlabelled
from pipeline.errors import InputError


class PseudoTargets(NamedTuple):
    """Pseudo-labels of N unlabelled images, ready to learn from.

    strong   the n strong views (or mixtures of them) to encode
    targets  i64 [n], or distributions float [n, C]
    weights  float [n]  0 for what is not believed
    shown    for the report
    """

    strong: FullImages | SelectedImages
    targets: Tensor
    weights: Tensor
    shown: PseudoLabelStats


@final
class PseudoLabels(nn.Module):
    """From the teacher's scores to the loss of the strong views; settings: models.pseudo_labels.settings.

    Raises InputError for settings that do not go together, and for those that ask to leave out images which count.
    """

    def __init__(self, settings: Pseudo, classes: int, network: VisionTransformer) -> None:
        super().__init__()
        check(settings)
        self.settings, self.classes = settings, classes
        self.normalisation = normalisation_of(network)
        self.threshold = threshold(settings, classes)
        self.alignment = None
        if settings.align != "none":
            self.alignment = Alignment(settings.align, classes, settings.momentum)
        self.why_whole = why_whole(settings, network, rejects=self.threshold.rejects)

    @torch.no_grad()
    def forward(self, scores: Tensor, unknown: Unlabelled) -> PseudoTargets:
        """What the teacher's scores (float [N, C]) of the weak views say of the strong ones.

        Counting those that passed is the step's one host sync: the shapes of what follows depend on it.
        """
        s, scores = self.settings, at_least_f32(scores)
        aligned = scores if self.alignment is None else self.alignment(scores)
        probabilities = aligned.softmax(-1)
        confidence, likely = probabilities.max(-1)
        weights = self.threshold.weigh(confidence, likely)
        self.threshold.observe(unknown.ids, probabilities)

        source = aligned if s.align_labels else scores
        classes = source.argmax(-1)
        targets = (source / s.temperature).softmax(-1) if s.soft else classes
        # what has half of the full weight counts as passed
        shown = PseudoLabelStats(unknown.ids, classes, weights >= 0.5)
        if s.mixup:
            return self._mixed(unknown.strong, confidence, weights, targets, shown)
        if self.why_whole:
            return PseudoTargets(FullImages(unknown.strong), targets, weights, shown)
        rows = weights.nonzero().squeeze(1)
        return PseudoTargets(SelectedImages(unknown.strong, rows), targets[rows], weights[rows], shown)

    def loss(self, logits: Tensor, pseudo: PseudoTargets) -> Tensor:
        """Cross-entropy of the strong views' logits (float [n, C]), over all N images (FixMatch eq. 4)."""
        n_all = len(pseudo.shown.ids)
        loss = pseudo_label_loss(logits, pseudo.targets, n_all, pseudo.weights, self.settings.smoothing)
        more = self.threshold.extra_loss(at_least_f32(logits), pseudo.weights)
        return loss if more is None else loss + more

    @torch.no_grad()
    def labelled(self, logits: Tensor, labels: Tensor) -> None:
        """Look at what the network made of labelled images (float [M, C], labels i64 [M]): some thresholds and
        alignments go by it.
        """
        probabilities = at_least_f32(logits.detach()).softmax(-1)
        self.threshold.observe_labelled(probabilities)
        if self.alignment is not None:
            self.alignment.observe_labelled(probabilities, labels)

    def startup_note(self) -> str | None:
        """What to say of it before a run, in a line, if anything."""
        if not self.why_whole or self.settings.drop_rejected == "off":
            return None
        return f"every strong view is encoded, rejected or not: {self.why_whole}"

    def _mixed(
        self, strong: Tensor, confidence: Tensor, weights: Tensor, targets: Tensor, shown: PseudoLabelStats
    ) -> PseudoTargets:
        """A mixture is as sure as the surer of its two (Semi-ViT): with one threshold it passes if one of them does."""
        pairs = confident_pairs(confidence)
        weights = torch.maximum(weights, weights[pairs.partners])
        rows = None if self.why_whole else weights.nonzero().squeeze(1)
        images, shares = mix(strong, pairs, rows, self.normalisation)
        targets = mixed_targets(targets, pairs, rows, shares, self.classes)
        return PseudoTargets(FullImages(images), targets, weights if rows is None else weights[rows], shown)


def check(s: Pseudo) -> None:
    """Raise InputError for a setting that would say nothing."""
    if s.fairness and s.kind != "freematch":
        raise InputError(f"pseudo.fairness is FreeMatch's, and pseudo.kind is {s.kind}; set one of the two")
    if s.temperature != 1 and not s.soft:
        raise InputError(
            f"pseudo.temperature {s.temperature:g} changes soft labels, and these are hard; add --method.pseudo.soft"
        )


def why_whole(s: Pseudo, network: nn.Module, *, rejects: bool) -> str | None:
    """Why every strong view is encoded; None where those of no weight are left out.

    Raises InputError if they shall be and may not.
    """
    if s.drop_rejected == "off":
        return "asked for"
    why = None if rejects else f"{s.kind} gives every image a weight"
    why = why or mixing(network)
    if why and s.drop_rejected == "on":
        raise InputError(f"{why}, so none can be left out exactly; set --method.pseudo.drop-rejected auto")
    return why


def mixing(network: nn.Module) -> str | None:
    """What lets an image's output depend on the images beside it: then leaving out some changes the rest."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return f"{name} is a {type(module).__name__}, which mixes the images of a batch"
    return None
