"""What follows pre-training in the chains (models.config.chain): fine-tuning, a linear probe and nearest neighbours.

Chain(source, axis, rows, stages.DIGITS, {"finetune": (84.8, 84.9), "probe": (65.5, 70.0)})
"""

from models.config.chain import OWN, Chain, Stage

FINE_TUNED, LINEAR, NEIGHBOURS = "fine-tuned", "linear", "k-NN"
COST = Stage("cost", "throughput", "pre-training hours", "hours")
"""Hours of the whole pre-training at the pace measured on one device."""
TOP1 = Stage(OWN, OWN, "top-1")
"""The members' own accuracy, where nothing follows them."""
DIGITS = (
    Stage("finetune", "finetune:digits", FINE_TUNED),
    Stage("probe", "probe:digits", LINEAR),
    Stage("knn", "knn", NEIGHBOURS, "knn_5"),  # ours: as many neighbours as a class has labels
)
CIFAR10 = (
    Stage("finetune", "finetune:cifar10", FINE_TUNED),
    Stage("probe", "probe:cifar10", LINEAR),
    Stage("knn", "knn", NEIGHBOURS, "knn_20"),
)
MAE_L16 = (
    Stage("finetune", "finetune:in1k_l16_paper", FINE_TUNED),  # MAE Table 9
    Stage("probe", "probe:in1k_l16", LINEAR),  # MAE Table 10, 50 epochs: MAE code
    Stage("knn", "knn", NEIGHBOURS, "knn_20"),
)
SUPMAE_B16 = (
    Stage("finetune", "finetune:supmae_b16", FINE_TUNED),  # SupMAE's FINETUNE.md
    Stage("probe", "probe:in1k_b16_supmae", LINEAR),
    Stage("knn", "knn", NEIGHBOURS, "knn_20"),
)
SIMMIM_B16 = (
    Stage("finetune", "finetune:simmim_b16", FINE_TUNED),
    Stage("probe", "probe:in1k_b16_simmim", LINEAR),
    Stage("knn", "knn", NEIGHBOURS, "knn_20"),
)
PARTS = {"head": "the classifier", "half": "half a block", "1": "1 block", "2": "2 blocks", "4": "4 blocks",
         "6": "6 blocks", "12": "12 blocks", "18": "18 blocks", "full": "everything"}  # fmt: skip
"""Parts of the encoder that MAE's Figure 9 fine-tunes: values of encoder.adapt, and their titles."""


def at_three_sizes(
    in1k: tuple[Stage, ...],
    source: str,
    name: str,
    table: str,
    axis: str,
    rows: tuple[str, ...],
    finetune: tuple[float | None, ...],
    probe: tuple[float | None, ...] = (),
    digits: tuple[str, ...] = (),
    cifar10: tuple[str, ...] = (),
) -> dict[str, Chain]:
    """Declare what follows the members of a sweep on digits, CIFAR-10 and ImageNet, the last with stages of its own.

    source           of the paper's values, with {} for the table, such as "Table 1a"
    finetune, probe  the paper's values, one for each row; (): it has none
    digits, cifar10  the rows' names there, where they are others
    """
    paper, source = {"finetune": finetune, "probe": probe or (None,) * len(rows)}, source.format(table)
    return {
        f"digits_{name}": Chain(source, axis, digits or rows, DIGITS, paper),
        f"cifar10_{name}": Chain(source, axis, cifar10 or digits or rows, CIFAR10, paper),
        f"in1k_{name}": Chain(source, axis, rows, in1k, paper),
    }


def partial(recipe: str, parts: tuple[str, ...]) -> tuple[Stage, ...]:
    """Build one stage for each part of the encoder that is fine-tuned (MAE section 4.3).

    partial("finetune:digits", ("head", "half", "1", "2", "full"))
    """
    return tuple(Stage(f"tuned-{part}", recipe, PARTS[part], flags=("--encoder.adapt", part)) for part in parts)
