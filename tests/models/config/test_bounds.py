"""What a recipe cannot mean is refused when it is resolved: on the login node, not in the job."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import get_type_hints

import pytest

from models.config.catalogue import catalogue
from models.config.resolve import named, resolve
from pipeline.errors import InputError
from pipeline.flags import Bound

STEPS = "--optim.schedule=steps"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--optim.epochs=50 --optim.labels-only-epochs=0", "optim.warmup_epochs is 100 of optim.epochs 50; lower it"),
        ("--optim.epochs=400", "optim.labels_only_epochs is 500 of optim.epochs 400"),
        (STEPS, "optim.drop_epochs is empty: schedule steps needs some"),
        ("--optim.drop-epochs 5", "cosine and optim.drop_epochs is 5: schedule steps needs some, cosine and poly take"),
        (f"{STEPS} --optim.drop-epochs 9 5", "optim.drop_epochs is 9 5, expected ascending epochs, none after 1800"),
        (f"{STEPS} --optim.drop-epochs 5 5", "expected ascending"),
        (f"{STEPS} --optim.drop-epochs 5 1801", "none after 1800; give others by --optim.drop-epochs"),
        (f"{STEPS} --optim.drop-epochs 0 5", "optim.drop_epochs is 0, expected above 0"),
        (f"{STEPS} --optim.drop-epochs 5 --optim.drop-factor=2", "optim.drop_factor is 2, expected from 0 to 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_one_line(flags: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        resolve("semi_mae:digits", flags.split())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "flags",
    [
        "--optim.epochs=500 --optim.warmup-epochs=500",
        f"{STEPS} --optim.drop-epochs 900 1800 --optim.drop-factor=1",
        f"{STEPS} --optim.drop-epochs 0.5",
    ],
)
def test_its_neighbours_resolve(flags: str) -> None:
    resolve("semi_mae:digits", flags.split())


ELSEWHERE = {  # checked with what they depend on: other fields, or the grid
    "data.sizes", "data.mask.ratio", "data.weak.scale", "data.strong.scale", "data.evaluate.scale",
}  # fmt: skip


def numeric(part: object, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted names of the fields that hold numbers, absent ones too, and whether a bound stands on each."""
    for name, hint in get_type_hints(type(part), include_extras=True).items():
        value = getattr(part, name)
        if is_dataclass(value):
            yield from numeric(value, f"{prefix}{name}.")
        elif {"int", "float"} & set(
            re.findall(r"\w+", str(hint.__origin__ if hasattr(hint, "__metadata__") else hint))
        ):
            yield prefix + name, any(isinstance(each, Bound) for each in getattr(hint, "__metadata__", ()))


def test_a_bound_stands_on_every_number_of_every_recipe() -> None:
    found = {pair for recipe, _ in catalogue() for pair in numeric(named(recipe))}
    assert {name for name, bounded in found if not bounded} == ELSEWHERE
