"""Small files of every released format, each with its library's own features of an image: the oracle of the tests.

Each maker takes a folder and returns what to start from, and a function: normalised images of the format's own
normalisation -> the features of its tokens, f32 [N, tokens, C].
"""

import json
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import checkpoint_filter_fn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import IMAGENET, Normalisation
from models.pretrained.formats import CLIP, HALF

WIDTH, DEPTH, HEADS, PATCH, SIZE = 128, 2, 2, 8, 32
LARGE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH,
         "image_size": SIZE, "patch_size": PATCH}  # fmt: skip
SMALL = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}


class Released(NamedTuple):
    """What a maker wrote: the start, the library's features, and what the images were normalised by."""

    start: str
    features: Callable[[Tensor], Tensor]
    normalisation: Normalisation = IMAGENET
    model: nn.Module | None = None


def drawn(model: nn.Module) -> nn.Module:
    """A model in eval mode with weights that are neither zeros nor ones, so that no layer can be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim < 2 or "token" in name or "pos" in name else 2.0 / parameter.shape[-1] ** 0.5
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * spread * (0.5 if parameter.ndim > 3 else 1)
            )
            if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight")):
                parameter.add_(1.0)
    return model.eval()


def vit(**more) -> VisionTransformer:
    """A small plain ViT of timm."""
    return drawn(VisionTransformer(**SMALL | {"num_classes": 0} | more))


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with a prefix before each name."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def timms(folder, held: Callable[[dict[str, Tensor]], object], **more) -> Released:
    """A torch file made of a timm ViT's weights, whose forward_features is the oracle."""
    model = vit(**more)
    torch.save(held({name: tensor.clone() for name, tensor in model.state_dict().items()}), folder / "file.pth")
    return Released(str(folder / "file.pth"), model.forward_features, model=model)


def deit(folder) -> Released:
    return timms(folder, lambda held: {"model": held})


def deit_distilled(folder) -> Released:
    from timm.models.deit import VisionTransformerDistilled

    model = drawn(VisionTransformerDistilled(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH,
                                             num_heads=HEADS, num_classes=5))  # fmt: skip
    torch.save({"model": model.state_dict()}, folder / "file.pth")
    return Released(str(folder / "file.pth"), model.forward_features)


def deit3(folder) -> Released:
    """DeiT III's own file: LayerScale as gamma_1, and positions of the patches alone."""

    def held(own):
        return {"model": {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
                          for name, tensor in own.items()}}  # fmt: skip

    return timms(folder, held, init_values=1.0, no_embed_class=True)


def mae(folder) -> Released:
    beside = {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 17, 16)}
    return timms(folder, lambda held: {"model": held | beside, "args": Namespace(norm_pix_loss=True)})


def supmae(folder) -> Released:
    beside = {"mask_token": torch.zeros(1, 1, 16), "cls_head.0.weight": torch.ones(4, WIDTH)}
    return timms(folder, lambda held: {"model": held | beside})


def moco(folder) -> Released:
    """MoCo v3's checkpoint: the head of each encoder is its projector."""

    def held(own):
        head = {"head.0.weight": torch.ones(8, WIDTH), "head.1.running_mean": torch.ones(8)}
        other = {name: tensor + 1 for name, tensor in own.items()}
        state = named("module.base_encoder.", own | head) | named("module.momentum_encoder.", other | head)
        return {"epoch": 300, "arch": "vit_base", "state_dict": state | {"module.predictor.0.weight": torch.ones(4, 8)},
                "optimizer": {"state": {}}, "scaler": {"scale": 65536.0}}  # fmt: skip

    return timms(folder, held)


def dino(folder) -> Released:
    """DINO's full checkpoint."""

    def held(own):
        head = {"head.mlp.0.weight": torch.ones(8, WIDTH), "head.last_layer.weight_g": torch.ones(8, 1)}
        student = named("module.backbone.", {name: tensor + 1 for name, tensor in own.items()}) | named("module.", head)
        return {"student": student, "teacher": named("backbone.", own) | head, "epoch": 100,
                "args": Namespace(arch="vit_small"), "dino_loss": {"center": torch.zeros(1, 8)}}  # fmt: skip

    return timms(folder, held)


