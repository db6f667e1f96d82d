"""What README, docs/ and docstrings name is there: files, modules, recipes, flags, tests.

Each rule is a function of text that returns what it did not find, tested on a planted example and on the tree.
"""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from models.config.catalogue import METHODS, catalogue, sweeps
from models.config.recipe import Recipe
from models.config.resolve import resolve
from models.distributed.micro_batches import micro_batches
from models.factory import method_class
from pipeline.errors import InputError
from pipeline.sampling.sampler import shares
from slurm import submit
from tests.test_layout import ROOT, files

LAYERS = ("pipeline", "models", "slurm", "tests")
PAGES = files(".md")
CODE = [path for path in files(".py") if path.relative_to(ROOT).parts[0] in ("pipeline", "models", "slurm", "train.py")]
RECIPES = {name for name, _ in (*catalogue(), *sweeps())}
STEMS = "|".join(path.stem for path in METHODS.glob("[!_]*.py"))
TEST = r"([\w/]*\btest_\w+\.py)|-k (\"[^\"]+\"|\w+)"


def lost_links(text: str, folder: Path) -> list[str]:
    """Relative links of a page in `folder` that lead nowhere."""
    links = re.findall(r"\]\(([^)#\s]+)", text)
    return [link for link in links if "://" not in link and not (folder / link).exists()]


def lost_paths(text: str) -> list[str]:
    """Paths from the root that are not there; those that the text's own code blocks begin with are made by it."""
    made = re.findall(r"^```python\n# (\S+\.py)$", text, re.MULTILINE)
    paths = re.findall(r"(?<![\w/.])((?:docs|tests|models|pipeline|slurm)/[\w/.-]*\w)", text)
    lost = [path for path in paths if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()]
    return [path for path in lost if path not in made]


def lost_recipes(text: str) -> list[str]:
    """Recipes and sweeps that nothing defines."""
    return [name for name in re.findall(rf"(?<!\w)((?:{STEMS}):[a-z]\w*)", text) if name not in RECIPES]


def lost_modules(text: str) -> list[str]:
    """Modules of this tree behind `python -m` that cannot be run."""
    asked = re.findall(rf"-m ((?:{'|'.join(LAYERS)})(?:\.\w+)+)", text)
    return [name for name in asked if not (source := door(name)) or '__name__ == "__main__"' not in source]


def door(module: str) -> str:
    """Source of what `python -m` runs; empty where there is nothing."""
    path = ROOT / module.replace(".", "/")
    found = [each for each in (path.with_suffix(".py"), path / "__main__.py") if each.exists()]
    return found[0].read_text() if found else ""


def lost_tests(text: str) -> list[str]:
    """Words behind -k that no test of the file named before them has."""
    lost, source = [], ""
    for file, words in re.findall(TEST, text):
        if file:
            source = "".join(path.read_text() for path in (ROOT / "tests").rglob(Path(file).name))
        lost += [
            word for word in re.findall(r"\w+", words) if word != "or" and not re.search(rf"def test_\w*{word}", source)
        ]
    return lost


