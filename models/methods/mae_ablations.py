"""Every table of ablations in MAE's paper as a sweep: `python -m slurm.submit mae_ablations:in1k_mask --parallel 4`.

in1k_...    the paper's settings: ViT-L/16, 800 epochs, decoder of 8 x 512, plain pixels, 75 % at random.
            Its results, in %: fine-tuned / linear probe, each a further training from a member's last.pt
digits_...  the same axis on the embedded digits, with the other settings of mae:digits: minutes on two cores; ours

Here: none of them was run to its end yet. The members of a sweep differ in its table's axis alone.
"""

from collections.abc import Iterator
from dataclasses import replace

from models.config.recipe import Recipe
from models.config.sweep import along, changed
from models.methods import mae
from models.methods.mae import Settings
from pipeline.spec import View

DEPTH, WIDTH, HEADS = "method.reconstruct.depth", "method.reconstruct.width", "method.reconstruct.heads"
TARGET, FILE = "method.reconstruct.target", "method.reconstruct.target_file"
KIND, RATIO = "data.mask.kind", "data.mask.ratio"
DEPTHS = 1, 2, 4, 8, 12  # Table 1a
RATIOS = 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9  # Figure 5, and the default
MASKS = ("random", 0.75), ("block", 0.5), ("block", 0.75), ("grid", 0.75)  # Table 1f
TARGETS = "pixel", "norm_pix", "pca", "tokens"  # Table 1d
JITTER = (0.4, 0.4, 0.2, 0.1)  # MoCo v3; MAE does not give its own


def digits_decoder_depth() -> Iterator[Recipe[Settings]]:
    """Embedded digits, blocks of the decoder: 1, 2, 4, 8, 12.  Here: not yet run."""
    return along(mae.digits(), DEPTH, DEPTHS)


def in1k_decoder_depth() -> Iterator[Recipe[Settings]]:
    """ImageNet, blocks of the decoder: 1, 2, 4, 8, 12 (Table 1a).  Here: not yet run.

    Paper: 84.8 / 65.5, 84.9 / 70.0, 84.9 / 71.9, 84.9 / 73.5, 84.4 / 73.3.
    """
    return along(_in1k(), DEPTH, DEPTHS)


def digits_decoder_width() -> Iterator[Recipe[Settings]]:
    """Embedded digits, the decoder's width: 1/8 to all of the encoder's, as in Table 1b.  Here: not yet run."""
    return along(mae.digits(), WIDTH, (8, 16, 32, 48, 64))


def in1k_decoder_width() -> Iterator[Recipe[Settings]]:
    """ImageNet, the decoder's width: 128, 256, 512, 768, 1024 (Table 1b).  Here: not yet run.

    Always 16 heads, as in the code. Paper: 84.9 / 69.1, 84.8 / 71.3, 84.9 / 73.5, 84.4 / 73.1, 84.3 / 73.1.
    """
    return along(_in1k(), WIDTH, (128, 256, 512, 768, 1024))


def digits_mask_tokens() -> Iterator[Recipe[Settings]]:
    """Embedded digits, mask tokens in the encoder, too, or not.  Here: not yet run."""
    return along(mae.digits(), "method.reconstruct.encoder_mask_tokens", (True, False))


def in1k_mask_tokens() -> Iterator[Recipe[Settings]]:
    """ImageNet, mask tokens in the encoder, too, or not (Table 1c).  Here: not yet run.

    Paper: 84.2 / 59.6 at 3.3 times the FLOPs (`python -m models.bench.costs` counts and times them), 84.9 / 73.5.
    """
    return along(_in1k(), "method.reconstruct.encoder_mask_tokens", (True, False))


def digits_target() -> Iterator[Recipe[Settings]]:
    """Embedded digits, what is predicted: pixels, normalised, PCA, codes.  Here: 20 steps of each.

    Run before it, for an eighth of the components, as in the paper, and 64 codes:

    python -m models.masked.fit_pca data/digits/train.beton --recipe mae:digits --out data/digits/pca.pt

    python -m models.masked.fit_vq data/digits/train.beton --recipe mae:digits --codes 64 --out data/digits/vq.pt
    """
    return _targets(mae.digits(), "data/digits")


def in1k_target() -> Iterator[Recipe[Settings]]:
    """ImageNet, what is predicted: pixels, normalised, PCA, codes (Table 1d).  Here: not yet run.

    Run before it (96 components, as in the paper, whose codes are DALL-E's; these are a small codebook's):

    python -m models.masked.fit_pca data/in1k/train.beton --out data/in1k/pca.pt

    python -m models.masked.fit_vq data/in1k/train.beton --out data/in1k/vq.pt

    Paper: 84.9 / 73.5, 85.4 / 73.9, 84.6 / 72.3, 85.3 / 71.6.
    """
    return _targets(_in1k(), "data/in1k")


