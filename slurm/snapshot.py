"""Snapshot the code of a job at submission, so that edits while it waits in the queue do not change it."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pipeline.errors import InputError

FACTS = "snapshot.json"
UNTRACKED_MB = 50


@final
@dataclass(frozen=True)
class Snapshot:
    """Folder of the code, and its commit: HEAD, with "+tree" if the working tree differed from it."""

    folder: Path
    commit: str


def take(root: Path, store: Path, without: tuple[Path, ...] = ()) -> Snapshot:
    """Copy the working tree (tracked and untracked files, without ignored ones) into `store`/<hash of its content>.

    The same content gives the same folder, so the jobs of a sweep share one. Index, branch and stash stay as they are:
    git writes the tree from a temporary index. `store` and `without` (the run's own folder) are left out.

    Raises InputError if `root` is no git checkout, git refuses, or untracked files are so large that they are data.
    """
    try:
        inside = [path for path in (store, *without) if path.is_relative_to(root) and not _ignored(root, path)]
        chosen = [".", *(f":(exclude,top){path.relative_to(root)}" for path in inside)]
        _check_size(root, _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *chosen).split("\0"))
        with tempfile.TemporaryDirectory() as temporary:
            own = os.environ | {"GIT_INDEX_FILE": f"{temporary}/index"}
            index = root / _git(root, "rev-parse", "--git-path", "index")
            if index.exists():
                shutil.copy2(index, own["GIT_INDEX_FILE"])  # unchanged files need not be read again
            _git(root, "add", "-A", "--", *chosen, environment=own)
            tree = _git(root, "write-tree", environment=own)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        raise InputError(
            f"cannot snapshot {root}: {' '.join(reason)}; submit from a git checkout, or run the code as it lies there "
            "with --code live"
        ) from error
    commit = _commit(root, tree)
    target = store / tree[:16]
    if not target.exists():
        _unpack(root, tree, target, commit)
    return Snapshot(target, commit)


def live(root: Path) -> Snapshot:
    """Return the checkout itself as the code of a job, for --code live."""
    return Snapshot(root, "")


def _unpack(root: Path, tree: str, target: Path, commit: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{tree[:16]}.", dir=target.parent))
    try:
        archive = ["git", "-C", str(root), "archive", tree]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as packed:
            subprocess.run(["tar", "-x", "-C", str(partial)], stdin=packed.stdout, check=True)
        if packed.returncode:
            raise subprocess.CalledProcessError(packed.returncode, archive)
        (partial / FACTS).write_text(json.dumps({"tree": tree, "commit": commit, "time": time.time()}) + "\n")
        partial.chmod(0o755)
        os.rename(partial, target)
    except OSError:
        if not target.exists():  # else another submission has made the same folder meanwhile
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ignored(root: Path, path: Path) -> bool:
    """Say whether git ignores a path: `git add` refuses to exclude such a path by name."""
    return (
        subprocess.run(["git", "-C", str(root), "check-ignore", "-q", str(path)], capture_output=True).returncode == 0
    )


def _check_size(root: Path, untracked: list[str]) -> None:
    sizes = {name: (root / name).lstat().st_size for name in untracked if name and (root / name).is_file()}
    if sum(sizes.values()) > UNTRACKED_MB * 1e6:
        raise InputError(
            f"untracked files of {sum(sizes.values()) / 1e6:.0f} MB would be copied as code, the largest "
            f"{max(sizes, key=sizes.__getitem__)}; name them in .gitignore, or use --code live"
        )


def _commit(root: Path, tree: str) -> str:
    try:
        head, of_head = _git(root, "rev-parse", "HEAD"), _git(root, "rev-parse", "HEAD^{tree}")
    except subprocess.CalledProcessError:  # nothing committed yet
        return f"+{tree[:16]}"
    return head if of_head == tree else f"{head}+{tree[:16]}"


def _git(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
