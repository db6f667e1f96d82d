"""Tables of the papers that compare methods, as sweeps: `python -m slurm.submit comparisons:in1k_mae_scratch`.

in1k_...     the paper's rows that there are recipes for
digits_...   the same rows on the embedded digits, with the settings of the recipes named digits: minutes each; ours
cifar10_...  the same with those named cifar10; ours

What follows the members, if anything does, stands in CHAINS below, with the papers' values. Here: none was run yet.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from models.config.chain import OWN, Chain, Stage
from models.config.figure import Figure, PaperLine
from models.config.recipe import Recipe
from models.config.sweep import changed
from models.methods import (
    cowmix,
    finetune,
    fixmatch,
    mae,
    mpl,
    s4l,
    scratch,
    semi_mae,
    semiformer,
    supervised,
    supmae,
    uda,
)
from models.methods.presets import small, stages
from models.methods.presets.masked import digits_windows

Values = Mapping[str, tuple[float | None, ...]]
RESNETS: Mapping[Any, str] = {supervised: "supervised", uda: "UDA", fixmatch: "FixMatch", s4l: "S4L", mpl: "MPL",
                              cowmix: "CowMix"}  # fmt: skip
"""Methods of Semi-MAE's Table 1 whose networks are ResNets, after a supervised one."""
DEPTH, MASK_TOKENS, EPOCHS = "method.reconstruct.depth", "method.reconstruct.encoder_mask_tokens", "optim.epochs"


def digits_mae_scratch() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels: from scratch, and fine-tuned from MAE.  Here: not yet run."""
    yield finetune.digits()
    yield mae.digits()


def cifar10_mae_scratch() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels: from scratch, and fine-tuned from MAE.  Here: not yet run."""
    yield finetune.cifar10()
    yield mae.cifar10()


def in1k_mae_scratch() -> Iterator[Recipe[Any]]:
    """ImageNet, ViT-B, L, H from scratch, and from MAE of 1,600 epochs, H at 448, too (MAE Table 3).  Not yet run."""
    yield from (scratch.in1k_b16(), scratch.in1k_l16(), scratch.in1k_h14())
    yield from (mae.in1k_b16_1600(), mae.in1k_l16_1600(), mae.in1k_h14())


def digits_mae_time() -> Iterator[Recipe[Any]]:
    """Embedded digits, MAE's hours with mask tokens in the encoder, without, decoder of 1.  Here: not yet run."""
    return _times(changed(mae.digits(), {DEPTH: 8}))


def cifar10_mae_time() -> Iterator[Recipe[Any]]:
    """CIFAR-10, MAE's hours with mask tokens in the encoder, without, decoder of 1.  Here: not yet run."""
    return _times(changed(mae.cifar10(), {DEPTH: 8}))


def in1k_mae_time() -> Iterator[Recipe[Any]]:
    """ImageNet, ViT-L: hours with mask tokens in the encoder, without, decoder of 1 (MAE Table 2).  Here: not yet run.

    The paper's hours are of 128 TPU-v3 cores. Its ViT-H is 4.1 times as fast without mask tokens and with one block.
    """
    return _times(changed(mae.in1k_l16(), {"method.reconstruct.target": "pixel"}))


def digits_supmae_cost() -> Iterator[Recipe[Any]]:
    """Embedded digits: MAE, SupMAE in a quarter of its steps, and supervised, with their hours.  Here: not yet run."""
    yield changed(mae.digits(), {EPOCHS: 3600})
    yield changed(supmae.digits(), {EPOCHS: 900})
    yield finetune.digits()


def cifar10_supmae_cost() -> Iterator[Recipe[Any]]:
    """CIFAR-10: MAE, SupMAE in a quarter of its steps, and supervised, with their hours.  Here: not yet run."""
    yield changed(mae.cifar10(), {EPOCHS: 2000})
    yield changed(supmae.cifar10(), {EPOCHS: 500})
    yield finetune.cifar10()


def in1k_supmae_cost() -> Iterator[Recipe[Any]]:
    """ImageNet, ViT-B: MAE of 1,600 epochs, SupMAE of 400, DeiT, with hours (SupMAE Table 1).  Here: not yet run.

    The paper's hours are of 8 A5000. MoCo v3, which costs 250 + 45.7 hours there, has no recipe here.
    """
    yield mae.in1k_b16_1600_d1()
    yield supmae.in1k_b16()
    yield scratch.deit_b16()


