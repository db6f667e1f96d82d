"""Read the weights of a timm name, such as vit_base_patch16_224.mae, from this machine's caches, without network."""

from dataclasses import replace
from pathlib import Path

import timm
import torch

from models.encoder.patches import Normalisation
from models.pretrained.released import WEIGHTS, label_names, read_released, read_safetensors
from models.pretrained.weights import Weights
from pipeline.errors import InputError


def is_timm_name(start: str) -> bool:
    """Whether timm knows a model or weights of this name."""
    return timm.is_model(start)


def read_timm(name: str) -> Weights:
    """The weights of a name in the caches of the Hugging Face hub and of torch.hub, to which timm downloads.

    Raises InputError, with the command that downloads them, if neither has them.
    """
    config = timm.get_pretrained_cfg(name)
    path = None if config is None else _cached(config.hf_hub_id, config.hf_hub_filename or WEIGHTS, config.url)
    if path is None:
        raise InputError(
            f"run.start {name}: timm knows it, its weights are not on this machine; "
            f"run python -c \"import timm; timm.create_model('{name}', pretrained=True)\" where there is a network"
        )
    found = read_safetensors(path) if path.suffix == ".safetensors" else read_released(path)
    shown = Normalisation(tuple(config.mean), tuple(config.std))
    return replace(
        found,
        where=name,
        what=f"timm {path.name}",
        normalisation=shown,
        classes=label_names(config.label_names),
        architecture=config.architecture or name.partition(".")[0],
    )


def _cached(repo: str | None, file: str, url: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # imported here, as no other start needs it

    paths = []
    if repo:
        found = (try_to_load_from_cache(repo, each) for each in (file, "pytorch_model.bin"))
        paths += [Path(path) for path in found if isinstance(path, str)]
    if url:
        paths.append(Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2])
    return next((path for path in paths if path.exists()), None)
