"""A recipe's name and flags on the command line."""

import pytest

from models.recipe import resolve

SEMI = "semi_mae:digits"


def test_a_value_of_the_wrong_type_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        resolve(SEMI, ["--optim.lr=fast"])
    assert ended.value.code == 2
    assert "--optim.lr" in "".join(capsys.readouterr())


def test_of_several_ranks_the_first_names_a_value_of_the_wrong_type(monkeypatch, capsys):
    for rank, says in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            resolve(SEMI, ["--optim.lr=fast"])
        assert ended.value.code == 2
        assert ("--optim.lr" in "".join(capsys.readouterr())) is says


def test_help_shows_every_field_and_not_the_recipe_s_name(capsys):
    with pytest.raises(SystemExit) as ended:
        resolve(SEMI, ["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--encoder.name" in said
    assert "--method.pseudo.threshold" in said
    assert " --name" not in said
