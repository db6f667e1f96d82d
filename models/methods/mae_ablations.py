"""Every table of ablations in MAE's paper as a sweep: `python -m slurm.submit mae_ablations:in1k_mask --parallel 4`.

in1k_...     the paper's settings: ViT-L/16, 800 epochs, decoder of 8 x 512, plain pixels, 75 % at random.
             Its results, in %: fine-tuned / linear probe, each a further training from a member's last.pt
digits_...   the same axis on the embedded digits, with the other settings of mae:digits: minutes on two cores; ours
cifar10_...  the same axis with the other settings of mae:cifar10; ours

Each member is followed by fine-tuning, a linear probe and nearest neighbours (CHAINS, below), and the sweep ends in one
table beside the paper's, and in its figure where the paper has one. Here: none of them was run to its end yet. The
members differ in their table's axis alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from models.config.chain import Chain
from models.config.figure import Figure, Panel, PaperLine, line_along
from models.config.recipe import Recipe
from models.config.sweep import along, changed
from models.methods import mae
from models.methods.mae import Settings
from models.methods.presets import stages
from pipeline.spec import View

DEPTH, WIDTH, HEADS = "method.reconstruct.depth", "method.reconstruct.width", "method.reconstruct.heads"
TARGET, FILE = "method.reconstruct.target", "method.reconstruct.target_file"
MASK_TOKENS = "method.reconstruct.encoder_mask_tokens"
KIND, RATIO = "data.mask.kind", "data.mask.ratio"
DEPTHS = 1, 2, 4, 8, 12  # Table 1a
WIDTHS = 128, 256, 512, 768, 1024  # Table 1b
DIGITS_WIDTHS, CIFAR10_WIDTHS = (8, 16, 32, 48, 64), (12, 24, 48, 72, 96)  # ours: the same shares of the encoder's
EPOCHS = 100, 200, 400, 800, 1600  # Figure 7
DIGITS_STEPS, CIFAR10_STEPS = (225, 450, 900, 1800, 3600), (125, 250, 500, 1000, 2000)  # ours
RATIOS = 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9  # Figure 5, and the default
MASKS = ("random", 0.75), ("block", 0.5), ("block", 0.75), ("grid", 0.75)  # Table 1f
TARGETS = "pixel", "norm_pix", "pca", "tokens"  # Table 1d
JITTER = (0.4, 0.4, 0.2, 0.1)  # MoCo v3; MAE does not give its own


def digits_decoder_depth() -> Iterator[Recipe[Settings]]:
    """Embedded digits, blocks of the decoder: 1, 2, 4, 8, 12.  Here: not yet run."""
    return along(mae.digits(), DEPTH, DEPTHS)


def cifar10_decoder_depth() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, blocks of the decoder: 1, 2, 4, 8, 12.  Here: not yet run."""
    return along(mae.cifar10(), DEPTH, DEPTHS)


def in1k_decoder_depth() -> Iterator[Recipe[Settings]]:
    """ImageNet, blocks of the decoder: 1, 2, 4, 8, 12 (Table 1a).  Here: not yet run.

    Paper: 84.8 / 65.5, 84.9 / 70.0, 84.9 / 71.9, 84.9 / 73.5, 84.4 / 73.3.
    """
    return along(_in1k(), DEPTH, DEPTHS)


def digits_decoder_width() -> Iterator[Recipe[Settings]]:
    """Embedded digits, the decoder's width: 1/8 to all of the encoder's, as in Table 1b.  Here: not yet run."""
    return along(mae.digits(), WIDTH, DIGITS_WIDTHS)


