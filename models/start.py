"""Start a run from another run's encoder."""

from pathlib import Path

from models.method import Method
from models.relative import bias_for_each_block, kind_of
from models.training import checkpoint
from pipeline.errors import InputError

HEAD = "head."


def load_encoder(method: Method, path: Path) -> str:
    """Copy the encoder of a checkpoint into a method, the moving average where the run kept one; -> what was done.

    A classifier is copied if both have one of the same shape, and stays new otherwise; a position bias that all blocks
    shared becomes each block's own, where the method's encoder has such. Raises InputError for positions of another
    kind, and naming the first tensor that is missing or of another shape.
    """
    held = checkpoint.load(path).get("method")
    if not isinstance(held, dict):
        raise InputError(f"{path} is no checkpoint of a run: it holds no method; use a run's last.pt")
    prefix = "average.module." if any(name.startswith("average.module.") for name in held) else "encoder."
    found = {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}
    wanted = method.encoder.state_dict()
    theirs, ours = kind_of(found), kind_of(wanted)
    if (theirs, ours) == ("bias", "block_bias"):
        found = bias_for_each_block(found, len(method.encoder.blocks))
    elif theirs != ours:
        raise InputError(f"{path} was trained with position {theirs}, got {ours}; set encoder.position to {theirs}")
    new = [name for name in wanted if name.startswith(HEAD) and not _same(found, wanted, name)]
    for name in wanted:
        if name not in new and not _same(found, wanted, name):
            came = list(found[name].shape) if name in found else "nothing"
            raise InputError(
                f"{path}: expected {name} of shape {list(wanted[name].shape)}, got {came}; "
                "use the encoder and image size of the run that wrote it"
            )
    method.encoder.load_state_dict(wanted | {name: found[name] for name in wanted if name not in new})
    if method.average is not None:
        method.average.module.load_state_dict(method.encoder.state_dict())
    return f"{len(wanted) - len(new)} tensors of the encoder from {path}; new: {', '.join(new) or 'none'}"


def _same(found: dict, wanted: dict, name: str) -> bool:
    return name in found and found[name].shape == wanted[name].shape
