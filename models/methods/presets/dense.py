"""Settings of recipes of dense prediction, each number with its origin.

dense.ade20k_data(), dense.ade20k_labels(), dense.ade20k_optim(lr=1e-4, layer_decay=0.65)

"BEiT config" is upernet_beit_base_12_512_slide_160k_ade20k of microsoft/unilm, after which MAE fine-tunes (MAE section
A.4); "mmseg config" is mae-base_upernet_8xb2-amp-160k_ade20k-512x512 of mmsegmentation, which reproduces MAE's 48.1.
"""

from models.config.recipe import Encoder, Optim, Run
from pipeline.spec import Data, PixelLabels

CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
"""The 11 classes of SegNet's CamVid; its 12th, void, is 11 in the masks."""
STARTS = {
    "supervised": "deit_base_patch16_224.pth",
    "MoCo v3": "vit-b-300ep.pth.tar",
    "BEiT": "beit_base_patch16_224_pt22k.pth",
    "MAE": "mae_pretrain_vit_base.pth",
    "SupMAE": "supmae_pretrain_vit_base.pth",
}
"""Released files, in data/starts, by the rows of the papers' tables."""


def ade20k_labels() -> PixelLabels:
    """ADEChallengeData2016's own folders: images/training, annotations/training, objectInfo150.txt; 0 is "other"."""
    return PixelLabels(
        masks="annotations/{set}",
        classes="objectInfo150.txt",
        zero_ignored=True,  # BEiT config: reduce_zero_label
        short_side=512,  # BEiT config: img_scale (2048, 512)
        long_side=2048,
        scale=(0.5, 2.0),  # BEiT config: ratio_range
        most=0.75,  # BEiT config: cat_max_ratio
    )


def ade20k_data() -> Data:
    """ADE20K: 20,210 images to learn from, 2,000 to evaluate on, crops of 512 pixels."""
    return Data(
        root="data/ADEChallengeData2016",
        train="training",
        val="validation",
        batch=16,  # MAE section A.4
        size=512,  # MAE section 5, Table 5: "UperNet", 512 in BEiT config
    )


def ade20k_encoder(name: str, drop_path: float) -> Encoder:
    """A ViT with the absolute positions of its start, resampled to 32 x 32 patches and trained."""
    return Encoder(name, drop_path=drop_path)


def ade20k_optim(lr: float, layer_decay: float) -> Optim:
    """AdamW for 160,000 steps, 127 epochs; MAE's text has 100 epochs and searches the rate."""
    return Optim(
        lr=lr,
        schedule="poly",  # BEiT config: power 1, down to 0
        final_lr=0.0,
        epochs=160_000,  # BEiT config
        warmup_epochs=1500,  # BEiT config: from a millionth; here from 0
        epoch_unit="step",
        weight_decay=0.05,  # BEiT config
        betas=(0.9, 0.999),  # BEiT config
        layer_decay=layer_decay,
    )


def ade20k_run() -> Run:
    """Evaluate every 16,000 steps, as mmsegmentation's schedule_160k."""
    return Run(evaluate_steps=16_000, log_steps=50, save_steps=1000)


def camvid_labels() -> PixelLabels:
    """images/train/NAME.jpg and masks/train/NAME.png of 480 x 360. Ours, for a CPU core: 168 of 360 pixels."""
    return PixelLabels(names=CAMVID, ignored=11, short_side=168, scale=(0.75, 2.0))


def camvid_data() -> Data:
    """CamVid: 367 images to learn from, 101 to evaluate on. Ours: crops of 168 pixels, twelve patches of 14."""
    return Data(root="data/camvid", train="train", val="val", batch=4, size=168)


def camvid_encoder() -> Encoder:
    """The encoder of --run.start, as its file describes it."""
    return Encoder("auto")


def camvid_optim() -> Optim:
    """AdamW for 40 steps. Ours: the decoder begins at random and learns at the full rate, which falls fast below the
    last block. The loss of steps 21 to 40 is 1.7; with 5e-4 and a layer decay of 0.75, of 120 steps, it is 2.4."""
    return Optim(
        lr=2e-3, schedule="poly", epochs=40, warmup_epochs=4, epoch_unit="step", weight_decay=0.05, layer_decay=0.5
    )


def mine_labels() -> PixelLabels:
    """Your images/train, masks/train, images/val, masks/val and classes.txt; crops as ADE20K's."""
    return PixelLabels()


def mine_data() -> Data:
    """Ours: crops of 448 pixels, which patches of 14 and 16 divide."""
    return Data(root="data/mine", train="train", val="val", batch=16, size=448)
