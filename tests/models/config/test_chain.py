"""Chains: each table of the papers has rows, values and stages that fit its sweep's members."""

import importlib
import re

import pytest

from models.config.catalogue import description, sweeps
from models.config.chain import OWN, chain_of, facts, folder_name
from models.config.recipe import Encoder
from models.config.resolve import resolve
from models.config.sweep import members
from models.evaluate.__main__ import evaluators

PAPERS = "mae_ablations", "supmae_ablations", "comparisons"
NAMES = [name for name, _ in sweeps() if name.partition(":")[0] in PAPERS]
DOCSTRINGS = [name for name in NAMES if re.search(r"Paper: [\d.]+ / [\d.]+", description(name) or "")]


KNOWN = dict(evaluators())


def shape(encoder: Encoder) -> tuple:
    return encoder.name, encoder.width, encoder.depth, encoder.heads, encoder.patch


def test_every_table_is_a_chain_at_three_sizes_and_nothing_is_declared_without_a_sweep():
    assert {name for name in NAMES if chain_of(name) is None} == set()
    declared = {
        f"{file}:{name}" for file in PAPERS for name in importlib.import_module(f"models.methods.{file}").CHAINS
    }
    assert declared == set(NAMES)
    assert {re.sub(r":[a-z0-9]+_", ":", name) for name in NAMES if ":in1k_" in name} == {
        re.sub(r":[a-z0-9]+_", ":", name) for name in NAMES if ":digits_" in name
    }
    assert len([name for name in NAMES if ":cifar10_" in name]) == len(NAMES) / 3
    assert chain_of("mae:digits_mask_ratio") is None


@pytest.mark.parametrize("name", NAMES)
def test_rows_values_and_stages_fit_the_members(name):
    chain, recipes = chain_of(name), members(name)
    assert chain is not None
    assert len(chain.rows) == len(recipes) == len({*chain.rows})
    assert {*chain.paper} <= {stage.name for stage in chain.stages}
    assert {len(values) for values in chain.paper.values()} <= {len(recipes)}
    assert not {stage.name for stage in chain.stages} & {"data", "encoder", "method", "optim", "run", "slurm"}
    for stage in chain.stages:
        for number in range(len(recipes)):
            target = stage.of(number)
            assert target in (None, OWN) or ":" in target or target in KNOWN
    assert facts(name, chain, (0, 2))["seeds"] == [0, 2]


SOME = (
    *("mae_ablations:in1k_mask_tokens", "supmae_ablations:in1k_simmim", "comparisons:in1k_mae_scratch"),
    *("mae_ablations:digits_blocks", "supmae_ablations:cifar10_pool"),
)


@pytest.mark.parametrize("name", SOME)
def test_what_follows_has_the_members_encoder_and_takes_its_flags(name):
    chain, recipes = chain_of(name), members(name)
    assert chain is not None
    for number, recipe in enumerate(recipes):
        for stage in chain.stages:
            target = stage.of(number) or OWN
            if ":" in target:
                after = resolve(target, list(stage.flags))
                assert shape(after.encoder) == shape(recipe.encoder)
                assert (after.data.root, after.data.val) == (recipe.data.root, recipe.data.val)


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_the_papers_values_are_those_that_the_sweeps_docstring_cites(name):
    chain, said = chain_of(name), " ".join((description(name) or "").split())
    assert chain is not None
    cited = re.findall(r"([\d.]+) / ([\d.]+)(?=[ ,.])", said.partition("Paper:")[2])
    assert list(zip(chain.paper["finetune"], chain.paper["probe"], strict=True)) == [
        (float(tuned), float(linear.rstrip("."))) for tuned, linear in cited
    ]


def test_there_are_docstrings_to_compare_with_and_folders_are_named_by_member_and_seed():
    assert len(DOCSTRINGS) > 10
    assert [folder_name(3, 0), folder_name(3, 2)] == ["3", "3-seed2"]
