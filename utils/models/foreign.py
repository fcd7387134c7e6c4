"""State dicts of others: model-soups release files, OpenAI's and open_clip's CLIP, and transformers' without a config.

They are told apart by their tensor names and brought to those of the Hugging Face hub. What names and shapes do not
tell of a tower, its attention heads and its activation, is asked for with `--tower`, and never guessed. Nor is
anything of towers other than CLIP's, whose configuration `--tower-config` names.
"""

import math
import re
from collections.abc import Iterable

import torch

from utils.base.errors import InputError
from utils.models.tower_config import checked_config

HEAD = "classification_head."
POSITIONS = "vision_model.embeddings.position_embedding.weight"
CLASS = "vision_model.embeddings.class_embedding"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
PROJECTION = "visual_projection.weight"
OPENAI_TOWERS = ((768, 32, 12), (768, 16, 12), (1024, 14, 24))  # width, patch, layers of ViT-B/32, B/16 and L/14
OPEN_CLIP_HEADS = {1280: 16, 1408: 16, 1664: 16}  # by width, of its H-14, g-14 and bigG-14
NARROWEST = 256  # width of the narrowest CLIP tower that is published
FLAT = re.compile(r"(embeddings|encoder|pre_layrnorm|post_layernorm)\.")  # names of a vision tower by itself
TEXT_TOWER = re.compile(  # in OpenAI's and in the hub's names; the scalars come with OpenAI's TorchScript archives
    r"positional_embedding|text_projection(\.weight)?|logit_scale|token_embedding\.weight|ln_final\.(weight|bias)"
    r"|transformer\..*|text_model\..*|input_resolution|context_length|vocab_size"
    r"|vision_model\.embeddings\.position_ids"
)
OPENAI_RENAMES = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", POSITIONS),
    (r"^visual\.conv1\.weight$", PATCHES),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (
        r"^visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.",
        r"vision_model.encoder.layers.\1.self_attn.out_proj.",
    ),
    (r"^visual\.transformer\.resblocks\.(\d+)\.ln_([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"vision_model.encoder.layers.\1.mlp.fc1."),
    (r"^visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"vision_model.encoder.layers.\1.mlp.fc2."),
)


def read_state_dict(
    source: str, content: dict, tower: tuple[int, str] | None
) -> tuple[dict[str, torch.Tensor], dict, tuple[int, str] | None]:
    """Float32 tensors under hub names, the tower's configuration, and the `tower` if it is told and not as OpenAI's.

    The prefixes are stripped, the text tower is dropped, and the tensors are renamed.
    """
    tensors = _state_dict_in(content, source)
    given = frozenset(tensors)
    tensors = {name.removeprefix("model."): t for name, t in tensors.items()}
    tensors = {f"vision_model.{name}" if FLAT.match(name) else name: t for name, t in tensors.items()}
    tensors = checked_tensors({name: t for name, t in tensors.items() if not TEXT_TOWER.fullmatch(name)}, source)
    is_openai = "visual.conv1.weight" in tensors
    if is_openai:
        tensors = from_openai(tensors, source)
    elif not {POSITIONS, CLASS} <= tensors.keys():
        raise InputError(
            f"{source} holds no CLIP vision transformer: neither visual.conv1.weight nor {POSITIONS} with a "
            "class_embedding beside it; --tower-config names the folder or the config.json of another tower"
        )
    elif PROJECTION not in tensors:
        tensors[PROJECTION] = torch.eye(_shape(tensors, PATCHES, 4, source)[0])
    config = _config_from_shapes(tensors, source)
    openais = config["hidden_size"] // 64, "quick_gelu"
    if tower is None:
        if not (is_openai and _are_openais(given, config)):
            raise InputError(_what_is_missing(source, config))
        tower = openais
    heads, activation = tower
    config = checked_config({**config, "num_attention_heads": heads, "hidden_act": activation}, source)
    return tensors, config, None if tower == openais else tower


def holds_tensors(content: object) -> bool:
    """Whether this is a state dict: tensors by name."""
    flat = isinstance(content, dict) and bool(content) and all(isinstance(name, str) for name in content)
    return flat and all(isinstance(tensor, torch.Tensor) for tensor in content.values())


def plain_tensors(content: dict, source: str) -> dict[str, torch.Tensor]:
    """Float32 tensors of any tower, without the prefixes of training loops and of our own checkpoints."""
    tensors = {name.removeprefix("model."): tensor for name, tensor in _state_dict_in(content, source).items()}
    tensors = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
    return checked_tensors({name: t for name, t in tensors.items() if not name.endswith("position_ids")}, source)


def _state_dict_in(content: dict, source: str) -> dict[str, torch.Tensor]:
    """The tensors by name: the content itself, or the one dict of tensors that is told by a name in it. What trains on
    several devices puts `module.` before all names; it is stripped.
    """
    if holds_tensors(content):
        wrapped = all(name.startswith("module.") for name in content)
        return {name.removeprefix("module."): t for name, t in content.items()} if wrapped else content
    inside = ["state_dict"] if "state_dict" in content else list(content)
    found = [name for name in inside if holds_tensors(content[name])]
    if len(found) != 1:
        several = f": it holds several, {' and '.join(map(str, found[:3]))}; save one of them alone" if found else ""
        raise InputError(f"{source} is not a flat state_dict of tensors{several}")
    return _state_dict_in(content[found[0]], source)


def checked_tensors(tensors: dict[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """The tensors as float32. Raises `InputError` for one that is not made of floating-point numbers, or whose numbers
    are not all in the file.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise InputError(f"{source}: tensor {name} is of {kind}, expected plain floating-point numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{source}: tensor {name} is {tuple(tensor.shape)}, and the file holds fewer numbers")
    return {name: tensor.float() for name, tensor in tensors.items()}


def check_finite(tensors: dict[str, torch.Tensor], source: str) -> None:
    """Raise `InputError` for a tensor with NaN or infinite numbers."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"{source}: tensor {name} holds NaN or infinite numbers: the model diverged; take another"
            )


def _are_openais(given: Iterable[str], config: dict) -> bool:
    """Whether names and shapes prove that a tower in OpenAI's names has OpenAI's heads, 64 wide, and QuickGELU.

    The same names and shapes come from open_clip, whose towers have other activations and, the larger ones, other
    heads. OpenAI's towers are those in the model-soups release's wrapper, which knows no others, and those with the
    three numbers that OpenAI's archives hold. A whole CLIP that is narrower than any published one was made with
    OpenAI's code, or for this program; a vision tower alone proves nothing.
    """
    wrapped = any(name.startswith("model.visual.") for name in given)
    released = (wrapped and f"{HEAD}weight" in given) or {"input_resolution", "context_length", "vocab_size"} <= given
    if (config["hidden_size"], config["patch_size"], config["num_hidden_layers"]) in OPENAI_TOWERS:
        return released
    whole = wrapped or released or any(TEXT_TOWER.fullmatch(name) for name in given)
    return whole and config["hidden_size"] < NARROWEST and config["hidden_size"] % 64 == 0


def _what_is_missing(source: str, config: dict) -> str:
    """The question for heads and activation, with the answers that fit known towers of this width."""
    width = config["hidden_size"]
    heads = OPEN_CLIP_HEADS.get(width, width // 64)
    return (
        f"{source} does not tell how many attention heads its tower of width {width} has, nor its activation: give "
        f"--tower HEADS,ACTIVATION (OpenAI's towers and some others have --tower {max(1, width // 64)},quick_gelu, "
        f"most of open_clip's --tower {max(1, heads)},gelu; its model configs tell), or its config.json"
    )


def from_openai(tensors: dict[str, torch.Tensor], source: str = "state_dict") -> dict[str, torch.Tensor]:
    """Rename OpenAI's vision tensors (`visual.*`) to the hub's names.

    The projection is transposed and the joint query-key-value matrices are cut into three. Raises `InputError` with
    the name of a tensor that belongs nowhere.
    """
    renamed = {}
    for name, tensor in tensors.items():
        joint = re.fullmatch(r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if joint:
            if tensor.dim() == 0 or len(tensor) % 3:
                raise InputError(
                    f"{source}: tensor {name} is {tuple(tensor.shape)}, expected three parts of one length"
                )
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"vision_model.encoder.layers.{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = piece
        elif name == "visual.proj":
            renamed[PROJECTION] = tensor.mT.contiguous() if tensor.dim() == 2 else tensor
        elif name.startswith(HEAD):
            renamed[name] = tensor
        else:
            new_name = next((re.sub(old, new, name) for old, new in OPENAI_RENAMES if re.search(old, name)), None)
            if new_name is None:
                raise InputError(f"{source}: unexpected tensor {name}")
            renamed[new_name] = tensor
    return renamed


def _config_from_shapes(tensors: dict[str, torch.Tensor], source: str) -> dict:
    """Width, patch, layers and resolution, which follow from the shapes of the tensors; what does not is left out."""
    layers = {m[1] for name in tensors if (m := re.match(r"vision_model\.encoder\.layers\.(\d+)\.", name))}
    width, _, patch, _ = _shape(tensors, PATCHES, 4, source)
    count, _ = _shape(tensors, POSITIONS, 2, source)
    grid = math.isqrt(max(0, count - 1))
    if 1 + grid**2 != count:
        raise InputError(
            f"{source}: tensor {POSITIONS} has {count} rows, expected one and those of a square of patches"
        )
    if f"{HEAD}weight" in tensors:
        _shape(tensors, f"{HEAD}weight", 2, source)
    return {
        "hidden_size": width,
        "intermediate_size": _shape(tensors, "vision_model.encoder.layers.0.mlp.fc1.weight", 2, source)[0],
        "num_hidden_layers": len(layers),
        "image_size": grid * patch,
        "patch_size": patch,
        "projection_dim": _shape(tensors, PROJECTION, 2, source)[0],
        "layer_norm_eps": 1e-5,
    }


def _shape(tensors: dict[str, torch.Tensor], name: str, dimensions: int, source: str) -> torch.Size:
    """The shape of a tensor; raises `InputError` when it is missing or has not so many dimensions."""
    if name not in tensors:
        raise InputError(f"{source}: missing tensor {name}")
    shape = tensors[name].shape
    if len(shape) != dimensions or not all(shape):
        raise InputError(
            f"{source}: tensor {name} is {tuple(shape)}, expected {dimensions} dimensions, none of them 0"
        )
    return shape
