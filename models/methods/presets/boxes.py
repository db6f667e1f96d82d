"""Settings of recipes of detection, each number with its origin.

boxes.coco_data(), boxes.coco_labels(), boxes.coco_optim(layer_decay=0.7)

"ViTDet config" is mask_rcnn_vitdet_b_100ep of detectron2, with the files that it reads.
"""

from models.config.recipe import Encoder, Optim, Run
from pipeline.spec import BoxLabels, Data

ITERATIONS, DROPS = 184_375, (163_889, 177_546)
"""ViTDet config: 100 epochs of 118,000 images, and the steps at which the rate drops to a tenth."""


def coco_labels() -> BoxLabels:
    """COCO's own folders: train2017, val2017, annotations/instances_train2017.json and ..._val2017.json."""
    return BoxLabels(images="{set}", masks=True, empty=False, scale=(0.1, 2.0))  # ViTDet config: filter_empty, LSJ


def coco_data() -> Data:
    """COCO: 117,266 images with objects to learn from, 5,000 to evaluate on, views of 1,024 pixels."""
    return Data(root="data/coco", train="train2017", val="val2017", batch=64, size=1024)  # ViTDet config


def coco_encoder(name: str, drop_path: float) -> Encoder:
    """A ViT with the absolute positions of its start, resampled to 64 x 64 patches and trained."""
    return Encoder(name, drop_path=drop_path)


def coco_optim(layer_decay: float) -> Optim:
    """AdamW for 184,375 steps; vectors do not decay, of which detectron2 decays biases."""
    return Optim(
        lr=1e-4,  # ViTDet config
        schedule="steps",
        drop_epochs=DROPS,
        drop_factor=0.1,
        epochs=ITERATIONS,
        warmup_epochs=250,
        warmup_lr=1e-7,  # ViTDet config: a thousandth
        epoch_unit="step",
        weight_decay=0.1,
        betas=(0.9, 0.999),
        layer_decay=layer_decay,
    )


def coco_run() -> Run:
    """Evaluate every 20,000 steps (ours; detectron2 every 5,000)."""
    return Run(evaluate_steps=20_000, log_steps=50, save_steps=1000)


def bccd_labels() -> BoxLabels:
    """JPEGImages, Annotations and ImageSets/Main of BCCD in VOC's format. Ours: sizes from half to twice."""
    return BoxLabels("JPEGImages", "Annotations", scale=(0.5, 2.0))


def bccd_data() -> Data:
    """BCCD: 205 images of 640 x 480 to learn from, 87 to evaluate on. Ours: views of 224 pixels, for a CPU core."""
    return Data("data/bccd", train="ImageSets/Main/train.txt", val="ImageSets/Main/val.txt", batch=2, size=224)


def bccd_encoder() -> Encoder:
    """The encoder of --run.start, as its file describes it."""
    return Encoder("auto")


def bccd_optim() -> Optim:
    """AdamW for 400 steps, ours. At 1e-3 the boxes' head predicts the same class everywhere after 120 steps of 4."""
    return Optim(
        lr=3e-4, schedule="poly", epochs=400, warmup_epochs=20, epoch_unit="step", weight_decay=0.05, layer_decay=0.7
    )


def mine_data() -> Data:
    """Ours: images/train, images/val and annotations/instances_{set}.json; views of 448 pixels, which patches of 14 and
    16 divide."""
    return Data(root="data/mine", train="train", val="val", batch=16, size=448)
