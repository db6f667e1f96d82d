"""Save and load checkpoints so that a kill, a full disk or a flipped bit leaves one that loads.

A checkpoint holds tensors and JSON types, and its checksum is verified before anything in it is used.
"""

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
from models.records.run_folder import BEST, LAST, PREVIOUS
from pipeline.errors import InputError
from pipeline.store.atomic_write import sync_folder

PARTIAL, DAMAGED = "last.pt.partial", "last.pt.damaged"


def save(folder: Path, state: dict) -> Path:
    """Write `folder`/last.pt; the last.pt before becomes previous.pt.

    save(folder, {"step": 3, "method": method.state_dict()})

    The new file is complete and on disk before it is renamed, so a kill at any moment leaves a last.pt that loads.

    Raises TypeError naming the key of a value that is neither a tensor nor of a JSON type, InputError if the disk
    refuses; the checkpoints before are then unchanged.
    """
    check_types(state, "state")
    partial, last = folder / PARTIAL, folder / LAST
    checksummed.write(partial, state)
    try:
        if last.exists():
            _link(last, folder / PREVIOUS)
        os.replace(partial, last)
        sync_folder(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise checksummed.disk_error(folder, error) from error
    sharded.remove_unreferenced(folder, last, folder / PREVIOUS, folder / BEST)
    return last


def save_sharded(folder: Path, parts: dict, world: World) -> None:
    """Save what models.checkpoint.sharded.split has made of a state on each rank, as `save` does. A collective call.

    last.pt is renamed once every rank's file is on disk. Raises InputError on all ranks if the disk of one refuses.
    """
    digests = _on_all_ranks(lambda: sharded.write(folder, parts, world.rank, world.size), world)
    _on_all_ranks(lambda: str(save(folder, sharded.main_state(parts, digests)) if world.main else ""), world)


def keep_best(folder: Path) -> None:
    """Make best.pt a second name of the newest checkpoint, in one rename; it takes no space of its own until that is
    replaced. Raises InputError if the disk refuses; best.pt is then as before."""
    newest = folder / LAST
    try:
        _link(newest if newest.exists() else folder / PREVIOUS, folder / BEST)
        sync_folder(folder)
    except OSError as error:
        raise checksummed.disk_error(folder, error) from error


def load(path: Path) -> dict:
    """The state in a checkpoint, with whole tensors on the CPU, whether it was saved by one rank or sharded.

    Raises InputError if a file is missing or cannot be read, Damaged (a subclass) if a checksum is wrong or the file
    holds anything that would run code.
    """
    state = checksummed.read(path)
    return sharded.join(state, path) if sharded.SHARDS in state else state


def latest(folder: Path) -> tuple[dict, Path] | None:
    """The newest checkpoint that loads: last.pt, else previous.pt with a warning on stderr; None if there is neither.

    A damaged last.pt is renamed to last.pt.damaged, so that the next save does not overwrite the good previous.pt with
    it. Raises InputError if there are checkpoints and all are damaged, or one cannot be read.
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
            _rename_damaged(last)
        return state, path
    return None


def check_types(value: object, key: str) -> None:
    """Raise TypeError naming the key, such as state['parts'][1], of a value that is no tensor and of no JSON type."""
    if type(value) in (Tensor, nn.Parameter, bool, int, float, str, type(None)):
        return
    if isinstance(value, dict):
        for name, held in value.items():
            if type(name) not in (str, int):
                raise TypeError(f"{key} has a key {name!r} of type {type(name).__name__}; keys are str or int")
            check_types(held, f"{key}[{name!r}]")
    elif type(value) is list or type(value) is tuple:
        for index, held in enumerate(value):
            check_types(held, f"{key}[{index}]")
    else:
        raise TypeError(f"{key} is a {type(value).__name__}; a checkpoint holds tensors and JSON types only")


def _link(last: Path, previous: Path) -> None:
    """Make `previous` (previous.pt or best.pt) a second name of the file `last`, replacing an older one atomically."""
    spare = previous.with_suffix(".pt.partial")
    spare.unlink(missing_ok=True)
    try:
        os.link(last, spare)
    except OSError:  # file systems without hard links
        shutil.copyfile(last, spare)
    os.replace(spare, previous)
    spare.unlink(missing_ok=True)  # rename does nothing if both names are one file, as after a kill just here


def _rename_damaged(last: Path) -> None:
    try:
        os.replace(last, last.with_name(DAMAGED))
    except OSError:  # another rank was first, or the folder is read-only
        return


def _on_all_ranks(call: Callable[[], str], world: World) -> list[str]:
    """What `call` returned on each rank; if it failed on any, raise the first rank's InputError on all of them."""
    mine: tuple[str, str | None]
    try:
        mine = call(), None
    except InputError as error:
        mine = "", str(error)
    results = [mine] * world.size
    dist.all_gather_object(results, mine, group=world.saving)
    for rank, (_, error) in enumerate(results):
        if error is not None:
            raise InputError(error if rank == world.rank else f"rank {rank}: {error}")
    return [returned for returned, _ in results]
