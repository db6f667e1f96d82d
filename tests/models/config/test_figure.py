"""Figures: each that a paper has is one name, of cells that its chain's table has, and is the same after JSON."""

import json
from dataclasses import asdict, replace

import pytest

from models.config.catalogue import sweeps
from models.config.chain import chain_of, facts
from models.config.figure import Line, figure_from, line_along
from models.config.sweep import members
from models.methods.presets.stages import SIZES

PAPERS = "mae_ablations", "supmae_ablations", "comparisons"
FIGURES = {
    "mae_ablations:{}_ratio": "MAE Figure 5",
    "mae_ablations:{}_schedule": "MAE Figure 7",
    "mae_ablations:{}_blocks": "MAE Figure 9",
    "supmae_ablations:{}_schedule": "SupMAE Figure 2",
    "comparisons:{}_supmae_cost": "SupMAE Table 1",
    "comparisons:{}_mae_time": "MAE Table 2",
}
NAMES = [name.format(size) for name in FIGURES for size in SIZES]


def figure(name: str):
    chain = chain_of(name)
    assert chain is not None
    assert chain.figure is not None
    return chain.figure


def test_each_figure_of_the_papers_is_a_chain_of_three_sizes():
    chains = {name: chain_of(name) for name, _ in sweeps() if name.partition(":")[0] in PAPERS}
    assert {name for name, chain in chains.items() if chain and chain.figure} == set(NAMES)
    for name, said in FIGURES.items():
        for size in SIZES:
            chain = chains[name.format(size)]
            assert chain is not None
            assert chain.source.startswith(said)


@pytest.mark.parametrize("name", NAMES)
def test_points_are_cells_of_the_table_at_places_of_their_own(name):
    chain, drawn = chain_of(name), figure(name)
    assert chain is not None
    stages = {stage.name for stage in chain.stages}
    for line in (line for panel in drawn.panels for line in panel.lines):
        assert {stage for _, stage in line.cells} <= stages
        assert {row for row, _ in line.cells} <= {*range(len(chain.rows))}
        assert line.x in stages if isinstance(line.x, str) else list(line.x) == sorted({*line.x})
        assert line.paper_x is None or len(line.paper_x) == len(line.cells)
        assert drawn.apart or line.paper_x in (None, line.x)
    assert ":in1k_" in name or drawn.apart
    assert figure_from(json.loads(json.dumps(asdict(drawn)))) == drawn
    assert "figure" in facts(name, chain, (0,))
    assert "figure" not in facts(name, replace(chain, figure=None), (0,))


@pytest.mark.parametrize("name", [name for name in NAMES if "schedule" in name])
def test_the_places_of_a_schedule_are_the_members_lengths(name):
    lengths = [recipe.optim.epochs for recipe in members(name)]
    for line in (line for panel in figure(name).panels for line in panel.lines):
        assert list(line.x) == [lengths[row] for row, _ in line.cells]


@pytest.mark.parametrize("size", SIZES)
def test_the_places_of_ratios_and_blocks_are_what_the_members_are_told(size):
    for panel in figure(f"mae_ablations:{size}_ratio").panels:
        hidden = [100 * recipe.data.mask.ratio for recipe in members(f"mae_ablations:{size}_ratio")]
        assert list(panel.lines[0].x) == pytest.approx(hidden)
    ((line,),) = ([*panel.lines] for panel in figure(f"mae_ablations:{size}_blocks").panels)
    chain = chain_of(f"mae_ablations:{size}_blocks")
    assert chain is not None
    adapts = [stage.flags[-1] for stage in chain.stages]
    (member,) = members(f"mae_ablations:{size}_blocks")
    depth = member.encoder.depth if size != "in1k" else 24  # ViT-L
    told = {"head": 0, "half": 0.5, "full": depth}
    assert list(line.x) == [told.get(adapt) if adapt in told else float(adapt) for adapt in adapts]
    assert line.paper is not None
    of_paper = dict(zip(line.paper.x, line.paper.y, strict=True))
    values = [chain.paper[stage][row] for row, stage in line.cells]
    assert values == [of_paper[told[adapt] if adapt in ("head", "half") else 24 if adapt == "full" else float(adapt)]
                      for adapt in adapts]  # fmt: skip


def test_supmaes_members_come_first_and_maes_curve_is_of_mae():
    """SupMAE Figure 2: two curves, of which SupMAE's ends at half the length of MAE's."""
    for size in SIZES:
        recipes = members(f"supmae_ablations:{size}_schedule")
        ((first, second),) = (panel.lines for panel in figure(f"supmae_ablations:{size}_schedule").panels)
        kinds = [type(recipe.method).__module__.rpartition(".")[2] for recipe in recipes]
        assert [kinds[row] for row, _ in first.cells] == ["supmae"] * 4
        assert [kinds[row] for row, _ in second.cells] == ["mae"] * 5


@pytest.mark.parametrize(
    "spoilt",
    [{"cells": [[0, "a"]]}, {"x": [1]}, {"paper_x": [1]}, {"x": ["one", 2]}, {"cells": [[0]]}, {"cells": 3}],
)
def test_damaged_facts_are_no_figure(spoilt):
    drawn = asdict(figure("mae_ablations:digits_ratio"))
    drawn["panels"] = [{"lines": [asdict(line_along("a", "finetune", (1, 2), (3, 4))) | spoilt], "others": []}]
    with pytest.raises((ValueError, TypeError)):
        figure_from(json.loads(json.dumps(drawn)))
    drawn["panels"][0]["lines"] = [asdict(line_along("a", "finetune", (1, 2), (3, 4)))]
    assert figure_from(drawn).panels[0].lines == (Line("a", ((0, "finetune"), (1, "finetune")), (1, 2), (3, 4)),)
    drawn["panels"][0]["others"] = [{"title": "a", "x": [1, 2], "y": [3]}]
    with pytest.raises(ValueError, match="2 places, 1 values"):
        figure_from(drawn)
