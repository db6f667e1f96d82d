"""Every released format: its file alone tells the encoder, whose features are those of the format's own library."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file

from models.config.recipe import Encoder, Recipe, Run
from models.config.resolve import flags_of, resolve
from models.encoder.build import encoder_of
from models.encoder.patches import as_normalised
from models.encoder.vit import FullImages, encode, eval_logits
from models.load import load_run
from models.pretrained import load_encoder
from models.pretrained.architecture import with_encoder_of_start
from models.pretrained.find import find_weights
from models.pretrained.formats import facts_of, format_of
from models.pretrained.weights import Weights
from pipeline.errors import InputError
from pipeline.spec import Data
from tests.models.pretrained import released_files as released


def started(start, size=released.SIZE, encoder=None, classes=None, **run):
    """The encoder that a file tells, filled from it, and the two lines about it."""
    recipe = Recipe(None, Data(size=size), encoder or Encoder("auto"), run=Run(start=str(start), **run))
    recipe, read = with_encoder_of_start(recipe)
    held = SimpleNamespace(encoder=encoder_of(recipe, classes=7), ema=None, branch=None)
    said = load_encoder(held, str(start), classes, recipe.run.start_normalisation)
    return held.encoder.eval(), recipe, read, said


def features(encoder, images):
    with torch.inference_mode():
        return encode(encoder, [FullImages(images, pooled=False)])[0]


@pytest.mark.parametrize("make", released.FORMATS, ids=lambda make: make.__name__)
def test_a_formats_features_are_its_own_librarys(tmp_path, make):
    torch.manual_seed(0)
    made = make(tmp_path)
    encoder, recipe, read, said = started(made.start)
    images = torch.randint(0, 256, (2, 3, released.SIZE, released.SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.features(as_normalised(images, made.normalisation))
        found = encode(encoder, [FullImages(images, pooled=False)])[0]
    scale = float(wanted.abs().max())
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, scale), (read, said)
    assert recipe.encoder.width == released.WIDTH
    assert "new: head.weight, head.bias" in said or "new: fc_norm" in said


@pytest.mark.parametrize("size", [48, (48, 32)])
@pytest.mark.parametrize(
    "make", [released.mae, released.dinov2, released.dinov2_registers, released.open_clip, released.ijepa],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_at_another_size_and_not_square_features_are_those_of_timms_resized_model(tmp_path, make, size):
    made = make(tmp_path)
    encoder, _, _, said = started(made.start, size)
    made.model.set_input_size(size)
    sides = size if isinstance(size, tuple) else (size, size)
    images = torch.randint(0, 256, (2, 3, *sides), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.features(as_normalised(images, made.normalisation))
    assert float((features(encoder, images) - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
    assert f"positions resampled from 4 x 4 to {sides[0] // 8} x {sides[1] // 8} patches" in said


@pytest.mark.parametrize(("make", "pool"), [(released.hf_siglip, "map"), (released.hf_beit, "avg")])
def test_what_a_classifier_reads_is_the_librarys_pooled_output(tmp_path, make, pool):
    made = make(tmp_path)
    encoder, recipe, _, _ = started(made.start)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.model(pixel_values=as_normalised(images, made.normalisation)).pooler_output
        tokens = features(encoder, images)
        found = encoder.fc_norm(encoder.pool(tokens))
        if recipe.encoder.fc_norm:  # a norm that the source keeps in its pooler
            assert made.model.pooler.layernorm.weight.equal(encoder.fc_norm.weight)
    assert recipe.encoder.pool == pool
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("make", "taken", "left"),
    [
        (released.moco, "under module.base_encoder., trained beside module.momentum_encoder.", "predictor.* (1)"),
        (released.dino, "under teacher.backbone., the average of student.module.backbone.", "head.* (2)"),
        (released.ijepa, "under target_encoder.module., the average of encoder.module.", "predictor.* (2)"),
        (released.ema_of_timm, "a released file, state_dict_ema, the average of state_dict)", None),
        (released.ema_of_deit, "a released file, model_ema, the average of model)", None),
        (released.dinov2_registers, "a released file)", "mask_token"),
        (released.beit, "a released file, model)", "mask_token, lm_head.* (1)"),
        (released.beit_v2, "a released file, model)", "cls_pt_layers.* (1)"),
        (
            released.open_clip,
            "under visual.)",
            "proj, transformer.* (1), positional_embedding, text_projection, logit_scale",
        ),
        (released.hf_siglip, "(safetensors)", None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_which_of_two_encoders_is_taken_and_what_is_left_out_is_said(tmp_path, make, taken, left):
    _, _, read, said = started(make(tmp_path).start)
    assert taken in read
    assert taken in said
    assert left is None or left in said.partition("left out: ")[2]


def test_what_no_tensor_tells_is_said_to_be_assumed_and_may_be_given(tmp_path):
    made = released.moco(tmp_path)
    _, recipe, read, _ = started(made.start)
    assert (recipe.encoder.heads, recipe.encoder.act, recipe.encoder.norm_eps) == (2, None, None)
    assert read.endswith("; not stated, taken as in MoCo v3: heads 2, norm_eps 1e-06, act gelu (--encoder.heads, ...)")
    _, recipe, read, _ = started(made.start, encoder=Encoder("auto", heads=4, act="quick_gelu", norm_eps=1e-5))
    assert (recipe.encoder.heads, recipe.encoder.act, recipe.encoder.norm_eps) == (4, "quick_gelu", 1e-5)
    assert "not stated" not in read
    with pytest.raises(InputError, match=r"expected heads that divide a width of 128, got 3"):
        started(made.start, encoder=Encoder("auto", heads=3))


def test_what_a_source_states_is_taken_and_not_contradicted(tmp_path):
    made = released.hf_clip(tmp_path)
    _, recipe, read, _ = started(made.start)
    assert (recipe.encoder.heads, recipe.encoder.act, recipe.encoder.norm_eps) == (2, "quick_gelu", 1e-5)
    assert "not stated" not in read
    with pytest.raises(InputError, match=r"says that encoder.act is quick_gelu, got gelu; leave encoder.act out"):
        started(made.start, encoder=Encoder("auto", act="gelu"))


@pytest.mark.parametrize(("field", "value"), [("heads", 4), ("act", "gelu")])
def test_an_encoder_of_other_heads_or_another_activation_than_the_source_states_is_refused(tmp_path, field, value):
    made = released.hf_clip(tmp_path)
    _, recipe, _, _ = started(made.start)
    other = SimpleNamespace(ema=None, branch=None)
    other.encoder = encoder_of(replace(recipe, encoder=replace(recipe.encoder, **{field: value})), classes=7)
    with pytest.raises(InputError, match=rf"trained with {field} \S+, got {value}; set encoder.{field}"):
        load_encoder(other, made.start)


def test_another_epsilon_is_said_and_kept(tmp_path):
    made = released.hf_deit(tmp_path)
    _, recipe, _, said = started(made.start)
    assert "an epsilon of" not in said
    other = SimpleNamespace(ema=None, branch=None)
    other.encoder = encoder_of(replace(recipe, encoder=replace(recipe.encoder, norm_eps=None)), classes=7)
    assert "layer norms have an epsilon of 1e-06, its own 1e-12 (--encoder.norm-eps)" in load_encoder(other, made.start)


@pytest.mark.parametrize(
    ("make", "folded"),
    [
        (released.hf_clip, "patch embedding and positions adapted to this encoder's normalisation"),
        (released.hf_siglip, "patch embedding adapted to this encoder's normalisation"),
        (released.dinov2, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_normalisation_that_the_format_tells_is_folded_in_and_said(tmp_path, make, folded):
    said = started(make(tmp_path).start)[3]
    assert "taken to be normalised" not in said
    assert folded in said if folded else "adapted" not in said


def test_a_normalisation_that_nothing_tells_is_said_and_may_be_given(tmp_path):
    made = released.beit(tmp_path)
    assert "images taken to be normalised by a mean and std of 0.5, which it does not say" in started(made.start)[3]
    encoder, _, _, said = started(made.start, start_normalisation="imagenet")
    assert "adapted" not in said
    assert torch.equal(encoder.patch_embed.proj.weight, made.model.patch_embed.proj.weight)
    stated = released.timm_folder(tmp_path)
    assert "taken to be" not in started(stated.start, start_normalisation="half")[3]
    with pytest.raises(
        InputError, match=r"says that its images were normalised by half, got clip; leave --run.start-n"
    ):
        started(stated.start, start_normalisation="clip")


def test_biases_of_keys_alone_are_missing_or_none_of_queries_keys_and_values_are_there(tmp_path):
    model = released.vit(qkv_bias=False)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    images = torch.randn(2, 3, 32, 32)
    encoder, recipe, _, _ = started(tmp_path / "x.pth")
    assert not recipe.encoder.qkv_bias
    with torch.inference_mode():
        wanted = model.forward_features(images)
    assert float((features(encoder, images) - wanted).abs().max()) < 1e-4
    other = SimpleNamespace(ema=None, branch=None)
    other.encoder = encoder_of(replace(recipe, encoder=replace(recipe.encoder, qkv_bias=True)), classes=7)
    assert "biases of zero for queries, keys and values" in load_encoder(other, tmp_path / "x.pth")
    assert float((features(other.encoder.eval(), images) - wanted).abs().max()) < 1e-4


def test_a_real_dinov2_in_half_precision_is_timms_own():
    path = Path(__file__).parents[4] / "shared/data/vit_small_patch14_dinov2_saliency_f16.safetensors"
    if not path.exists():
        pytest.skip("../shared/data has no DINOv2")
    encoder, recipe, _, said = started(path, 70, Encoder("auto"))
    assert (recipe.encoder.depth, recipe.encoder.heads, recipe.encoder.patch) == (12, 6, 14)
    assert "positions resampled from 37 x 37 to 5 x 5 patches" in said
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    held = {name: tensor.float() for name, tensor in load_file(path).items()}
    model.load_state_dict(held, strict=False)
    model.set_input_size(70)
    images = torch.randint(0, 256, (2, 3, 70, 70), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = model.forward_features(as_normalised(images, released.IMAGENET))
    assert float((features(encoder, images) - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))


def test_the_page_has_a_row_for_each_format():
    page = (Path(__file__).parents[3] / "docs/pretrained.md").read_text()
    table = page.partition("|---|---|---|---|\n")[2].partition("\n\n")[0]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] == list(released.ROWS)


def test_sizes_of_released_encoders_have_their_heads():
    widths = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
    assert {width: facts_of(Weights({}, "x", "a file"), width).heads.value for width in widths} == widths
    moco = format_of(["module.base_encoder.cls_token", "module.momentum_encoder.cls_token"], {})
    assert facts_of(Weights({}, "x", "a file", form=moco), 384).heads.value == 12
    with torch.device("meta"):  # timm's own: ViT-H and So400m, and DINOv2's giant
        for name in ("vit_huge_patch14_clip_224", "vit_so400m_patch14_siglip_224", "vit_giant_patch14_dinov2"):
            model = timm.create_model(name)
            assert widths[model.embed_dim] == model.blocks[0].attn.num_heads


def test_open_clips_config_states_heads_activation_and_normalisation(tmp_path):
    made = released.open_clip(tmp_path)
    (tmp_path / "file.pth").rename(tmp_path / "open_clip_pytorch_model.bin")
    assert started(tmp_path)[1].encoder.act is None
    assert "act gelu" in started(tmp_path)[2].partition("not stated, taken as in open_clip: ")[2]
    vision, shown = {"width": 128, "head_width": 32, "layers": 2}, {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": {"quick_gelu": True, "vision_cfg": vision}, "preprocess_cfg": shown}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    encoder, recipe, _, _ = started(tmp_path)
    assert (recipe.encoder.act, recipe.encoder.heads) == ("quick_gelu", 4)
    weight = made.model.patch_embed.proj.weight * torch.tensor(released.IMAGENET.std).view(3, 1, 1) / 0.5
    torch.testing.assert_close(encoder.patch_embed.proj.weight, weight)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": {"width": "128"}}}))
    with pytest.raises(InputError, match=r"its config says width '128', expected an integer of 1 or more"):
        started(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 0}, r"num_attention_heads 0, expected an integer of 1 or more"),
        ({"layer_norm_eps": "small"}, r"layer_norm_eps 'small', expected a number from 0 to below 1"),
        ({"hidden_act": "relu"}, r"hidden_act 'relu', expected one of gelu, gelu_new"),
        ({"model_type": "dinov3_vit", "hidden_act": "silu"}, r"hidden_act 'silu', expected one of gelu"),
    ],
)
def test_a_config_that_states_nonsense_is_one_line(tmp_path, change, said):
    start = Path(released.hf_vit(tmp_path).start)
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=said):
        started(start)


def test_hugging_faces_classes_and_normalisation_are_read_from_beside_the_weights(tmp_path):
    start = Path(released.hf_vit(tmp_path).start)
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"id2label": {"0": "ant", "1": "bee"}}))
    shown = {"image_mean": list(released.CLIP.mean), "image_std": list(released.CLIP.std)}
    (start / "preprocessor_config.json").write_text(json.dumps(shown))
    found = find_weights(str(start))
    assert (found.classes, found.normalisation) == (("ant", "bee"), released.CLIP)
    assert "taken to be normalised" not in started(start)[3]
    for labels in ({"0": "LABEL_0", "1": "LABEL_1"}, {"1": "ant", "0": "bee"}, {"0": "ant", "1": "ant"}, [], None):
        (start / "config.json").write_text(json.dumps(config | {"id2label": labels}))
        assert find_weights(str(start)).classes is None


@pytest.mark.parametrize("recipe", ["mae:digits", "supervised:digits"])
def test_a_run_of_ours_tells_its_encoder_too(trained, recipe):
    folder = trained(recipe)
    loaded = load_run(folder)
    encoder, found, read, said = started(folder, 16)
    assert "not stated" not in read
    ours = loaded.recipe.encoder
    assert (found.encoder.width, found.encoder.depth, found.encoder.heads) == (ours.width, ours.depth, ours.heads)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(features(encoder, images), features(loaded.method.eval_encoder, images))
    assert "adapted" not in said


def test_a_semiformer_and_a_convolutional_network_are_no_plain_vits(trained, tmp_path):
    with pytest.raises(InputError, match=r"plain ViT|no encoder can be read|square patches of 3 channels"):
        started(trained("semiformer:digits"), 16)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"no encoder can be read; found 122 tensors: conv1.weight .*; looked for"):
        started(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "make", [each for each in released.FORMATS if each.__name__.startswith("hf_")], ids=lambda make: make.__name__
)
def test_a_module_of_transformers_saved_by_torch_is_read_as_its_folder_is(tmp_path, make):
    made = make(tmp_path)
    folder = Path(made.start)
    encoder, _, _, _ = started(made.start)
    (folder / "model.safetensors").unlink()
    torch.save(made.model.state_dict(), folder / "pytorch_model.bin")  # under the names of its modules
    again, _, _, _ = started(folder)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(features(again, images), features(encoder, images))


def test_the_command_of_a_recipe_whose_encoder_was_read_gives_that_recipe_again(tmp_path):
    for make in (released.hf_siglip, released.dinov2_registers, released.timm_clip, released.ijepa):
        (tmp_path / make.__name__).mkdir()
        start = make(tmp_path / make.__name__).start
        recipe = resolve("supervised:digits", ["--encoder.name=auto", f"--run.start={start}", "--data.size=32"])
        read, _ = with_encoder_of_start(recipe)
        assert resolve("supervised:digits", flags_of(read)) == read


def test_a_grid_that_is_not_square_is_read_from_the_config_and_registers_have_no_positions(tmp_path):
    made = released.timm_folder(tmp_path, img_size=(32, 16), reg_tokens=4, no_embed_class=True)
    encoder, recipe, _, said = started(made.start, (32, 16))
    assert not recipe.encoder.prefix_positions
    assert "resampled" not in said
    images = torch.randint(0, 256, (2, 3, 32, 16), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = made.features(as_normalised(images, made.normalisation))
    assert float((features(encoder, images) - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))


def test_a_fine_tuned_beits_norm_behind_the_pooling_and_its_classifier_are_its_own(tmp_path):
    from timm.models.beit import Beit

    model = released.drawn(Beit(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=7,
                                init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True))  # fmt: skip
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    encoder, recipe, read, said = started(tmp_path / "x.pth")
    assert (recipe.encoder.fc_norm, recipe.encoder.pool, recipe.encoder.position) == (True, "avg", "block_bias")
    assert "the final norm behind the pooling" in read
    assert said.endswith("new: none")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = model(as_normalised(images, released.HALF))
    torch.testing.assert_close(eval_logits(encoder, images), wanted, rtol=1e-4, atol=1e-4)
