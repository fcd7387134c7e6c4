"""Conversion stands against OpenAI's architecture written out here on torch's own attention."""

import os
import pickle
import zipfile

import pytest
import torch
from conftest import DIM, LAYERS, PATCH, SIZE, WIDTH, openai_vision_state, release_state
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from utils.base.errors import InputError
from utils.models.clip import build, resize_positions
from utils.models.weights import at_image_size, digest, read_weights


def openai_embed(state: dict, pixel_values: torch.Tensor, heads: int) -> torch.Tensor:
    """OpenAI's VisionTransformer as its paper describes it: pre-norm blocks, QuickGELU, class token, projection."""
    x = F.conv2d(pixel_values, state["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm(x, "visual.ln_pre")
    for layer in range(LAYERS):
        block = f"visual.transformer.resblocks.{layer}"
        attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        attention.load_state_dict({name: state[f"{block}.attn.{name}"] for name in names})
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = F.linear(norm(x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return norm(x[:, 0], "visual.ln_post") @ state["visual.proj"]


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_release_file_gives_openais_logits(tmp_path, pixel_values, prefix):
    state = release_state(3, num_classes=20, prefix=prefix)
    torch.save(state, tmp_path / "model_0.pt")
    weights = read_weights(tmp_path / "model_0.pt")
    assert weights.config["num_attention_heads"] == WIDTH // 64
    assert weights.config["image_size"] == SIZE
    plain = {name.removeprefix(prefix).removeprefix("model."): tensor for name, tensor in state.items()}
    expected_features = openai_embed(plain, pixel_values, WIDTH // 64)
    expected = F.linear(
        F.normalize(expected_features, dim=-1), plain["classification_head.weight"], plain["classification_head.bias"]
    )
    model = build(weights.config, weights.state_dict).eval()
    with torch.no_grad():
        logits, features = model(pixel_values)
        classified = model.classify(pixel_values)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(features, F.normalize(expected_features, dim=-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(classified, logits, rtol=0, atol=0)


def test_openai_state_dict_in_half_precision_is_read_as_float32(tmp_path):
    state = {name: tensor.half() for name, tensor in openai_vision_state(0).items()}
    torch.save(
        {**state, "logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.bias": torch.ones(8)}, tmp_path / "c.pt"
    )
    weights = read_weights(tmp_path / "c.pt")
    assert weights.num_classes is None
    assert {tensor.dtype for tensor in weights.state_dict.values()} == {torch.float32}


@pytest.fixture
def hub_folder(tmp_path):
    config = CLIPConfig(
        vision_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIZE, "patch_size": PATCH},
        text_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": 50, "max_position_embeddings": 16},
        projection_dim=DIM,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub", model


def test_hugging_face_folder_gives_its_own_features(hub_folder, pixel_values):
    folder, model = hub_folder
    weights = read_weights(folder)
    assert weights.text_source == str(folder)
    head = {"classification_head.weight": torch.zeros(18, DIM), "classification_head.bias": torch.zeros(18)}
    ours = build(weights.config, {**weights.state_dict, **head}).eval()
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=pixel_values).pooler_output
        expected = F.normalize(model.visual_projection(pooled), dim=-1)
        torch.testing.assert_close(ours.embed(pixel_values), expected, rtol=0, atol=1e-5)


def test_a_hub_folder_with_a_missing_tensor_is_refused(hub_folder):
    from safetensors.torch import load_file, save_file

    folder, _ = hub_folder
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.mlp.fc2.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing tensor .*layers.1.mlp.fc2.bias"):
        read_weights(folder)


def read_and_build(path):
    weights = read_weights(path)
    return build(weights.config, weights.state_dict, path.name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "model.visual.transformer.resblocks.1.ln_2.bias",
            "missing tensor vision_model.encoder.layers.1.layer_norm2.bias",
        ),
        ("model.visual.proj", "missing tensor visual_projection.weight"),
        ("model.visual.conv1.weight", "no CLIP vision transformer"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path, name, message):
    state = release_state(0)
    del state[name]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(InputError, match=message):
        read_and_build(tmp_path / "m.pt")


def test_an_unexpected_tensor_and_a_wrong_shape_are_named(tmp_path):
    state = release_state(0)
    torch.save({**state, "model.visual.extra": torch.ones(1)}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"unexpected tensor visual\.extra"):
        read_weights(tmp_path / "m.pt")
    state["model.visual.ln_post.bias"] = torch.ones(WIDTH + 1)
    torch.save(state, tmp_path / "m.pt")
    weights = read_weights(tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"post_layernorm.bias is \(65,\), expected \(64,\)"):
        build(weights.config, weights.state_dict)


class Evil:
    """A pickle that would leave a file behind if it were run."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("how", ["pickle", "torch", "legacy"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, how):
    path = tmp_path / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    else:
        torch.save({"state_dict": Evil()}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match="refused"):
        read_weights(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"a", b"\x80\x02.", b"not a checkpoint at all", b"PK\x03\x04 broken"])
def test_a_damaged_file_is_one_error(tmp_path, content):
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.pt"):
        read_weights(path)


def test_a_compressed_archive_holds_the_same_weights(tmp_path):
    torch.save(release_state(0), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as whole, zipfile.ZipFile(tmp_path / "c.pt", "w") as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    expected, found = (read_weights(tmp_path / name).state_dict for name in ("m.pt", "c.pt"))
    assert digest(found) == digest(expected)


def test_a_cut_archive_a_foreign_zip_and_a_bare_tensor_are_one_error(tmp_path):
    torch.save(release_state(0), tmp_path / "m.pt")
    whole = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    torch.save(torch.ones(3), tmp_path / "t.pt")
    torch.save({1: torch.ones(3)}, tmp_path / "k.pt")
    torch.save({"state_dict": [1]}, tmp_path / "l.pt")
    for name in ("m.pt", "z.pt", "t.pt", "k.pt", "l.pt"):
        with pytest.raises(InputError, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(InputError, match="no checkpoint file, no folder and no hub id"):
        read_weights(tmp_path / "none.pt")


def test_position_embeddings_are_interpolated_and_the_class_token_stays():
    grid = torch.arange(16.0).reshape(1, 16).repeat(2, 1).T  # (16, 2): a 4 x 4 grid, rows rise by 4
    positions = torch.cat([torch.full((1, 2), -7.0), grid])
    resized = resize_positions(positions, 8)
    assert resized.shape == (65, 2)
    assert torch.equal(resized[0], positions[0])
    rows = resized[1:, 0].reshape(8, 8).mean(1)
    assert torch.all(rows.diff() > 0)
    torch.testing.assert_close(rows.mean(), torch.tensor(7.5))
    assert resize_positions(positions, 4) is positions


def test_another_image_size_runs_and_a_wrong_one_is_refused(tmp_path):
    torch.save(release_state(0, num_classes=3), tmp_path / "m.pt")
    weights = read_weights(tmp_path / "m.pt")
    larger = at_image_size(weights, 48)
    model = build(larger.config, larger.state_dict).eval()
    assert model(torch.zeros(1, 3, 48, 48))[0].shape == (1, 3)
    with pytest.raises(InputError, match=r"no multiple of the patch size 8: try 40"):
        at_image_size(weights, 45)


def test_the_digest_sees_names_shapes_types_and_bytes_but_not_order():
    state = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}
    reference = digest(state)
    assert digest(dict(reversed(state.items()))) == reference
    assert len(reference) == 64
    for other in (
        {**state, "a": state["a"] + 1e-6},
        {**state, "b": torch.ones(4)},
        {**state, "b": torch.ones(2, 2).double()},
        {"a": state["a"], "c": state["b"]},
    ):
        assert digest(other) != reference
