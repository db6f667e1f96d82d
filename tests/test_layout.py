"""What holds the tree together: one-way imports, small files, no host names, pinned hashes.

Each rule is a function of text that returns what it found, tested on a planted example and on the tree.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("pipeline", "models", "train", "slurm")  # each may import those before it
ROOMS = {
    "pipeline": "errors text flags spec rng rng_numba batch concurrency sampling views executors store backends "
    "labels sources convert elevater open loader train_data dense preview evaluation split bench",
    "models": "config full_precision encoder dense losses ema running_stats masked method factory records tracking "
    "distributed optim pseudo_labels semiformer methods checkpoint reporting load bench pretrained "
    "evaluate active predict pseudo_label export preview training replay doctor",
}
"""Each room, and each file at a layer's root, may import those before it in its layer's list."""
PROSE = {".md", ".cff", ".svg"}  # may link to papers, or carry an XML namespace


def files(suffix: str = "") -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.splitlines() if name.endswith(suffix) and (ROOT / name).is_file()]


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """Top-level names of all modules that `source` imports, at any depth of the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def imports_upwards(layer: str, source: str) -> set[str]:
    """The layers above `layer`, and the tests, that `source` imports."""
    return imported(source) & {*LAYERS[LAYERS.index(layer) + 1 :], "tests"}


def modules() -> dict[str, str]:
    """Every module of the layers, by its dotted name, with its source."""
    code = [path for path in files(".py") if layer(path) in LAYERS]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in code}
    return {name.removesuffix(".__init__"): path.read_text() for path, name in names.items()}


def imported_modules(source: str, known: Collection[str]) -> set[str]:
    """Those of the `known` modules that `source` imports, at any depth of the file; packages count, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & set(known)) or {node.module}
    return found & set(known)


def room(module: str) -> str:
    """models.encoder.vit -> models.encoder; a file at the root is its own room."""
    return ".".join(module.split(".")[:2])


def against_the_order(imports: Mapping[str, Collection[str]]) -> list[str]:
    """The imports, "importer -> imported", of a room that comes later in the list of its layer."""
    place = {f"{top}.{name}": i for top, names in ROOMS.items() for i, name in enumerate(names.split())}
    return [
        f"{module} -> {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if room(module) in place and room(other) in place and module.split(".")[0] == other.split(".")[0]
        if place[room(other)] > place[room(module)]
    ]


def circle(imports: Mapping[str, Collection[str]]) -> list[str]:
    """Modules that import each other in a circle, the first that is found; empty where there is none."""
    done: set[str] = set()

    def search(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return trail[trail.index(module) :]
        if module in done:
            return []
        done.add(module)
        return next(
            (found for other in sorted(imports.get(module, ())) if (found := search(other, [*trail, module]))), []
        )

    return next((found for module in sorted(imports) if (found := search(module, []))), [])


def shadowed(names: set[str]) -> set[str]:
    """Those of `names` that would hide the standard library or an installed package.

    Some packages put their own tests beside themselves; nothing imports those.
    """
    return names & ({*sys.stdlib_module_names, *packages_distributions()} - {"tests", "docs"})


def hosts(text: str) -> list[str]:
    """Hosts of URLs in `text`, this machine apart."""
    found = re.findall(r"\w+://(?:[^\s/@]+@)?([\w-]+(?:\.[\w-]+)+|[\w-]+:\d+)", text)
    return [host for host in found if not host.startswith(("127.0.0.1", "localhost"))]


def registries(text: str) -> list[str]:
    """Package registries named in `text`, as part of a URL or bare."""
    names = r"pypi|pythonhosted|anaconda|conda|npmjs|crates|rubygems|ghcr|quay|docker|nvcr|artifactory|jfrog"
    return re.findall(rf"\b(?:[\w-]+\.)*(?:{names})\.(?:org|com|io|net|cloud|dev)\b|download\.pytorch\.\w+", text)


def bare_hosts(lock: str) -> list[str]:
    return re.findall(r"\S*://\S*|[\w-]+\.(?:org|com|io|net)\b", lock)


def unhashed(lock: str) -> list[str]:
    """Requirements of a pip lock file that no hash vouches for."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*$", "", lock, flags=re.MULTILINE)).splitlines()
    return [line for line in lines if line.strip() and "--hash=sha256:" not in line]


def careless_loads(source: str) -> list[int]:
    """Lines with a torch.load that could run what it reads."""

    def careless(node: ast.AST) -> bool:
        called = isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        return called and "weights_only=True" not in [ast.unparse(keyword) for keyword in node.keywords]

    return [node.lineno for node in ast.walk(ast.parse(source)) if careless(node)]


def test_imports_point_one_way():
    code = [path for path in files(".py") if layer(path) in LAYERS]
    assert {path.name: up for path in code if (up := imports_upwards(layer(path), path.read_text()))} == {}


def test_an_import_of_a_higher_layer_is_found():
    source = "import os\ndef late():\n    from models.encoder.vit import encode\n    import pipeline.batch\n"
    assert imports_upwards("pipeline", source) == {"models"}
    assert imports_upwards("models", source) == set()
    assert imports_upwards("models", "import tests.helpers, train") == {"tests", "train"}