def dinov2(folder) -> Released:
    return timms(folder, lambda held: held | {"mask_token": torch.zeros(1, WIDTH)}, init_values=1.0)


def dinov2_trained(folder) -> Released:
    """A teacher of DINOv2's own trainer, which keeps blocks in chunks."""

    def held(own):
        chunks = {name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): tensor
                  for name, tensor in own.items()}  # fmt: skip
        return {"teacher": named("backbone.", chunks) | {"dino_head.last_layer.weight": torch.ones(8, 8)}}

    return timms(folder, held, init_values=1.0)


def dinov2_registers(folder) -> Released:
    """Meta's file: positions of class token and patches, and registers without. As timm's _convert_dinov2 reads it."""

    def held(own):
        first = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(1))
        own["register_tokens"], own["mask_token"] = own.pop("reg_token"), torch.zeros(1, WIDTH)
        own |= {"cls_token": own["cls_token"] - first, "pos_embed": torch.cat([first, own["pos_embed"]], 1)}
        return own

    return timms(folder, held, init_values=1.0, reg_tokens=4, no_embed_class=True)


def dinov2_giant(folder) -> Released:
    """SwiGLU under Meta's names: w12 and w3."""
    from timm.layers import SwiGLUPacked

    def held(own):
        return {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): tensor for name, tensor in own.items()}

    return timms(folder, held, init_values=1.0, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=2.75 * 2)


def eva(name: str, **more) -> nn.Module:
    """A small model of timm's class Eva."""
    size = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    return drawn(timm.create_model(name, **size | {"num_classes": 0} | more))


def dinov3_names(model: nn.Module) -> dict[str, Tensor]:
    """An Eva's tensors as Meta's DINOv3 has them: biases of keys that its mask hides, and periods in bfloat16."""
    held, own = {"mask_token": torch.ones(1, WIDTH)}, {name: each.clone() for name, each in model.state_dict().items()}
    swaps = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "fc1_g": "w1",
             "fc1_x": "w2", "fc2": "w3" if "blocks.0.mlp.fc1_g.weight" in own else "fc2"}  # fmt: skip
    for name, tensor in own.items():
        if name.endswith("q_bias"):
            bias = name.replace("q_bias", "qkv.bias")
            third = torch.ones(WIDTH)
            held |= {bias: torch.cat([tensor, third, own[name.replace("q_bias", "v_bias")]]),
                     f"{bias}_mask": torch.cat([third, 0 * third, third])}  # fmt: skip
        elif not name.endswith("v_bias"):
            for ours, theirs in swaps.items():
                name = name.replace(ours, theirs)
            held[name] = tensor
    quarter = WIDTH // HEADS // 4
    return held | {"rope_embed.periods": (100 ** (torch.arange(quarter) / quarter)).bfloat16(),
                   "local_cls_norm.weight": torch.ones(WIDTH)}  # fmt: skip


def dinov3(folder, name: str = "vit_small_patch16_dinov3_qkvb") -> Released:
    model = eva(name)
    held = dinov3_names(model)
    theirs = checkpoint_filter_fn(dict(held), model)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items())  # timm reads it so
    torch.save(held, folder / "file.pth")
    return Released(str(folder / "file.pth"), model.forward_features, model=model)


def dinov3_plus(folder) -> Released:
    return dinov3(folder, "vit_small_plus_patch16_dinov3_qkvb")


def dinov3_of_timm(folder) -> Released:
    model = eva("vit_small_patch16_dinov3")
    torch.save(model.state_dict(), folder / "file.pth")
    return Released(str(folder / "file.pth"), model.forward_features, model=model)


def dinov3_folder(folder) -> Released:
    return timm_folder(folder, "vit_huge_plus_patch16_dinov3", IMAGENET)


