"""What a masked branch is: which tokens it wants from the shared encoder, and its loss on what comes back."""

from abc import ABC, abstractmethod
from typing import ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.vit import Group, normalisation_of
from pipeline.errors import InputError


class Branch(nn.Module, ABC):
    """A masked-image objective: `group` goes into the packed step, `forward` is the loss of the tokens it gave.

    images   u8 [N, 3, S, S]
    visible  i64 [N, K]      ids of the patches that may be seen, ascending; [N, W, K] where W windows are cut
    hidden   i64 [N, W, M]   the other patches of each window; None where the mask is no window: simply the rest
    """

    masks: ClassVar[tuple[str, ...]] = ("random", "block", "grid", "unit")
    """Kinds of data.mask that it reads."""

    def __init__(self, encoder: VisionTransformer, *, keep_visible: bool = False) -> None:
        """keep_visible: more than the branch's own loss reads the visible tokens (SupMAE), so none may be left out."""
        super().__init__()
        if isinstance(encoder.norm, nn.Identity):
            raise InputError(
                "a masked branch reads normed tokens, and encoder.fc_norm norms none; drop --encoder.fc-norm"
            )
        self.patch, self.prefix = encoder.patch_embed.patch_size[0], encoder.num_prefix_tokens
        self.normalisation, self.keep_visible = normalisation_of(encoder), keep_visible

    @abstractmethod
    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Group:
        """What the encoder is to see."""

    @abstractmethod
    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The loss [] of the tokens, float [n, k, C], that the encoder made of `group`."""

    def visible_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Those of the patches that were seen, float [N, K, C] ([N, W · K, C] in windows); needs `keep_visible`."""
        return tokens[:, self.prefix :]

    def class_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """The class token of each image, float [N, C]; in windows the mean over them."""
        return tokens[:, 0]

    def predict(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor | None:
        """Predicted pixels f32 [N, L - K, P] of the hidden patches, ascending, normalised as the encoder's input is;
        in the target's own scale where patches are normalised one by one. None: there is no picture of it."""
        return None
