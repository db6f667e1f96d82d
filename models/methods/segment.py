"""Semantic segmentation on labels of pixels, from any checkpoint (--run.start): UperNet on four blocks of a ViT.

As MAE judges its encoders on ADE20K (He et al. 2022, section 5 and A.4), which follows BEiT's code: all of the encoder
is fine-tuned, features of four blocks at strides 4, 8, 16 and 32, UperNet, an FCN head beside it while training,
relative position biases that begin at zero, windows of 512 pixels at a stride of 341 in the evaluation.

    python train.py segment:ade20k_b16 --data.root ADEChallengeData2016 --run.start mae_pretrain_vit_base.pth
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, final

import torch
import torch.distributed as dist
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.config.chain import OWN, Chain, Stage
from models.config.recipe import Recipe, Run
from models.config.sweep import changed
from models.dense.pyramid import Pyramid, block_features, four_blocks
from models.dense.sliding import slide
from models.dense.upernet import FCNHead, UperNet, pixel_loss, resized
from models.encoder.build import encoder_of
from models.encoder.freeze import STARTS_FROM_NONE
from models.encoder.relative import add_relative
from models.encoder.vit import evaluating
from models.method import Loss, Method, StepInfo
from models.methods.presets import dense
from pipeline.batch import Batch
from pipeline.dense.cut import evaluation_view
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, BELOW_1, NOT_NEGATIVE
from pipeline.spec import Needs, PixelLabels, both_sides


@dataclass(frozen=True)
class Settings:
    """Where the pixels' classes are, and the heads; the values are BEiT's for ViT-B."""

    labels: PixelLabels = field(default_factory=PixelLabels)
    """Images and masks, and how they are cut."""
    blocks: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """The four blocks, counted from 1, whose outputs are decoded; 1/3, 1/2, 2/3 and all of the depth when empty."""
    channels: Annotated[int, AT_LEAST_1] = 768
    """Width of UperNet."""
    auxiliary: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of the loss of the FCN head on the third of the blocks; 0: no such head."""
    auxiliary_channels: Annotated[int, AT_LEAST_1] = 256
    """Width of that head."""
    dropout: Annotated[float, BELOW_1] = 0.1
    """Share of channels that are dropped before scores, while training."""
    relative_bias: bool = True
    """Add a relative position bias to each block, which begins at zero, to absolute positions (MAE section A.4); other
    positions stay as they are."""
    stride: Annotated[int | None, AT_LEAST_1] = None
    """Pixels between the windows of an evaluation; two thirds of data.size when None: 341 of 512."""


