"""A checkpoint in pieces: each rank writes the shards that it holds, and last.pt says which files belong together.

    last.pt                      everything else, and for each sharded tensor its number; the digest of each piece
    shards/step-12/1-of-2.pt     rank 1's shards, in the order of their numbers

Pieces are complete and on disk before a last.pt that names them takes its name, and stay for as long as last.pt or
previous.pt does; so last.pt remains the one thing that is swapped, and it is valid or it is not, as without pieces. A
digest per piece makes a set one thing: a piece that is missing, damaged or of another save is noticed, and previous.pt
serves. What is read is whole tensors, whoever reads: any number of ranks, a run that is not sharded, `run.start`.
(torch.distributed.checkpoint would do, too; but its folder has no checksums and no state of "the one before", its
metadata is a pickle of classes, and readers would have to tell two formats apart.)
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.checkpoint import checksummed
from models.checkpoint.checksummed import Damaged
from pipeline.errors import InputError

FOLDER, SET, NUMBER = "shards", "pieces", "number of piece"


def split(state: dict, *, main: bool) -> dict:
    """A state with DTensors -> what this rank writes of it: {"step", "shards": local tensors, "rest": the main's}."""
    shards: list[Tensor] = []
    rest = _without_shards(state, shards)
    return {"step": state["step"], "shards": shards, "rest": rest if main else None}


def write(folder: Path, held: dict, rank: int, size: int) -> str:
    """Write this rank's piece of what `split` made; -> its digest. Raises InputError if the disk refuses."""
    path = folder / set_of(held["step"]) / f"{rank}-of-{size}.pt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = checksummed.write(path, {"shards": held["shards"]})
        for above in (path.parent, path.parent.parent, folder):
            checksummed.sync_folder(above)
    except OSError as error:
        raise checksummed.refused(folder, error) from error
    return digest


def set_of(step: int) -> str:
    """Where the pieces of a step are, in the run folder: a step is saved once, unless its save was lost."""
    return f"{FOLDER}/step-{step}"


def naming(held: dict, digests: list[str]) -> dict:
    """What last.pt holds: the rest, and which pieces it is the rest of."""
    return held["rest"] | {SET: {"folder": set_of(held["step"]), "digests": digests}}


def join(rest: dict, path: Path) -> dict:
    """The state whose `rest` was in `path`, with whole tensors; all its pieces are read, on the CPU.

    Raises Damaged if a piece is missing or not the one that `path` names.
    """
    where, digests = path.parent / rest[SET]["folder"], rest[SET]["digests"]
    held = []
    for rank, digest in enumerate(digests):
        piece = where / f"{rank}-of-{len(digests)}.pt"
        if not piece.exists():
            raise Damaged(f"{path} is in pieces and {piece} is missing; keep it beside its {FOLDER} folder")
        held.append(checksummed.read(piece, digest)["shards"])
    numbered = [torch.cat(shards) for shards in zip(*held, strict=True)]
    return _with_tensors({name: value for name, value in rest.items() if name != SET}, numbered)


def tidy(folder: Path, *named_by: Path) -> None:
    """Remove the pieces that none of these checkpoints names; nothing, if one of them cannot be read."""
    if not (folder / FOLDER).is_dir():
        return
    try:
        kept = {checksummed.read(path).get(SET, {}).get("folder") for path in named_by if path.exists()}
    except InputError:
        return
    for found in (folder / FOLDER).iterdir():
        if f"{FOLDER}/{found.name}" not in kept:
            shutil.rmtree(found, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / FOLDER).rmdir()  # if nothing is left


def _items(value: object) -> Iterator[tuple[object, object]]:
    yield from value.items() if isinstance(value, dict) else enumerate(value)


def _without_shards(value: object, shards: list[Tensor]) -> object:
    if isinstance(value, DTensor):
        shards.append(value.to_local())
        return {NUMBER: len(shards) - 1}
    if not isinstance(value, (dict, list, tuple)):
        return value
    parts = {name: _without_shards(held, shards) for name, held in _items(value)}
    return parts if isinstance(value, dict) else type(value)(parts.values())


def _with_tensors(value: object, numbered: list[Tensor]) -> object:
    if not isinstance(value, (dict, list, tuple)):
        return value
    if isinstance(value, dict) and value.keys() == {NUMBER}:
        return numbered[value[NUMBER]]
    parts = {name: _with_tensors(held, numbered) for name, held in _items(value)}
    return parts if isinstance(value, dict) else type(value)(parts.values())
