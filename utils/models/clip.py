"""The model: a vision tower, CLIP's as a rule, its projection, and one linear head."""

from typing import Self

import torch
from torch import nn
from torch.nn.functional import normalize

from utils.base.errors import InputError
from utils.data.preprocessing import normalised
from utils.models.towers import is_clip, set_constants, tower


class PatchEmbedding(nn.Conv2d):
    """CLIP's first layer, a convolution whose kernels lie side by side.

    On a GPU it is the product of the patches and the kernels, as cuDNN has no fast kernel of this kind: its two took
    12.8 % of a step in bf16 on an H100. On a CPU it is the convolution.
    """

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) to (B, W, S / patch, S / patch)."""
        return self.product(pixel_values) if pixel_values.is_cuda else super().forward(pixel_values)

    def product(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(kind := pixel_values.device.type):
            pixel_values = pixel_values.to(torch.get_autocast_dtype(kind))  # half the bytes to lay out anew
        height, width = self.kernel_size
        patches = pixel_values.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # (B, 3, g, height, g, width)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return nn.functional.linear(patches, self.weight.flatten(1)).permute(0, 3, 1, 2)


class Classifier(nn.Module):
    """`logits = head(normalize(projection(pooled)))`, the model-soups `ModelWrapper(normalize=True)`.

    `config` is as `tower_config.checked_config` gives it; `towers` tells how other towers than CLIP's differ. Names of
    parameters are those of CLIP files on the Hugging Face hub (`vision_model.*`, `visual_projection.weight`) plus
    `classification_head.*`, whatever the installed transformers version calls them inside the class.
    """

    def __init__(self, config: dict, num_classes: int):
        super().__init__()
        self.config, dim = dict(config), config["projection_dim"]
        self.vision_model = tower(config)
        projects = is_clip(config)
        if projects:
            self.vision_model.embeddings.patch_embedding.__class__ = PatchEmbedding  # the same weight under its name
        self.visual_projection = nn.Linear(config["hidden_size"], dim, bias=False) if projects else nn.Identity()
        self.classification_head = nn.Linear(dim, num_classes)
        # evaluation keeps to the attention that transformers chose, its logits are compared
        self.attention = self.training_attention = self.vision_model.config._attn_implementation

    def train(self, mode: bool = True) -> Self:
        self.vision_model.set_attn_implementation(self.training_attention if mode else self.attention)
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


def build(
    config: dict, state_dict: dict[str, torch.Tensor], source: str = "state_dict", copy: bool = True
) -> Classifier:
    """A classifier with these weights and as many classes as its head has rows.

    Without `copy` the tensors themselves become its parameters: quicker and smaller, for a model that is not trained.
    Raises `InputError` with the name of a tensor that is missing, unexpected, or of another shape.
    """
    num_classes = len(state_dict["classification_head.weight"])
    with torch.device("meta"):
        model = Classifier(config, num_classes)
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
    if copy:
        model = model.to_empty(device="cpu")
    set_constants(model.vision_model, config)
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