def ijepa(folder) -> Released:
    def held(own):
        other = {name: tensor + 1 for name, tensor in own.items()}
        predictor = named("module.", {"predictor_blocks.0.norm1.weight": torch.ones(4), "mask_token": torch.zeros(4)})
        return {"encoder": named("module.", other), "target_encoder": named("module.", own), "predictor": predictor,
                "opt": {"state": {0: {"exp_avg": torch.ones(3)}}}, "scaler": None, "epoch": 300}  # fmt: skip

    return timms(folder, held, class_token=False, global_pool="avg", fc_norm=False)


def ema_of_timm(folder) -> Released:
    def held(own):
        return {"state_dict": {name: tensor + 1 for name, tensor in own.items()}, "state_dict_ema": own, "epoch": 3,
                "arch": "vit_base_patch16_224", "args": Namespace(model="x")}  # fmt: skip

    return timms(folder, held)


def ema_of_deit(folder) -> Released:
    return timms(folder, lambda own: {"model": {name: tensor + 1 for name, tensor in own.items()}, "model_ema": own})


def beit(folder, *, shared: bool = False, v2: bool = False) -> Released:
    """BEiT's own file, pre-trained; as timm's Beit reads it."""
    from timm.models.beit import Beit

    model = drawn(Beit(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0,
                       init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=not shared,
                       use_shared_rel_pos_bias=shared, global_pool="token"))  # fmt: skip
    beside = {"mask_token": torch.zeros(1, 1, WIDTH), "lm_head.weight": torch.ones(9, WIDTH)}
    beside |= {"cls_pt_layers.0.gamma_1": torch.ones(WIDTH)} if v2 else {}
    torch.save({"model": model.state_dict() | beside}, folder / "file.pth")
    return Released(str(folder / "file.pth"), model.forward_features, IMAGENET if v2 else HALF, model)


def beit_shared(folder) -> Released:
    return beit(folder, shared=True)


def beit_v2(folder) -> Released:
    return beit(folder, v2=True)


def simmim(folder) -> Released:
    made = beit(folder, shared=True)
    held = torch.load(made.start, weights_only=True)["model"]
    held = named("encoder.", {name: tensor for name, tensor in held.items() if "lm_head" not in name})
    torch.save({"model": held | {"decoder.0.weight": torch.ones(3, WIDTH, 1, 1)}}, made.start)
    return made._replace(normalisation=IMAGENET)


def open_clip(folder) -> Released:
    """OpenAI's names, as open_clip's model writes them; timm's pre-norm ViT is the oracle, as it is for timm's own."""
    model = vit(pre_norm=True, norm_layer=lambda width, **more: nn.LayerNorm(width, eps=1e-5, **more))
    swaps = [("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."), ("norm1", "ln_1"), ("norm2", "ln_2"),
             ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
             ("mlp.fc2", "mlp.c_proj"), ("patch_embed.proj", "conv1")]  # fmt: skip
    held = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in swaps:
            name = name.replace(theirs, ours)
        held[name.replace("norm.", "ln_post.") if name.startswith("norm.") else name] = tensor
    held |= {"class_embedding": held.pop("cls_token")[0, 0], "positional_embedding": held.pop("pos_embed")[0]}
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(9), "positional_embedding": torch.ones(7, 9),
            "text_projection": torch.ones(9, 16), "logit_scale": torch.ones(())}  # fmt: skip
    torch.save(named("visual.", held | {"proj": torch.ones(WIDTH, 16)}) | text, folder / "file.pth")
    return Released(str(folder / "file.pth"), model.forward_features, CLIP, model)


def hugging_face(folder, name: str, normed: Callable | None = None, normalisation=IMAGENET, **more) -> Released:
    """A folder that transformers writes for a class of its own; features by its forward."""
    transformers = pytest.importorskip("transformers")
    model = drawn(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**LARGE | more)))
    model.save_pretrained(folder / "home")

    def features(images):
        found = model(pixel_values=images).last_hidden_state
        return found if normed is None else normed(model)(found)

    return Released(str(folder / "home"), features, normalisation, model)


def _post_norm(model: nn.Module) -> nn.Module:
    return getattr(model, "vision_model", model).post_layernorm


