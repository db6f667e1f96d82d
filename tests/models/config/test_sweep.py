"""Sweeps: the papers' tables have their rows, differ in their axis alone, and are refused where they cannot be."""

import re
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch

from models.config.catalogue import catalogue, print_catalogue, sweeps
from models.config.resolve import resolve
from models.config.sweep import along, changed, check_apart, member, members
from models.factory import method_class
from models.masked.mae import Decoder
from models.methods import mae
from pipeline.errors import InputError
from pipeline.train_data import check_views, open_train_data
from slurm import submit

RECONSTRUCT, WEAK = "method.reconstruct.", "data.weak."
TABLES = {  # rows in the paper, fields in which they differ
    "mae_ablations:_decoder_depth": (5, {RECONSTRUCT + "depth"}),
    "mae_ablations:_decoder_width": (5, {RECONSTRUCT + "width"}),
    "mae_ablations:_mask_tokens": (2, {RECONSTRUCT + "encoder_mask_tokens"}),
    "mae_ablations:_target": (4, {RECONSTRUCT + "target", RECONSTRUCT + "target_file"}),
    "mae_ablations:_loss_patches": (2, {RECONSTRUCT + "patches"}),
    "mae_ablations:_augmentation": (4, {WEAK + name for name in ("crop", "scale", "short_side", "padding", "flip",
                                                                  "jitter")}),
    "mae_ablations:_mask": (4, {"data.mask.kind", "data.mask.ratio"}),
    "mae_ablations:_ratio": (10, {"data.mask.ratio"}),
    "mae_ablations:_schedule": (5, {"optim.epochs"}),
    "mae_ablations:_blocks": (1, set()),
    "supmae_ablations:_objective": (3, {"method.objective"}),
    "supmae_ablations:_pool": (2, {"method.pool"}),
    "supmae_ablations:_jitter": (2, {WEAK + "jitter"}),
    "supmae_ablations:_class_weight": (4, {"method.class_weight"}),
    "supmae_ablations:_decoder_depth": (3, {RECONSTRUCT + "depth"}),
    "supmae_ablations:_layers": (3, {"method.layers"}),
    "supmae_ablations:_simmim": (2, {"method.objective"}),
    "supmae_ablations:_schedule": (9, {"optim.epochs"}),  # four of SupMAE, five of MAE
}  # fmt: skip
ABLATIONS = [name for name, _ in sweeps() if "_ablations:" in name]
SMALL = [name for name in ABLATIONS if ":digits" in name]
SIZES = ":digits", ":cifar10", ":in1k"


def kind(name: str) -> str:
    """A sweep's name without its size: mae_ablations:_mask."""
    return re.sub("|".join(SIZES), ":", name)


def flat(part: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in part.items():
        yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]


def test_there_is_a_sweep_for_each_table_and_no_other():
    assert set(ABLATIONS) == {name.replace(":", size) for name in TABLES for size in SIZES}


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_table_has_the_papers_rows_which_differ_in_its_axis_alone(name):
    rows, axis = TABLES[kind(name)]
    recipes = members(name)
    assert [recipe.name for recipe in recipes] == [f"{name}/{index}" for index in range(rows)]
    for method in {type(recipe.method) for recipe in recipes}:
        fields = [dict(flat(asdict(recipe))) for recipe in recipes if type(recipe.method) is method]
        differing = {field for field in fields[0] if len({repr(each[field]) for each in fields}) > 1}
        assert differing - {"name"} <= axis
        assert differing & axis or rows == 1
    check_apart([resolve(each, []) for each in dict.fromkeys((recipes[0].name, recipes[-1].name))])


@pytest.mark.parametrize("name", SMALL)
def test_every_row_on_digits_can_be_drawn_and_built(name, digits):
    for recipe in (changed(recipe, {"data.root": str(digits)}) for recipe in members(name)):
        kind = method_class(recipe)
        if recipe.method.reconstruct.target_file is None:
            with torch.device("meta"):
                kind(recipe, 10)
        train_data = open_train_data(recipe.data, kind.needs(recipe))
        check_views(train_data, recipe.data, kind.needs(recipe), recipe.encoder.patch)