def digits_semi_mae() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels: two ViTs, six ResNets, Semiformer, Semi-MAE.  Here: not yet run."""
    yield from (supervised.digits(), fixmatch.digits())
    yield from (each.digits_resnet() for each in RESNETS)
    yield from (semiformer.digits(), semi_mae.digits())


def cifar10_semi_mae() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels: two ViTs, six ResNets, Semiformer, Semi-MAE.  Here: not yet run."""
    yield from (supervised.cifar10(), fixmatch.cifar10())
    yield from (each.cifar10_resnet() for each in RESNETS)
    yield from (_semiformer_cifar10(), semi_mae.cifar10())


def in1k_semi_mae() -> Iterator[Recipe[Any]]:
    """ImageNet, 10 % of the labels: two ViTs, six ResNets, Semiformer, Semi-MAE (its Table 1).  Here: not yet run.

    The ResNets are ResNet-50s. The paper's S4L is one of four times the width with several losses, its CowMix a
    ResNet-152.
    """
    yield from (supervised.in1k_10pct(), fixmatch.in1k_10pct())
    yield from (each.in1k_10pct_r50() for each in RESNETS)
    yield from (semiformer.in1k_10pct(), semi_mae.in1k_10pct())


def digits_semiformer() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels: Semiformer without and with an MAE branch.  Here: not yet run."""
    yield from (semiformer.digits(), semiformer.digits_mae())


def cifar10_semiformer() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels: Semiformer without and with an MAE branch.  Here: not yet run."""
    plain = _semiformer_cifar10()
    yield plain
    with_branch = {"method.mu": 3.0, "method.reconstruct": small.cifar10_decoder(), "encoder.position": "sincos"}
    yield changed(plain, with_branch)  # mu: as semiformer:digits_mae


def in1k_semiformer() -> Iterator[Recipe[Any]]:
    """ImageNet, 10 % of the labels: Semiformer, and with an MAE branch (Semi-MAE Table 2).  Here: not yet run."""
    yield from (semiformer.in1k_10pct(), semiformer.in1k_10pct_mae())


def digits_semi_mae_branch() -> Iterator[Recipe[Any]]:
    """Embedded digits, 50 labels: Semi-MAE with MAE's and with LoMaR's branch.  Here: not yet run."""
    yield from (semi_mae.digits(), semi_mae.digits_lomar())


def cifar10_semi_mae_branch() -> Iterator[Recipe[Any]]:
    """CIFAR-10, 4,000 labels: Semi-MAE with MAE's and with LoMaR's branch.  Here: not yet run."""
    yield semi_mae.cifar10()
    yield changed(semi_mae.cifar10(), {"method.branch": "lomar", "data.mask": digits_windows()})  # a grid of 4 x 4, too


def in1k_semi_mae_branch() -> Iterator[Recipe[Any]]:
    """ImageNet, 10 % of the labels: Semi-MAE with MAE's and LoMaR's branch (Semi-MAE Table 3).  Here: not yet run."""
    yield from (semi_mae.in1k_10pct(), semi_mae.in1k_10pct_lomar())


def _times(recipe: Recipe[Any]) -> Iterator[Recipe[Any]]:
    yield changed(recipe, {MASK_TOKENS: True})
    yield recipe
    yield changed(recipe, {DEPTH: 1})


def _semiformer_cifar10() -> Recipe[Any]:
    """Build semiformer:digits for CIFAR-10: its views, its steps, patches of 8 pixels, width 96. Ours."""
    plain = semiformer.digits()
    encoder = replace(plain.encoder, width=96, heads=3, patch=8)
    return replace(plain, data=small.cifar10_data(), encoder=encoder, optim=small.cifar10_optim())


def _three(
    name: str,
    source: str,
    rows: tuple[str, ...],
    paper: Values,
    *sizes: tuple[Stage, ...],
    figure: Callable[[str], Figure] | None = None,
) -> dict[str, Chain]:
    """Declare a chain with the same rows on digits, CIFAR-10 and ImageNet, whose stages `sizes` are.

    figure  of a size, how the table is drawn
    """
    return {
        f"{size}_{name}": Chain(source, "method", rows, own, paper, figure(size) if figure else None)
        for size, own in zip(stages.SIZES, sizes, strict=True)
    }


def _tuned(*targets: str | None) -> Stage:
    return Stage("finetune", targets, stages.FINE_TUNED)


