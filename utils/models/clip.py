"""The model: CLIP's vision tower, its projection, and one linear head."""

from typing import Self

import torch
from torch import nn
from torch.nn.functional import normalize

from utils.base.errors import InputError
from utils.base.memory import require_memory
from utils.base.options import ACTIVATIONS
from utils.data.preprocessing import normalised

CONFIG_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "projection_dim",
    "hidden_act",
    "layer_norm_eps",
)
LARGEST = {  # what a size may be at most; the largest published CLIP tower has a width of 1664 and 48 layers
    "hidden_size": 8192,
    "intermediate_size": 65536,
    "num_hidden_layers": 256,
    "num_attention_heads": 512,
    "image_size": 8192,
    "patch_size": 512,
    "projection_dim": 8192,
    "vocab_size": 2**20,  # of a text tower, as the next one
    "max_position_embeddings": 2**16,
}
FEWEST = 16  # photographs that are evaluated at once, at least


class CLIPClassifier(nn.Module):
    """`logits = head(normalize(projection(pooled)))`, the model-soups `ModelWrapper(normalize=True)`.

    `config` holds the `CONFIG_KEYS` of a `CLIPVisionConfig`. Parameter names are those of CLIP files on the Hugging
    Face hub (`vision_model.*`, `visual_projection.weight`) plus `classification_head.*`, whatever the installed
    transformers version calls them inside the class.
    """

    training_attention = "sdpa"  # as transformers calls it; evaluation keeps to this one, its logits are compared

    def __init__(self, config: dict, num_classes: int):
        # it takes longer to import than all else together, and whoever finds all logits cached builds no model
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        self.config = {key: config[key] for key in CONFIG_KEYS}
        self.vision_model = CLIPVisionModel(CLIPVisionConfig(**self.config, attn_implementation="sdpa"))
        self.visual_projection = nn.Linear(config["hidden_size"], config["projection_dim"], bias=False)
        self.classification_head = nn.Linear(config["projection_dim"], num_classes)

    def train(self, mode: bool = True) -> Self:
        self.vision_model.set_attn_implementation(self.training_attention if mode else "sdpa")
        return super().train(mode)

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) normalised pixels to (B, D) unit-length image features."""
        pooled = self.vision_model(pixel_values=pixel_values).pooler_output
        return normalize(self.visual_projection(pooled), dim=-1)

    def classify(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) to (B, C) logits. Evaluation calls this; `forward` may run in bf16 or fp16 under accelerate."""
        return self.classification_head(self.embed(pixel_values))

    def outputs(self, squares: torch.Tensor, preprocessing: dict, output: str = "classify") -> torch.Tensor:
        """(B, C) logits, or with `output="embed"` (B, D) features, of (B, S, S, 3) uint8 squares on its device.

        Where the preprocessing says `flip` they are means over each photograph and its mirror image.
        """
        pixel_values = normalised(squares, preprocessing["mean"], preprocessing["std"])
        outputs = getattr(self, output)(pixel_values)
        if preprocessing.get("flip"):
            outputs = (outputs + getattr(self, output)(pixel_values.flip(-1))) / 2
        return outputs

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, C) and features (B, D), for a loss that looks at both."""
        features = self.embed(pixel_values)
        return self.classification_head(features), features


def checked_config(config: object, where: str) -> dict:
    """The `CONFIG_KEYS` of a tower's configuration, whoever wrote it: a record of ours, or a `config.json`.

    Raises `InputError` that begins with `where` for a value of another type or out of bounds, for sizes that do not
    divide, and for a tower that does not fit into memory with 16 photographs.
    """
    if not isinstance(config, dict):
        raise InputError(f"{where} is no configuration of a tower")
    for key in CONFIG_KEYS:
        if key not in config:
            raise InputError(f"{where} lacks {key}")
    check_sizes(config, where)
    if config["hidden_act"] not in ACTIVATIONS:
        raise InputError(f"{where}: hidden_act is {shown(config['hidden_act'])}, expected {' or '.join(ACTIVATIONS)}")
    eps = config["layer_norm_eps"]
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise InputError(f"{where}: layer_norm_eps is {shown(eps)}, expected a number between 0 and 1")
    for whole, part in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
        if config[whole] % config[part]:
            raise InputError(f"{where}: {whole} {config[whole]} is no multiple of {part} {config[part]}")
    require_memory(_bytes(config), f"{where}: the tower with {FEWEST} photographs of {config['image_size']} pixels")
    return {key: config[key] for key in CONFIG_KEYS}


def check_sizes(config: dict, where: str) -> None:
    """Raise `InputError` that begins with `where` for a size that is no whole number from 1 to its `LARGEST`."""
    for key, most in LARGEST.items():
        if key in config and (type(config[key]) is not int or not 1 <= config[key] <= most):
            raise InputError(f"{where}: {key} is {shown(config[key])}, expected a whole number from 1 to {most}")


def shown(value: object) -> str:
    """A value as an error shows it: not longer than a few words, whatever a file holds."""
    try:
        return repr(value)[:40]
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists in lists without end
        return "of a kind that cannot be shown"


def _bytes(config: dict) -> int:
    """What the weights, and the activations of one layer for 16 photographs, take in memory, roughly."""
    width, inner, tokens = config["hidden_size"], config["intermediate_size"], _tokens(config)
    weights = config["num_hidden_layers"] * width * (4 * width + 2 * inner)
    weights += width * (tokens + config["projection_dim"] + 3 * config["patch_size"] ** 2)
    return 4 * (weights + FEWEST * (3 * config["image_size"] ** 2 + tokens * (4 * width + inner)))


def _tokens(config: dict) -> int:
    """The class token and one for each patch."""
    return 1 + (config["image_size"] // config["patch_size"]) ** 2


def build(
    config: dict, state_dict: dict[str, torch.Tensor], source: str = "state_dict", copy: bool = True
) -> CLIPClassifier:
    """A classifier with these weights and as many classes as its head has rows.

    Without `copy` the tensors themselves become its parameters: quicker and smaller, for a model that is not trained.
    Raises `InputError` with the name of a tensor that is missing, unexpected, or of another shape.
    """
    num_classes = len(state_dict["classification_head.weight"])
    with torch.device("meta"):
        model = CLIPClassifier(config, num_classes)
    expected = model.state_dict()
    for what, names in (
        ("missing", expected.keys() - state_dict.keys()),
        ("unexpected", state_dict.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"{source}: {what} tensor {min(names)}")
    for name, tensor in expected.items():
        if tensor.shape != state_dict[name].shape:
            raise InputError(
                f"{source}: tensor {name} is {tuple(state_dict[name].shape)}, expected {tuple(tensor.shape)}"
            )
    embeddings = model.vision_model.embeddings
    if copy:
        model = model.to_empty(device="cpu")
    count = embeddings.position_ids.numel()
    embeddings.position_ids = torch.arange(count)[None]  # a buffer that no checkpoint holds
    model.load_state_dict(state_dict, assign=not copy)
    return model


def resize_positions(position_embedding: torch.Tensor, grid: int) -> torch.Tensor:
    """Interpolate (1 + g*g, D) position embeddings to (1 + grid*grid, D), bicubic; the class token's stays."""
    old = round((len(position_embedding) - 1) ** 0.5)
    if old == grid:
        return position_embedding
    patches = position_embedding[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(
        patches, (grid, grid), mode="bicubic", align_corners=False, antialias=grid < old
    )
    return torch.cat([position_embedding[:1], resized.permute(0, 2, 3, 1).reshape(grid * grid, -1)])
