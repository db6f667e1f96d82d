"""Chains: what follows each member of a sweep, and the values of the paper's table that ours stand beside.

    CHAINS = {"digits_decoder_depth": Chain("MAE Table 1a", "blocks", ("1", "2", "4", "8", "12"), stages, paper)}

A file of models/methods declares them under its sweeps' names. `python -m slurm.submit SWEEP` runs the members and what
follows them, `python -m models.evaluate.chain_table SWEEP` makes the table, and where that is a figure in its paper
`python -m models.evaluate.chain_figure SWEEP` draws it. No torch is imported here.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import final

from models.config.figure import Figure

FILE = "chain.json"
"""The facts of a chain that was submitted, in the sweep's folder."""
OWN = "own"
"""In place of a stage's target: nothing follows the member, and its own accuracy is the result."""


@final
@dataclass(frozen=True)
class Stage:
    """One run that follows each member, in the folder `name` of the member's run.

    name    also the prefix of its flags, as in --finetune.optim.epochs 20
    target  the recipe that is trained from the member's weights ("finetune:digits"), or the evaluator that measures the
            member ("knn"); one for all members, or one for each: OWN where the member's own accuracy is the result,
            None where the table has no value
    title   heading of its column
    number  name of the result, in the recipe's evaluations or the evaluator's
    flags   of the recipe or the evaluator
    """

    name: str
    target: str | tuple[str | None, ...]
    title: str
    number: str = "top1"
    flags: tuple[str, ...] = ()

    @property
    def targets(self) -> set[str]:
        """Return the recipes and evaluators of the stage, without OWN."""
        every = (self.target,) if isinstance(self.target, str) else self.target
        return {target for target in every if target and target != OWN}

    def of(self, member: int) -> str | None:
        """Return the target for the member of this index."""
        return self.target if isinstance(self.target, str) else self.target[member]


@final
@dataclass(frozen=True)
class Chain:
    """What follows the members of a sweep, and the table that it ends in.

    source  of the paper's values: its table or figure, with network and data
    axis    heading of the rows; `rows` names them, one for each member
    stages  what follows each member; a stage of target OWN is a column of the members' own accuracies
    paper   values of the paper by stage, one for each member: shares in percent, other numbers as they are; None where
            the paper, or this repository's source, has none
    figure  how the table is drawn, where it is a figure in its paper
    """

    source: str
    axis: str
    rows: tuple[str, ...]
    stages: tuple[Stage, ...]
    paper: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    figure: Figure | None = None


def chain_of(sweep: str) -> Chain | None:
    """The chain that a sweep's file declares for it; None where it declares none.

    chain_of("mae_ablations:digits_decoder_depth").rows  # ("1", "2", "4", "8", "12")
    """
    method, _, name = sweep.partition(":")
    return getattr(importlib.import_module(f"models.methods.{method}"), "CHAINS", {}).get(name)


def facts(sweep: str, chain: Chain, seeds: Sequence[int], overrides: Sequence[str] = ()) -> dict:
    """Everything that the table and the figure of a chain need, as JSON: FILE keeps it beside the runs.

    Columns are {title, stage, number, paper, targets}, with one target and one value of the paper for each row. There
    is a figure (models.config.figure) where the chain is one.
    """
    count = range(len(chain.rows))
    columns = [
        {
            "title": stage.title,
            "stage": stage.name,
            "number": stage.number,
            "targets": [stage.of(member) for member in count],
            "paper": list(chain.paper.get(stage.name, (None,) * len(chain.rows))),
        }
        for stage in chain.stages
    ]
    known = {"sweep": sweep, "source": chain.source, "axis": chain.axis, "rows": list(chain.rows)}
    drawn = {"figure": asdict(chain.figure)} if chain.figure else {}
    return known | drawn | {"seeds": list(seeds), "overrides": list(overrides), "columns": columns}


def folder_name(member: int, seed: int) -> str:
    """Name of a member's run folder in the sweep's: "3", or "3-seed1" for a seed other than 0."""
    return f"{member}-seed{seed}" if seed else f"{member}"
