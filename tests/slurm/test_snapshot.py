"""The frozen code of a job: what is in it, what is not, and what git is left with."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slurm import snapshot


def git(tree: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.test"]
    return subprocess.run(["git", *who, "-C", tree, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path) -> Path:
    """A checkout with a tracked, a changed, a deleted, an untracked and an ignored file."""
    tree = tmp_path / "tree"
    tree.mkdir()
    git(tree, "init", "-q")
    for name in ("kept.py", "changed.py", "gone.py"):
        (tree / name).write_text("old\n")
    (tree / ".gitignore").write_text("runs/\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "first")
    (tree / "changed.py").write_text("new\n")
    (tree / "gone.py").unlink()
    (tree / "untracked.py").write_text("new\n")
    (tree / "runs").mkdir()
    (tree / "runs" / "weights").write_text("large\n")
    return tree


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git/" not in str(path))
    return {str(path.relative_to(folder)): path.read_text() for path in files if path.name != snapshot.FACTS}


def test_a_snapshot_is_the_working_tree_without_what_git_ignores(tree, tmp_path):
    before = git(tree, "status", "--porcelain")
    taken = snapshot.take(tree, tmp_path / "store")
    expected = {name: text for name, text in content(tree).items() if not name.startswith("runs/")}
    assert content(taken.folder) == expected
    assert set(expected) == {"kept.py", "changed.py", "untracked.py", ".gitignore"}
    assert git(tree, "status", "--porcelain") == before
    assert taken.commit.startswith(git(tree, "rev-parse", "HEAD").strip() + "+")
    assert json.loads((taken.folder / snapshot.FACTS).read_text())["commit"] == taken.commit


def test_the_same_content_is_one_folder_and_another_is_another(tree, tmp_path):
    first = snapshot.take(tree, tmp_path / "store")
    os.utime(tree / "kept.py")
    assert snapshot.take(tree, tmp_path / "store") == first
    (tree / "kept.py").write_text("edited\n")
    second = snapshot.take(tree, tmp_path / "store")
    assert second.folder != first.folder
    assert (first.folder / "kept.py").read_text() == "old\n"
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_a_clean_checkout_is_its_commit(tree, tmp_path):
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "second")
    assert snapshot.take(tree, tmp_path / "store").commit == git(tree, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("name", ["out", "runs"])
def test_runs_inside_the_checkout_are_no_code(name, tree):
    """Whether git ignores them or not."""
    (tree / name / "run").mkdir(parents=True)
    (tree / name / "run" / "last.pt").write_text("weights\n")
    first = snapshot.take(tree, tree / name / ".code", without=(tree / name / "run",))
    second = snapshot.take(tree, tree / name / ".code", without=(tree / name / "run",))
    assert first == second
    assert not (first.folder / name).exists()


def test_data_among_untracked_files_is_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "UNTRACKED_MB", 0.001)
    (tree / "images.bin").write_bytes(bytes(2000))
    with pytest.raises(InputError, match=r"the largest images\.bin"):
        snapshot.take(tree, tmp_path / "store")
    (tree / ".gitignore").write_text("runs/\n*.bin\n")
    snapshot.take(tree, tmp_path / "store")


def test_outside_of_git_there_is_a_way_on(tmp_path):
    (tmp_path / "code").mkdir()
    with pytest.raises(InputError, match="--code live"):
        snapshot.take(tmp_path / "code", tmp_path / "store")
    assert snapshot.live(tmp_path / "code").folder == tmp_path / "code"
