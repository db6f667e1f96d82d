"""A recipe's name and flags on the command line."""

import pytest

from models.config.resolve import flags_of, resolve
from pipeline.errors import InputError

SEMI = "semi_mae:digits"


def test_a_value_of_the_wrong_type_is_named_in_one_line(capsys):
    with pytest.raises(InputError) as refused:
        resolve(SEMI, ["--optim.lr=fast"])
    assert "--optim.lr" in str(refused.value)
    assert "'fast'; expected --optim.lr FLOAT" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "".join(capsys.readouterr()) == ""


def test_help_shows_every_field_and_not_the_recipe_s_name(capsys):
    with pytest.raises(SystemExit) as ended:
        resolve(SEMI, ["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--encoder.name" in said
    assert "--method.pseudo.threshold" in said
    assert " --name" not in said


@pytest.mark.parametrize(
    "flags",
    ["", "--method.pseudo.soft --method.pseudo.no-align-labels --optim.schedule steps --optim.drop-epochs 3 5.5",
     "--data.split None --data.root /a/b --data.strong.scale 0.5 1 --run.oracle --optim.ema-decay None"],
)  # fmt: skip
def test_a_recipe_is_had_again_by_its_flags(flags):
    recipe = resolve("semi_mae:digits", flags.split())
    again = flags_of(recipe)
    assert resolve("semi_mae:digits", again) == recipe
    assert len(again) == len(flags.split())
