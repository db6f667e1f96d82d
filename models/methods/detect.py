"""Detection of objects, with masks or without, from any checkpoint (--run.start): Mask R-CNN on a plain ViT.

As MAE judges its encoders on COCO (He et al. 2022, section 5), by ViTDet's code, which is MAE's authors' own for it (Li
et al. 2022): all of the encoder is fine-tuned, most blocks attend within windows of 14 x 14 patches, positions are
relative, too, and begin at zero, and a simple pyramid makes five strides of the last block's output.

    python train.py detect:coco_b16 --data.root coco --run.start mae_pretrain_vit_base.pth
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.config.chain import OWN, Chain, Stage
from models.config.recipe import Recipe, Run
from models.config.sweep import changed
from models.dense.feature_pyramid import FeaturePyramid
from models.dense.mask_rcnn import Found, MaskRCNN, paste
from models.dense.windows import global_blocks, window_features
from models.encoder.axes import add_axes
from models.encoder.build import encoder_of
from models.encoder.freeze import STARTS_FROM_NONE
from models.encoder.vit import evaluating
from models.method import Loss, Method, StepInfo
from models.methods.presets import boxes as presets
from models.methods.presets.dense import STARTS
from pipeline.batch import Batch, Boxes
from pipeline.dense.cut_boxes import fitted
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, POSITIVE
from pipeline.spec import BoxLabels, Needs, both_sides


@dataclass(frozen=True)
class Settings:
    """Where the objects' boxes are, windows and heads; the values are ViTDet's for ViT-B and L."""

    labels: BoxLabels = field(default_factory=BoxLabels)
    """Images and boxes, and how they are cut."""
    window: Annotated[int, AT_LEAST_1] = 14
    """Patches of a side of the windows within which most blocks attend."""
    global_blocks: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """The blocks, counted from 1, that attend over the whole image; 1/4, 1/2, 3/4 and all of the depth when empty."""
    relative_positions: bool = True
    """Add a relative position to rows and columns in each block, which begins at zero, to absolute positions; other
    positions stay as they are."""
    channels: Annotated[int, AT_LEAST_1] = 256
    """Width of pyramid and heads."""
    anchors: Annotated[tuple[float, ...], POSITIVE] = (32, 64, 128, 256, 512)
    """Sides of the anchors in pixels of a view, one for each of the five strides; three aspects each."""
    samples: Annotated[int, AT_LEAST_1] = 512
    """Proposals of an image that classes, boxes and masks are learned of."""


@final
class Detect(Method):
    """L = objectness + proposals (RPN) + classes + boxes + masks, each as in Mask R-CNN (He et al. 2017)."""

    has_classifier = False

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        """Raises InputError for a moving average, which would be of the encoder alone, and for blocks or anchors that
        cannot be."""
        if recipe.optim.ema_decay is not None:
            raise InputError(
                f"optim.ema_decay is {recipe.optim.ema_decay:g}, and an average is kept of encoders alone, not of "
                "heads; leave --optim.ema-decay out"
            )
        super().__init__(recipe, classes)
        self.settings, self.classes, self.size = recipe.method, max(1, classes), both_sides(recipe.data.size)
        self.whole = global_blocks(len(self.encoder.blocks), self.settings.global_blocks)
        self.masks, self.started = self.settings.labels.masks, recipe.run.start is not None
        s = self.settings
        self.pyramid = FeaturePyramid(self.encoder.embed_dim, s.channels)
        self.heads = MaskRCNN(self.classes, s.channels, masks=self.masks, anchors=s.anchors, samples=s.samples)
        for part in (self.encoder.norm, self.encoder.fc_norm, self.encoder.attn_pool):  # behind the blocks: not read
            if part is not None:
                part.requires_grad_(False)
        for token in (self.encoder.cls_token, self.encoder.reg_token):
            if token is not None:  # dropped behind the embedding
                token.requires_grad_(False)

    @staticmethod
    def build(recipe: Recipe[Settings], classes: int) -> VisionTransformer:
        """Build the recipe's encoder without a classifier, with relative positions in each block where it has absolute
        ones."""
        vit, method = encoder_of(recipe, 0), recipe.method
        if method.relative_positions and vit.pos_embed is not None and getattr(vit, "rope", None) is None:
            add_axes(vit, method.window, global_blocks(len(vit.blocks), method.global_blocks))
        return vit

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Images and the boxes of their objects."""
        return Needs(labelled=True, box_labels=recipe.method.labels)

    def startup_note(self) -> str | None:
        """Warn where the encoder was not pre-trained."""
        return None if self.started else STARTS_FROM_NONE

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Sum the losses of proposals and of what is found in them."""
        assert batch.boxes is not None
        part = batch.boxes
        losses = self.heads.losses(self.levels(part.images), self.size, part.sides, targets(part))
        return Loss(torch.stack(list(losses.values())).sum(), {name: each.detach() for name, each in losses.items()})

    def levels(self, images: Tensor) -> list[Tensor]:
        """Compute the five levels [N, channels, h_i, w_i] of images u8 [N, 3, H, W], the finest first."""
        return self.pyramid(window_features(self.encoder, images, self.settings.window, self.whole))

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor]) -> list[Found]:
        """Find the objects of images u8 [3, h, w] of any size, on the device or not; boxes are in their pixels, masks
        bool [k, h, w], on the CPU.

        An image is resized to the largest that fits into data.size, and padded.
        """
        device = next(self.parameters()).device
        views, sides = zip(*(fitted(image, self.size) for image in images), strict=True)
        held, inside = torch.stack(views).to(device), torch.tensor(sides, device=device)
        with evaluating(self):
            found = self.heads.detect(self.levels(held), self.size, inside)
        before = [(image.shape[1], image.shape[2]) for image in images]
        return [on_image(*each) for each in zip(found, sides, before, strict=True)]


def targets(part: Boxes) -> list[dict[str, Tensor]]:
    """Split the objects of a batch by image, as torchvision's heads take them: classes from 1, as 0 is background."""
    counts = part.counts.tolist()
    held = {"boxes": part.boxes, "labels": part.classes + 1}
    if part.masks is not None:
        held["masks"] = part.masks.to(torch.uint8)
    split = [each.split(counts) for each in held.values()]
    return [dict(zip(held, image, strict=True)) for image in zip(*split, strict=True)]


