"""Export format hf-vitmae: encoder and decoder for Hugging Face's ViTMAEForPreTraining.from_pretrained("FOLDER")."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, final

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.encoder.patches import hidden_from_visible
from models.export.export_format import CheckResult, ExportFormat, as_input, images_like, plain_encoder
from models.load import Loaded
from models.masked.mae import MAEBranch
from pipeline.errors import InputError
from pipeline.spec import spelt
from pipeline.store.atomic_write import write_whole

BLOCK = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


@final
class ToViTMAE(ExportFormat):
    """config.json and model.safetensors, under the names that transformers 4 and 5 both read.

    For a run with a moving average they hold the averaged encoder, and the decoder, which has no average.
    """

    tolerance: ClassVar[float] = 1e-4

    def write(self, loaded: Loaded, folder: Path) -> None:
        encoder, branch = plain_encoder(loaded, "hf-vitmae"), _branch(loaded)
        _check(encoder, loaded)
        decoder = branch.decoder
        tensors = {
            "vit.embeddings.cls_token": encoder.cls_token,
            "vit.embeddings.position_embeddings": encoder.pos_embed,
            "decoder.mask_token": decoder.mask_token,
            "decoder.decoder_pos_embed": torch.cat([torch.zeros_like(decoder.positions[:1]), decoder.positions])[None],
        }
        tensors |= _of("vit.embeddings.patch_embeddings.projection", encoder.patch_embed.proj)
        tensors |= _of("vit.layernorm", encoder.norm) | _of("decoder.decoder_norm", decoder.norm)
        tensors |= _of("decoder.decoder_embed", decoder.embed) | _of("decoder.decoder_pred", decoder.predict)
        for i, block in enumerate(encoder.blocks):
            tensors |= _block(f"vit.encoder.layer.{i}", block.state_dict())
        for i, block in enumerate(decoder.blocks):
            tensors |= _block(f"decoder.decoder_layers.{i}", block.state_dict())
        whole = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        write_whole(folder / "config.json", json.dumps(config(loaded, branch), indent=2) + "\n")

    def check(self, loaded: Loaded, folder: Path) -> CheckResult:
        if not find_spec("transformers"):
            return CheckResult(None, "transformers is not installed")
        import transformers

        theirs = transformers.ViTMAEForPreTraining.from_pretrained(folder).eval()
        images, patches = images_like(loaded), _branch(loaded).decoder.positions.shape[0]
        noise = torch.rand(len(images), patches, generator=torch.Generator().manual_seed(1))
        kept = int(patches * (1 - loaded.recipe.data.mask.ratio))
        visible = noise.argsort(1)[:, :kept].sort(1).values
        with torch.inference_mode():
            found = theirs(as_input(loaded, images), noise=noise).logits
            ours = _branch(loaded).cpu().predict(loaded.method.eval_encoder.cpu(), images, visible)
        hidden = hidden_from_visible(visible, patches)[..., None].expand_as(ours)
        return CheckResult(
            float((found.gather(1, hidden) - ours).abs().max()), f"transformers {transformers.__version__}"
        )


def config(loaded: Loaded, branch: MAEBranch) -> dict:
    """Make the fields of transformers' ViTMAEConfig."""
    encoder, settings = loaded.method.encoder, branch.settings
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": encoder.blocks[0].attn.num_heads,
        "intermediate_size": encoder.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm.eps,
        "image_size": loaded.recipe.data.size,
        "patch_size": loaded.recipe.encoder.patch,
        "num_channels": 3,
        "qkv_bias": True,
        "decoder_hidden_size": settings.width,
        "decoder_num_hidden_layers": settings.depth,
        "decoder_num_attention_heads": settings.heads,
        "decoder_intermediate_size": branch.decoder.blocks[0].mlp.fc1.out_features,
        "mask_ratio": loaded.recipe.data.mask.ratio,
        "norm_pix_loss": settings.target == "norm_pix",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _branch(loaded: Loaded) -> MAEBranch:
    """Return the run's MAE branch. Raises InputError for a run that ViTMAE cannot hold."""
    branch, size = loaded.method.branch, loaded.recipe.data.size
    if isinstance(size, tuple):  # the number of patches would be taken for that of a square
        raise InputError(
            f"hf-vitmae holds models of square images, {loaded.recipe.name} of {loaded.path} has {spelt(size)}; "
            "use --to timm"
        )
    plain = isinstance(branch, MAEBranch) and loaded.method.encoder.cls_token is not None
    if not plain or branch.mask_token is not None or branch.settings.target not in ("pixel", "norm_pix"):
        raise InputError(
            "hf-vitmae holds a class token, MAE's decoder and pixels as its target; "
            f"{loaded.recipe.name} of {loaded.path} has others; use --to timm"
        )
    return branch


def _check(encoder: VisionTransformer, loaded: Loaded) -> None:
    """Raise InputError for an encoder with other parameters than ViTMAE's."""
    block = {f"{part}.{kind}" for part in ("attn.qkv", *BLOCK) for kind in ("weight", "bias")}
    wanted = {"cls_token", "pos_embed"}
    wanted |= {f"{part}.{kind}" for part in ("patch_embed.proj", "norm") for kind in ("weight", "bias")}
    wanted |= {f"blocks.{i}.{name}" for i in range(len(encoder.blocks)) for name in block}
    held = {name for name in encoder.state_dict() if not name.startswith("head.")}
    if held != wanted:
        what = "has no place for" if held - wanted else "needs"
        name = min(held - wanted or wanted - held)
        raise InputError(f"hf-vitmae {what} {name}; {loaded.recipe.name} of {loaded.path} is another: use --to timm")


def _of(name: str, module: torch.nn.Module) -> dict[str, Tensor]:
    """Name a module's tensors below `name`."""
    return {f"{name}.{part}": tensor for part, tensor in module.state_dict().items()}


def _block(name: str, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a block's tensors as transformers does; queries, keys and values are three layers there."""
    made = {}
    for part in ("weight", "bias"):
        rows = held[f"attn.qkv.{part}"].chunk(3)
        for role, tensor in zip(("query", "key", "value"), rows, strict=True):
            made[f"{name}.attention.attention.{role}.{part}"] = tensor
        for ours, theirs in BLOCK.items():
            made[f"{name}.{theirs}.{part}"] = held[f"{ours}.{part}"]
    return made