def cifar10_decoder_width() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, the decoder's width: 1/8 to all of the encoder's.  Here: not yet run."""
    return along(mae.cifar10(), WIDTH, CIFAR10_WIDTHS)


def in1k_decoder_width() -> Iterator[Recipe[Settings]]:
    """ImageNet, the decoder's width: 128, 256, 512, 768, 1024 (Table 1b).  Here: not yet run.

    Always 16 heads, as in the code. Paper: 84.9 / 69.1, 84.8 / 71.3, 84.9 / 73.5, 84.4 / 73.1, 84.3 / 73.1.
    """
    return along(_in1k(), WIDTH, WIDTHS)


def digits_mask_tokens() -> Iterator[Recipe[Settings]]:
    """Embedded digits, mask tokens in the encoder, too, or not.  Here: not yet run."""
    return along(mae.digits(), MASK_TOKENS, (True, False))


def cifar10_mask_tokens() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, mask tokens in the encoder, too, or not.  Here: not yet run."""
    return along(mae.cifar10(), MASK_TOKENS, (True, False))


def in1k_mask_tokens() -> Iterator[Recipe[Settings]]:
    """ImageNet, mask tokens in the encoder, too, or not (Table 1c).  Here: not yet run.

    Paper: 84.2 / 59.6 at 3.3 times the FLOPs (`python -m models.bench.costs` counts and times them), 84.9 / 73.5.
    """
    return along(_in1k(), MASK_TOKENS, (True, False))


def digits_target() -> Iterator[Recipe[Settings]]:
    """Embedded digits, what is predicted: pixels, normalised, PCA, codes.  Here: 20 steps of each.

    Run before it, for an eighth of the components, as in the paper, and 64 codes:

    python -m models.masked.fit_pca data/digits/train.beton --recipe mae:digits --out data/digits/pca.pt

    python -m models.masked.fit_vq data/digits/train.beton --recipe mae:digits --codes 64 --out data/digits/vq.pt
    """
    return _targets(mae.digits(), "data/digits")


def cifar10_target() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, what is predicted: pixels, normalised, PCA, codes.  Here: not yet run.

    Run before it, for an eighth of the components, as in the paper, and 64 codes:

    python -m models.masked.fit_pca data/cifar10/train.beton --recipe mae:cifar10 --out data/cifar10/pca.pt

    python -m models.masked.fit_vq data/cifar10/train.beton --recipe mae:cifar10 --codes 64 --out data/cifar10/vq.pt
    """
    return _targets(mae.cifar10(), "data/cifar10")


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


def cifar10_loss_patches() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, the loss on hidden patches or on all.  Here: not yet run."""
    return along(mae.cifar10(), "method.reconstruct.patches", ("hidden", "all"))


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


def cifar10_augmentation() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, the view: whole, crop, crop of random size, and colour jitter.  Here: not yet run."""
    whole = View(crop="centre", short_side=1.0, flip=False)
    crop = View(crop="resize_then_crop", short_side=1.0, padding=4)  # mae:cifar10
    sizes = View(scale=(0.2, 1.0))  # MAE code
    return along(mae.cifar10(), "data.weak", (whole, crop, sizes, replace(sizes, jitter=JITTER)))


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
    """Embedded digits, which patches are hidden: random 75, block 50, block 75, grid 75 %.

    Here: 85.7, 85.3, 85.7, 86.3 % fine-tuned, test, with 900 steps a stage (docs/results.md).
    """
    return _masks(mae.digits())


def cifar10_mask() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, which patches are hidden: random 75, block 50, block 75, grid 75 %.  Here: not yet run."""
    return _masks(mae.cifar10())


def in1k_mask() -> Iterator[Recipe[Settings]]:
    """ImageNet, which patches are hidden: random 75, block 50, block 75, grid 75 % (Table 1f).  Here: not yet run.

    Paper: 84.9 / 73.5, 83.9 / 72.3, 82.8 / 63.9, 84.0 / 66.0.
    """
    return _masks(_in1k())


def digits_ratio() -> Iterator[Recipe[Settings]]:
    """Embedded digits, how many patches are hidden: 10 to 90 %.  Here: docs/results.md."""
    return along(mae.digits(), RATIO, RATIOS)