def on_image(found: Found, view: tuple[int, int], image: tuple[int, int]) -> Found:
    """Move what was found in a view, whose sides are those of what is no padding, to the pixels of its image."""
    (height, width), scale = image, torch.tensor([image[1] / view[1], image[0] / view[0]] * 2)
    boxes = (found.boxes.float().cpu() * scale).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([width, height, width, height], dtype=torch.float32))
    masks = None if found.masks is None else paste(found.masks.float().cpu(), boxes, height, width)
    return Found(boxes, found.classes.cpu(), found.scores.float().cpu(), masks)


def coco_b16() -> Recipe[Settings]:
    """COCO, ViT-B/16, Mask R-CNN, 100 epochs, from mae:in1k_b16_1600.  Paper: AP box 50.3, mask 44.9 %.  Here: not yet
    run.

    All numbers are ViTDet's code's, which reaches 51.6 and 45.9; MAE's own runs were of an earlier code (Li et al.
    2021), which is not public.
    """
    return _coco("vit_base_patch16_224", layer_decay=0.7, drop_path=0.1)


def coco_l16() -> Recipe[Settings]:
    """COCO, ViT-L/16, Mask R-CNN, 100 epochs, from mae:in1k_l16.  Paper: AP box 53.3, mask 47.2 %.  Here: not yet run.

    All numbers are ViTDet's code's, which reaches 55.5 and 49.2.
    """
    return _coco("vit_large_patch16_224", layer_decay=0.8, drop_path=0.4)