def digits_loss_patches() -> Iterator[Recipe[Settings]]:
    """Embedded digits, the loss on hidden patches or on all.  Here: not yet run."""
    return along(mae.digits(), "method.reconstruct.patches", ("hidden", "all"))


def in1k_loss_patches() -> Iterator[Recipe[Settings]]:
    """ImageNet, the loss on hidden patches or on all (section 3).  Here: not yet run.

    Paper: on all it is about half a point worse.
    """
    return along(_in1k(), "method.reconstruct.patches", ("hidden", "all"))


def digits_augmentation() -> Iterator[Recipe[Settings]]:
    """Embedded digits, the view: whole, crop, crop of random size, and colour jitter.  Here: not yet run."""
    whole = View(crop="centre", short_side=1.0, flip=False)
    crop = View(crop="resize_then_crop", short_side=1.0, padding=2, flip=False)  # mae:digits
    sizes = View(scale=(0.5, 1.0), flip=False)  # ours: at 0.2 a crop holds no digit
    return along(mae.digits(), "data.weak", (whole, crop, sizes, replace(sizes, jitter=JITTER)))


def in1k_augmentation() -> Iterator[Recipe[Settings]]:
    """ImageNet, the view: none, crop of fixed and of random size, and colour jitter (Table 1e).  Here: not yet run.

    None is a centre crop without mirroring; the fixed crop is of 224 pixels out of a short side of 256, which is ours.
    Paper: 84.0 / 65.7, 84.7 / 73.1, 84.9 / 73.5, 84.3 / 71.9.
    """
    none = View(crop="centre", filter="bicubic", flip=False)
    fixed = View(crop="resize_then_crop", filter="bicubic", padding=0)
    sizes = View(filter="bicubic", scale=(0.2, 1.0))  # MAE code
    return along(_in1k(), "data.weak", (none, fixed, sizes, replace(sizes, jitter=JITTER)))


def digits_mask() -> Iterator[Recipe[Settings]]:
    """Embedded digits, which patches are hidden: random 75, block 50, block 75, grid 75 %.  Here: not yet run."""
    return _masks(mae.digits())


def in1k_mask() -> Iterator[Recipe[Settings]]:
    """ImageNet, which patches are hidden: random 75, block 50, block 75, grid 75 % (Table 1f).  Here: not yet run.

    Paper: 84.9 / 73.5, 83.9 / 72.3, 82.8 / 63.9, 84.0 / 66.0.
    """
    return _masks(_in1k())


def digits_ratio() -> Iterator[Recipe[Settings]]:
    """Embedded digits, how many patches are hidden: 10 to 90 %.  Here: not yet run."""
    return along(mae.digits(), RATIO, RATIOS)


def in1k_ratio() -> Iterator[Recipe[Settings]]:
    """ImageNet, how many patches are hidden: 10 to 90 % (Figure 5).  Here: not yet run.

    Paper: best around 75 % by linear probe, from 40 to 80 % fine-tuned.
    """
    return along(_in1k(), RATIO, RATIOS)


def digits_schedule() -> Iterator[Recipe[Settings]]:
    """Embedded digits, 225 to 3,600 steps, each the double of the last; a full schedule each.  Here: not yet run."""
    return along(mae.digits(), "optim.epochs", (225, 450, 900, 1800, 3600))


def in1k_schedule() -> Iterator[Recipe[Settings]]:
    """ImageNet, 100 to 1,600 epochs, a full schedule each (Figure 7).  Here: not yet run.

    The rate rises for 40 epochs in all of them. Paper: 82.3 / 57.3, 83.3 / 64.4, 84.3 / 69.7, 84.9 / 73.5, 85.1 / 75.1.
    """
    return along(_in1k(), "optim.epochs", (100, 200, 400, 800, 1600))


def _in1k() -> Recipe[Settings]:
    """Build the default of Table 1."""
    return changed(mae.in1k_b16(), {"encoder.name": "vit_large_patch16_224", TARGET: "pixel"})


def _masks(recipe: Recipe[Settings]) -> Iterator[Recipe[Settings]]:
    return (changed(recipe, {KIND: kind, RATIO: ratio}) for kind, ratio in MASKS)


def _targets(recipe: Recipe[Settings], root: str) -> Iterator[Recipe[Settings]]:
    files = {"pca": f"{root}/pca.pt", "tokens": f"{root}/vq.pt"}
    return (changed(recipe, {TARGET: kind, FILE: files.get(kind)}) for kind in TARGETS)
