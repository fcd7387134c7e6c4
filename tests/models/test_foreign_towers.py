"""What a file does not tell of its tower is asked for; what it tells is checked before a model is built of it."""

import io
import json
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import DIM, openai_vision_state, release_state, train
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from utils.base.errors import InputError
from utils.base.memory import memory
from utils.data import competition
from utils.data.preprocessing import checked_preprocessing, preprocessing
from utils.models.checkpoints import read_checkpoint
from utils.models.clip import build
from utils.models.foreign import OPENAI_RENAMES
from utils.models.heads import zeroshot_head
from utils.models.tower_config import checked_config
from utils.models.weights import at_image_size, read_weights

ASKED = r"x\.pt does not tell how many attention heads its tower of width \d+ has, nor its activation: give --tower"


def tower(width=320, heads=4, activation="gelu", kind=CLIPVisionModelWithProjection):
    """A random tower that shows its heads and its activation."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=heads, image_size=32,
        patch_size=8, projection_dim=DIM, hidden_act=activation,
    )  # fmt: skip
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


def in_openais_names(model) -> dict:
    """The state dict as open_clip and OpenAI would save it."""
    hub, names = dict(model.state_dict()), {}
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [hub.pop(f"vision_model.encoder.layers.{layer}.self_attn.{c}_proj.{kind}") for c in "qkv"]
            names[f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    names["visual.proj"] = hub.pop("visual_projection.weight").T.contiguous()
    for name in openai_vision_state(0):
        for old, new in OPENAI_RENAMES:
            if re.search(old, name):
                names[name] = hub.pop(re.sub(old, new, name))
    assert not hub
    return names


def features(weights, pixels):
    head = {"classification_head.weight": torch.zeros(3, weights.config["projection_dim"]),
            "classification_head.bias": torch.zeros(3)}  # fmt: skip
    with torch.no_grad():
        return build(weights.config, {**weights.state_dict, **head}).eval().embed(pixels)


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("width", "heads", "activation"),
    [(320, 4, "gelu"), (160, 2, "quick_gelu"), (128, 4, "quick_gelu"), (128, 2, "gelu"), (352, 4, "gelu")],
)
def test_heads_and_activation_are_asked_for_and_then_right(pixels, width, heads, activation):
    model = tower(width, heads, activation)
    torch.save(in_openais_names(model), "x.pt")
    with pytest.raises(InputError, match=ASKED):
        read_weights("x.pt")
    with torch.no_grad():
        expected = normalize(model(pixels).image_embeds, dim=-1)
    found = features(read_weights("x.pt", (heads, activation)), pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    other = features(read_weights("x.pt", (heads, {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation])), pixels)
    assert (other - expected).abs().max() > 1e-3  # it does make a difference


def full_size(layers=12, width=768, patch=32, **extra):
    """Names and shapes of ViT-B/32, without its memory."""
    small = openai_vision_state(0, width=8, layers=layers, patch=patch, size=224, dim=8)
    return {name: torch.zeros(tuple(width if n == 8 else n for n in t.shape)) for name, t in small.items()} | extra


def test_shapes_of_openais_towers_prove_nothing_by_themselves():
    """LAION's ViT-B/32 has the very names and shapes of OpenAI's, and GELU."""
    head = {"classification_head.weight": torch.zeros(3, 768), "classification_head.bias": torch.zeros(3)}
    plain = {name: t for name, t in full_size().items() if "attn.in_proj" not in name and "mlp" not in name}
    for layer in range(12):
        block = f"visual.transformer.resblocks.{layer}."
        plain |= {f"{block}attn.in_proj_weight": torch.zeros(6, 1), f"{block}mlp.c_fc.weight": torch.zeros(4, 1)}
    archive = {name: torch.tensor(224) for name in ("input_resolution", "context_length", "vocab_size")}
    for state, told in (
        (plain | {"text_projection": torch.zeros(2, 2)}, False),
        (plain | archive, True),
        ({f"model.{name}": t for name, t in plain.items()}, False),
        ({f"model.{name}": t for name, t in plain.items()} | head, True),
    ):
        torch.save(state, "x.pt")
        if told:
            config = read_weights("x.pt").config
            assert (config["num_attention_heads"], config["hidden_act"]) == (12, "quick_gelu")
        else:
            with pytest.raises(InputError, match=ASKED):
                read_weights("x.pt")


def test_what_is_told_otherwise_than_openais_is_another_model():
    """Logits and heads are kept under a digest, which the tensors alone do not make."""
    torch.save(in_openais_names(tower(128, 4, "gelu")), "x.pt")
    digests = {read_weights("x.pt", told).backbone_digest for told in ((4, "gelu"), (2, "gelu"), (4, "quick_gelu"))}
    assert len(digests) == 3
    torch.save(release_state(0), "release.pt")
    assert read_weights("release.pt").backbone_digest == read_weights("release.pt", (1, "quick_gelu")).backbone_digest


def test_a_run_takes_the_tower_that_is_told_and_records_it(faces):
    torch.save(in_openais_names(tower(64, 4, "gelu")), "x.pt")
    with pytest.raises(InputError, match=ASKED):
        train(faces, "nowhere", "--model", "x.pt")
    path, _ = train(faces, "nowhere", "--model", "x.pt", "--tower", "4,gelu", "--epochs", 1)
    made = read_checkpoint(path)
    assert (made.config["num_attention_heads"], made.config["hidden_act"]) == (4, "gelu")
    assert made.meta["options"]["tower"] == [4, "gelu"]
    with pytest.raises(InputError, match="tells of 4 heads and gelu: leave --tower out"):
        train(faces, "nowhere", "--model", path, "--tower", "2,gelu", "--name", "n")


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_a_tower_by_itself_has_its_pooled_output_as_features(pixels, prefix):
    model = tower(128, 2, "quick_gelu", CLIPVisionModel)
    state = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
    torch.save({prefix + name: tensor for name, tensor in state.items()}, "x.pt")
    model.save_pretrained("folder")
    with torch.no_grad():
        expected = normalize(model(pixels).pooler_output, dim=-1)
    for weights in (read_weights("x.pt", (2, "quick_gelu")), read_weights("folder")):
        assert weights.config["projection_dim"] == 128
        torch.testing.assert_close(features(weights, pixels), expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=ASKED):
        read_weights("x.pt")


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net"])
def test_tensors_are_found_in_what_a_training_loop_saves(nest):
    torch.save({nest: release_state(0), "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 1}]}}, "x.pt")
    assert read_weights("x.pt").num_classes == 1000
    torch.save({nest + "_of": release_state(0), "ema": release_state(1)}, "y.pt")
    with pytest.raises(InputError, match=rf"y\.pt is not a flat .*: it holds several, {nest}_of and ema"):
        read_weights("y.pt")


POSITION, CONV = "model.visual.positional_embedding", "model.visual.conv1.weight"
JOINT = "model.visual.transformer.resblocks.0.attn.in_proj_bias"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (CONV, torch.zeros(3, 3), r"is \(3, 3\), expected 4 dimensions"),
        (POSITION, torch.tensor(1.0), r"is \(\), expected 2 dimensions"),
        (POSITION, torch.zeros(8, 64), "has 8 rows, expected one and those of a square"),
        (JOINT, torch.zeros(1), r"in_proj_bias is \(1,\), expected three parts"),
        (JOINT, torch.tensor(1.0), r"in_proj_bias is \(\), expected three parts"),
        ("model.visual.proj", torch.zeros(3), r"visual_projection.weight is \(3,\), expected 2 dimensions"),
        ("classification_head.weight", torch.tensor(1.0), r"classification_head.weight is \(\), expected 2"),
        ("classification_head.weight", torch.zeros(0, DIM), r"is \(0, 16\), expected 2 dimensions, none of them 0"),
        ("classification_head.bias", torch.zeros(1000).to_sparse(), "is of torch.sparse_coo"),
        ("classification_head.bias", torch.zeros(1000, dtype=torch.int64), "is of torch.int64"),
        ("classification_head.bias", torch.zeros(1000, dtype=torch.complex64), "is of torch.complex64"),
        ("classification_head.bias", torch.full((1000,), torch.inf), "holds NaN or infinite numbers"),
        ("classification_head.bias", torch.zeros(1).expand(10**12), r"is \(1000000000000,\), and the file"),
        ("model.visual.transformer.resblocks.0.mlp.c_fc.weight", torch.zeros(3), r"fc1.weight is \(3,\), expected 2"),
    ],
)  # fmt: skip
def test_an_odd_tensor_is_one_error_that_names_file_and_tensor(name, tensor, message):
    torch.save({**release_state(0), name: tensor}, "x.pt")
    with pytest.raises(InputError, match=rf"x\.pt: tensor \S*{message}|x\.pt: tensor \S+ {message}"):
        read_weights("x.pt")


GOOD = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 8, "projection_dim": 128, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5}  # fmt: skip
BAD_CONFIGS = [
    ("num_hidden_layers", 10**9), ("num_hidden_layers", 0), ("num_hidden_layers", 2.5), ("image_size", "64"),
    ("image_size", [64, 64]), ("image_size", True), ("image_size", 10**5000), ("image_size", 60), ("image_size", 8192),
    ("patch_size", 0), ("hidden_size", -128), ("num_attention_heads", 3), ("num_attention_heads", -2),
    ("hidden_act", "evil"), ("hidden_act", None), ("hidden_act", ["gelu"]), ("layer_norm_eps", float("nan")),
    ("layer_norm_eps", -1.0), ("layer_norm_eps", "x"), ("projection_dim", 0), ("intermediate_size", 10**7),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), BAD_CONFIGS, ids=lambda value: str(value)[:20] if value != 10**5000 else "huge"
)
def test_a_configuration_out_of_bounds_is_one_error(key, value, monkeypatch):
    monkeypatch.setattr("utils.base.memory.memory", lambda: 2**34)
    assert checked_config({**GOOD, "more": 1}, "f") == GOOD
    with pytest.raises(InputError, match=r"^f: "):
        checked_config({**GOOD, key: value}, "f")
    with pytest.raises(InputError, match=rf"f lacks {key}"):
        checked_config({name: one for name, one in GOOD.items() if name != key}, "f")


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", 10**5), ("size", "64"), ("size", None), ("mean", [1]), ("mean", "abc"), ("mean", [float("nan")] * 3),
     ("mean", [10**400] * 3), ("std", [0, 0, 0]), ("std", [1e-320] * 3), ("std", None), ("flip", "yes")],
)  # fmt: skip
def test_a_preprocessing_that_does_not_fit_is_one_error(key, value):
    good = preprocessing(64)
    assert checked_preprocessing(good, 64, "f") == good
    with pytest.raises(InputError, match=r"^f: the preprocessing"):
        checked_preprocessing({**good, key: value}, 64, "f")


def test_an_image_size_is_as_large_as_memory_allows(monkeypatch):
    torch.save(release_state(0), "x.pt")
    weights = read_weights("x.pt")
    monkeypatch.setattr("utils.base.memory.memory", lambda: 6 * 2**30)
    assert at_image_size(weights, 384).config["image_size"] == 384
    for size, message in ((8000, r"needs about \S+ GB of memory, and 6.4 GB are there"), (40000, "from 1 to 8192")):
        with pytest.raises(InputError, match=rf"^--image-size {size}: .*{message}"):
            at_image_size(weights, size)
    assert memory() > 2**27


@pytest.fixture
def hostile():
    """A folder whose config names code of its own, an attention to fetch, and a tower out of bounds if it is asked."""
    config = CLIPConfig(vision_config=tower().config.to_dict(), text_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
        "max_position_embeddings": 16}, projection_dim=DIM)  # fmt: skip
    CLIPModel(config).save_pretrained("hub")
    told = json.loads(Path("hub/config.json").read_text())
    auto_map = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    told |= {"auto_map": auto_map, "_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}
    Path("hub/evil.py").write_text("open('ran', 'w')\nfrom transformers import CLIPConfig as Evil\n")
    return told


def save_config(told):
    Path("hub/config.json").write_text(json.dumps(told))


def test_no_code_of_a_folder_is_run_and_no_attention_fetched(hostile, monkeypatch, capsys):
    """Whatever stands on the standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    save_config(hostile)
    read_weights("hub")
    save_config({**hostile, "model_type": "evil"})
    with pytest.raises(InputError, match="hub is a 'evil' model, which transformers does not know"):
        read_weights("hub")
    assert not os.path.exists("ran")
    assert "run the custom code" not in capsys.readouterr().out


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_a_config_of_others_is_checked_before_a_model_is_made(hostile, part):
    hostile[part]["num_hidden_layers"] = 10**9
    save_config(hostile)
    with pytest.raises(InputError, match=r"hub/config.json.*num_hidden_layers is 1000000000, expected .* 1 to 256"):
        read_weights("hub")


def test_a_config_that_tells_nothing_is_one_error(hostile):
    for text in ("{", "[" * 100_000, '{"model_type": "clip", "vision_config": [1]}', "null", '{"model_type": []}'):
        Path("hub/config.json").write_text(text)
        with pytest.raises(InputError, match="hub"):
            read_weights("hub")


def test_a_text_tower_runs_no_code_and_fetches_no_attention_either(hostile, monkeypatch):
    def tokenizer(source, trust_remote_code):
        assert not trust_remote_code
        return lambda texts, **_: {
            name: torch.ones(len(texts), 4, dtype=int) for name in ("input_ids", "attention_mask")
        }

    hostile["text_config"]["_attn_implementation"] = "someone/kernel"
    save_config(hostile)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", tokenizer)
    assert zeroshot_head("hub", competition.prompts(competition.labelling()))[0].shape == (18, DIM)