def test_rooms_import_those_before_them_and_no_modules_import_each_other():
    found = modules()
    imports = {name: imported_modules(source, found) - {name} for name, source in found.items()}
    listed = {f"{top}.{name}" for top, names in ROOMS.items() for name in names.split()}
    assert {room(name) for name in found if "." in name and name.split(".")[0] in ROOMS} == listed
    assert against_the_order(imports) == []
    assert circle(imports) == []


def test_an_import_against_the_order_and_a_circle_are_found():
    late = "def f():\n    from models.training import stop\n    import models.load\n"
    known = {"models.training.stop", "models.load", "models.encoder.vit"}
    assert imported_modules(late, known) == {"models.training.stop", "models.load"}
    imports = {"models.encoder.vit": {"models.load"}, "models.load": {"models.encoder.vit"}, "models.method": set()}
    assert against_the_order(imports) == ["models.encoder.vit -> models.load"]
    assert circle(imports) == ["models.encoder.vit", "models.load"]
    assert circle(imports | {"models.load": set()}) == []


def test_a_root_holds_at_most_twelve_files_and_each_room_says_what_it_answers():
    for top in ROOMS:
        assert len(list((ROOT / top).glob("*.py"))) <= 12, top
        rooms = [path for path in (ROOT / top).iterdir() if any(path.glob("*.py"))]
        said = {path: ast.get_docstring(ast.parse((path / "__init__.py").read_text())) or "" for path in rooms}
        assert [path.name for path, text in said.items() if len(text) < 120 or ".py" not in text] == []


def test_functions_fit_a_screen():
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in files(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
    }
    assert long == {}


def test_no_name_at_the_root_shadows_a_module():
    assert shadowed({layer(path) for path in files()}) == set()


def test_a_shadowing_name_is_found():
    assert shadowed({"queue", "numpy", "pipeline"}) == {"queue", "numpy"}


def test_no_file_names_a_registry_and_only_prose_links():
    text = {path: path.read_text(errors="replace") for path in files() if path.name != "LICENSE"}
    assert {str(path): found for path, content in text.items() if (found := registries(content))} == {}
    code = {path: content for path, content in text.items() if path.suffix not in PROSE}
    assert {str(path): found for path, content in code.items() if (found := hosts(content))} == {}


def test_hosts_and_registries_are_found():
    dot, slashes = ".", "://"
    assert hosts(f"https{slashes}files.example{dot}org/x git+ssh{slashes}me@git:22") == [
        f"files.example{dot}org",
        "git:22",
    ]
    assert hosts(f"tcp{slashes}127.0.0.1:29500, file{slashes}/data, f'{{scheme}}{slashes}{{host}}'") == []
    assert registries(f"from files.python{dot}org or pypi{dot}org") == [f"pypi{dot}org"]
    assert registries(f"repo.anaconda{dot}com; download.pytorch{dot}org/whl") == [
        f"repo.anaconda{dot}com",
        f"download.pytorch{dot}org",
    ]
    assert registries("arXiv 2111.06377; torch.org_chart; docker build") == []


@pytest.mark.parametrize("name", ["requirements.lock", "build-constraints.txt"])
def test_a_lock_names_no_host_and_hashes_every_requirement(name):
    lock = (ROOT / name).read_text()
    assert bare_hosts(lock) == []
    assert unhashed(lock) == []
    assert "uv==" in lock or "torch==2.13.0" in lock


def test_what_is_said_to_be_outside_of_the_lock_is():
    lines = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if " = [" in line]
    optional = ("heic", "hf", "wandb", "mlflow", "trackio")
    asked = [re.findall(r'"([\w-]+)>=', line)[0] for line in lines if line.startswith(optional)]
    assert len(asked) == len(optional)
    locked = re.findall(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert "timm" in locked
    assert set(asked) & set(locked) == set()


def test_modules_that_say_so_load_neither_torch_nor_anything_else_that_is_installed():
    said = {"models.config.resolve", "slurm.commands"}  # "torch not at all", "neither torch nor numpy"
    for path in files(".py"):
        if layer(path) in LAYERS and re.search(r"standard\s+library\s+only", path.read_text()):
            said.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert {"pipeline.text", "models.records.events", "slurm.attempt"} <= said
    script = """import importlib, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*{name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"""
    done = subprocess.run(
        [sys.executable, "-c", script, *sorted(said)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {*LAYERS}


def test_a_host_or_a_missing_hash_in_a_lock_is_found():
    good = "# made by uv\nnumpy==2.4 ; python_version > '3' \\\n    --hash=sha256:12 \\\n    --hash=sha256:34\n"
    assert unhashed(good) == bare_hosts(good) == []
    assert unhashed(good + "torch==2.13.0\n") == ["torch==2.13.0"]
    assert bare_hosts(good + "--index-url https" + "://example.test/simple") == ["https" + "://example.test/simple"]


def test_files_are_short():
    lines = {str(path): len(path.read_text().splitlines()) for path in files(".py") if path.stat().st_size}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert statistics.median(lines.values()) <= 130


def test_there_is_no_drawer_for_odds_and_ends():
    assert [path for path in files(".py") if path.stem in ("utils", "util", "helpers", "misc", "common")] == []


def test_every_torch_load_refuses_code():
    assert {str(path): found for path in files(".py") if (found := careless_loads(path.read_text()))} == {}


def test_a_careless_torch_load_is_found():
    assert careless_loads("torch.load(path, weights_only=True)\nnumpy.load(path)") == []
    assert careless_loads("x = 1\ntorch.load(path)\ntorch.load(path, weights_only=False)") == [2, 3]