def coco_b16_beit() -> Recipe[Settings]:
    """COCO, ViT-B/16 of BEiT (--run.start).  Paper: AP box 49.8, mask 44.4 %.  Here: not yet run.

    Positions are BEiT's biases, each block's its own, its LayerScale begins at 0.1; the rest is coco_b16's.
    """
    return changed(coco_b16(), {"encoder.position": "block_bias", "encoder.layer_scale": 0.1})  # BEiT config


def coco_b16_starts() -> Iterator[Recipe[Settings]]:
    """COCO, ViT-B/16: supervised, MoCo v3, BEiT and MAE (MAE Table 4).  Here: not yet run.

    Paper, AP box and mask: 47.9 and 42.9, 47.9 and 42.7, 49.8 and 44.4, 50.3 and 44.9 %. The starts are released files
    in data/starts (docs/dense.md names them).
    """
    for name in COCO_STARTS:
        base = coco_b16_beit() if name == "BEiT" else coco_b16()
        yield replace(base, run=replace(base.run, start=f"data/starts/{STARTS[name]}"))


def coco_l16_starts() -> Iterator[Recipe[Settings]]:
    """COCO, ViT-L/16: MAE (MAE Table 4).  Paper: AP box 53.3, mask 47.2 %.  Here: not yet run.

    The table's others, supervised 49.3, MoCo v3 49.3 and BEiT 53.3 % AP box, have released files of MoCo v3 and BEiT
    alone, which --run.start takes.
    """
    base = coco_l16()
    yield replace(base, run=replace(base.run, start="data/starts/mae_pretrain_vit_large.pth"))


def bccd() -> Recipe[Settings]:
    """Blood cells (BCCD), 3 classes, the encoder of --run.start, views of 224 pixels, 400 steps: minutes on a core."""
    return Recipe(
        Settings(presets.bccd_labels(), window=8, relative_positions=False, channels=64,
                 anchors=(12, 24, 48, 96, 192), samples=128),  # ours
        presets.bccd_data(),
        presets.bccd_encoder(),
        presets.bccd_optim(),
        Run(evaluate_steps=None, log_steps=20, save_steps=200),
    )  # fmt: skip


def mine() -> Recipe[Settings]:
    """Your images and boxes, from --run.start, a foundation model.  Here: not yet run."""
    base = _coco("vit_base_patch16_224", layer_decay=0.75, drop_path=0.1)
    return replace(
        base,
        method=replace(base.method, labels=BoxLabels(scale=(0.5, 1.5)), relative_positions=False),  # ours
        data=presets.mine_data(),
        encoder=presets.bccd_encoder(),
        optim=replace(
            base.optim, schedule="poly", final_lr=0.0, drop_epochs=(), epochs=5000, warmup_epochs=250
        ),  # ours
        run=replace(base.run, evaluate_steps=1000, log_steps=50),
    )


def _coco(name: str, *, layer_decay: float, drop_path: float) -> Recipe[Settings]:
    return Recipe(
        Settings(presets.coco_labels()),
        presets.coco_data(),
        presets.coco_encoder(name, drop_path),
        presets.coco_optim(layer_decay),
        presets.coco_run(),
    )


COCO_STARTS = "supervised", "MoCo v3", "BEiT", "MAE"
APS = Stage(OWN, OWN, "AP box", "box_ap"), Stage("mask", OWN, "AP mask", "mask_ap")
CHAINS = {
    "coco_b16_starts": Chain("MAE Table 4: COCO, ViT-B/16", "start", COCO_STARTS, APS,
                             {OWN: (47.9, 47.9, 49.8, 50.3), "mask": (42.9, 42.7, 44.4, 44.9)}),
    "coco_l16_starts": Chain("MAE Table 4: COCO, ViT-L/16", "start", ("MAE",), APS, {OWN: (53.3,), "mask": (47.2,)}),
}  # fmt: skip
"""The sweeps' tables: python -m models.evaluate.chain_table puts the members' AP beside the papers' values."""
