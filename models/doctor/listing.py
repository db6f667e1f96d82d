"""List the stages of the doctor with their deadlines, without importing them: imports take seconds and may fail."""

import ast
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.text import did_you_mean

STAGES = Path(__file__).parent / "stages"


class Listed(NamedTuple):
    """A stage by its file's name, with the numbers that its class states."""

    name: str
    place: int
    deadline_s: int


def stages() -> list[Listed]:
    """List every file of `models/doctor/stages`, in the order of their places."""
    found = [Listed(path.stem, *_numbers(path)) for path in STAGES.glob("[!_]*.py")]
    return sorted(found, key=lambda stage: stage.place)


def chosen(only: tuple[str, ...]) -> list[Listed]:
    """List the stages with these names, in order; all where there are no names. Raises InputError for another name."""
    every = stages()
    names = [stage.name for stage in every]
    for name in only:
        if name not in names:
            near = did_you_mean(name, names)
            raise InputError(f"--only: no stage is called {name!r}{near}; there are {', '.join(names)}")
    return [stage for stage in every if not only or stage.name in only]


def _numbers(path: Path) -> tuple[int, int]:
    """Read `place` and `deadline_s` out of the one class of a stage's file that states both."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            stated = {
                target.id: each.value.value
                for each in node.body
                if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
                for target in each.targets
                if isinstance(target, ast.Name) and isinstance(each.value.value, int)
            }
            if {"place", "deadline_s"} <= stated.keys():
                return stated["place"], stated["deadline_s"]
    raise TypeError(f"{path} has no class that states place and deadline_s as numbers")
