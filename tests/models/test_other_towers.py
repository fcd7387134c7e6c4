"""SigLIP, DINOv2 and a plain CLIP tower stand against transformers' own outputs, from the first step to the export."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import make_people, soup, train
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BeitConfig,
    BeitModel,
    BitImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2ForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SwinConfig,
    SwinModel,
)

import finetune
import main
from utils.base.errors import InputError
from utils.models.checkpoints import read_checkpoint
from utils.models.clip import Classifier, build
from utils.models.tower_config import checked_config, read_config
from utils.models.towers import layers_of
from utils.models.weights import at_image_size, read_weights
from utils.soups.learned import PART
from utils.training.parameters import check_tower, depth_of, parameter_groups

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
        "max_position_embeddings": 16}  # fmt: skip
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def save(kind, layers=2, size=32):
    """A random model in a folder of this name, as transformers saves it; gives its tower. The weights are so large
    that every part of it shows in its output.
    """
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "image_size": size,
             "patch_size": 8}  # fmt: skip
    square = {"height": 32, "width": 32}
    if kind == "siglip":
        model = SiglipModel(SiglipConfig(vision_config={**sizes, "intermediate_size": 64}, text_config=TEXT))
        tower = model.vision_model
        SiglipImageProcessor(size=square).save_pretrained(kind)
    elif kind == "dinov2":
        model = Dinov2ForImageClassification(Dinov2Config(**sizes, drop_path_rate=0.5))
        tower = model.dinov2
        how = {"size": {"shortest_edge": 48}, "crop_size": square, "image_mean": MEAN, "image_std": STD}
        BitImageProcessor(**how).save_pretrained(kind)
    elif kind == "beit":
        model = tower = BeitModel(BeitConfig(**sizes, use_relative_position_bias=True))
    elif kind == "dinov3":
        model = tower = DINOv3ViTModel(DINOv3ViTConfig(**sizes))
    elif kind == "swin":
        stages = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
        model = tower = SwinModel(SwinConfig(**stages, image_size=32))
    else:
        model = tower = CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    model.save_pretrained(kind)
    return tower.eval()


def features(weights, pixels):
    head = {"classification_head.weight": torch.zeros(3, weights.config["projection_dim"]),
            "classification_head.bias": torch.zeros(3)}  # fmt: skip
    with torch.no_grad():
        return build(weights.config, weights.backbone() | head).eval().embed(pixels)


def close(found, pooled, atol=1e-5):
    torch.testing.assert_close(found, normalize(pooled, dim=-1), rtol=0, atol=atol)


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), [("siglip", (0.5,)), ("dinov2", MEAN), ("plain", (0.48145466,))])
def test_a_tower_trains_is_souped_and_goes_to_other_programs(kind, how, pixels, tmp_path):
    save(kind, layers=1)
    people = make_people(tmp_path / "data", 10)
    options = ["--model", kind, "--head-init", "random", "--epochs", 1, "--layer-decay", 0.5, "--lr", 1e-4]
    for seed in (1, 2):
        path, _ = train(people, "nowhere", *options, "--gradient-checkpointing", "--random-seed", seed)
    assert read_checkpoint(path).preprocessing["mean"][0] == how[0]
    onnx = ["--export-onnx", "soup.onnx"] if kind != "plain" else []  # that of CLIP: tests/soups/test_exports.py
    soup(people, "--recipe", "learned-by-layer", "uniform", "--export", "hub", *onnx)
    made = {read_checkpoint(path).digest: read_checkpoint(path) for path in Path("model").glob("*soup*.pt")}
    back = read_checkpoint(Path("hub"))
    assert back.digest in made
    assert back.preprocessing == made[back.digest].preprocessing
    assert AutoImageProcessor.from_pretrained("hub").image_mean[0] == how[0]

    loaded = (CLIPVisionModelWithProjection if kind == "plain" else AutoModel).from_pretrained("hub").eval()
    head = load_file("hub/classification_head.safetensors")
    with torch.no_grad():
        output = loaded(pixel_values=pixels)
        pooled = output.image_embeds if kind == "plain" else output.pooler_output
        expected = normalize(pooled, dim=-1) @ head["classification_head.weight"].T + head["classification_head.bias"]
    close(features(read_weights("hub"), pixels), pooled)
    if onnx:
        session = onnxruntime.InferenceSession("soup.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"pixel_values": pixels.numpy()})[0], expected, atol=1e-4)
    card = Path("hub/README.md").read_text()
    assert f"import CLIPImageProcessor, {type(loaded).__name__}\n" in card
    assert ("pooler_output" in card) == (kind != "plain")


@pytest.mark.parametrize("kind", ["siglip", "dinov2", "plain"])
def test_features_are_those_of_transformers_whatever_holds_the_tower(kind, pixels):
    tower = save(kind)
    state = dict(tower.state_dict())
    with torch.no_grad():
        expected = tower(pixels).pooler_output
    folder = read_weights(kind)
    close(features(folder, pixels), expected)
    prefix = {"dinov2": "dinov2."}.get(kind, "vision_model.")
    beside = {"text_model.embeddings.position_ids": torch.arange(4), "classifier.weight": torch.ones(2, 2)}
    for given in (
        state,
        {prefix + name: tensor for name, tensor in state.items()} | (beside if kind != "plain" else {}),
        {f"module.model.{name}": tensor for name, tensor in state.items()},
        {f"vision_model.{name}": tensor for name, tensor in state.items()},
    ):
        torch.save({"state_dict": given}, "x.pt")
        with pytest.raises(InputError, match=r"x\.pt (holds no CLIP vision transformer.*|does not tell how.*)config"):
            read_weights("x.pt")
        for told in (kind, f"{kind}/config.json"):
            weights = read_weights("x.pt", told)
            close(features(weights, pixels), expected)
            assert weights.preprocessing() == folder.preprocessing()
    if kind != "plain":
        torch.save(state | {"encoder.more.weight": torch.ones(2)}, "more.pt")
        with pytest.raises(InputError, match=r"more\.pt: unexpected tensor encoder\.more\.weight"):
            read_weights("more.pt", kind)
    other = json.loads(Path(kind, "config.json").read_text())
    sizes = other.get("vision_config", other)
    sizes["num_attention_heads"] = 4
    Path("other").mkdir()
    Path("other/config.json").write_text(json.dumps(other))
    assert read_weights("x.pt", "other").backbone_digest != read_weights("x.pt", kind).backbone_digest
    sizes["num_hidden_layers"] = 3
    Path("other/config.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"x\.pt.*(missing tensor \S*layers?\.2\.|num_hidden_layers 2, and .* of 3)"):
        read_weights("x.pt", "other")


def test_the_size_is_the_image_processors_and_positions_are_those_of_transformers(pixels):
    tower = save("dinov2", size=64)
    weights = at_image_size(read_weights("dinov2"), None)
    how = weights.preprocessing()
    assert (how["size"], how["mean"], how["std"]) == (32, MEAN, STD)
    with torch.no_grad():
        close(features(weights, pixels), tower(pixels).pooler_output)
        tower, larger = save("siglip"), torch.randn(2, 3, 48, 48)
        weights = at_image_size(read_weights("siglip"), 48)
        close(features(weights, larger), tower(larger, interpolate_pos_encoding=True).pooler_output)
    with pytest.raises(InputError, match="no multiple of the patch size 8: try 40"):
        at_image_size(weights, 45)


def test_layers_tokens_and_attention_of_another_tower():
    """A layer learns at half the rate of the next; what is one row does not decay; what is unused does not learn."""
    for kind, token in (("siglip", "head.probe"), ("dinov2", "embeddings.cls_token")):
        save(kind)
        model = Classifier(read_weights(kind).config, 3)
        groups = parameter_groups(model, 1.0, 0.1, layer_decay=0.5)
        of = {id(parameter): group for group in groups for parameter in group["params"]}
        rates, parts = {}, {}
        for name, parameter in model.named_parameters():
            parts[name] = (match := PART.search(name)) and match[0]
            if parameter.requires_grad:
                rates.setdefault(depth_of(name, 2), set()).add(of[id(parameter)]["lr"])
        assert rates == {0: {1 / 8}, 1: {1 / 4}, 2: {1 / 2}, 3: {1.0}}
        assert len(set(parts.values())) == 5  # embeddings, two layers, head and the rest
        assert of[id(model.get_parameter(f"vision_model.{token}"))]["weight_decay"] == 0
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen == ({"vision_model.embeddings.mask_token"} if kind == "dinov2" else set())
        assert not any(value for field, value in model.config.items() if "drop" in field)
        model.training_attention = "eager"
        for mode, attention in ((True, "eager"), (False, "sdpa")):
            assert model.train(mode).vision_model.config._attn_implementation == attention


@pytest.mark.parametrize("kind", ["beit", "dinov3"])
def test_constants_of_a_class_are_made_as_it_makes_them(kind, pixels):
    """BEiT keeps an index for all its models, DINOv3 a buffer that no file holds; neither draws from a run's seed."""
    tower = save(kind)
    before = torch.get_rng_state()
    found = features(read_weights(kind), pixels)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        close(found, tower(pixels).pooler_output)


