"""What a masked branch is: which tokens it wants from the shared encoder, and its loss on what comes back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.vit import Group, normalisation_of
from models.masked.targets.select import Error, Kind, target
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1


@dataclass(frozen=True)
class Reconstruct:
    """The decoder's size and its target; defaults are MAE's (Table 1a, b, c, d)."""

    depth: Annotated[int, AT_LEAST_1] = 8
    width: Annotated[int, AT_LEAST_1] = 512
    heads: Annotated[int, AT_LEAST_1] = 16
    target: Kind = "pixel"
    """norm_pix: each patch is normalised by its own mean and spread. pca: its largest principal components. tokens:
    the codes of a tokenizer."""
    target_file: str | None = None
    """pca: what `python -m models.masked.fit_pca` wrote. tokens: what `python -m models.masked.fit_vq` wrote, or DALL-E's weights
    (models.masked.targets.dall_e). A checkpoint holds what was read from it, and what it holds counts, but a run that carries
    on still wants the file."""
    patches: Literal["hidden", "all"] = "hidden"
    """Which patches the loss looks at."""
    error: Error | None = None
    """How pixels are compared; the branch's own way when absent: absolute in SimMIM, squared in every other."""
    encoder_mask_tokens: bool = False
    """Let the encoder, too, see a learned token in the place of each hidden patch (Table 1c, "encoder w/ [M]"): several
    times the FLOPs, and worse."""


class Branch(nn.Module, ABC):
    """A masked-image objective: `group` goes into the packed step, `forward` is the loss of the tokens it gave.

    images   u8 [N, 3, S, S]
    visible  i64 [N, K]      ids of the patches that may be seen, ascending; [N, W, K] where W windows are cut
    hidden   i64 [N, W, M]   the other patches of each window; None where the mask is no window: simply the rest
    """

    masks: ClassVar[tuple[str, ...]] = ("random", "block", "grid", "unit")
    """Kinds of data.mask that it reads."""

    def __init__(
        self,
        encoder: VisionTransformer,
        settings: Reconstruct,
        *,
        keep_visible: bool = False,
        usual: Error = "squared",
    ) -> None:
        """keep_visible: more than the branch's own loss reads the visible tokens (SupMAE), so none may be left out.
        usual: the branch's own way to compare pixels."""
        super().__init__()
        if isinstance(encoder.norm, nn.Identity):
            raise InputError(
                "a masked branch reads normed tokens, and encoder.fc_norm norms none; drop --encoder.fc-norm"
            )
        self.patch, self.prefix = encoder.patch_embed.patch_size[0], encoder.num_prefix_tokens
        self.normalisation, self.keep_visible = normalisation_of(encoder), keep_visible
        self.settings, kind, file = settings, settings.target, settings.target_file
        self.target = target(kind, file, self.patch, self.normalisation, error=settings.error, usual=usual)

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
