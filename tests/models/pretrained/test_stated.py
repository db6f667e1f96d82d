"""What a stranger's folder states beside its tensors is what the encoder does: pooling, normalisation, grid, parts."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf

from models.config.recipe import Encoder
from models.encoder.patches import IMAGENET, Normalisation, as_normalised
from models.encoder.vit import eval_logits
from models.pretrained.find import find_weights
from models.pretrained.formats import CLIP, HALF
from models.pretrained.judged import load_judged
from pipeline.errors import InputError
from tests.models.pretrained import released_files as released
from tests.models.pretrained.test_formats import features, started

NAMES = [f"class {number}" for number in range(7)]


def of(start, size=released.SIZE, pool="token"):
    """The encoder of a source, and the lines about what was loaded and read; classes have NAMES."""
    encoder, _, read, said = started(start, size, Encoder("auto", pool=pool), tuple(NAMES))
    return encoder, said, read


def pixels(size=released.SIZE):
    sides = (size, size) if isinstance(size, int) else size
    return torch.randint(0, 256, (2, 3, *sides), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def close(found, wanted):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))


def folder_of_timm(folder, name, **more):
    """A folder as timm's save_for_hf writes it, of a small model with a classifier."""
    model = released.drawn(timm.create_model(name, num_classes=7, **released.SMALL | more))
    save_for_hf(
        model, folder, model_args=released.SMALL | more, model_config={"label_names": NAMES}, safe_serialization=True
    )
    config = model.pretrained_cfg
    return model, Normalisation(tuple(config["mean"]), tuple(config["std"]))


@pytest.mark.parametrize(
    ("name", "more", "reads"),
    [
        ("vit_small_patch16_224", {}, "token"),
        ("vit_small_patch16_224", {"global_pool": "avg", "fc_norm": False}, "avg"),
        ("vit_small_patch16_224", {"global_pool": "map", "class_token": False}, "map"),
        ("vit_small_patch16_dinov3", {}, "avg"),
        ("beit_base_patch16_224", {}, "avg"),
    ],
)
def test_a_classifier_is_taken_behind_the_pooling_that_it_was_trained_behind_alone(tmp_path, name, more, reads):
    model, normalisation = folder_of_timm(tmp_path, name, **more)
    with torch.inference_mode():
        wanted = model(as_normalised(pixels(), normalisation))
        encoder, said, _ = of(tmp_path, pool=reads)
        close(eval_logits(encoder, pixels()), wanted)
    assert "classifier kept, of the same 7 classes" in said
    judged = load_judged(str(tmp_path), f"supervised:cifar10 --data.root {tmp_path} --data.size {released.SIZE}")
    assert judged.method.encoder.global_pool == reads  # though the recipe's own is avg
    with torch.inference_mode():
        close(eval_logits(judged.method.encoder, pixels()), wanted)
    other = "avg" if reads == "token" else "token"
    if more.get("class_token", True) and name != "beit_base_patch16_224":  # else there is no other
        encoder, said, _ = of(tmp_path, pool=other)
        assert f"classifier not taken, as it reads {reads}, this encoder {other} (--encoder.pool {reads})" in said
        assert said.endswith("new: head.weight, head.bias")


def test_a_classifier_of_other_features_is_not_taken_in_part(tmp_path):
    config = transformers.Dinov2Config(**released.LARGE)
    config.num_labels = 7
    released.drawn(transformers.Dinov2ForImageClassification(config)).save_pretrained(tmp_path)
    encoder, said, _ = of(tmp_path)
    assert "classifier not taken, as it reads the class token beside the mean of patches, this encoder token" in said
    assert not torch.equal(encoder.head.bias, load_file(tmp_path / "model.safetensors")["classifier.bias"])
    (tmp_path / "config.json").unlink()  # then its shape alone tells
    encoder, said, _ = of(tmp_path)
    assert "classifier not taken, as it reads 256 features, of which this encoder has 128" in said
    assert not torch.equal(encoder.head.bias, load_file(tmp_path / "model.safetensors")["classifier.bias"])