@final
class Segment(Method):
    """L = CE(UperNet(blocks), classes) + 0.4 CE(FCN(third block), classes), means over all pixels."""

    has_classifier = False

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        """Raises InputError for a moving average, which would be of the encoder alone, and for blocks or a stride that
        cannot be."""
        if recipe.optim.ema_decay is not None:
            raise InputError(
                f"optim.ema_decay is {recipe.optim.ema_decay:g}, and an average is kept of encoders alone, not of a "
                "decoder; leave --optim.ema-decay out"
            )
        super().__init__(recipe, classes)
        classes = max(1, classes)  # 0 of released weights that are judged by a recipe whose data is not at hand
        self.settings, self.classes, self.size = recipe.method, classes, both_sides(recipe.data.size)
        self.stride = self.settings.stride or 2 * min(self.size) // 3
        if self.stride > min(self.size):
            raise InputError(f"method.stride is {self.stride}, expected at most {min(self.size)}, the side of a window")
        self.blocks = four_blocks(len(self.encoder.blocks), self.settings.blocks)
        self.started = recipe.run.start is not None
        width, s = self.encoder.embed_dim, self.settings
        self.pyramid = Pyramid(width)
        self.decoder = UperNet(width, classes, s.channels, s.dropout)
        self.auxiliary = FCNHead(width, classes, s.auxiliary_channels, s.dropout) if s.auxiliary else None
        for part in (self.encoder.norm, self.encoder.fc_norm, self.encoder.attn_pool):  # behind the blocks: not read
            if part is not None:
                part.requires_grad_(False)
        if dist.is_initialized() and dist.get_world_size() > 1 and torch.cuda.is_available():
            heads = nn.ModuleList(filter(None, (self.pyramid, self.decoder, self.auxiliary)))
            nn.SyncBatchNorm.convert_sync_batchnorm(heads)  # in place, as BEiT config; on CPUs each rank norms its own

    @staticmethod
    def build(recipe: Recipe[Settings], classes: int) -> VisionTransformer:
        """Build the recipe's encoder without a classifier, with a bias table in each block where it has absolute
        positions."""
        vit = encoder_of(recipe, 0)
        if recipe.method.relative_bias and vit.pos_embed is not None and getattr(vit, "rope", None) is None:
            add_relative(vit, "block_bias")
        return vit

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Images and the classes of their pixels."""
        return Needs(labelled=True, pixel_labels=recipe.method.labels)

    def startup_note(self) -> str | None:
        """Warn where the encoder was not pre-trained."""
        return None if self.started else STARTS_FROM_NONE

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Cross-entropy of both heads over the pixels of the crops."""
        assert batch.dense is not None
        levels = self.levels(batch.dense.images)
        pixels = pixel_loss(self.decoder(levels), batch.dense.classes)
        if self.auxiliary is None:
            return Loss(pixels, {"pixels": pixels.detach()})
        auxiliary = pixel_loss(self.auxiliary(levels[2]), batch.dense.classes)
        parts = {"pixels": pixels.detach(), "auxiliary": auxiliary.detach()}
        return Loss(pixels + self.settings.auxiliary * auxiliary, parts)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Compute the four levels [N, width, h_i, w_i] of images u8 [N, 3, H, W], the finest first."""
        return self.pyramid(block_features(self.encoder, images, self.blocks))

    @torch.no_grad()
    def scores(self, windows: Tensor) -> Tensor:
        """Score each pixel of windows u8 [N, 3, H, W] in eval mode: f32 [N, classes, H, W]."""
        with evaluating(self):
            return resized(self.decoder(self.levels(windows)).float(), (windows.shape[2], windows.shape[3]))

    @torch.no_grad()
    def predict(self, image: Tensor, batch: int = 8) -> Tensor:
        """Predict the class of each pixel of an image u8 [3, h, w] of any size, on the device: u8 [h, w].

        The image is resized as in the evaluation, scored by overlapping windows, and the scores are resized back.
        """
        device = next(self.parameters()).device
        view = evaluation_view(image, self.settings.labels).to(device)
        scores = slide(self.scores, view, self.size, self.stride, self.classes, batch)
        height, width = image.shape[1:]
        return resized(scores[None], (height, width))[0].argmax(0).to(torch.uint8)


def ade20k_b16() -> Recipe[Settings]:
    """ADE20K, ViT-B/16, UperNet, 160,000 steps, from mae:in1k_b16_1600.  Paper: 48.1 % mIoU.  Here: not yet run.

    Rate and layer decay are the mmseg config's, whose run reaches 48.13; its windows are at a stride of 256.
    """
    return _ade20k("vit_base_patch16_224", 768, lr=1e-4, layer_decay=0.65, drop_path=0.1)  # mmseg config


def ade20k_b16_beit() -> Recipe[Settings]:
    """ADE20K, ViT-B/16 of BEiT (--run.start), UperNet, 160,000 steps.  Paper: 47.1 % mIoU.  Here: not yet run.

    Positions are BEiT's biases, each block's its own, its LayerScale begins at 0.1; rate and layer decay are those of
    upernet_beit_base_12_512_slide_160k_ade20k_larger_lr (the other config has 3e-5 and 0.9).
    """
    base = _ade20k("vit_base_patch16_224", 768, lr=7e-4, layer_decay=0.65, drop_path=0.1)
    return changed(base, {"encoder.position": "block_bias", "encoder.layer_scale": 0.1})  # BEiT config


def ade20k_l16() -> Recipe[Settings]:
    """ADE20K, ViT-L/16, UperNet, 160,000 steps, from mae:in1k_l16.  Paper: 53.6 % mIoU.  Here: not yet run.

    Drop path and decoder are those of BEiT's config for L; MAE gives neither rate nor layer decay for L, so that rate
    and layer decay are B's and 0.75, as in its fine-tuning on ImageNet (ours).
    """
    return _ade20k("vit_large_patch16_224", 1024, lr=1e-4, layer_decay=0.75, drop_path=0.2)


def ade20k_b16_starts() -> Iterator[Recipe[Settings]]:
    """ADE20K, ViT-B/16: supervised, MoCo v3, BEiT, MAE (MAE Table 5), and SupMAE (its own).  Here: not yet run.

    Paper, mIoU: 47.4, 47.3, 47.1, 48.1, 49.0 %. The starts are released files in data/starts (docs/dense.md names
    them); in SupMAE's table MAE has 48.6.
    """
    for name, file in dense.STARTS.items():
        base = ade20k_b16_beit() if name == "BEiT" else ade20k_b16()
        yield replace(base, run=replace(base.run, start=f"data/starts/{file}"))


def ade20k_l16_starts() -> Iterator[Recipe[Settings]]:
    """ADE20K, ViT-L/16: MAE (MAE Table 5).  Paper: 53.6 % mIoU.  Here: not yet run.

    The table's others, supervised 49.9, MoCo v3 49.1 and BEiT 53.3 %, have released files of MoCo v3 and BEiT alone,
    which --run.start takes.
    """
    base = ade20k_l16()
    yield replace(base, run=replace(base.run, start="data/starts/mae_pretrain_vit_large.pth"))


def camvid() -> Recipe[Settings]:
    """CamVid, 11 classes, the encoder of --run.start, crops of 168 pixels, 40 steps: three minutes on a core."""
    return Recipe(
        Settings(dense.camvid_labels(), channels=64, auxiliary_channels=64, relative_bias=False),  # ours
        dense.camvid_data(),
        dense.camvid_encoder(),
        dense.camvid_optim(),
        Run(evaluate_steps=None, log_steps=20, save_steps=200),
    )


def mine() -> Recipe[Settings]:
    """Your images, masks and classes.txt, from --run.start, a foundation model.  Here: not yet run."""
    base = _ade20k("vit_base_patch16_224", 256, lr=1e-4, layer_decay=0.75, drop_path=0.1)  # ours: a narrow decoder
    return replace(
        base,
        method=replace(base.method, labels=dense.mine_labels(), relative_bias=False),
        data=dense.mine_data(),
        encoder=dense.camvid_encoder(),
        optim=replace(base.optim, epochs=5000, warmup_epochs=250),  # ours
        run=replace(base.run, evaluate_steps=1000),
    )


def _ade20k(name: str, width: int, *, lr: float, layer_decay: float, drop_path: float) -> Recipe[Settings]:
    return Recipe(
        Settings(dense.ade20k_labels(), channels=width),  # BEiT config: as wide as the encoder
        dense.ade20k_data(),
        dense.ade20k_encoder(name, drop_path),
        dense.ade20k_optim(lr, layer_decay),
        dense.ade20k_run(),
    )


MIOU = (Stage(OWN, OWN, "mIoU", "miou"),)
CHAINS = {
    "ade20k_b16_starts": Chain("MAE Table 5, SupMAE's own: ADE20K, ViT-B/16", "start", tuple(dense.STARTS), MIOU,
                               {OWN: (47.4, 47.3, 47.1, 48.1, 49.0)}),
    "ade20k_l16_starts": Chain("MAE Table 5: ADE20K, ViT-L/16", "start", ("MAE",), MIOU, {OWN: (53.6,)}),
}  # fmt: skip
"""The sweeps' tables: python -m models.evaluate.chain_table puts the members' mIoU beside the papers' values."""
