"""Rotary encoders are refused in one line, by whatever tells them; timm's files hold no rotation."""

import json

import pytest
import timm
import torch

from pipeline.errors import InputError
from tests.models.pretrained import released_files as released
from tests.models.pretrained.test_formats import started


def rotary(folder, kind):
    """Files of rotary encoders: DINOv3 in Hugging Face's folder and Meta's file, EVA-02 and timm's folder."""
    if kind == "timm":
        made = released.timm_folder(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architecture": "vit_small_patch16_dinov3"}))
        return made.start
    if kind == "transformers":
        return released.hugging_face(folder, "DINOv3ViT", lambda model: model).start
    name = {"meta": "rope_embed.periods", "eva02": "blocks.0.attn.rope.freqs_cos"}[kind]
    torch.save(released.vit().state_dict() | {name: torch.zeros(4)}, folder / "x.pth")
    return folder / "x.pth"


@pytest.mark.parametrize("kind", ["timm", "transformers", "meta", "eva02"])
def test_rotary_encoders_are_refused_in_one_line_that_says_what_is_missing(tmp_path, kind):
    with pytest.raises(
        InputError, match=r"have rotary positions, which turn queries and keys in each block"
    ) as refused:
        started(rotary(tmp_path, kind))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_base_patch16_rope_224", "vit_pe_core_tiny_patch16_384"],
)
def test_a_file_of_timms_eva_class_that_names_no_rotation_is_refused_too(tmp_path, name):
    torch.save(timm.create_model(name, depth=1).state_dict(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"have rotary positions, which turn queries and keys") as refused:
        started(tmp_path / "x.pth")
    assert "\n" not in str(refused.value)


def test_a_gated_mlp_of_another_kind_is_refused(tmp_path, monkeypatch):
    from timm.layers import GluMlp

    made = released.timm_folder(tmp_path)
    create = timm.create_model

    def gated(name, **options):
        return create(name, **options, mlp_layer=GluMlp)

    monkeypatch.setattr(timm, "create_model", gated)
    with pytest.raises(InputError, match=r"whose gated MLP is no SwiGLU with the gate first"):
        started(made.start)
