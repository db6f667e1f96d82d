"""Branch: a masked-image objective on an encoder; PackedBranch: one whose tokens come from a packed step."""

from abc import ABC, abstractmethod
from math import prod
from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import grid_of, hidden_from_visible
from models.encoder.vit import Group, encode, evaluating, normalisation_of
from models.masked.settings import Cross, Reconstruct
from models.masked.targets.build import build_target
from models.masked.targets.target import Error, Target
from pipeline.batch import Unlabelled
from pipeline.errors import InputError
from pipeline.spec import Mask


class Branch(nn.Module, ABC):
    """A masked-image objective: the loss of predicting a part of each image from the other part, and the prediction.

    loss = branch.loss(encoder, batch.unlabelled, step)      # trains the encoder and the branch
    pixels = branch.predict(encoder, images, visible)        # for pictures and their errors

    name      what error messages call it
    masks     kinds of data.mask that it reads
    settings  the decoder's size and the target, as a recipe says them
    patch     side of a patch, in pixels
    target    what is predicted of a patch
    """

    name: ClassVar[str]
    masks: ClassVar[tuple[str, ...]] = ("random", "block", "grid", "unit")
    settings: Reconstruct | Cross
    patch: int
    target: Target

    @abstractmethod
    def loss(self, encoder: VisionTransformer, unlabelled: Unlabelled, step: int) -> Tensor:
        """Encode the weak views in a pass of their own and return the loss [] of their hidden patches.

        step  counted from 0; what a branch draws by itself depends on it
        """

    @abstractmethod
    def predict_patches(self, encoder: VisionTransformer, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict the target of all hidden patches: float [N, L - K, target.width]. Called in eval mode.

        images   u8 [N, 3, H, W]
        visible  i64 [N, K]      patches that the encoder may read
        hidden   i64 [N, L - K]  the others, ascending
        """

    @torch.no_grad()
    def predict(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor | None:
        """Predict the pixels f32 [N, L - K, P] of the hidden patches, ascending, of images u8 [N, 3, H, W].

        They are normalised as the encoder's input is, with target norm_pix in the scale of each patch. None where the
        target has no pixels.

        visible  i64 [N, K]  patches that the encoder may read
        """
        with evaluating(encoder), evaluating(self):
            hidden = hidden_from_visible(visible, prod(grid_of(images, self.patch)))
            return self.target.to_pixels(self.predict_patches(encoder, images, visible, hidden), images, hidden)

    @classmethod
    def check_mask(cls, mask: Mask) -> None:
        """Raise InputError if the branch does not read masks of this kind."""
        if mask.kind not in cls.masks:
            raise InputError(
                f"branch {cls.name} reads masks of kind {', '.join(cls.masks)}, got {mask.kind}; set --data.mask.kind"
            )


class PackedBranch(Branch, ABC):
    """A branch on one group of a packed step: `group` goes into `encode`, and the call is the loss of its tokens.

    (tokens,) = encode(encoder, [branch.group(images, visible, hidden)])
    loss = branch(tokens, images, visible, hidden)

    images   u8 [N, 3, H, W]
    visible  i64 [N, K]      patches that may be read, ascending; [N, W, K] where W windows are cut
    hidden   i64 [N, W, M]   the other patches of each window; None without windows: all that are not visible
    """

    settings: Reconstruct

    def __init__(
        self,
        encoder: VisionTransformer,
        settings: Reconstruct,
        *,
        keep_visible: bool = False,
        default_error: Error = "squared",
    ) -> None:
        """keep_visible: `visible_tokens` is read, too (SupMAE), so the encoder must return these tokens.
        default_error: how pixels are compared where the settings leave it open.

        Raises InputError for an encoder without a final norm, and for a target that cannot be built.
        """
        super().__init__()
        if isinstance(encoder.norm, nn.Identity):
            raise InputError(
                "a masked branch reads normed tokens, and encoder.fc_norm norms none; drop --encoder.fc-norm"
            )
        self.patch, self.prefix = encoder.patch_embed.patch_size[0], encoder.num_prefix_tokens
        self.keep_visible, self.settings = keep_visible, settings
        self.target = build_target(
            settings.target,
            settings.target_file,
            self.patch,
            normalisation_of(encoder),
            error=settings.error,
            default_error=default_error,
        )

    @abstractmethod
    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Group:
        """Return what the encoder is to encode."""

    @abstractmethod
    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the loss [] of the tokens, float [n, k, C], that the encoder made of `group`."""

    def loss(self, encoder: VisionTransformer, unlabelled: Unlabelled, step: int) -> Tensor:
        """Encode the weak views in a pass of their own and return the loss [] of their hidden patches."""
        images, visible, hidden = unlabelled.weak, unlabelled.visible, unlabelled.hidden
        assert visible is not None  # the method asks for it
        (tokens,) = encode(encoder, [self.group(images, visible, hidden)])
        return self(tokens, images, visible, hidden)

    def visible_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens of visible patches, float [N, K, C] ([N, W · K, C] in windows); needs `keep_visible`."""
        return tokens[:, self.prefix :]

    def class_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the class token of each image, float [N, C]; in windows the mean over them."""
        return tokens[:, 0]