def test_a_tower_in_stages_is_read_and_what_needs_one_stack_of_layers_is_refused(pixels):
    tower = save("swin")
    weights = read_weights("swin")
    with torch.no_grad():
        close(features(weights, pixels), tower(pixels).pooler_output)
    assert layers_of(weights.config) == 0
    for argument in ("--layer-decay=0.5", "--freeze=first-1"):
        with pytest.raises(InputError, match=argument.partition("=")[0]):
            check_tower(weights.config, finetune.parser().parse([argument]))
    check_tower(weights.config, finetune.parser().parse(["--freeze", "backbone", "--gradient-checkpointing"]))
    one = SimpleNamespace(config=weights.config, path=Path("a.pt"))
    inputs = SimpleNamespace(
        ingredients=[one, one], names=SimpleNamespace(soup_file=lambda folder, name: folder / name)
    )
    recipes = ["uniform", "learned-by-layer"]
    with pytest.raises(InputError, match="learned-by-layer needs one stack of layers, and towers of type swin"):
        main.possible(recipes, inputs, main.parser().parse(["--recipe", *recipes]))
    assert main.possible(recipes, inputs, main.parser().parse(["--recipe", "all"])) == ["uniform"]
    other = checked_config({"model_type": "dinov3_convnext"}, "x")
    with pytest.raises(InputError, match="--gradient-checkpointing: towers of type dinov3_convnext have none"):
        check_tower(other, finetune.parser().parse(["--gradient-checkpointing"]))
    with pytest.raises(InputError, match=r"nothing tells mean and std .* preprocessor_config\.json"):
        weights.preprocessing()
    assert weights.preprocessing(MEAN, STD)["mean"] == MEAN


