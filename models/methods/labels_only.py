"""The step of a labels-only phase: methods that learn from unlabelled images, too, begin with it."""

from torch import Tensor, nn

from models.encoder.vit import FullImages, classify, encode
from models.losses import ClassBalance, label_loss
from models.method import Loss, touch_for_ddp


def labels_only(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    smoothing: float,
    balance: ClassBalance | None,
    unused: nn.Module | None = None,
) -> Loss:
    """Compute the label loss of one pass of labelled images alone.

    labels_only(self.encoder, labelled.images, labelled.labels, s.smoothing, self.balance, unused=self.branch)

    images  u8 [N, 3, H, W], or float of mixtures
    labels  i64 [N], or float [N, C]
    unused  what trains later and has no loss yet (models.method.touch_for_ddp)
    """
    (logits,) = classify(network, encode(network, [FullImages(images)]))
    label = label_loss(logits, labels, smoothing, balance)
    return Loss(label if unused is None else label + touch_for_ddp(unused), {"label": label.detach()})
