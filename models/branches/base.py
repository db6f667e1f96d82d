"""What a masked branch is: which tokens it wants from the shared encoder, and its loss on what comes back."""

from abc import ABC, abstractmethod
from typing import ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.vit import Group


class Branch(nn.Module, ABC):
    """A masked-image objective: `group` goes into the packed step, `forward` is the loss of the tokens it gave.

    images   u8 [N, 3, S, S]
    visible  i64 [N, K]      ids of the patches that may be seen, ascending; [N, W, K] where W windows are cut
    hidden   i64 [N, W, M]   the other patches of each window; None where the mask is no window: simply the rest
    """

    masks: ClassVar[tuple[str, ...]] = ("random", "block", "grid", "unit")
    """Kinds of data.mask that it reads."""

    @abstractmethod
    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Group:
        """What the encoder is to see."""

    @abstractmethod
    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The loss [] of the tokens, float [n, k, C], that the encoder made of `group`."""

    def predict(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor | None:
        """Predicted pixels f32 [N, L - K, P] of the hidden patches, ascending, normalised as the encoder's input is;
        in the target's own scale where patches are normalised one by one. None: there is no picture of it."""
        return None
