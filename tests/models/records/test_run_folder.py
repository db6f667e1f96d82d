import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from models.config.recipe import Optim, Recipe, Run
from models.config.resolve import resolve
from models.methods import selftrain
from models.records import events, run_folder
from models.records.run_folder import MAY_CHANGE, InUse, check_same_recipe
from pipeline.errors import InputError
from pipeline.spec import Data, View


@dataclass(frozen=True)
class Settings:
    threshold: float = 0.7


RECIPE = Recipe(Settings(), name="semi_mae:digits")


def claim(path: Path, recipe: Recipe, *, saves: bool = True) -> None:
    """A start that lasts until its first checkpoint, or not as long."""
    os.close(run_folder.claim(path, recipe))
    if saves:
        (path / "last.pt").write_bytes(b"")


def test_the_same_recipe_carries_on(tmp_path: Path) -> None:
    for _ in range(2):
        claim(tmp_path / "run", RECIPE)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["method"] == {"threshold": 0.7}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(RECIPE, optim=Optim(lr=3e-4)), "optim.lr 0.001, now it is 0.0003"),
        (replace(RECIPE, method=Settings(0.95)), "method.threshold 0.7, now it is 0.95"),
        (replace(RECIPE, data=Data(batch=512)), "data.batch 256, now it is 512"),
        (replace(RECIPE, run=Run(seed=1)), "run.seed 0, now it is 1"),
        (replace(RECIPE, name="mae:digits"), "name semi_mae:digits, now it is mae:digits"),
    ],
)
def test_another_recipe_is_refused_naming_the_first_field(tmp_path: Path, other: Recipe, message: str) -> None:
    claim(tmp_path, RECIPE)
    with pytest.raises(InputError, match=message) as caught:
        claim(tmp_path, other)
    assert "\n" not in str(caught.value)
    check_same_recipe(tmp_path, RECIPE)  # nothing was overwritten


def test_where_and_how_may_change(tmp_path: Path) -> None:
    claim(tmp_path, RECIPE)
    moved = Run(folder="elsewhere", device_images=8, log_steps=1, stop_step=7, devices=2, oracle=True)
    claim(tmp_path, replace(RECIPE, run=moved, data=Data(root="/scratch", threads=3)))


@pytest.mark.parametrize(
    ("path", "other", "message"),
    [
        (("optim", "clip"), replace(RECIPE, optim=Optim(clip=1.0)), r"optim\.clip None, now it is 1\.0"),
        (
            ("optim", "betas"),
            replace(RECIPE, optim=Optim(betas=(0.9, 0.95))),
            r"optim\.betas 0\.9 0\.999, now it is 0\.9 0\.95;",
        ),
        (
            ("data", "strong"),
            replace(RECIPE, data=Data(strong=View(filter="bicubic"))),
            r"data\.strong\.augment timm, now it is none",
        ),
        (
            ("data", "weak", "flip"),
            replace(RECIPE, data=Data(weak=View(filter="bicubic", flip=False))),
            "data.weak.flip True, now",
        ),
        (("method", "threshold"), replace(RECIPE, method=Settings(0.9)), r"threshold 0\.7, now it is 0\.9"),
    ],
)
def test_a_field_that_came_since_had_its_default(tmp_path: Path, path: tuple, other: Recipe, message: str) -> None:
    claim(tmp_path, RECIPE)
    saved = part = json.loads((tmp_path / "recipe.json").read_text())
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    check_same_recipe(tmp_path, RECIPE)
    with pytest.raises(InputError, match=message):
        check_same_recipe(tmp_path, other)