def lost_imports(text: str) -> list[str]:
    """What a page's Python imports from this tree and is not there; modules that the text itself makes are left out."""
    made = [path.replace("/", ".") for path in re.findall(r"^```python\n# (\S+)\.py$", text, re.MULTILINE)]
    lost = []
    for module, names in re.findall(rf"^from ((?:{'|'.join(LAYERS)})[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
        for name in () if module in made else names.split(", "):
            try:
                importlib.import_module(module)
                if not hasattr(sys.modules[module], name):
                    importlib.import_module(f"{module}.{name}")
            except ImportError:
                lost.append(f"{module}.{name}")
    return lost


def commands(text: str) -> list[list[str]]:
    """Words of each command in a page's bash blocks that runs something of this tree."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in blocks if re.match(r"(?:python|torchrun) ", line)]


def divide(recipe: Recipe, ranks: int) -> None:
    """Raise InputError if a step does not divide over so many processes and their devices."""
    needs = method_class(recipe).needs(recipe)
    parts = shares(recipe.data.batch, recipe.data.ratio, needs.labelled, needs.unlabelled)
    micro_batches(parts, ranks, recipe.run.images_at_once)


def refused(words: list[str]) -> str | None:
    """What is wrong with a command: its recipe, one of its flags, or a value; None where nothing is."""
    try:
        if "train.py" in words:
            recipe, *flags = words[words.index("train.py") + 1 :] or ["semi_mae:digits"]
            ranks = re.search(r"--nproc-per-node (\d+)", " ".join(words))
            divide(resolve(recipe, flags), int(ranks[1]) if ranks else 1)
            return None
        module, *rest = words[2:]
        if module == "slurm.submit" and rest[0] not in ("status", "wait"):
            flags, overrides = submit.split(rest[1:])
            request = submit.parse(flags, rest[0])
            if ":" in rest[0]:
                divide(resolve(rest[0] if rest[0] in dict(catalogue()) else f"{rest[0]}/0", overrides), request.ranks)
            return None
        if module == "models.preview":
            resolve(rest[0], rest[1:])
            return None
    except (InputError, SystemExit) as error:
        return f"{' '.join(words)}: {error}"
    known = {
        name.replace("_", "-") for path in CODE for name in re.findall(r"^ +(\w+):", path.read_text(), re.MULTILINE)
    }
    flags = {part for word in rest if word.startswith("--") for part in word[2:].split(".")}
    return f"{' '.join(words)}: {flags - known}" if flags - known else None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_all_that_a_page_names_is_there(page):
    text = page.read_text()
    assert lost_links(text, page.parent) == []
    assert lost_paths(text) + lost_recipes(text) + lost_modules(text) + lost_tests(text) + lost_imports(text) == []
    assert [why for words in commands(text) if (why := refused(words))] == []


def test_all_that_the_code_names_is_there():
    text = "\n".join(path.read_text() for path in CODE)
    assert lost_paths(text) + lost_recipes(text) + lost_modules(text) == []


def test_what_is_not_there_is_found(tmp_path):
    assert lost_links("[a](gone.md) [b](https://there) [c](here#x)", ROOT / "docs") == ["gone.md", "here"]
    assert lost_paths("see docs/gone.md, pipeline/views/plan.py, tests/models and models/plan") == [
        "docs/gone.md",
        "models/plan",
    ]
    assert lost_recipes("mae:digits, mae:digitz, --x semi_mae:in1k_10pct") == ["mae:digitz"]
    assert lost_modules(
        "python -m pipeline.convert; python -m pipeline.convrt; -m models.encoder.vit; -m pip install"
    ) == [
        "pipeline.convrt",
        "models.encoder.vit",
    ]
    page = "from pipeline import beton, rng\nfrom pipeline.text import cuont\nfrom pipeline.names import read"
    assert lost_imports(page) == ["pipeline.beton", "pipeline.text.cuont", "pipeline.names.read"]
    assert lost_tests('`tests/test_layout.py -k short`, `-k "imports or nosuch"`, test_docs.py -k there') == ["nosuch"]


def test_a_command_that_would_be_refused_is_found():
    page = """```bash
python train.py mae:digits --optim.lr 1e-3    # good
python train.py mae:digits --optim.rl 1e-3
python -m slurm.submit mae:digits --gpus 0 -- --optim.lr 1e-3
python -m slurm.submit mae:digits --gpu_s 0
python -m slurm.submit semi_mae:in1k_10pct --nodes 8 --gpus 8
python -m pipeline.convert a b.beton --side None --per-class 4
python -m pipeline.convert a b.beton --per-klass 4
```"""
    assert [refused(words) is None for words in commands(page)] == [True, False, True, False, False, True, False]
