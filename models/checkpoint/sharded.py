"""Sharded checkpoints: each rank writes the shards that it holds, and last.pt names the files that belong together.

    last.pt                      everything but the shards; a number for each sharded tensor; the digest of each file
    shards/step-12/1-of-2.pt     rank 1's shards, in the order of their numbers

The shard files are complete and on disk before a last.pt that names them is renamed, and stay for as long as last.pt
or previous.pt names them. So a save still is one rename: last.pt is valid or it is not. The digests tie the files
together: one that is missing, damaged or of another save is noticed, and previous.pt is loaded. `join` returns whole
tensors, so that any number of ranks, a run that is not sharded, and `run.start` can load the checkpoint.

torch.distributed.checkpoint is not used: it has no checksums and no checkpoint before the last, its metadata is a
pickle of classes, and readers would have to know two formats.
"""

import contextlib
import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.checkpoint import checksummed
from models.checkpoint.checksummed import Damaged
from models.checkpoint.nested import map_nested
from pipeline.errors import InputError
from pipeline.store.atomic_write import sync_folder

FOLDER, SHARDS, NUMBER = "shards", "shards", "number of shard"
"""The folder; the key of the files' names and digests in last.pt; the one key of what stands for a sharded tensor."""


def split(state: dict, *, main: bool) -> dict:
    """What this rank writes of a state that holds DTensors: {"step", "shards": its local tensors, "rest"}.

    `rest` is the state with a number in place of each DTensor; None on other ranks than the main one.
    """
    shards: list[Tensor] = []

    def numbered(value: object, key: str) -> object:
        if not isinstance(value, DTensor):
            return value
        shards.append(value.to_local())
        return {NUMBER: len(shards) - 1}

    rest = map_nested(state, numbered)
    return {"step": state["step"], "shards": shards, "rest": rest if main else None}


def write(folder: Path, parts: dict, rank: int, size: int) -> str:
    """Write this rank's shards of what `split` made; -> the file's digest. Raises InputError if the disk refuses."""
    path = folder / _step_folder(parts["step"]) / f"{rank}-of-{size}.pt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = checksummed.write(path, {"shards": parts["shards"]})
        for above in (path.parent, path.parent.parent, folder):
            sync_folder(above)
    except OSError as error:
        raise checksummed.disk_error(folder, error) from error
    return digest


def main_state(parts: dict, digests: list[str]) -> dict:
    """The content of last.pt: the rest of the state, and the digests of the ranks' files by rank."""
    return parts["rest"] | {SHARDS: {"folder": _step_folder(parts["step"]), "digests": digests}}


def join(rest: dict, path: Path) -> dict:
    """The state, with whole tensors on the CPU, whose `main_state` was read from `path`.

    Raises Damaged if a shard file is missing or not the one that `path` names.
    """
    where, digests = path.parent / rest[SHARDS]["folder"], rest[SHARDS]["digests"]
    held = []
    for rank, digest in enumerate(digests):
        file = where / f"{rank}-of-{len(digests)}.pt"
        if not file.exists():
            raise Damaged(f"{path} is sharded and {file} is missing; keep it beside its {FOLDER} folder")
        held.append(checksummed.read(file, digest)["shards"])
    tensors = [torch.cat(shards) for shards in zip(*held, strict=True)]

    def joined(value: object, key: str) -> object:
        stands_for_one = isinstance(value, dict) and value.keys() == {NUMBER}
        return tensors[value[NUMBER]] if stands_for_one else value

    return map_nested({name: value for name, value in rest.items() if name != SHARDS}, joined)


def remove_unreferenced(folder: Path, *checkpoints: Path) -> None:
    """Remove the shard files that none of these checkpoints names; remove nothing if one of them cannot be read."""
    if not (folder / FOLDER).is_dir():
        return
    try:
        kept = {checksummed.read(path).get(SHARDS, {}).get("folder") for path in checkpoints if path.exists()}
    except InputError:
        return
    for found in (folder / FOLDER).iterdir():
        if f"{FOLDER}/{found.name}" not in kept:
            shutil.rmtree(found, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / FOLDER).rmdir()  # if it is empty


def _step_folder(step: int) -> str:
    """Folder of the shards of a step, relative to the run folder."""
    return f"{FOLDER}/step-{step}"