SCRATCH, FROM_MAE = "from scratch", "MAE, fine-tuned"
SIZES = "ViT-B", "ViT-L", "ViT-H"
SCRATCH_L = "MAE Table 3: ViT-L/16 on ImageNet"
TABLE_1 = (
    "Semi-MAE Table 1: 10 % of ImageNet's labels; S4L on a ResNet-50 of four times the width, CowMix on a ResNet-152"
)
TABLE_2, TABLE_3 = "Semi-MAE Table 2: 10 % of ImageNet's labels", "Semi-MAE Table 3: 10 % of ImageNet's labels"
SUPMAE_1 = "SupMAE Table 1: ViT-B/16 on ImageNet, hours of 8 A5000; DeiT's accuracy: its paper"
COSTS = {"finetune": (83.6, 83.6, 81.8), "cost": (364.0, 95.9, 91.5)}  # 81.8: scratch:deit_b16
MOCO = PaperLine("MoCo v3 (accuracy: MAE Table 3)", (250.0,), (83.2,))  # hours: SupMAE Table 1
FINETUNE_DIGITS, FINETUNE_CIFAR10 = "finetune:digits", "finetune:cifar10"
CHAINS = {
    "digits_mae_scratch": Chain(SCRATCH_L, "method", (SCRATCH, FROM_MAE), (_tuned(OWN, FINETUNE_DIGITS),),
                                {"finetune": (82.6, 85.9)}),
    "cifar10_mae_scratch": Chain(SCRATCH_L, "method", (SCRATCH, FROM_MAE), (_tuned(OWN, FINETUNE_CIFAR10),),
                                 {"finetune": (82.6, 85.9)}),
    "in1k_mae_scratch": Chain(
        "MAE Table 3 and section A.2: ImageNet",
        "method",
        (*(f"{size}, {SCRATCH}" for size in SIZES), *(f"{size}, {FROM_MAE}" for size in SIZES)),
        (_tuned(OWN, OWN, OWN, "finetune:in1k_b16", "finetune:in1k_l16", "finetune:in1k_h14"),
         Stage("finetune448", (*(None,) * 5, "finetune:in1k_h14_448"), f"{stages.FINE_TUNED} at 448")),
        {"finetune": (82.3, 82.6, 83.1, 83.6, 85.9, 86.9), "finetune448": (*(None,) * 5, 87.8)},
    ),
    **_three("mae_time", "MAE Table 2: ViT-L/16 on ImageNet, 128 TPU-v3 cores",
             ("mask tokens in the encoder, decoder of 8", "decoder of 8", "decoder of 1"),
             {"finetune": (84.2, 84.9, 84.8), "cost": (42.4, 15.4, 11.6)},
             *((Stage("finetune", target, stages.FINE_TUNED), stages.COST)
               for target in (FINETUNE_DIGITS, FINETUNE_CIFAR10, "finetune:in1k_l16_paper")),
             figure=stages.cost_and_accuracy(3, "128 TPU-v3 cores")),
    **_three("supmae_cost", SUPMAE_1, ("MAE", "SupMAE in a quarter of its length", "supervised (DeiT)"), COSTS,
             (_tuned(FINETUNE_DIGITS, FINETUNE_DIGITS, OWN), stages.COST),
             (_tuned(FINETUNE_CIFAR10, FINETUNE_CIFAR10, OWN), stages.COST),
             (_tuned("finetune:in1k_b16", "finetune:supmae_b16", OWN), stages.COST),
             figure=stages.cost_and_accuracy(3, "8 A5000", (MOCO,))),
    **_three("semi_mae", TABLE_1,
             ("supervised, ViT", "FixMatch, ViT", *(f"{name}, ResNet" for name in RESNETS.values()), "Semiformer",
              "Semi-MAE, ViT"),
             {OWN: (None, None, None, 68.8, 71.5, 73.2, 73.9, 73.9, 75.5, 75.9)}, *[(stages.TOP1,)] * 3),
    **_three("semiformer", TABLE_2, ("Semiformer", "Semiformer with an MAE branch"), {OWN: (75.5, 76.4)},
             *[(stages.TOP1,)] * 3),
    **_three("semi_mae_branch", TABLE_3, ("MAE's branch", "LoMaR's branch"), {OWN: (75.9, 76.0)},
             *[(stages.TOP1,)] * 3),
}  # fmt: skip
"""What follows each sweep's members, if anything does, with the papers' values: accuracies in %, hours."""
