"""Semi-ViT (Cai et al. 2022, "Semi-supervised Vision Transformers at Scale"): FixMatch with a moving average
as teacher, on mixtures of images.

It has three stages, each started from the one before (--run.start): pre-training without labels (mae:in1k_b16; the
authors take MAE's released weights); fine-tuning on the labelled images (their FINETUNE.md: finetune:in1k_b16
--data.split 0.10 --data.batch 512 --optim.lr 2.5e-4); and the semi-supervised one, which is in this file.

Deviation: mixup and CutMix of labelled images are drawn for each image, not for each batch.
"""

from dataclasses import replace

from models.config.recipe import Encoder, Optim, Recipe
from models.methods import fixmatch
from models.methods.fixmatch import Settings
from models.methods.presets import in1k
from models.pseudo_labels.settings import SEMI_VIT
from pipeline.spec import Data, View


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, as fixmatch:digits, but everything mixed.  Here: not yet run to its end."""
    pseudo = replace(SEMI_VIT, threshold=0.7)  # as fixmatch:digits
    return replace(fixmatch.digits(), method=Settings(1.0, smoothing=0.1, mixup=0.8, cutmix=1.0, pseudo=pseudo))


def in1k_10pct_b16() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-B/16 from a fine-tuned MAE.  Paper: 79.7 % top-1.  Here: not yet run."""
    return Recipe(
        Settings(lambda_u=5.0, smoothing=0.1, mixup=0.8, cutmix=1.0, pseudo=SEMI_VIT),  # authors' script
        Data(
            root="data/in1k",
            split="0.10",
            unlabelled="rest",  # authors' script: the other 90 %
            batch=768,  # authors' script: 8 x (16 + 80)
            ratio=5,
            weak=View(filter="bicubic", jitter=(0.4, 0.4, 0.4, 0.0), jitter_probability=1.0),  # authors' code
            strong=View(filter="bicubic", augment="timm", erase="random"),  # authors' code
        ),
        Encoder("vit_base_patch16_224", pool="avg", fc_norm=True, drop_path=0.1),  # authors' code
        Optim(
            lr=5e-4,  # authors' code: 1e-3 for 256 labelled images, and there are 128
            final_lr=1e-6,
            epochs=100,  # passes of the unlabelled images
            warmup_epochs=5,
            weight_decay=0.05,
            layer_decay=0.75,
            ema_decay=0.9999,
        ),  # authors' code
        in1k.run(),
    )
