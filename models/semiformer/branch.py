"""StreamBranch: MAE beside a Semiformer, whose transformer's stream alone encodes the visible patches."""

from typing import final

from torch import Tensor

from models.encoder.patches import grid_of
from models.masked.branch import Branch
from models.masked.mae import MAEBranch
from models.masked.settings import Reconstruct
from models.masked.targets.target import Target
from models.semiformer.model import Semiformer
from pipeline.batch import Unlabelled
from pipeline.errors import InputError


@final
class StreamBranch(Branch):
    """MAE's decoder and target on `Semiformer.visible_tokens` (Semi-MAE Table 2, "Semiformer + MAE").

    branch = StreamBranch(model, Reconstruct())

    The paper does not say how a hybrid is masked. A coupling needs every cell of the map, so couplings and a mask
    exclude each other: this pass runs without couplings, and so without the convolutional stream. It shares stem, patch
    embedding, blocks and norm with the other.

    Raises InputError for mask tokens in the encoder.
    """

    name = "mae"

    def __init__(self, encoder: Semiformer, settings: Reconstruct) -> None:
        super().__init__()
        if settings.encoder_mask_tokens:
            raise InputError(
                "reconstruct.encoder_mask_tokens is for ViTs: a Semiformer's masked branch sees visible patches only; "
                "leave it off"
            )
        self.mae = MAEBranch(encoder, settings)
        self.settings, self.patch = settings, self.mae.patch

    @property
    def target(self) -> Target:  # ty: ignore[incompatible-property-override] -- a module has one place, in `mae`
        """The target of `mae`."""
        return self.mae.target

    def loss(self, encoder: Semiformer, unlabelled: Unlabelled, step: int) -> Tensor:
        """Encode the visible patches of the weak views and return the loss [] of the hidden ones."""
        images, visible = unlabelled.weak, unlabelled.visible
        assert visible is not None  # the method asks for it
        return self.mae(encoder.visible_tokens(images, visible), images, visible)

    def predict_patches(self, encoder: Semiformer, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict the target of all hidden patches: float [N, L - K, target.width]."""
        tokens = encoder.visible_tokens(images, visible)
        return self.mae.decoder(tokens, visible, hidden, grid_of(images, self.patch))