def hf_vit(folder) -> Released:
    return hugging_face(folder, "ViT", normalisation=HALF)


def hf_deit(folder) -> Released:
    return hugging_face(folder, "DeiT")


def hf_vitmae(folder) -> Released:
    """ViTMAE shuffles patches; without a mask its encoder is the plain ViT of the same names."""
    transformers = pytest.importorskip("transformers")
    made = hugging_face(folder, "ViT", layer_norm_eps=1e-12)
    config = transformers.ViTMAEConfig(**LARGE, mask_ratio=0.0)
    model = transformers.ViTMAEModel(config)
    model.load_state_dict(transformers.ViTModel.from_pretrained(folder / "home").state_dict(), strict=False)
    model.save_pretrained(folder / "home")
    return made._replace(normalisation=IMAGENET)


def hf_dinov2(folder) -> Released:
    return hugging_face(folder, "Dinov2")


def hf_dinov2_registers(folder) -> Released:
    return hugging_face(folder, "Dinov2WithRegisters")


def hf_dinov2_giant(folder) -> Released:
    return hugging_face(folder, "Dinov2", use_swiglu_ffn=True)


def hf_beit(folder) -> Released:
    return hugging_face(folder, "Beit", None, HALF, use_relative_position_bias=True)


def hf_clip(folder) -> Released:
    return hugging_face(folder, "CLIPVision", _post_norm, CLIP)


def hf_siglip(folder) -> Released:
    return hugging_face(folder, "SiglipVision", None, HALF)


def hf_dinov3(folder) -> Released:
    return hugging_face(folder, "DINOv3ViT", num_register_tokens=4)


def hf_dinov3_plus(folder) -> Released:
    plus = {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 200}
    return hugging_face(folder, "DINOv3ViT", **plus)


def hf_ijepa(folder) -> Released:
    return hugging_face(folder, "IJepa")


def timm_folder(folder, name: str = "vit_small_patch16_224", normalisation=HALF, **more) -> Released:
    """A folder as timm.models.save_for_hf writes it."""
    size = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS} | more
    model = drawn(timm.create_model(name, num_classes=3, **size))
    save_file(model.state_dict(), folder / "model.safetensors")
    stated = {"mean": list(normalisation.mean), "std": list(normalisation.std)}
    text = {"architecture": name, "model_args": size, "pretrained_cfg": stated}
    (folder / "config.json").write_text(json.dumps(text))
    return Released(str(folder), model.forward_features, normalisation, model)


def timm_clip(folder) -> Released:
    return timm_folder(folder, "vit_base_patch16_clip_quickgelu_224", CLIP)


ROWS = {
    "timm folder or name": (timm_folder, timm_clip),
    "timm's trainer": (ema_of_timm,),
    "DeiT": (deit, deit_distilled, deit3, ema_of_deit),
    "MAE, SupMAE": (mae, supmae),
    "MoCo v3": (moco,),
    "DINO": (dino,),
    "DINOv2": (dinov2, dinov2_trained, dinov2_giant),
    "DINOv2 with registers": (dinov2_registers,),
    "DINOv3": (dinov3, dinov3_plus, dinov3_of_timm, dinov3_folder),
    "BEiT": (beit, beit_shared),
    "BEiT v2": (beit_v2,),
    "SimMIM": (simmim,),
    "I-JEPA": (ijepa,),
    "open_clip": (open_clip,),
    "Hugging Face: ViT, DeiT, ViTMAE, I-JEPA": (hf_vit, hf_deit, hf_vitmae, hf_ijepa),
    "Hugging Face: DINOv2": (hf_dinov2, hf_dinov2_registers, hf_dinov2_giant),
    "Hugging Face: DINOv3": (hf_dinov3, hf_dinov3_plus),
    "Hugging Face: BEiT": (hf_beit,),
    "Hugging Face: CLIP": (hf_clip,),
    "Hugging Face: SigLIP": (hf_siglip,),
}
"""The makers of each row of the table in docs/pretrained.md."""
FORMATS = [make for makers in ROWS.values() for make in makers]