def test_a_field_that_is_gone_refuses_the_run(tmp_path: Path) -> None:
    claim(tmp_path, RECIPE)
    saved = json.loads((tmp_path / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(saved | {"optim": saved["optim"] | {"warmth": 0.9}}))
    with pytest.raises(InputError, match=r"optim\.warmth 0\.9, now it is None"):
        check_same_recipe(tmp_path, RECIPE)


def extended(*epochs: float, **more: tuple) -> Recipe:
    return replace(RECIPE, run=Run(extend=epochs, **more))


def test_one_extension_more_may_be_asked_for_once_the_run_has_ended(tmp_path: Path) -> None:
    claim(tmp_path, RECIPE)
    events.append(tmp_path, "started", rank=0, node="n1", step=0)
    with pytest.raises(InputError, match=r"has not ended, and --run\.extend 8 goes on from the end"):
        claim(tmp_path, extended(8))
    events.append(tmp_path, "done", rank=0, node="n1", step=12)
    with pytest.raises(InputError, match=r"was not extended, now --run\.extend asks for 8 epochs \(rewarm\), then"):
        claim(tmp_path, extended(8, 4))
    claim(tmp_path, extended(8))
    claim(tmp_path, extended(8, extend_schedule=("rewarm",), extend_lr=(None,)))  # the same command again
    for other in (RECIPE, extended(9), extended(8, extend_schedule=("constant",)), extended(8, extend_lr=(1e-3,))):
        with pytest.raises(InputError, match=r"was extended by 8 epochs \(rewarm\), now .* repeat --run\.extend 8"):
            claim(tmp_path, other)
    with pytest.raises(InputError, match=r"was begun with optim\.lr"):
        claim(tmp_path, replace(extended(8), optim=Optim(lr=3e-4)))
    claim(tmp_path, extended(8, 1, extend_schedule=("rewarm", "constant"), extend_lr=(None, 1e-4)))


def test_a_run_that_ended_early_is_told_to_end_first(tmp_path: Path) -> None:
    claim(tmp_path, RECIPE)
    events.append(tmp_path, "done", rank=0, node="n1", step=8, why="no better val top1 in 2 evaluations", stop_after=2)
    with pytest.raises(InputError, match=r"ended early, after step 8 \(no better val top1 in 2 evaluations\)"):
        claim(tmp_path, extended(8))


@pytest.mark.parametrize("extend", ["8", {"a": 1}, ["8"], None, [True]])
def test_extensions_that_are_no_numbers_are_one_line(tmp_path: Path, extend: object) -> None:
    claim(tmp_path, RECIPE)
    saved = json.loads((tmp_path / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(saved | {"run": saved["run"] | {"extend": extend}}))
    with pytest.raises(InputError, match=r"run\.extend") as caught:
        claim(tmp_path, RECIPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", ["last.pt", "previous.pt", "report.html"])
def test_what_left_nothing_to_carry_on_from_may_be_begun_anew(tmp_path: Path, kept: str) -> None:
    claim(tmp_path, RECIPE, saves=False)
    (tmp_path / "not_finite.json").write_text("{}")
    other = replace(RECIPE, run=Run(seed=1))
    claim(tmp_path, replace(other, run=Run(seed=1, fresh=True)), saves=False)
    assert json.loads((tmp_path / "recipe.json").read_text())["run"]["seed"] == 1
    assert not (tmp_path / "not_finite.json").exists()
    (tmp_path / kept).write_bytes(b"")
    claim(tmp_path, other)
    with pytest.raises(InputError, match=r"begun with run\.seed 1, now it is 0"):
        claim(tmp_path, RECIPE)


def test_every_free_field_exists() -> None:
    fields = {f"run.{name}" for name in Run.__dataclass_fields__} | {
        f"data.{name}" for name in Data.__dataclass_fields__
    }
    assert fields | {f"method.{name}" for name in selftrain.Settings.__dataclass_fields__} >= MAY_CHANGE


def test_fresh_refuses_a_folder_with_a_run(tmp_path: Path) -> None:
    fresh = replace(RECIPE, run=Run(fresh=True))
    claim(tmp_path, fresh)
    with pytest.raises(InputError, match="holds a run already"):
        claim(tmp_path, fresh)


def test_a_folder_is_one_process_at_a_time_s(tmp_path: Path) -> None:
    held = run_folder.claim(tmp_path, RECIPE)
    before = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(InUse, match="in use by another process"):
        run_folder.claim(tmp_path, replace(RECIPE, run=Run(seed=1)))
    assert (tmp_path / "recipe.json").read_bytes() == before  # the lock comes first
    os.close(held)
    os.close(run_folder.claim(tmp_path, RECIPE))


def test_a_refused_claim_keeps_nobody_out_and_the_lock_is_a_plain_file(tmp_path: Path) -> None:
    claim(tmp_path, RECIPE)
    with pytest.raises(InputError, match="begun with"):
        claim(tmp_path, replace(RECIPE, run=Run(seed=1)))
    claim(tmp_path, RECIPE)
    assert (tmp_path / "lock").stat().st_mode & 0o777 & ~0o022 == 0o644


def test_a_run_that_met_nan_may_change_its_rate_and_nothing_else(tmp_path: Path) -> None:
    recipe = resolve("mae:digits", [])
    claim(tmp_path, recipe)
    slower = resolve("mae:digits", ["--optim.lr", "1e-5", "--optim.clip", "1"])
    with pytest.raises(InputError, match=r"begun with optim\.lr"):
        claim(tmp_path, slower)
    (tmp_path / "not_finite.json").write_text("{}")
    claim(tmp_path, slower)
    with pytest.raises(InputError, match=r"begun with run\.seed"):
        claim(tmp_path, resolve("mae:digits", ["--run.seed", "1"]))