def cifar10_ratio() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, how many patches are hidden: 10 to 90 %.  Here: not yet run."""
    return along(mae.cifar10(), RATIO, RATIOS)


def in1k_ratio() -> Iterator[Recipe[Settings]]:
    """ImageNet, how many patches are hidden: 10 to 90 % (Figure 5).  Here: not yet run.

    Paper: 83.2 / 54.6, 83.4 / 58.9, 83.4 / 61.7, 84.7 / 67.0, 84.9 / 69.9, 85.0 / 71.8, 84.9 / 73.2, 84.9 / 73.5,
    84.5 / 71.8, 83.0 / 66.1, as printed at its points.
    """
    return along(_in1k(), RATIO, RATIOS)


def digits_schedule() -> Iterator[Recipe[Settings]]:
    """Embedded digits, 225 to 3,600 steps, each the double of the last; a full schedule each.  Here: not yet run."""
    return along(mae.digits(), "optim.epochs", DIGITS_STEPS)


def cifar10_schedule() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, 125 to 2,000 steps, each the double of the last; a full schedule each.  Here: not yet run."""
    return along(mae.cifar10(), "optim.epochs", CIFAR10_STEPS)


def in1k_schedule() -> Iterator[Recipe[Settings]]:
    """ImageNet, 100 to 1,600 epochs, a full schedule each (Figure 7).  Here: not yet run.

    The rate rises for 40 epochs in all of them. Paper: 82.3 / 57.3, 83.3 / 64.4, 84.3 / 69.7, 84.9 / 73.5, 85.1 / 75.1.
    """
    return along(_in1k(), "optim.epochs", EPOCHS)


def digits_blocks() -> Iterator[Recipe[Settings]]:
    """Embedded digits, mae:digits, then the last 0, 1/2, 1, 2 and all blocks fine-tuned.

    Here: 66.0, 86.0, 88.7, 89.7, 88.0 % test, with 900 steps a stage (docs/results.md).
    """
    yield mae.digits()