DINOV2 = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"model_type": "evil"}, "'evil' model, which transformers does not know"),
        ({"model_type": "bert"}, "image_size is None"),
        ({"model_type": "siglip2", "vision_config": {}}, "image_size is None"),
        ({"model_type": "idefics3", "vision_config": {}}, "no vision tower with one pooled output"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "it has no pooled output"),
        ({"model_type": "mobilenet_v2"}, "keeps statistics of its batches"),
        ({"model_type": "detr"}, "is built around a tower"),
        ({**DINOV2, "num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected at most 256"),
        ({**DINOV2, "mlp_ratio": float("nan")}, "mlp_ratio is nan"),
        ({**DINOV2, "hidden_size": "32"}, "hidden_size"),
        ({**DINOV2, "hidden_act": "evil"}, "evil"),
        ({**DINOV2, "image_size": [32, 64]}, r"image_size is \[32, 64\], expected one whole number"),
        ({**DINOV2, "image_size": 8192, "patch_size": 1}, "memory"),
        ({"model_type": "swin", "depths": [1] * 100}, "depths has 100 values"),
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_tower_is_one_error(told, message):
    with pytest.raises(InputError, match=rf"^f\S* .*{message}"):
        read_config(told, "f")


@pytest.mark.parametrize(
    ("told", "message"),
    [("{", "cannot load siglip"), ('{"image_mean": [1], "image_std": [1, 1, 1]}', "mean is not three numbers"),
     ('{"do_rescale": false}', "does not scale pixels to 0 and 1")],
)  # fmt: skip
def test_an_image_processor_that_does_not_fit_is_one_error(told, message):
    save("siglip", layers=1)
    Path("siglip/preprocessor_config.json").write_text(told)
    with pytest.raises(InputError, match=message):
        read_weights("siglip")


def test_a_configuration_is_told_of_files_that_do_not_tell_it_only(capsys, faces):
    save("dinov2")
    save("siglip")
    with pytest.raises(InputError, match="dinov2 tells of another tower than siglip: leave --tower-config out"):
        train(faces, "nowhere", "--model", "dinov2", "--tower-config", "siglip")
    torch.save({"a": torch.ones(2)}, "x.pt")
    with pytest.raises(InputError, match=r"--tower-config nowhere is no folder, no config\.json and no hub id"):
        read_weights("x.pt", "nowhere")
    with pytest.raises(SystemExit):
        finetune.parser().parse(["--tower", "2,gelu", "--tower-config", "siglip"])
    assert "not allowed with argument --tower" in capsys.readouterr().err
