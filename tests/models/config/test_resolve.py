"""A recipe's name and flags on the command line."""

import subprocess
import sys

import pytest

from models.config.catalogue import description
from models.config.recipe import Recipe
from models.config.resolve import _parsed, flags_of, named, resolve
from pipeline.errors import InputError
from pipeline.flags import parse
from tests.test_layout import ROOT

SEMI = "semi_mae:digits"
TRAIN = """
import runpy, sys
sys.modules["torch"] = sys.modules["timm"] = None  # importing either raises
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("misspelt:digits", "no recipe is called 'misspelt:digits'"),
     ("semi_mae:digitz", "did you mean semi_mae:digits?"),
     ("semi_mae:digitz/0", "no sweep is called 'semi_mae:digitz'; did you mean semi_mae:digits?"),
     ("semi_mae:digits/0", "semi_mae:digits is one recipe and no sweep; leave out /0"),
     ("mae_ablations:digits_maks/1", "did you mean mae_ablations:digits_mask?"),
     ("mae_ablations:digits_mask", "is a sweep; `python -m slurm.submit mae_ablations:digits_mask` runs it"),
     ("--optim.lr 1", "expected the name of a recipe before the flags, got --optim.lr"),
     (f"{SEMI} --run.seed 1 --optim.lrr=1", "has no field --optim.lrr; did you mean --optim.lr?"),
     (f"{SEMI} --data.weak.flipp", "has no field --data.weak.flipp; did you mean --data.weak.flip?")],
)  # fmt: skip
def test_a_misspelt_command_is_answered_in_one_line_before_torch_is_imported(arguments, line):
    command = [sys.executable, "-c", TRAIN, "train.py", *arguments.split()]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    (said,) = ended.stderr.splitlines()
    assert said.startswith("error: ")
    assert line in said


def test_the_list_of_recipes_comes_before_torch_is_imported():
    command = [sys.executable, "-c", TRAIN, "train.py"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert SEMI in ended.stdout


def test_a_value_of_the_wrong_type_is_named_in_one_line(capsys):
    with pytest.raises(InputError) as refused:
        resolve(SEMI, ["--optim.lr=fast"])
    assert "--optim.lr" in str(refused.value)
    assert "'fast'; expected --optim.lr FLOAT" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize(
    ("name", "learned", "flags"),
    [(SEMI, True, "--optim.lr 1e-3 --optim.layer_decay=None --data.size 56 28 --data.weak.no-flip --encoder.qkv_bias"),
     (SEMI, True, "--encoder.qkv-bias --encoder.no-qkv-bias --optim.betas 0.9 0.95 --run.seed 1 --run.seed 2"),
     (SEMI, True, "--method.reconstruct.depth 2 --method.pseudo.threshold=.5 --encoder.lora-layers qkv fc1"),
     (SEMI, True, "--data.size 56 --data.size 28 28 --encoder.adapt lora --method.pseudo.soft --run.folder=a=b"),
     ("segment:camvid", True, "--method.labels.names sky road --method.labels.scale 1 2 --method.channels 8"),
     (SEMI, True, "--encoder.adapt 2 --data.threads None --data.strong.no_flip"), (SEMI, False, "more --run.seed 1"),
     (SEMI, False, "--optim.lr"), (SEMI, False, "--optim.lr 1 2"), (SEMI, False, "--data.size x"), (SEMI, False, "-x"),
     (SEMI, False, "--data.weak.flip=yes"), (SEMI, False, "--data.backend cuda"), (SEMI, False, "--optim.betas 0.9")],
)  # fmt: skip
def test_flags_mean_what_tyro_makes_of_them_in_the_whole_recipe(name, learned, flags):
    def outcome(make):
        try:
            return make()
        except InputError as error:
            return str(error)

    recipe = named(name)
    kind = Recipe[type(recipe.method)]  # ty: ignore[invalid-type-form] -- known as it runs
    options = {"prog": f"train.py {name}", "description": description(name)}
    whole = outcome(lambda: parse(kind, default=recipe, args=flags.split(), **options))
    assert outcome(lambda: _parsed(recipe, name, flags.split())) == whole
    assert whole != recipe
    assert isinstance(whole, Recipe) == learned


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
def test_the_flags_of_a_recipe_resolve_to_the_same_recipe(flags):
    recipe = resolve("semi_mae:digits", flags.split())
    again = flags_of(recipe)
    assert resolve("semi_mae:digits", again) == recipe
    assert len(again) == len(flags.split())
