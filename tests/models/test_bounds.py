"""What a recipe's schedule cannot mean is refused when it is resolved: on the login node, not in the job."""

import pytest

from models.recipe import resolve
from pipeline.errors import InputError

STEPS = "--optim.schedule=steps"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--optim.epochs=50 --optim.labels-only-epochs=0", "optim.rise_epochs is 100 of optim.epochs 50; lower it"),
        ("--optim.epochs=400", "optim.labels_only_epochs is 500 of optim.epochs 400"),
        (STEPS, "optim.drop_epochs is empty: schedule steps needs some"),
        ("--optim.drop-epochs 5", "cosine and optim.drop_epochs is 5: schedule steps needs some, cosine takes none"),
        (f"{STEPS} --optim.drop-epochs 9 5", "optim.drop_epochs is 9 5, expected ascending epochs, none after 1800"),
        (f"{STEPS} --optim.drop-epochs 5 5", "expected ascending"),
        (f"{STEPS} --optim.drop-epochs 5 1801", "none after 1800"),
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
        "--optim.epochs=500 --optim.rise-epochs=500",
        f"{STEPS} --optim.drop-epochs 900 1800 --optim.drop-factor=1",
        f"{STEPS} --optim.drop-epochs 0.5",
    ],
)
def test_its_neighbours_resolve(flags: str) -> None:
    resolve("semi_mae:digits", flags.split())