def cifar10_blocks() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, mae:cifar10, then the last 0, 1/2, 1, 2 and all blocks fine-tuned.  Here: not yet run."""
    yield mae.cifar10()


def in1k_blocks() -> Iterator[Recipe[Settings]]:
    """ImageNet, ViT-L/16 once, then its last 0 to all blocks fine-tuned (Figure 9).  Here: not yet run.

    The paper takes the best of 50, 100 and 200 epochs for each: --finetune.optim.epochs.
    """
    yield _in1k()


def _in1k() -> Recipe[Settings]:
    """Build the default of Table 1."""
    return changed(mae.in1k_b16(), {"encoder.name": "vit_large_patch16_224", TARGET: "pixel"})


def _masks(recipe: Recipe[Settings]) -> Iterator[Recipe[Settings]]:
    return (changed(recipe, {KIND: kind, RATIO: ratio}) for kind, ratio in MASKS)


def _targets(recipe: Recipe[Settings], root: str) -> Iterator[Recipe[Settings]]:
    files = {"pca": f"{root}/pca.pt", "tokens": f"{root}/vq.pt"}
    return (changed(recipe, {TARGET: kind, FILE: files.get(kind)}) for kind in TARGETS)


_chains = partial(stages.at_three_sizes, stages.MAE_L16, "MAE {}: ViT-L/16 on ImageNet")


def _figure_9() -> dict[str, Chain]:
    """Declare the partial fine-tunings of one member: its values are those of finetune:in1k_l16_blocks."""
    values = dict(zip(stages.PARTS, (73.5, 79.1, 81.0, 83.1, 84.2, 84.4, 84.6, 84.7, 84.9), strict=True))
    whole = PaperLine("MAE", (0, 0.5, 1, 2, 4, 6, 12, 18, 24), tuple(values.values()))
    moco = PaperLine("MoCo v3", (0, 1, 2, 4, 6, 12, 18, 24), (77.6, 79.9, 80.8, 81.6, 81.9, 83.2, 83.8, 84.1))
    few = "head", "half", "1", "2", "full"
    sizes = {  # what is fine-tuned, its parts, and the blocks of the encoder
        "digits": ("finetune:digits", few, 4),
        "cifar10": ("finetune:cifar10", few, 4),
        "in1k": ("finetune:in1k_l16_paper", tuple(stages.PARTS), 24),
    }
    return {
        f"{size}_blocks": Chain(
            "MAE Figure 9: ViT-L/16 on ImageNet",
            "trained",
            ("MAE",),
            stages.partial(recipe, parts),
            {f"tuned-{part}": (values[part],) for part in parts},
            Figure("# blocks fine-tuned", stages.by_blocks(parts, depth, whole, (moco,)), stages.SIZES[size],
                   apart=size != "in1k"),
        )
        for size, (recipe, parts, depth) in sizes.items()
    }  # fmt: skip


def _figure_7(x: Sequence[float], paper_x: Sequence[float]) -> tuple[Panel, ...]:
    """Draw fine-tuned above, the linear probe below."""
    named = ("fine-tuning", "finetune"), ("linear probing", "probe")
    return tuple(Panel((line_along(title, stage, x, paper_x),)) for title, stage in named)


def _names(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, values))


CHAINS = {
    **_chains("decoder_depth", "Table 1a", "blocks", _names(DEPTHS),
              (84.8, 84.9, 84.9, 84.9, 84.4), (65.5, 70.0, 71.9, 73.5, 73.3)),
    **_chains("decoder_width", "Table 1b", "width", _names(WIDTHS),
              (84.9, 84.8, 84.9, 84.4, 84.3), (69.1, 71.3, 73.5, 73.1, 73.1),
              _names(DIGITS_WIDTHS), _names(CIFAR10_WIDTHS)),
    **_chains("mask_tokens", "Table 1c", "encoder", ("with mask tokens", "without"), (84.2, 84.9), (59.6, 73.5)),
    **_chains("target", "Table 1d", "target", ("pixels", "normalised pixels", "PCA", "tokens"),
              (84.9, 85.4, 84.6, 85.3), (73.5, 73.9, 72.3, 71.6)),
    **_chains("loss_patches", "section 3, which gives no more than a difference of about half a point", "loss on",
              ("hidden patches", "all patches"), (84.9, None), (73.5, None)),  # the default's: Table 1
    **_chains("augmentation", "Table 1e", "view", ("none", "crop of fixed size", "of random size", "and colour jitter"),
              (84.0, 84.7, 84.9, 84.3), (65.7, 73.1, 73.5, 71.9)),
    **_chains("mask", "Table 1f", "mask", ("random 75 %", "block 50 %", "block 75 %", "grid 75 %"),
              (84.9, 83.9, 82.8, 84.0), (73.5, 72.3, 63.9, 66.0)),
    **_chains("ratio", "Figure 5", "hidden", tuple(f"{ratio:.0%}" for ratio in RATIOS),
              (83.2, 83.4, 83.4, 84.7, 84.9, 85.0, 84.9, 84.9, 84.5, 83.0),
              (54.6, 58.9, 61.7, 67.0, 69.9, 71.8, 73.2, 73.5, 71.8, 66.1),
              figure=stages.tuned_and_linear("masking ratio (%)", [round(100 * ratio) for ratio in RATIOS])),
    **_chains("schedule", "Figure 7", "epochs", _names(EPOCHS),
              (82.3, 83.3, 84.3, 84.9, 85.1), (57.3, 64.4, 69.7, 73.5, 75.1),
              *(tuple(f"{steps:,} steps" for steps in each) for each in (DIGITS_STEPS, CIFAR10_STEPS)),
              figure=stages.by_length(EPOCHS, DIGITS_STEPS, CIFAR10_STEPS, _figure_7, log=True)),
    **_figure_9(),
}  # fmt: skip
"""What follows each sweep's members, with the papers' values in %, fine-tuned and linear."""