PROCESSORS = {
    "another mean": ({"image_mean": [0.2, 0.3, 0.4], "image_std": [0.3, 0.2, 0.1]}, "preprocessor_config.json"),
    "levels as they are": ({"do_normalize": False}, "preprocessor_config.json"),
    "from -1 to 1": ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
                     "preprocessor_config.json"),
    "not rescaled": ({"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
                     "preprocessor_config.json"),
    "a part of processor_config.json": ({"image_mean": [0.2, 0.3, 0.4], "image_std": [0.3, 0.2, 0.1]},
                                        "processor_config.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROCESSORS)
def test_what_hugging_faces_processor_does_is_folded_in(tmp_path, case):
    settings, name = PROCESSORS[case]
    model = released.drawn(transformers.ViTModel(transformers.ViTConfig(**released.LARGE)))
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(do_resize=False, **settings)
    held = processor.to_dict()
    (tmp_path / name).write_text(json.dumps({"image_processor": held} if name.startswith("processor") else held))
    given = processor(
        list(pixels().permute(0, 2, 3, 1).numpy()), return_tensors="pt", input_data_format="channels_last"
    )
    encoder, said, _ = of(tmp_path)
    assert "which it does not say" not in said
    with torch.inference_mode():
        wanted = model(pixel_values=given["pixel_values"].float()).last_hidden_state
        close(features(encoder, pixels()), wanted)


def test_a_factor_that_is_none_is_refused(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**released.LARGE)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false, "rescale_factor": 0}')
    with pytest.raises(InputError, match="rescale_factor 0, expected a number above 0"):
        of(tmp_path)


def test_timms_older_config_states_the_normalisation_at_its_top(tmp_path):
    model, _ = folder_of_timm(tmp_path, "vit_small_patch16_224")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"mean": list(CLIP.mean), "std": list(CLIP.std)}
    del config["pretrained_cfg"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder, said, _ = of(tmp_path)
    assert "which it does not say" not in said
    with torch.inference_mode():
        close(eval_logits(encoder, pixels()), model(as_normalised(pixels(), CLIP)))


def test_open_clips_trunk_of_timm_and_its_grid_are_read(tmp_path):
    size = {"img_size": (64, 16)}
    model = released.drawn(timm.create_model("vit_so400m_patch16_siglip_256", num_classes=0, **released.SMALL | size))
    tower = {"image_size": [64, 16], "patch_size": 8, "timm_model_name": "vit_so400m_patch16_siglip_256"}
    save_file(released.named("visual.trunk.", model.state_dict()), tmp_path / "open_clip_model.safetensors")
    stated = {"model_cfg": {"vision_cfg": tower}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    encoder, said, read = of(tmp_path, (64, 16))
    assert "resampled" not in said
    assert ", gelu_tanh, " in read
    with torch.inference_mode():
        wanted = model.forward_features(as_normalised(pixels((64, 16)), HALF))
        close(features(encoder, pixels((64, 16))), wanted)


@pytest.mark.parametrize("size", [(112, 128), (32, 16)])
def test_positions_of_a_plain_file_are_those_of_the_runs_own_grid_where_they_fit(tmp_path, size):
    model = released.vit(img_size=size)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    assert model.pos_embed.shape[1] in (225, 9)  # squares, too
    encoder, _, _ = of(tmp_path / "vit.pth", size)
    with torch.inference_mode():
        wanted = model.forward_features(as_normalised(pixels(size), IMAGENET))
        close(features(encoder, pixels(size)), wanted)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_in_several_files_are_one_encoder(tmp_path, form):
    model = released.drawn(transformers.ViTModel(transformers.ViTConfig(**released.LARGE)))
    if form == "safetensors":
        model.save_pretrained(tmp_path, max_shard_size="300KB")
    else:
        tensors = list(model.state_dict().items())
        parts = {f"pytorch_model-0000{n}-of-00002.bin": dict(tensors[n - 1 :: 2]) for n in (1, 2)}
        for name, part in parts.items():
            torch.save(part, tmp_path / name)
        where = {key: name for name, part in parts.items() for key in part}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
        model.config.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob(f"*-of-*.{form}"))
    assert len(shards) > 1
    encoder, said, _ = of(tmp_path)
    assert f"({len(shards)} files)" in said
    with torch.inference_mode():
        wanted = model(pixel_values=as_normalised(pixels(), HALF)).last_hidden_state
        close(features(encoder, pixels()), wanted)
    with pytest.raises(InputError, match="is one part of several; name their folder"):
        find_weights(str(shards[0]))
    shards[1].unlink()
    with pytest.raises(InputError, match=rf"lists {shards[1].name}, which is not there; bring all {len(shards)} files"):
        find_weights(str(tmp_path))


def test_kinds_of_files_that_hold_no_weights_of_torch_are_named(tmp_path):
    np.savez(tmp_path / "vit.npz", embedding=np.zeros(3))
    with pytest.raises(InputError, match="JAX's are; timm has Google's ViTs by name"):
        find_weights(str(tmp_path / "vit.npz"))
    (tmp_path / "vit.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="GGUF, which quantises"):
        find_weights(str(tmp_path / "vit.gguf"))


def test_wrappers_behind_a_blocks_number_are_removed(tmp_path):
    model, wrapped = released.vit(), {}
    for name, tensor in model.state_dict().items():
        before, number, inside = name.partition(".0.") if ".0." in name else name.partition(".1.")
        within = inside.replace("mlp.", "mlp._fsdp_wrapped_module._checkpoint_wrapped_module.")
        wrapped[f"{before}{number}_orig_mod.{within}" if number else name] = tensor
    torch.save(wrapped, tmp_path / "vit.pth")
    encoder, _, _ = of(tmp_path / "vit.pth")
    with torch.inference_mode():
        wanted = model.forward_features(as_normalised(pixels(), IMAGENET))
        close(features(encoder, pixels()), wanted)


def test_tensors_are_found_beside_settings_and_notes_of_others_are_no_recipe(tmp_path):
    model = released.vit()
    for held in ({"model": {"name": "vit"}, "state_dict": model.state_dict()},
                 {"model": model.state_dict(), "model_ema": {"decay": 0.9}}):  # fmt: skip
        torch.save(held, tmp_path / "vit.pth")
        assert torch.equal(of(tmp_path / "vit.pth")[0].pos_embed, model.pos_embed)
    save_file(model.state_dict(), tmp_path / "vit.safetensors", metadata={"classes": "cat,dog", "recipe": '{"lr": 1}'})
    _, said, _ = of(tmp_path / "vit.safetensors")
    assert "which it does not say" in said  # no recipe of ours, which would state the normalisation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor.to("meta"), "blocks.0.norm1.weight is a tensor without values or a sparse one"),
        (lambda tensor: tensor.to_sparse(), "blocks.0.norm1.weight is a tensor without values or a sparse one"),
        (lambda tensor: tensor.to(torch.int8), "is of torch.int8, expected floating point"),
        (lambda tensor: tensor * torch.nan, "holds numbers that are not finite"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path, change, said):
    held = released.vit().state_dict()
    torch.save(held | {"blocks.0.norm1.weight": change(held["blocks.0.norm1.weight"])}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match=said):
        of(tmp_path / "vit.pth")


def test_an_encoder_without_a_final_norm_is_said_to_have_none(tmp_path):
    torch.save({n: t for n, t in released.vit().state_dict().items() if not n.startswith("norm.")}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="has no final norm, as Data2Vec and InternViT have none"):
        of(tmp_path / "a.pth")


def test_owl_vits_norm_before_the_blocks_is_its_own(tmp_path):
    config = transformers.OwlViTConfig(
        vision_config=released.LARGE,
        text_config={"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32,
                     "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )  # fmt: skip
    model = released.drawn(transformers.OwlViTModel(config))
    model.save_pretrained(tmp_path)
    encoder, _, _ = of(tmp_path)
    with torch.inference_mode():
        held = model.vision_model(pixel_values=as_normalised(pixels(), CLIP)).last_hidden_state
        wanted = model.vision_model.post_layernorm(held)
        close(features(encoder, pixels()), wanted)


def test_weights_of_which_neither_file_nor_data_names_classes_are_judged_by_any_recipe(tmp_path):
    torch.save(released.vit().state_dict(), tmp_path / "vit.pth")
    for name in ("finetune:few", "fixmatch:few"):
        flags = f"--data.root {tmp_path} --data.size {released.SIZE}"
        judged = load_judged(str(tmp_path / "vit.pth"), f"{name} {flags}")
        assert not judged.method.has_classifier
        assert judged.classes == ()
