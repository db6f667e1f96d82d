"""What follows pre-training in the chains (models.config.chain): fine-tuning, a linear probe and nearest neighbours.

Chain(source, axis, rows, stages.DIGITS, {"finetune": (84.8, 84.9), "probe": (65.5, 70.0)})
"""

from collections.abc import Callable, Sequence

from models.config.chain import OWN, Chain, Stage
from models.config.figure import Figure, Line, Panel, PaperLine, line_along

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
SIZES = {"digits": "digits", "cifar10": "CIFAR-10", "in1k": "ImageNet"}
"""What a chain's name begins with, and the data of ours in a figure's legend."""


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
    figure: Callable[[str], Figure] | None = None,
) -> dict[str, Chain]:
    """Declare what follows the members of a sweep on digits, CIFAR-10 and ImageNet, the last with stages of its own.

    source           of the paper's values, with {} for the table, such as "Table 1a"
    finetune, probe  the paper's values, one for each row; (): it has none
    digits, cifar10  the rows' names there, where they are others
    figure           of a size, such as "digits", how the table is drawn
    """
    paper, source = {"finetune": finetune, "probe": probe or (None,) * len(rows)}, source.format(table)
    named = {"digits": digits or rows, "cifar10": cifar10 or digits or rows, "in1k": rows}
    after = {"digits": DIGITS, "cifar10": CIFAR10, "in1k": in1k}
    return {
        f"{size}_{name}": Chain(source, axis, named[size], after[size], paper, figure(size) if figure else None)
        for size in SIZES
    }


def tuned_and_linear(x: str, places: Sequence[float]) -> Callable[[str], Figure]:
    """Draw a table along its rows as MAE's Figures 5 and 7 are: fine-tuned above, the linear probe below.

    x       label of the axis
    places  of the rows on it
    """
    lines = line_along("fine-tuning", "finetune", places), line_along("linear probing", "probe", places)
    panels = tuple(Panel((line,)) for line in lines)
    return lambda size: Figure(x, panels, SIZES[size], apart=size != "in1k")


def by_length(
    epochs: Sequence[float],
    digits: Sequence[float],
    cifar10: Sequence[float],
    panels: Callable[[Sequence[float], Sequence[float]], tuple[Panel, ...]],
    log: bool = False,
) -> Callable[[str], Figure]:
    """Draw a table along the length of pre-training: the paper's and ours on ImageNet in epochs, the others in steps.

    digits, cifar10  steps of the rows there
    panels           of the places of the rows on the axes of ours and of the paper
    """
    places = {"digits": digits, "cifar10": cifar10, "in1k": epochs}
    scale = " (log-scale)" if log else ""

    def figure(size: str) -> Figure:
        """Draw one size."""
        drawn, own = panels(places[size], epochs), size != "in1k"
        x = f"pre-training {'steps' if own else 'epochs'}{scale}"
        return Figure(x, drawn, SIZES[size], f"pre-training epochs{scale}" if own else None, apart=own, log=log)

    return figure


def cost_and_accuracy(rows: int, hours: str, others: tuple[PaperLine, ...] = ()) -> Callable[[str], Figure]:
    """Draw fine-tuned accuracy against hours of pre-training, a point a row; the paper's are of other machines.

    hours  what the paper's are of
    """
    panel = Panel((line_along("fine-tuning", "finetune", COST.name, rows=range(rows)),), others)
    x = "hours of pre-training"
    return lambda size: Figure(
        f"{x} at the measured pace", (panel,), SIZES[size], f"{x} ({hours})", apart=True, joined=False
    )


def by_blocks(parts: Sequence[str], depth: int, paper: PaperLine, others: tuple[PaperLine, ...]) -> tuple[Panel, ...]:
    """Draw the one row of a chain of `partial` along the number of blocks that are fine-tuned (MAE Figure 9).

    depth   blocks of the encoder, which is what "full" trains
    paper   the figure's line of MAE
    others  its other lines
    """
    places = {"head": 0.0, "half": 0.5, "full": float(depth)}
    x = tuple(places[part] if part in places else float(part) for part in parts)
    return (Panel((Line("MAE", tuple((0, f"tuned-{part}") for part in parts), x, paper=paper),), others),)


def partial(recipe: str, parts: tuple[str, ...]) -> tuple[Stage, ...]:
    """Build one stage for each part of the encoder that is fine-tuned (MAE section 4.3).

    partial("finetune:digits", ("head", "half", "1", "2", "full"))
    """
    return tuple(Stage(f"tuned-{part}", recipe, PARTS[part], flags=("--encoder.adapt", part)) for part in parts)