def test_every_width_of_the_papers_decoder_can_be_built():
    for recipe in members("mae_ablations:in1k_decoder_width"):
        own = recipe.method.reconstruct
        with torch.device("meta"):
            Decoder(1024, (14, 14), 16, width=own.width, depth=1, heads=own.heads)


def test_flags_that_undo_a_sweep_are_refused():
    def with_flags(*flags: str) -> list:
        return [resolve(f"mae_ablations:digits_schedule/{index}", list(flags)) for index in range(3)]

    check_apart(with_flags("--optim.lr=1e-4"))
    with pytest.raises(InputError, match="digits_schedule/0 and mae_ablations:digits_schedule/1 are the same run"):
        check_apart(with_flags("--optim.epochs=300"))


def test_a_member_that_cannot_be_is_refused_before_it_runs():
    with pytest.raises(InputError, match=r"warmup_epochs is 300 of optim\.epochs 225"):
        resolve("mae_ablations:digits_schedule/0", ["--optim.warmup-epochs=300"])
    resolve("mae_ablations:digits_schedule/0", ["--optim.warmup-epochs=225"])


def test_wrong_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"no sweep is called .* did you mean mae_ablations:digits_mask\?"):
        member("mae_ablations:digits_maks/0")
    with pytest.raises(InputError, match="members mae_ablations:digits_mask/0 to mae_ablations:digits_mask/3"):
        member("mae_ablations:digits_mask/4")
    with pytest.raises(InputError, match="digits_mask is a sweep"):
        resolve("mae_ablations:digits_mask", [])
    assert member("mae_ablations:digits_mask/3").data.mask.kind == "grid"


def test_changing_a_field_changes_it_alone_and_a_field_that_is_not_there_fails():
    recipe = mae.digits()
    other = changed(recipe, {"data.mask.ratio": 0.9, "optim.epochs": 7})
    assert (other.data.mask.ratio, other.optim.epochs) == (0.9, 7)
    assert changed(other, {"data.mask.ratio": recipe.data.mask.ratio, "optim.epochs": 1800}) == recipe
    assert [each.run.seed for each in along(recipe, "run.seed", (1, 2))] == [1, 2]
    with pytest.raises(TypeError):
        changed(recipe, {"data.mask.rato": 0.9})
    with pytest.raises(AttributeError):
        changed(recipe, {"data.msk.ratio": 0.9})


def test_the_list_names_every_sweep_after_the_recipes_a_kind_a_line(capsys):
    print_catalogue()
    lines = capsys.readouterr().out.splitlines()
    place = {line[2:].split()[0]: number for number, line in enumerate(lines) if re.match(r"[ *] \w+:\w", line)}
    assert place["supmae:digits"] < place["mae_ablations:digits_mask"] < place["supmae_ablations:digits_layers"]
    assert not any(name.rpartition(":")[2].startswith("_") for name in place)
    assert [lines[place[name]][0] for name in ("mae:digits", "mae:in1k_b16", "uda:digits")] == [" ", "*", "*"]
    assert "*in1k_target" in lines[place["mae_ablations:digits_target"]]
    assert not any("not yet run" in lines[number].lower() for number in place.values())
    listed, recipes = [], dict(catalogue())
    for line in lines[max(number for name, number in place.items() if name in recipes) + 1 :]:
        first, _, more = line[2:].replace("*", "").partition(" ")
        others = more.partition("Also: ")[2]
        listed += [first, *(f"{first.partition(':')[0]}:{own}" for own in others.split(", ") if own)]
    known = [name for name, _ in sweeps()]
    assert sorted(name for name in listed if ":" in name) == sorted(known)
    assert len(place) - len(recipes) < 0.6 * len(known)


@pytest.mark.parametrize(
    "asked", [lambda name: submit.main([name, "--help"]), lambda name: resolve(f"{name}/2", ["-h"])]
)
def test_help_tells_what_has_to_be_fitted_before_a_line_a_command(asked, capsys):
    with pytest.raises(SystemExit):
        asked("mae_ablations:digits_target")
    said = capsys.readouterr().out.splitlines()
    for kind in ("pca", "vq"):
        file = f"data/digits/{kind}.pt"
        assert any(
            line.startswith(f"python -m models.masked.fit_{kind} data/d") and line.endswith(file) for line in said
        ), said
