"""Checkpoints that survive kills, full disks and flipped bits: tensors and JSON types, checked before they are used."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn

from models.checkpoint import checksummed, sharded
from models.checkpoint.checksummed import Damaged
from models.distributed.process_group import World
from pipeline.errors import InputError

LAST, PREVIOUS, PARTIAL, DAMAGED = "last.pt", "previous.pt", "last.pt.partial", "last.pt.damaged"


def save(folder: Path, state: dict) -> Path:
    """Write `folder`/last.pt; the one before becomes previous.pt.

    A kill at any moment leaves a loadable last.pt: the new file is complete and on disk before it takes the name.

    Raises TypeError naming the key that is neither tensor nor JSON type, InputError if the disk refuses (the
    checkpoints before stay).
    """
    check_types(state, "state")
    partial, last = folder / PARTIAL, folder / LAST
    checksummed.write(partial, state)
    try:
        if last.exists():
            _keep(last, folder / PREVIOUS)
        os.replace(partial, last)
        checksummed.sync_folder(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise checksummed.refused(folder, error) from error
    sharded.tidy(folder, last, folder / PREVIOUS)
    return last


def save_pieces(folder: Path, held: dict, world: World) -> None:
    """Write what models.checkpoint.sharded.split has made of a state on each rank, as `save` does; a collective call.

    last.pt takes its name once every rank's piece is on disk. Raises InputError on all ranks if one's disk refuses.
    """
    digests = _together(lambda: sharded.write(folder, held, world.rank, world.size), world)
    _together(lambda: str(save(folder, sharded.naming(held, digests)) if world.main else ""), world)


def load(path: Path) -> dict:
    """The state in a checkpoint, whole and on the CPU, whether it was written in one file or in pieces.

    Raises InputError if a file is missing or cannot be read, Damaged (one too) if a checksum is wrong or it holds
    anything that would run code.
    """
    state = checksummed.read(path)
    return sharded.join(state, path) if sharded.SET in state else state


def latest(folder: Path) -> tuple[dict, Path] | None:
    """The newest checkpoint that is whole: last.pt, else previous.pt with a warning on stderr; None where none is.

    A damaged last.pt is renamed last.pt.damaged, so that the next save does not put it in the good one's place.
    Raises InputError if there are checkpoints and all are damaged, or one cannot be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    found = [path for path in (last, previous) if path.exists()]
    for path in found:
        try:
            state = load(path)
        except Damaged as error:
            if path == found[-1]:
                raise InputError(
                    f"{folder} holds no whole checkpoint: {error}; delete the folder to begin anew"
                ) from error
            print(f"warning: {error}; going on from {previous}", file=sys.stderr)
            continue
        if path == previous and last in found:
            _set_aside(last)
        return state, path
    return None


def _keep(last: Path, previous: Path) -> None:
    """Give `last` a second name in one atomic step; it keeps its own."""
    spare = previous.with_suffix(".pt.partial")
    spare.unlink(missing_ok=True)
    try:
        os.link(last, spare)
    except OSError:  # file systems without hard links
        shutil.copyfile(last, spare)
    os.replace(spare, previous)
    spare.unlink(missing_ok=True)  # rename does nothing where both names are one file already (a kill came here before)


def _set_aside(last: Path) -> None:
    try:
        os.replace(last, last.with_name(DAMAGED))
    except OSError:  # another rank was first, or the folder is read-only
        return


def _together(do: Callable[[], str], world: World) -> list[str]:
    """What `do` gave on each rank, or on all the InputError of the first where it failed: none waits for another."""
    try:
        mine = do(), None
    except InputError as error:
        mine = None, str(error)
    said = [mine] * world.size
    dist.all_gather_object(said, mine, group=world.saving)
    for rank, (_, error) in enumerate(said):
        if error is not None:
            raise InputError(error if rank == world.rank else f"rank {rank}: {error}")
    return [given for given, _ in said]


def check_types(value: object, key: str) -> None:
    if type(value) in (Tensor, nn.Parameter, bool, int, float, str, type(None)):
        return
    if isinstance(value, dict):
        for name, held in value.items():
            if type(name) not in (str, int):
                raise TypeError(f"{key} has a key {name!r} of type {type(name).__name__}; keys are str or int")
            check_types(held, f"{key}[{name!r}]")
    elif type(value) in (list, tuple):
        for index, held in enumerate(value):
            check_types(held, f"{key}[{index}]")
    else:
        raise TypeError(f"{key} is a {type(value).__name__}; a checkpoint holds tensors and JSON types only")
